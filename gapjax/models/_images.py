"""Sizes that follow from the images that a network is given."""

from typing import Any

from gapjax import _checks


def image_of(inputs: Any) -> dict[str, tuple[int, ...]]:
    """``image=``, the shape of one of the images ``[B, H, W, C]``.

    Raises:
        ValueError: inputs of another shape.
    """
    shape = getattr(inputs, "shape", None)
    if shape is None or len(shape) != 4:
        said = f"inputs of shape {list(shape)}" if shape is not None else f"{inputs!r}"
        raise ValueError(
            f"a convolutional network takes images [B, H, W, C], not {said}: reshape them, or use "
            "a fully connected network."
        )
    return {"image": tuple(shape[1:])}


def image_shape(image: Any) -> tuple[int, int, int]:
    """Height, width and channels.

    Raises:
        ValueError: something else.
    """
    if not isinstance(image, tuple | list) or len(image) != 3:
        raise ValueError(f"image must be (height, width, channels), not {image!r}.")
    height, width, channels = (_checks.positive_int("each size of image", n) for n in image)
    return height, width, channels


def windows(size: int, window: int, stride: int, padding: str = "VALID") -> int:
    """How many windows fit along an axis.

    Raises:
        ValueError: none does.

    Example:
        >>> windows(32, 3, 2), windows(32, 3, 2, "SAME")
        (15, 16)
    """
    if padding == "SAME":
        return -(-size // stride)
    if size < window:
        raise ValueError(
            f"the image is too small: {size} pixels are left where a pool needs {window}. Use "
            "larger images, or a network with fewer pools."
        )
    return (size - window) // stride + 1
