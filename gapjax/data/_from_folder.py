"""A folder of images as a data set, without an import."""

import os
import pathlib
import warnings
from typing import Any

import numpy as np

from gapjax import _checks
from gapjax._paths import local_path
from gapjax._text import readable_bytes
from gapjax.data import _folders, _images, _local
from gapjax.data._archives import damaged, unreadable
from gapjax.data._dataset import Dataset, Split


def from_folder(
    folder: str | os.PathLike[str], *, image_size: int | None = None, name: str | None = None
) -> Dataset:
    """Read folders of images: ``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val``).

    Images are in PNG, JPEG, WebP, BMP, GIF, PPM or TIFF; they are turned upright as EXIF says, and
    of 16 bits the upper 8 are kept. They may lie in folders within that of their class. A warning
    counts other files and pages beyond the first, and names classes that are not tested. Everything
    is decoded at once; :func:`import_local` writes a data set that is decoded once and for all, or
    as it is read where it does not fit in memory.

    Args:
        folder: with a folder for each split.
        image_size: resize the shorter side of every image to this and cut out the middle; needed
            where the images differ in size.
        name: what reports call the data set; the name of the folder by default.

    Returns:
        The data set; classes are in the order of their names. Images are grey, ``[N, H, W, 1]``,
        where all of them are.

    Raises:
        ValueError: the folder does not look like that, a split has classes that train lacks, a
            file or folder cannot be read or an image is damaged (it is named), they differ in
            size, or are too many for a quarter of the memory.
    """
    place = local_path("folder", folder)
    if not place.is_dir():
        raise ValueError(f"There is no folder at {place}.")
    if image_size is not None:
        _checks.positive_int("image_size", image_size)
    try:
        return _read(place, image_size, name)
    except OSError as error:
        raise unreadable(error, place) from error


def _read(place: pathlib.Path, image_size: int | None, name: str | None) -> Dataset:
    """The data set of a folder; errors of the disk are as they come."""
    local = _folders.read("", place)
    if local is None:
        raise ValueError(
            f"{place} must hold train/CLASS/*.png and test/CLASS/*.png (or val), a folder per "
            "split and in each a folder per class, with images of "
            f"{', '.join(sorted(_images.SUFFIXES))}."
        )
    for remark in _local.remarks(local):
        warnings.warn(remark)
    height, width, channels = _local.common_shape(local)
    if image_size is not None:
        height = width = image_size
    if height is None or width is None:
        raise ValueError(
            f"The images in {place} differ in size; pass image_size=224, say, to bring them to one."
        )
    shape = (height, width, channels)
    test = "test" if "test" in local.splits else "validation"
    resize = image_size is not None
    splits = [_decoded(local, split, shape, resize=resize) for split in ("train", test)]
    return Dataset(splits[0], splits[1], local.class_names, name=name or place.resolve().name)


def _decoded(
    local: _local.Local, split: str, shape: tuple[int, int, int], *, resize: bool
) -> Split:
    examples: list[Any] = list(local.splits[split]())
    needed = len(examples) * int(np.prod(shape))
    if needed > _local.memory() / 4:
        raise ValueError(
            f"The split {split} takes {readable_bytes(needed)}, more than a quarter of the memory: "
            "import it (gapjax data import NAME --from DIR) and it is decoded as it is read."
        )
    images = np.empty((len(examples), *shape), np.uint8)
    labels = np.empty(len(examples), np.int32)
    for row, example in enumerate(examples):
        picture, _ = _images.read_image(example.image)
        try:
            pixels = _images.to_pixels(picture, shape[-1], shape[:2] if resize else None)
            if pixels.shape != shape:
                raise ValueError(f"it has {pixels.shape[0]} x {pixels.shape[1]} pixels")
            images[row] = pixels
        except ValueError as error:
            raise damaged(example.image, error) from error
        labels[row] = local.class_names.index(example.label)
    return Split(images, labels)
