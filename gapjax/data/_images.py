"""Image files as pixels: the formats that are meant and no other, within bounds, right in tone."""

import io
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from gapjax import _outside
from gapjax.data._archives import damaged

if TYPE_CHECKING:
    import PIL.Image

# Pillow knows others that start a program (EPS) or that nobody trains on.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
SUFFIXES = frozenset(
    f".{kind}"
    for kinds in ("png", "jpg jpeg jpe jfif", "webp", "bmp", "gif", "ppm pgm pbm pnm", "tif tiff")
    for kind in kinds.split()
)

_PAGED = frozenset((".tif", ".tiff", ".gif", ".webp"))  # may hold several images

_PIXELS = 64_000_000  # 8000 by 8000; decoding and converting takes about ten bytes for each
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112  # the tag of EXIF
_BITS = 0x0102  # the tag of TIFF


def open_image(content: bytes) -> "PIL.Image.Image":
    """An image file, of which only the header has been read.

    Raises:
        ValueError: it is of no format that is meant, or has too many pixels.
    """
    import PIL.Image

    try:
        picture: PIL.Image.Image = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # each format has errors of its own
        raise ValueError(str(error) or type(error).__name__) from error
    if picture.width * picture.height > _PIXELS:
        raise ValueError(
            f"it has {picture.width} x {picture.height} pixels; at most {_PIXELS:,} are decoded"
        )
    return picture


def is_grey(picture: "PIL.Image.Image") -> bool:
    """Whether one channel holds all of an image."""
    if picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;"):
        return True
    # Pillow opens grey with transparency of 16 bits as RGBA; until it is decoded, its tiles tell
    return any(tile[3] == "LA;16B" for tile in getattr(picture, "tile", ()))


def _orientation(picture: "PIL.Image.Image") -> int:
    """How the camera was held, from 1 (upright) to 8, as EXIF tells."""
    try:
        told = picture.getexif().get(_ORIENTATION, 1)
        return told if told in range(1, 9) else 1
    except Exception:  # EXIF that cannot be read tells nothing
        return 1


def upright(picture: "PIL.Image.Image") -> "PIL.Image.Image":
    """The image as its camera was held."""
    import PIL.ImageOps

    return PIL.ImageOps.exif_transpose(picture) if _orientation(picture) > 1 else picture


def to_pixels(
    picture: "PIL.Image.Image", channels: int | None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The pixels of an image as ``uint8`` of shape ``[H, W, channels]``.

    Of 16 bits the upper 8 are taken, ``v >> 8``. Palettes are looked up, CMYK becomes RGB, and
    transparency is left out where there is no channel for it.

    Args:
        picture: what :func:`open_image` gave.
        channels: 1, 3 or 4; None for 3.
        size: height and width; the shorter side is brought to it and the middle cut out.

    Raises:
        ValueError: the file is truncated or damaged, or its pixels are no numbers of 8 or 16 bits.
    """
    import PIL.Image
    import PIL.ImageOps

    mode = MODES[channels or 3]
    try:
        picture.load()
        picture = _eight_bits(picture)
        if picture.mode != mode:
            picture = picture.convert(mode)
        if size is not None and picture.size != size[::-1]:
            picture = PIL.ImageOps.fit(picture, size[::-1], method=PIL.Image.Resampling.BILINEAR)
    except Exception as error:  # each format has errors of its own
        raise ValueError(str(error) or type(error).__name__) from error
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _eight_bits(picture: "PIL.Image.Image") -> "PIL.Image.Image":
    """A grey image of 16 bits as one of 8; any other as it is."""
    import PIL.Image

    if picture.mode == "F":
        raise ValueError("its pixels are floats")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    # As numbers of 32 bits Pillow also opens some of 16; of a TIFF its tag tells.
    bits = max(getattr(picture, "tag_v2", {}).get(_BITS, (16,)))
    if bits > 16 or values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
        raise ValueError("its pixels are numbers of 32 bits")
    return PIL.Image.fromarray((values >> 8).astype(np.uint8))


def read_image(file: pathlib.Path) -> tuple["PIL.Image.Image", bytes]:
    """An image file, upright and decoded, beside the bytes that it was read from.

    Raises:
        ValueError: it is truncated or damaged; the file is named.
    """
    content = _outside.read_file(file)
    try:
        picture = open_image(content)
        picture.load()
        return upright(picture), content
    except Exception as error:
        raise damaged(file, error) from error


def pages(file: pathlib.Path) -> int:
    """How many images a file holds: pages of a TIFF, frames of what moves; 1 if it cannot tell."""
    if file.suffix.lower() not in _PAGED:
        return 1
    try:
        return int(getattr(open_image(_outside.read_file(file)), "n_frames", 1))
    except Exception:  # whoever decodes it says what is wrong
        return 1


def look(file: pathlib.Path) -> tuple[tuple[int, int], bool]:
    """Height and width of an image file once upright, and whether it is grey; from its header."""
    try:
        picture = open_image(_outside.read_file(file))
    except ValueError as error:
        raise damaged(file, error) from error
    grey = is_grey(picture)  # before anything of it is decoded
    height, width = picture.height, picture.width
    turned = _orientation(picture) > 4 and picture.format != "TIFF"  # of which Pillow has done so
    return (width, height) if turned else (height, width), grey


def encode(pixels: Any) -> bytes:
    """Pixels ``[H, W, C]`` as the bytes of a PNG."""
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
