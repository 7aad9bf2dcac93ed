"""From local files to a standard TFDS folder, without TensorFlow and without a network."""

import functools
import hashlib
import io
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from gapjax import _checks, _outside
from gapjax._paths import local_path
from gapjax.data import _images, _local, _places, _tfds
from gapjax.data._archives import damaged
from gapjax.data._known import CIFAR10_CLASSES
from gapjax.data._write import make_builder, write_prepared


def import_local(
    name: str,
    source_dir: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Write a standard TFDS folder from local files, for :func:`load` and every TFDS call.

    Recognized are, in ``source_dir`` or up to two levels below it:

    * the four IDX files of MNIST and its kin, gzipped or not (``emnist-letters-train-images-...``
      too),
    * CIFAR-10 and CIFAR-100, binary or python version,
    * a folder of images per class: ``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val``),
      in PNG, JPEG, WebP, BMP, GIF, PPM or TIFF; images are turned upright as EXIF says, and of 16
      bits the upper 8 are kept,

    and one archive (tar, gzipped or not, xz, zip) of any of these, given itself or lying in the
    folder. A name that TFDS knows gets the features and version TFDS gives it; any other name
    becomes a data set of its own. Where the content of a set is known, it is checked by hash.
    Hidden files are no part of the data; a warning counts other files beside the images, pages
    beyond the first, links that lead out of an archive, and names classes that are not tested.
    Nothing is left behind unless everything went well.

    Files are parsed, never executed, within bounds: one file takes at most 640 MiB of memory, one
    image 64 million pixels, and an archive unpacks to at most 64 MiB and a hundred times its own
    length.

    Args:
        name: the name of the data set, as TFDS writes names (``"emnist/letters"`` for one of
            several configurations).
        source_dir: the folder, or the archive.
        data_dir: where prepared data sets lie; the folder of TFDS by default
            (``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``).

    Returns:
        The folder written.

    Raises:
        ValueError: the files are not recognized, damaged, too large, or not those of the named set;
            a split has classes that train lacks; the data set is there already, or is being
            imported by another process; the disk is full. The file at fault is named.
    """
    source = local_path("source_dir", source_dir)
    folder, parsed = check_target(name, data_dir)
    if not source.exists():
        raise ValueError(f"There is nothing at {source}: give the folder or archive of the files.")
    stock = None
    if parsed.base in _tfds.known_names():
        stock = _tfds.stock_builder(parsed, folder)
        _check_features(parsed.base, _tfds.info_of(stock).features)
        if (there := pathlib.Path(stock.data_path)).exists():
            raise ValueError(f"{name} is there already, at {there}; remove it to import it again.")
    config = getattr(stock, "builder_config", None)
    wanted = f"{parsed.base}/{config.name}" if config else parsed.base
    remarks: list[str] = []

    def make(scratch: pathlib.Path) -> Any:
        if stock is not None:
            _check_archives(source, stock)
        local = _local.read_local(wanted, source, scratch)
        remarks.extend(_local.remarks(local))  # what was unpacked is gone afterwards
        return _builder(parsed.base, stock, local, scratch / "prepared")

    written = write_prepared(parsed.base, folder, make)
    for remark in remarks:
        warnings.warn(remark)
    return written


def check_target(
    name: Any, data_dir: str | os.PathLike[str] | None
) -> tuple[pathlib.Path, _tfds.Name]:
    """Where an import goes, and the parts of its name."""
    folder, parsed = _places.data_folder(data_dir), _tfds.parse_name(name)
    if parsed.base in _tfds.EMBEDDED:
        raise ValueError(f"{name!r} cannot be imported: it is embedded.")
    if parsed.version is not None:
        raise ValueError(f"{name!r} cannot be imported: leave the version out.")
    if parsed.config is not None and parsed.base not in _tfds.known_names():
        raise ValueError(
            f"{name!r} cannot be imported: only sets that TFDS knows have a configuration. Use a "
            "name without one."
        )
    return folder, parsed


def _check_features(name: str, features: Any) -> None:
    """Images with one label each are what local files hold."""
    import tensorflow_datasets as tfds

    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    fields = features if isinstance(features, tfds.features.FeaturesDict) else {}
    if not all(isinstance(dict(fields).get(key), kind) for key, kind in kinds.items()):
        said = ", ".join([*fields][:12]) or type(features).__name__
        raise ValueError(
            f"TFDS keeps {name} with the fields {said}, not as images with labels; import it "
            "under a name of your own."
        )


def _check_archives(source: pathlib.Path, stock: Any) -> None:
    """Hold an archive that goes by the name of the original one against its known hash."""
    files = {source.name: source} if not source.is_dir() else {p.name: p for p in source.iterdir()}
    for info in (stock.url_infos or {}).values():
        file = files.get(info.filename)
        if file is None or not info.filename.endswith((".tar.gz", ".tar", ".zip")):
            continue
        with _outside.open_regular(file) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != info.checksum:
            raise ValueError(
                f"{file} is not the archive known by that name (its sha256 is {found}, expected "
                f"{info.checksum}): it is damaged, or another set. To import it all the same, "
                "unpack it and import the folder. Nothing was imported."
            )


def _builder(name: str, stock: Any, local: _local.Local, folder: pathlib.Path) -> Any:
    """A TFDS builder that makes its examples from local files."""
    import tensorflow_datasets as tfds

    features = None
    if stock is None:
        features = {
            "image": tfds.features.Image(shape=_local.common_shape(local)),
            "label": tfds.features.ClassLabel(names=list(local.class_names)),
        }
    splits = {
        split: functools.partial(_records, name, split, read)
        for split, read in local.splits.items()
    }
    builder = make_builder(name, stock, features, splits, folder)
    label = builder.info.features["label"]
    names = CIFAR10_CLASSES if name == "cifar10" else local.class_names
    unnamed = label.num_classes is None or label.names == list(map(str, range(label.num_classes)))
    if unnamed and label.num_classes in (None, len(names)):
        label.names = list(names)
    return builder


def _records(name: str, split: str, read: Any, features: Any) -> Iterator[tuple[int, Any]]:
    """The examples of a split as TFDS stores them: images as the bytes of a file."""
    names = features["label"].names
    image = features["image"]
    if image.np_dtype != np.uint8 or (image.shape[-1] or 3) not in (1, 3, 4):
        raise ValueError(
            f"TFDS keeps the images of {name} as {image.np_dtype} with {image.shape[-1]} channels; "
            "import it under a name of your own."
        )
    for number, example in enumerate(read()):
        label = example.label
        known = label in names if isinstance(label, str) else label < len(names)
        if not known:
            raise ValueError(
                f"{name} has no class {label!r}; its classes are {', '.join(names[:12])}"
                f"{', ...' if len(names) > 12 else ''}.{_checks.near_matches(label, names)} "
                "Rename the folders, or import under a name of your own."
            )
        record = {"image": io.BytesIO(_encoded(example.image, image.shape)), "label": label}
        for field in features:
            if field in example.extra:
                record[field] = example.extra[field]
            elif field == "id":
                record[field] = f"{split}_{number:05d}"
            elif field in ("file_name", "filename", "image/filename") and isinstance(
                example.image, pathlib.Path
            ):
                record[field] = example.image.name.encode("utf-8", "replace")
            elif field not in record:
                raise ValueError(
                    f"{name} needs the field {field!r}, which these files do not hold; import it "
                    "from its original archive, or under a name of your own."
                )
        yield number, record


def _encoded(image: np.ndarray | pathlib.Path, shape: tuple[int | None, ...]) -> bytes:
    """The bytes of an image file: those there are where they fit as they are, else a new PNG."""
    channels = shape[-1] or 3
    if isinstance(image, np.ndarray):
        where, pixels, kept = "An image", image, None
    else:
        where = str(image)
        picture, content = _images.read_image(image)
        try:
            pixels = _images.to_pixels(picture, channels)
        except ValueError as error:
            raise damaged(image, error) from error
        # what was turned has no format any more
        fits = picture.format in ("PNG", "JPEG") and picture.mode == _images.MODES[channels]
        kept = content if fits else None
    if any(want not in (None, has) for want, has in zip(shape[:2], pixels.shape, strict=False)):
        raise ValueError(
            f"{where} has {pixels.shape[0]} x {pixels.shape[1]} pixels, the data set has "
            f"{shape[0]} x {shape[1]}; nothing was imported."
        )
    if pixels.shape[-1] != channels:
        raise ValueError(
            f"{where} has {pixels.shape[-1]} channels, the data set has {channels}; nothing was "
            "imported."
        )
    return _images.encode(pixels) if kept is None else kept
