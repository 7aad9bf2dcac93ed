"""The one global stream of examples, as arithmetic: which examples make up which batch.

Nothing here knows of hosts, devices or files. The order of an epoch follows from the seed and the
epoch alone, and a batch is the next window of the stream, so neither can depend on how a batch is
spread or on the sizes of the batches before it.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

ENDS = ("carry", "pad", "drop")


class Position(NamedTuple):
    """A place in the stream: the epoch, and how many of its examples have been used."""

    epoch: int
    offset: int


class Window(NamedTuple):
    """What a batch is made of: up to two runs, `(epoch, start, stop)` in the order of the epoch."""

    size: int
    runs: tuple[tuple[int, int, int], ...]
    after: Position


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of the examples in an epoch; read-only, since callers share it.

    The examples are sorted by random bits rather than shuffled: NumPy promises to keep the bits of
    Philox for ever, but not what its shuffle makes of them, and saved runs rely on the order.
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    dtype = np.int32 if num_examples <= np.iinfo(np.int32).max else np.int64
    order = np.argsort(bits, kind="stable").astype(dtype)
    order.flags.writeable = False
    return order


def cut(position: Position, size: int, num_examples: int, end_of_epoch: str) -> Window:
    """The next batch of `size` examples; it spans at most two epochs, as size <= num_examples."""
    epoch, offset = position
    left = num_examples - offset
    if end_of_epoch == "drop" and left < size:
        epoch, offset, left = epoch + 1, 0, num_examples
    if size < left:
        return Window(size, ((epoch, offset, offset + size),), Position(epoch, offset + size))
    last = (epoch, offset, num_examples)
    over = size - left
    if end_of_epoch != "carry" or over == 0:
        return Window(size, (last,), Position(epoch + 1, 0))
    return Window(size, (last, (epoch + 1, 0, over)), Position(epoch + 1, over))


class Rows(NamedTuple):
    """Rows of a batch: example numbers, their epochs, and which rows are real (not padding)."""

    example: np.ndarray
    epoch: np.ndarray
    mask: np.ndarray


def examples(window: Window, start: int, stop: int, *, seed: int, num_examples: int) -> np.ndarray:
    """The numbers of the examples in rows `start` to `stop` of the batch: all a host has to read.

    Rows past the end of the window, where an epoch is padded, repeat its first example.
    """
    return _concatenated([part for _, part in _parts(window, start, stop, seed, num_examples)])


def rows(window: Window, start: int, stop: int, *, seed: int, num_examples: int) -> Rows:
    """Rows `start` to `stop` of the batch, in global order."""
    parts = _parts(window, start, stop, seed, num_examples)
    real = sum(last - first for _, first, last in window.runs)
    return Rows(
        _concatenated([part for _, part in parts]),
        _concatenated([np.full(len(part), epoch, np.int32) for epoch, part in parts]),
        np.arange(start, stop) < real,
    )


def _parts(
    window: Window, start: int, stop: int, seed: int, num_examples: int
) -> list[tuple[int, np.ndarray]]:
    """The examples in these rows by epoch, padding last."""
    parts, base = [], 0
    for epoch, first, last in window.runs:
        low, high = max(start - base, 0), min(stop - base, last - first)
        if low < high:
            order = epoch_order(seed, epoch, num_examples)
            parts.append((epoch, order[first + low : first + high]))
        base += last - first
    padding = stop - max(start, min(base, stop))
    if padding:
        epoch, first, _ = window.runs[0]
        order = epoch_order(seed, epoch, num_examples)
        parts.append((epoch, np.repeat(order[first], padding)))
    return parts


def joined(parts: Sequence[Any]) -> Any:
    """The examples, or the rows, of all parts, one after another."""
    return jax.tree.map(lambda *arrays: _concatenated(arrays), *parts)


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Without a copy where there is only one: nearly always, and this runs at every update."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
