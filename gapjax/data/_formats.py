"""Reading what people have on disk: IDX files, CIFAR archives, folders of images."""

import gzip
import hashlib
import pathlib
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gapjax.data._known import CIFAR10_CLASSES, PAYLOADS

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"}
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".zip")
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)


class Example(NamedTuple):
    """One example: pixels or the file that holds them, its class, and where it came from."""

    image: np.ndarray | pathlib.Path
    label: int | str
    extra: Mapping[str, Any] = {}


class Local(NamedTuple):
    """Examples found in local files, by split; each call of a split reads it from its start."""

    class_names: tuple[str, ...]
    splits: Mapping[str, Callable[[], Iterator[Example]]]


def read_local(name: str, source: pathlib.Path, scratch: pathlib.Path) -> Local:
    """What a file or folder holds for a data set of this name."""
    if not source.exists():
        raise ValueError(f"There is nothing at {source}: give the folder or archive of the files.")
    found = _search(name, source, scratch) if source.is_dir() else _opened(name, source, scratch)
    if not found:
        raise ValueError(
            f"{source} holds no data set that can be imported: it needs the four IDX files of "
            "MNIST (train-images-idx3-ubyte, ..., gzipped or not), the binary or python files of "
            "CIFAR, a folder of images per class (train/CLASS/*.png and test/CLASS/*.png), or one "
            "archive of these."
        )
    if len(found) > 1:
        raise ValueError(
            f"{source} holds several data sets, and no name tells which is {name}: "
            f"{', '.join(map(str, found))}. Give the folder or archive of one."
        )
    return next(iter(found.values()))


def _search(name: str, folder: pathlib.Path, scratch: pathlib.Path) -> dict[pathlib.Path, Local]:
    """The data set that a folder is, or those in it up to two levels down, by where they lie."""
    here = _recognized(name, folder)
    if here is not None:
        return {folder: here}
    children = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    children += [p for child in children for p in sorted(child.iterdir()) if p.is_dir()]
    archives = [p for p in sorted(folder.iterdir()) if p.name.lower().endswith(_ARCHIVES)]
    named = [p for p in children + archives if _plain(name) in _plain(p.name)]
    found: dict[pathlib.Path, Local] = {}
    for path in named or children + archives:
        if path.is_dir():
            local = _recognized(name, path)
            found |= {} if local is None else {path: local}
        else:
            found |= _opened(name, path, scratch)
    return found


def _opened(name: str, archive: pathlib.Path, scratch: pathlib.Path) -> dict[pathlib.Path, Local]:
    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
    _unpack(archive, folder)
    found = list(_search(name, folder, scratch).items())
    return {archive / path.relative_to(folder): local for path, local in found}


def _recognized(name: str, folder: pathlib.Path) -> Local | None:
    readers = (_idx, _cifar_binary, _cifar_python, _folders)
    return next((local for read in readers if (local := read(name, folder)) is not None), None)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
                # the check of the compressed stream comes at its end, behind that of the archive
                while tar.fileobj is not None and tar.fileobj.read(1 << 20):
                    pass
    except Exception as error:  # each kind of compression has an error of its own
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the archive
            raise
        raise _damaged(archive, error) from error


def _damaged(file: pathlib.Path, why: object) -> ValueError:
    return ValueError(f"{file} is truncated or damaged ({why}); nothing was imported.")


def _payload(file: pathlib.Path) -> bytes:
    """The bytes of a file, unpacked if it is gzipped."""
    content = file.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(file, error) from error


def _verify(name: str, key: str, payload: bytes, file: pathlib.Path) -> None:
    """Refuse a payload that has the size of a known one and not its content."""
    known = PAYLOADS.get(name, {}).get(key)
    if known and len(payload) == known.size and hashlib.sha256(payload).hexdigest() != known.sha256:
        raise _damaged(file, f"its content is not that of {name}")


def _idx(name: str, folder: pathlib.Path) -> Local | None:
    def find(stem: str) -> pathlib.Path | None:
        names = (stem, stem.replace("-idx", ".idx"))
        paths = (folder / (n + suffix) for n in names for suffix in ("", ".gz"))
        return next((path for path in paths if path.is_file()), None)

    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        files = [find(f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        if files[0] is None or files[1] is None:
            continue
        images = _idx_array(name, f"{stem}-images", files[0], 3)
        labels = _idx_array(name, f"{stem}-labels", files[1], 1)
        if len(images) != len(labels):
            raise ValueError(
                f"{files[0]} holds {len(images)} images and {files[1]} {len(labels)} labels; they "
                "do not belong together."
            )
        arrays[split] = images[..., None], labels
    if len(arrays) < 2:
        return None
    classes = 1 + max(int(labels.max(initial=0)) for _, labels in arrays.values())
    return Local(
        tuple(map(str, range(max(classes, 10)))),
        {split: _from_arrays(*pair) for split, pair in arrays.items()},
    )


def _idx_array(name: str, key: str, file: pathlib.Path, ndim: int) -> np.ndarray:
    payload = _payload(file)
    _verify(name, key, payload, file)
    if payload[:4] != bytes([0, 0, 8, ndim]):
        raise _damaged(file, f"it does not start like an IDX file of {ndim} axes of bytes")
    header = 4 + 4 * ndim
    shape = np.frombuffer(payload[4:header].ljust(4 * ndim, b"\0"), ">u4").astype(int)
    if len(payload) != header + shape.prod():
        raise _damaged(file, f"it promises {header + shape.prod()} bytes and holds {len(payload)}")
    return np.frombuffer(payload, np.uint8, offset=header).reshape(shape)


def _from_arrays(
    images: np.ndarray, labels: np.ndarray, **extra: np.ndarray
) -> Callable[[], Iterator[Example]]:
    def read() -> Iterator[Example]:
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Example(image, int(label), {key: int(v[row]) for key, v in extra.items()})

    return read


_CIFAR_BINARY = {
    10: {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    100: {"train": ["train.bin"], "test": ["test.bin"]},
}
_CIFAR_PYTHON = {
    10: {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    100: {"train": ["train"], "test": ["test"]},
}


def _cifar_binary(name: str, folder: pathlib.Path) -> Local | None:
    for classes, splits in _CIFAR_BINARY.items():
        label_bytes = 1 if classes == 10 else 2
        if _is_other_cifar(name, classes) or not _all_files(folder, splits):
            continue
        found = {}
        for split, files in splits.items():
            parts = []
            for file in (folder / f for f in files):
                payload = np.frombuffer(file.read_bytes(), np.uint8)
                if payload.size == 0 or payload.size % (label_bytes + 3072):
                    raise _damaged(file, f"{payload.size} bytes are not a whole number of images")
                parts.append(payload.reshape(-1, label_bytes + 3072))
            rows = np.concatenate(parts)
            coarse = {"coarse_label": rows[:, 0]} if classes == 100 else {}
            _check_labels(rows[:, label_bytes - 1], classes, folder / files[0])
            found[split] = _from_arrays(
                _planes(rows[:, label_bytes:]), rows[:, label_bytes - 1], **coarse
            )
        return Local(_cifar_classes(folder, classes), found)
    return None


def _cifar_python(name: str, folder: pathlib.Path) -> Local | None:
    for classes, splits in _CIFAR_PYTHON.items():
        if _is_other_cifar(name, classes) or not _all_files(folder, splits):
            continue
        found = {}
        for split, files in splits.items():
            tables = [_table(folder / f) for f in files]
            key = b"labels" if classes == 10 else b"fine_labels"
            try:
                labels = np.concatenate([np.asarray(table[key], np.uint8) for table in tables])
                pixels = np.concatenate([table[b"data"] for table in tables])
                coarse = {} if classes == 10 else {"coarse_label": tables[0][b"coarse_labels"]}
                images = _planes(pixels)
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(folder / files[0], f"not a table of CIFAR: {error}") from error
            _check_labels(labels, classes, folder / files[0])
            found[split] = _from_arrays(images, labels, **coarse)
        return Local(_cifar_classes(folder, classes), found)
    return None


def _is_other_cifar(name: str, classes: int) -> bool:
    return name in ("cifar10", "cifar100") and name != f"cifar{classes}"


def _cifar_classes(folder: pathlib.Path, classes: int) -> tuple[str, ...]:
    """The names of the classes; those of CIFAR-100 lie beside the data."""
    if classes == 10:
        return CIFAR10_CLASSES
    text, table = folder / "fine_label_names.txt", folder / "meta"
    if text.is_file():
        return tuple(text.read_text().split())
    if table.is_file():
        return tuple(name.decode() for name in _table(table)[b"fine_label_names"])
    return tuple(map(str, range(classes)))


def _all_files(folder: pathlib.Path, splits: Mapping[str, list[str]]) -> bool:
    """Whether all are there; if only some are, the archive is not whole."""
    files = [folder / f for names in splits.values() for f in names]
    missing = [file for file in files if not file.is_file()]
    if 0 < len(missing) < len(files) and len(files) > 2:
        raise ValueError(f"{missing[0]} is missing; nothing was imported.")
    return not missing


def _planes(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _check_labels(labels: np.ndarray, classes: int, file: pathlib.Path) -> None:
    if labels.max() >= classes:
        raise _damaged(file, f"it holds the label {labels.max()}, beyond {classes} classes")


class _TableUnpickler(pickle.Unpickler):
    """Reads the tables of CIFAR, and refuses to run anything else a pickle may ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return {"ndarray": np.ndarray, "dtype": np.dtype}.get(name) or super().find_class(
                "numpy._core.multiarray", name
            )
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _table(file: pathlib.Path) -> Mapping[bytes, Any]:
    try:
        with file.open("rb") as stream:
            return _TableUnpickler(stream, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError) as error:
        raise _damaged(file, error) from error


def _folders(name: str, folder: pathlib.Path) -> Local | None:
    """`train/CLASS/*.png` and `test/CLASS/*.png` (or `val`)."""
    splits: dict[str, list[tuple[pathlib.Path, str]]] = {}
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.lower() not in _SPLITS:
            continue
        files = [
            (file, kind.name)
            for kind in sorted(child.iterdir())
            if kind.is_dir()
            for file in sorted(kind.iterdir())
            if file.suffix.lower() in _IMAGES
        ]
        if files:
            splits[_SPLITS[child.name.lower()]] = files
    if "train" not in splits or len(splits) < 2:
        return None
    classes = sorted({kind for files in splits.values() for _, kind in files})

    def reader(files: list[tuple[pathlib.Path, str]]) -> Callable[[], Iterator[Example]]:
        return lambda: (Example(file, kind) for file, kind in files)

    return Local(tuple(classes), {split: reader(files) for split, files in splits.items()})
