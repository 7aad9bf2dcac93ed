"""From local files to a standard TFDS folder, without TensorFlow and without a network."""

import errno
import hashlib
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from gapjax import _checks
from gapjax.data import _formats, _tfds
from gapjax.data._known import CIFAR10_CLASSES

_OWN_VERSION = "1.0.0"  # of a set that TFDS does not know


def import_local(
    name: str,
    source_dir: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Write a standard TFDS folder from local files, for :func:`load` and every TFDS call.

    Recognized are, in ``source_dir`` or up to two levels below it:

    * the four IDX files of MNIST and its kin, gzipped or not,
    * CIFAR-10 and CIFAR-100, binary or python version,
    * a folder of images per class: ``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val``),

    and one archive (tar, gzipped or not, xz, zip) of any of these, given itself or lying in the
    folder. A name that TFDS knows gets the features and version TFDS gives it; any other name
    becomes a data set of its own. Where the content of a set is known, it is checked by hash.
    Nothing is left behind unless everything went well.

    Args:
      name: the name of the data set, as TFDS writes names.
      source_dir: the folder, or the archive.
      data_dir: where prepared data sets lie; the folder of TFDS by default
        (``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``).

    Returns:
      The folder written.

    Raises:
      ValueError: if the files are not recognized, damaged, or not those of the named set; if the
        data set is there already; if the disk is full. The file at fault is named.
    """
    source, folder = pathlib.Path(source_dir).expanduser(), _tfds.data_folder(data_dir)
    _tfds.check_name(name)
    if name == "digits" or not name.replace("_", "").isalnum():
        raise ValueError(
            f"{name!r} cannot be imported: it is "
            + ("embedded." if name == "digits" else "a name with a configuration or version.")
        )
    if not source.exists():
        raise ValueError(f"There is nothing at {source}: give the folder or archive of the files.")
    anchor = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".gapjax-import-", dir=anchor) as scratch:
            return _import(name, source, folder, pathlib.Path(scratch))
    except OSError as error:
        raise ValueError(
            f"{error.strerror or error} ({error.filename or folder}); nothing was imported."
        ) from error
    except RuntimeError as error:  # the writer of array_record knows no OSError
        if (full := os.strerror(errno.ENOSPC)) not in str(error):
            raise
        raise ValueError(f"{full} ({folder}); nothing was imported.") from error


def _import(
    name: str, source: pathlib.Path, folder: pathlib.Path, scratch: pathlib.Path
) -> pathlib.Path:
    import tensorflow_datasets as tfds

    stock = tfds.builder_cls(name) if name in _tfds.known_names() else None
    relative = pathlib.Path(name, str(stock.VERSION if stock else _OWN_VERSION))
    target = folder / relative
    if target.exists():
        raise ValueError(f"{name} is there already, at {target}; remove it to import it again.")
    if stock is not None:
        _check_archives(source, stock, scratch)
    local = _formats.read_local(name, source, scratch)
    builder = _builder(name, stock, local, scratch / "prepared")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    created = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(builder.data_path, target)
    except OSError:
        for path in created:
            shutil.rmtree(path, ignore_errors=True)
        raise
    return target


def _check_archives(source: pathlib.Path, stock: Any, scratch: pathlib.Path) -> None:
    """Hold an archive that goes by the name of the original one against its known hash."""
    files = {source.name: source} if source.is_file() else {p.name: p for p in source.iterdir()}
    for info in stock(data_dir=str(scratch)).url_infos.values():
        file = files.get(info.filename)
        if (
            file is None
            or not file.is_file()
            or not info.filename.endswith((".tar.gz", ".tar", ".zip"))
        ):
            continue
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != info.checksum:
            raise ValueError(
                f"{file} is not the archive known by that name (its sha256 is {found}, expected "
                f"{info.checksum}): it is damaged, or another set. To import it all the same, "
                "unpack it and import the folder. Nothing was imported."
            )


def _builder(name: str, stock: Any, local: _formats.Local, folder: pathlib.Path) -> Any:
    """A TFDS builder that makes its examples from local files."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    def split_generators(self: Any, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {
            split: _records(name, split, self.info.features, read)
            for split, read in local.splits.items()
        }

    def info(self: Any) -> Any:
        shape = _common_shape(local)
        features = {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=list(local.class_names)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{name}, imported from local files.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    namespace = {
        "name": name,
        "_split_generators": split_generators,
        "_generate_examples": None,  # the generators above are ready to run
        # TFDS would announce a download, into the scratch folder
        "_log_download_bytes": lambda self: None,
        "_log_download_done": lambda self: None,
    }
    if stock is None:
        bases = (tfds.core.GeneratorBasedBuilder,)
        namespace |= {"VERSION": tfds.core.Version(_OWN_VERSION), "_info": info}
        namespace |= {"__module__": __name__, "pkg_dir_path": None}
        title = "".join(map(str.title, name.split("_")))
    else:
        bases, title = (stock,), stock.__name__
        namespace["__module__"] = stock.__module__
    with registered.skip_registration():
        cls = type(title, bases, namespace)
    builder = cls(data_dir=str(folder), file_format="array_record")
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(
            f"TFDS keeps {name} with the fields {', '.join(features)}, not as images with labels; "
            "import it under a name of your own."
        )
    label = features["label"]
    names = CIFAR10_CLASSES if name == "cifar10" else local.class_names
    unnamed = label.names == [str(i) for i in range(label.num_classes)]
    if unnamed and label.num_classes == len(names):
        label.names = list(names)
    return builder


def _records(name: str, split: str, features: Any, read: Any) -> Iterator[tuple[int, Any]]:
    """The examples of a split as TFDS stores them: images as the bytes of a file."""
    names = features["label"].names
    shape = features["image"].shape
    for number, example in enumerate(read()):
        label = example.label
        known = label in names if isinstance(label, str) else label < len(names)
        if not known:
            raise ValueError(
                f"{name} has no class {label!r}; its classes are {', '.join(names[:12])}"
                f"{', ...' if len(names) > 12 else ''}.{_checks.near_matches(label, names)} "
                "Rename the folders, or import under a name of your own."
            )
        record = {"image": _encoded(example.image, shape), "label": label}
        for field in features:
            if field in example.extra:
                record[field] = example.extra[field]
            elif field == "id":
                record[field] = f"{split}_{number:05d}"
            elif field == "file_name" and isinstance(example.image, pathlib.Path):
                record[field] = example.image.name
            elif field not in record:
                raise ValueError(
                    f"{name} needs the field {field!r}, which these files do not hold; import it "
                    "from its original archive, or under a name of your own."
                )
        yield number, record


def _encoded(image: np.ndarray | pathlib.Path, shape: tuple[int | None, ...]) -> io.BytesIO:
    """The bytes of an image file: those there are where they fit as they are, else a new PNG."""
    import PIL.Image

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[shape[-1] or 3]
    where, content = "An image", b""
    picture: PIL.Image.Image
    if isinstance(image, np.ndarray):
        picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    else:
        where, content = str(image), image.read_bytes()
        try:
            picture = PIL.Image.open(io.BytesIO(content))
            picture.load()
        except (OSError, SyntaxError) as error:
            raise ValueError(
                f"{image} is truncated or damaged ({error}); nothing was imported."
            ) from error
    if any(want not in (None, has) for want, has in zip(shape, picture.size[::-1], strict=False)):
        raise ValueError(
            f"{where} has {picture.height} x {picture.width} pixels, the data set has "
            f"{shape[0]} x {shape[1]}; nothing was imported."
        )
    if picture.format in ("PNG", "JPEG") and picture.mode == mode:
        return io.BytesIO(content)
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, format="PNG")
    buffer.seek(0)
    return buffer


def _common_shape(local: _formats.Local) -> tuple[int | None, int | None, int]:
    """The shape that all images share; an axis along which they differ is None."""
    import PIL.Image

    sizes, grey = set(), True
    for read in local.splits.values():
        for example in read():
            if isinstance(example.image, np.ndarray):
                sizes.add(example.image.shape[:2])
                grey = grey and example.image.shape[-1] == 1
                break  # every image of an array is alike
            with PIL.Image.open(example.image) as picture:
                sizes.add(picture.size[::-1])
                grey = grey and picture.mode in ("1", "L")
    height, width = ({size[axis] for size in sizes} for axis in (0, 1))
    return (
        height.pop() if len(height) == 1 else None,
        width.pop() if len(width) == 1 else None,
        1 if grey else 3,
    )
