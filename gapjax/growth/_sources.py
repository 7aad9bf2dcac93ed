"""Where examples come from: a pytree of arrays, or anything with random access."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

_WHOLE = 1 << 30  # bytes up to which the fingerprint reads every example
_SAMPLED = 4096  # examples it reads of a larger source
_ALIGNMENT = 64  # bytes
_SAMPLED_RECORDS = 16  # and of one that reads record by record


class Source(Protocol):
    """What the iterator needs of a source."""

    num_examples: int
    at_hand: bool  # in memory: nothing is gained by reading ahead

    def take(self, index: np.ndarray) -> Any:
        """The examples of these numbers, as a pytree with a leading axis."""

    def fingerprint(self) -> str:
        """A short text that tells this data set from others."""


def as_source(source: Any) -> Source:
    """The source behind what a user passed."""
    leaves = [] if hasattr(source, "__next__") else jax.tree.leaves(source)
    if leaves and all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves):
        return ArraySource(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return RecordSource(source)
    raise ValueError(
        f"A source is a pytree of arrays with a leading axis of examples, or an object with "
        f"__len__ and __getitem__; {type(source).__name__} is neither. An iterator of unknown "
        "length cannot give an exact order: turn it into arrays first."
    )


class ArraySource:
    """A pytree of arrays in memory."""

    def __init__(self, arrays: Any):
        self.at_hand = not any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(arrays))
        self._arrays = jax.tree.map(np.asarray, arrays)
        lengths = {
            jax.tree_util.keystr(path): (leaf.shape[0] if leaf.ndim else None)
            for path, leaf in jax.tree_util.tree_leaves_with_path(self._arrays)
        }
        if len(set(lengths.values())) != 1 or None in lengths.values():
            raise ValueError(
                f"Every array needs the same leading axis of examples; the lengths are {lengths}."
            )
        self.num_examples = _at_least_one(next(iter(lengths.values())) or 0)

    def take(self, index: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: _rows(leaf, index), self._arrays)

    def fingerprint(self) -> str:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self._arrays))
        if size <= _WHOLE:
            return _digest(self.num_examples, self._arrays)
        return _digest(self.num_examples, self.take(_spread(self.num_examples, _SAMPLED)))


class RecordSource:
    """Random access, record by record: a TFDS data source, a Grain map data set."""

    at_hand = False

    def __init__(self, records: Any):
        self._records = records
        self.num_examples = _at_least_one(len(records))

    def take(self, index: np.ndarray) -> Any:
        numbers = index.tolist()
        read_many = getattr(self._records, "__getitems__", None)
        records: Sequence[Any] = (
            read_many(numbers) if read_many else [self._records[number] for number in numbers]
        )
        leaves = [jax.tree.map(_as_array, record) for record in records]
        try:
            return jax.tree.map(lambda *rows: np.stack(rows), *leaves)
        except ValueError as error:
            raise ValueError(
                f"Examples {numbers[0]} to {numbers[-1]} do not stack into one batch ({error}); "
                "every record must have the same fields and shapes."
            ) from error

    def fingerprint(self) -> str:
        return _digest(self.num_examples, self.take(_spread(self.num_examples, _SAMPLED_RECORDS)))


def _rows(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``array[index]``, where JAX on a CPU can use it as it lies.

    An array that does not start at a multiple of 64 bytes is copied at every call of a compiled
    function, which takes as long as gathering the rows.
    """
    if not (array.flags.c_contiguous and array.flags.aligned):
        return array[index]  # take would make a copy of all of it first
    size = len(index) * (array.nbytes // len(array))
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    shape = (len(index), *array.shape[1:])
    rows = np.ndarray(shape, array.dtype, memory, -memory.ctypes.data % _ALIGNMENT)
    return array.take(index, axis=0, out=rows, mode="clip")


def _at_least_one(num_examples: int) -> int:
    if num_examples < 1:
        raise ValueError("The source holds no examples.")
    return num_examples


def _as_array(leaf: Any) -> np.ndarray:
    """A leaf of a record; Python numbers take the types that JAX gives them."""
    array = np.asarray(leaf)
    if isinstance(leaf, bool | int | float):
        array = array.astype({"b": np.bool_, "i": np.int32, "f": np.float32}[array.dtype.kind])
    if array.dtype.kind not in "biufV":
        raise ValueError(
            f"A record holds {type(leaf).__name__} ({str(leaf)[:40]!r}), which cannot go onto a "
            "device; drop the field or turn it into numbers."
        )
    return array


def _spread(num_examples: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, num_examples - 1, count).astype(np.int64))


def _digest(num_examples: int, examples: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(examples):
        kind = [jax.tree_util.keystr(path), str(leaf.dtype), *leaf.shape[1:]]
        digest.update(json.dumps([num_examples, *kind]).encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:32]
