"""Where examples come from: a pytree of arrays, or anything with random access."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from gapjax import _arrays, _checks

_WHOLE = 1 << 30  # bytes up to which the fingerprint reads every example
_SAMPLED = 4096  # examples it reads of a larger source
_SAMPLED_RECORDS = 16  # and of one that reads record by record
_ALIGNMENT = 64  # bytes


class Source(Protocol):
    """What the iterator needs of a source."""

    num_examples: int
    at_hand: bool  # in memory: nothing is gained by reading ahead

    def take(self, index: np.ndarray) -> Any:
        """The examples of these numbers, as a pytree with a leading axis."""

    def fingerprint(self) -> str:
        """A short text that tells this data set from others."""


def as_source(source: Any, workers: int) -> Source:
    """The source behind what a user passed, for so many readers at once."""
    if isinstance(source, ArraySource | RecordSource):
        return source
    if hasattr(source, "columns") and hasattr(source, "to_numpy"):  # a data frame
        source = {name: source[name].to_numpy() for name in source.columns}
    elif isinstance(source, Mapping) and not isinstance(source, dict):  # what np.load gives
        source = dict(source)
    if hasattr(source, "__next__"):
        raise ValueError(
            f"A {type(source).__name__} is an iterator, of unknown length: it cannot give an exact "
            "order. Turn it into arrays or a list of records first."
        )
    if _arrays.is_list_of_records(source):
        return RecordSource(source, workers)
    leaves = jax.tree.leaves(source, is_leaf=_arrays.is_one_array)
    if leaves and (all(map(_arrays.is_column, leaves)) or isinstance(source, Mapping | tuple)):
        return ArraySource(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return RecordSource(source, workers)
    raise ValueError(
        "A source is a pytree of arrays with a leading axis of examples, or an object with "
        f"__len__ and __getitem__; {type(source).__name__} is neither."
    )


class ArraySource:
    """A pytree of arrays in memory, or mapped into it."""

    def __init__(self, columns: Any):
        is_leaf = _arrays.is_one_array
        self._columns = jax.tree_util.tree_map_with_path(_arrays.as_array, columns, is_leaf=is_leaf)
        leaves = jax.tree.leaves(columns, is_leaf=is_leaf)
        self.at_hand = not any(isinstance(leaf, np.memmap) for leaf in leaves)
        lengths = {
            jax.tree_util.keystr(path): (leaf.shape[0] if leaf.ndim else None)
            for path, leaf in jax.tree_util.tree_leaves_with_path(self._columns)
        }
        if len(set(lengths.values())) != 1 or None in lengths.values():
            shown = ", ".join(f"{name}: {length}" for name, length in [*lengths.items()][:8])
            raise ValueError(
                f"Every array needs the same leading axis of examples; the lengths are {shown}"
                + (", ..." if len(lengths) > 8 else ".")
            )
        self.num_examples = _at_least_one(next(iter(lengths.values())) or 0)

    def take(self, index: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: _rows(leaf, index), self._columns)

    def fingerprint(self) -> str:
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self._columns))
        if size <= _WHOLE:
            return _digest(self.num_examples, self._columns)
        return _digest(self.num_examples, self.take(_spread(self.num_examples, _SAMPLED)))


class RecordSource:
    """Random access, record by record: a TFDS data source, a Grain map data set, a list.

    Records may share one position in a file, so no more threads read at once than are allowed,
    whoever asks: the reader in the background, a fork, or what wants to know a shape.
    """

    at_hand = False

    def __init__(self, records: Any, workers: int):
        self._records = records
        self._turn = threading.Semaphore(_checks.positive_int("workers", workers))
        self.num_examples = _at_least_one(len(records))

    def take(self, index: np.ndarray) -> Any:
        numbers = index.tolist()
        read_many = getattr(self._records, "__getitems__", None)
        with self._turn:
            records: Sequence[Any] = (
                read_many(numbers) if read_many else [self._records[number] for number in numbers]
            )
        try:
            return _arrays.stack(records)
        except ValueError as error:
            span = f"Examples {min(numbers)} to {max(numbers)}"
            raise ValueError(f"{span} do not stack into one batch: {error}") from error

    def fingerprint(self) -> str:
        some = _spread(self.num_examples, _SAMPLED_RECORDS)
        once, again = (_digest(self.num_examples, self.take(some)) for _ in range(2))
        if once == again:
            return once
        # Records that are augmented at random are told by their form alone.
        form = jax.tree.map(lambda leaf: leaf[:0], self.take(some))
        return _digest(self.num_examples, form)


def _rows(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``array[index]``, where JAX on a CPU can use it as it lies.

    An array that does not start at a multiple of 64 bytes is copied at every call of a compiled
    function, which takes as long as gathering the rows.
    """
    if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        # take would make a copy of all of it first, and JAX knows one order of bytes
        return array[index].astype(array.dtype.newbyteorder("="), copy=False)
    size = len(index) * (array.nbytes // len(array))
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    shape = (len(index), *array.shape[1:])
    rows = np.ndarray(shape, array.dtype, memory, -memory.ctypes.data % _ALIGNMENT)
    return array.take(index, axis=0, out=rows, mode="clip")


def _at_least_one(num_examples: int) -> int:
    if num_examples < 1:
        raise ValueError("The source holds no examples.")
    return num_examples


def _spread(num_examples: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, num_examples - 1, count).astype(np.int64))


def _digest(num_examples: int, examples: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(examples):
        kind = [jax.tree_util.keystr(path), str(leaf.dtype), *leaf.shape[1:]]
        digest.update(json.dumps([num_examples, *kind]).encode())
        for rows in np.array_split(leaf, max(1, leaf.nbytes >> 24)):  # views, copied one by one
            digest.update(np.ascontiguousarray(rows).view(np.uint8).data)
    return digest.hexdigest()[:32]
