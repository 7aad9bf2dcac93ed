"""The files of CIFAR-10 and CIFAR-100, binary and python version."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gapjax import _outside
from gapjax.data import _pickled
from gapjax.data._archives import damaged
from gapjax.data._known import CIFAR10_CLASSES
from gapjax.data._local import Local, check_class_names, from_arrays

_BINARY = {
    10: {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    100: {"train": ["train.bin"], "test": ["test.bin"]},
}
_PYTHON = {
    10: {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    100: {"train": ["train"], "test": ["test"]},
}
_PIXELS = 3 * 32 * 32


def read_binary(name: str, folder: pathlib.Path) -> Local | None:
    """The data set of a folder that holds the binary version."""
    for classes, splits in _BINARY.items():
        label_bytes = 1 if classes == 10 else 2
        if _is_other(name, classes) or not _all_files(folder, splits):
            continue
        found = {}
        for split, files in splits.items():
            parts = []
            for file in (folder / f for f in files):
                payload = np.frombuffer(_outside.read_file(file), np.uint8)
                if payload.size == 0 or payload.size % (label_bytes + _PIXELS):
                    raise damaged(file, f"{payload.size} bytes are not a whole number of images")
                rows = payload.reshape(-1, label_bytes + _PIXELS)
                _check_labels(rows[:, label_bytes - 1], classes, file)
                parts.append(rows)
            rows = np.concatenate(parts)
            coarse = {"coarse_label": rows[:, 0]} if classes == 100 else {}
            found[split] = from_arrays(
                _images(rows[:, label_bytes:]), rows[:, label_bytes - 1], **coarse
            )
        return Local(_class_names(folder, classes), found)
    return None


def read_python(name: str, folder: pathlib.Path) -> Local | None:
    """The data set of a folder that holds the python version."""
    for classes, splits in _PYTHON.items():
        if _is_other(name, classes) or not _all_files(folder, splits):
            continue
        found = {}
        for split, files in splits.items():
            parts = [_batch(folder / file, classes) for file in files]
            columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            found[split] = from_arrays(
                _images(columns.pop("pixels")), columns.pop("labels"), **columns
            )
        return Local(_class_names(folder, classes), found)
    return None


def _batch(file: pathlib.Path, classes: int) -> dict[str, np.ndarray]:
    """Pixels and labels of one file, each of the type and shape that it must have."""
    table = _table(file)
    keys = {"pixels": b"data", "labels": b"labels" if classes == 10 else b"fine_labels"}
    if classes == 100:
        keys["coarse_label"] = b"coarse_labels"
    columns = {}
    for key, stored in keys.items():
        if stored not in table:
            raise damaged(file, f"not a table of CIFAR: it has no {stored.decode()}")
        value = table[stored]
        shape: tuple[int, ...] = (_PIXELS,) if key == "pixels" else ()
        if isinstance(value, list) and not all(type(item) is int for item in value):
            raise damaged(file, f"its {stored.decode()} are not whole numbers")
        try:
            column = np.asarray(value)
        except OverflowError as error:
            raise damaged(file, error) from error
        if column.dtype.kind not in "iu" or column.shape[1:] != shape or not column.ndim:
            raise damaged(
                file, f"its {stored.decode()} are {column.dtype} of shape {list(column.shape)}"
            )
        if not len(column) or column.min() < 0 or column.max() > 255:
            raise damaged(file, f"its {stored.decode()} are no bytes")
        columns[key] = column.astype(np.uint8)
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise damaged(file, "it does not hold as many labels as images")
    _check_labels(columns["labels"], classes, file)
    return columns


def _table(file: pathlib.Path) -> Mapping[bytes, Any]:
    content = _outside.read_file(file)
    try:
        return _pickled.read_table(content)
    except ValueError as error:
        raise damaged(file, error) from error


def _is_other(name: str, classes: int) -> bool:
    return name in ("cifar10", "cifar100") and name != f"cifar{classes}"


def _class_names(folder: pathlib.Path, classes: int) -> tuple[str, ...]:
    """The names of the classes; those of CIFAR-100 lie beside the data."""
    if classes == 10:
        return CIFAR10_CLASSES
    text, table = folder / "fine_label_names.txt", folder / "meta"
    names: Any = range(classes)
    if text.is_file():
        names = _outside.read_file(text, limit=_outside.JSON).decode("utf-8", "replace").split()
    elif table.is_file():
        names = _table(table).get(b"fine_label_names")
    if not isinstance(names, list | range) or len(names) != classes:
        raise damaged(text if text.is_file() else table, f"it does not name {classes} classes")
    found = [n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names]
    check_class_names(folder, found)
    return tuple(found)


def _all_files(folder: pathlib.Path, splits: Mapping[str, list[str]]) -> bool:
    """Whether all are there; if only some are, the archive is not whole."""
    files = [folder / f for names in splits.values() for f in names]
    missing = [file for file in files if not file.exists() or file.is_dir()]
    if 0 < len(missing) < len(files) and len(files) > 2:
        raise ValueError(f"{missing[0]} is missing; nothing was imported.")
    return not missing


def _images(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _check_labels(labels: np.ndarray, classes: int, file: pathlib.Path) -> None:
    if labels.max() >= classes:
        raise damaged(file, f"it holds the label {labels.max()}, beyond {classes} classes")
