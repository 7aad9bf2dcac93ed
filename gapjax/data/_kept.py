"""Arrays kept on the disk so that they are made once: whole, unchanged, and those of their key."""

import contextlib
import os
import pathlib
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from gapjax import _outside

Kinds = Mapping[str, tuple[tuple[int, ...], np.dtype]]

_PART = 1 << 20
_DAY = 86_400.0


def kept_arrays(
    path: pathlib.Path,
    key: str,
    kinds: Kinds,
    make: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Arrays from a file if they are those of this key; else made anew, and kept there.

    The file is an ``.npz`` without compression: plain NumPy reads it too. Each array has a checksum
    (that of zip), and the file is put in place whole, so several processes may read and write it.

    Args:
        path: the file. It only saves time: no room or no right to write is no error.
        key: everything that the arrays depend on, as a text.
        kinds: the shape and the type of each array, which a file is held against.
        make: makes them.
    """
    with contextlib.suppress(Exception):  # a damaged zip file has errors of many kinds
        return _read(path, key, kinds)
    arrays = make()
    scratch: pathlib.Path | None = None
    try:
        path.parent.mkdir(exist_ok=True)
        _clear(path.parent)
        # not mkstemp, whose files are for their owner alone: others may read what lies beside
        scratch = path.with_name(f"{uuid.uuid4().hex}.part")
        with scratch.open("xb") as stream:
            np.savez(stream, allow_pickle=False, **arrays, key=_as_array(key))
        os.replace(scratch, path)
    except OSError:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
    return arrays


def _as_array(key: str) -> np.ndarray:
    return np.frombuffer(key.encode(), np.uint8)


def _read(path: pathlib.Path, key: str, kinds: Kinds) -> dict[str, np.ndarray]:
    """The arrays of a file, or a ValueError if they are others than those meant."""
    wanted = _as_array(key)
    with _outside.open_regular(path) as stream, zipfile.ZipFile(stream) as file:
        if (_member(file, "key", wanted.shape, wanted.dtype) != wanted).any():
            raise ValueError(f"{path} has another key.")
        return {name: _member(file, name, *kind) for name, kind in kinds.items()}


def _member(
    file: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """One array, of the shape and type that are meant; its checksum is looked at on the way."""
    try:
        info = file.getinfo(f"{name}.npy")
    except KeyError as error:
        raise ValueError(f"{name} is missing") from error
    with file.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0(stream) if version == (1, 0) else None
        if info.compress_type != zipfile.ZIP_STORED or header != (shape, False, dtype):
            raise ValueError(f"{name} is none of those meant")
        array = np.empty(shape, dtype)
        flat = array.reshape(-1).view(np.uint8).data
        at = 0
        while part := stream.read(_PART):  # to the end, where the checksum is
            if at + len(part) > len(flat):
                break
            flat[at : at + len(part)] = part
            at += len(part)
        if at != len(flat) or part:
            raise ValueError(f"{name} has another length")
        return array


def _clear(folder: pathlib.Path) -> None:
    """Remove what processes left that were killed while they wrote."""
    for path in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY:
                path.unlink()
