"""The one global stream of examples, as arithmetic: which examples make up which batch.

The stream is the shuffled epochs, one after another, without an end; a place in it is a whole
number, the rows before it. Nothing here knows of hosts, devices or files. The order of an epoch
follows from the seed and the epoch alone, and a batch is the next window of the stream, so neither
can depend on how a batch is spread or on the sizes of the batches before it.
"""

import collections
import threading
from typing import NamedTuple

import numpy as np

from gapjax import _checks

_MOST = 2**64 - 1  # the key of the generator has words of 64 bits
ENDS = ("carry", "pad", "drop")


class Rows(NamedTuple):
    """Rows of the stream.

    Attributes:
        example: the number of the example in each row, int32 (int64 for sources of more than
            2^31 - 1 examples).
        epoch: the epoch that each row belongs to, int32.
    """

    example: np.ndarray
    epoch: np.ndarray


class Window(NamedTuple):
    """What a batch is made of: rows `start` to `stop` of the stream, padded to `size` rows."""

    start: int
    stop: int
    size: int


def check_seed(value: int) -> int:
    """A seed of a stream."""
    return _checks.whole("seed", value, least=0, most=_MOST)


def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of the examples in an epoch; read-only, since callers share it.

    The examples are sorted by random bits rather than shuffled: NumPy promises to keep the bits of
    Philox for ever, but not what its shuffle makes of them, and saved runs rely on the order.

    Args:
        seed: of the stream.
        epoch: from 0.
        num_examples: of one epoch.

    Returns:
        A permutation of the numbers below ``num_examples``, shape [num_examples].

    Raises:
        ValueError: for a seed or an epoch that is no whole number of at least 0, or no examples.

    Example:
        >>> epoch_order(0, 0, 10)
        array([0, 2, 9, 1, 8, 5, 4, 3, 6, 7], dtype=int32)
    """
    return _order(
        check_seed(seed),
        _checks.whole("epoch", epoch, least=0, most=_MOST),
        _checks.positive_int("num_examples", num_examples),
    )


class _Kept:
    """The orders that were asked for last, since each takes a sort: as many as memory allows."""

    def __init__(self, fewest: int, most: int, size: int):
        """From `fewest`, however large, to `most` of them, or as many as take `size` bytes."""
        self._fewest, self._most, self._size = fewest, most, size
        self._lock = threading.Lock()
        self._orders = collections.OrderedDict[tuple[int, int, int], np.ndarray]()

    def __call__(self, seed: int, epoch: int, num_examples: int) -> np.ndarray:
        key = seed, epoch, num_examples
        with self._lock:
            if key in self._orders:
                self._orders.move_to_end(key)
                return self._orders[key]
        order = _sorted(*key)
        with self._lock:
            self._orders[key] = order
            while self._is_full():
                self._orders.popitem(last=False)
        return order

    def _is_full(self) -> bool:
        size = sum(order.nbytes for order in self._orders.values())
        count = len(self._orders)
        return count > self._most or (count > self._fewest and size > self._size)


_order = _Kept(4, 256, 256 << 20)  # for two epochs of two streams at least


def _sorted(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    dtype = np.int32 if num_examples <= np.iinfo(np.int32).max else np.int64
    order = np.argsort(bits, kind="stable").astype(dtype)
    order.flags.writeable = False
    return order


def stream_rows(seed: int, start: int, stop: int, *, num_examples: int) -> Rows:
    """Rows ``start`` to ``stop`` of the endless stream of shuffled epochs.

    These are the examples that ``GrowingBatches(..., seed=seed)`` with ``end_of_epoch="carry"``
    delivers after its first ``start`` examples, whatever the sizes of its batches: row r is example
    ``epoch_order(seed, r // num_examples, num_examples)[r % num_examples]``.

    Args:
        seed: of the stream.
        start: rows before the first one that is wanted.
        stop: the row after the last one that is wanted, at least ``start``.
        num_examples: of one epoch.

    Returns:
        The rows, arrays of shape [stop - start]. They may be read-only.

    Raises:
        ValueError: for a seed or a row that is no whole number of at least 0, a ``stop`` before
            ``start``, or no examples.

    Example:
        >>> rows = stream_rows(0, 8, 12, num_examples=10)
        >>> rows.example.tolist(), rows.epoch.tolist()
        ([6, 7, 5, 3], [0, 0, 1, 1])
    """
    num_examples = _checks.positive_int("num_examples", num_examples)
    seed = check_seed(seed)
    start, stop = _checks.whole_number("start", start), _checks.whole_number("stop", stop)
    if stop < start:
        raise ValueError(f"stop={stop} lies before start={start}; rows are counted forwards.")
    return rows(start, stop, seed, num_examples)


def rows(start: int, stop: int, seed: int, num_examples: int) -> Rows:
    """What `stream_rows` gives, of whole numbers that have been checked."""
    first, last = start // num_examples, max(stop - 1, start) // num_examples
    orders, lengths = [], []
    for epoch in range(first, last + 1):
        base = epoch * num_examples
        order = _order(seed, epoch, num_examples)
        orders.append(order[max(start - base, 0) : stop - base])
        lengths.append(len(orders[-1]))
    # Without a copy where there is only one: nearly always, and this runs at every update.
    example = orders[0] if len(orders) == 1 else np.concatenate(orders)
    return Rows(example, np.repeat(np.arange(first, last + 1, dtype=np.int32), lengths))


def cut(start: int, size: int, num_examples: int, end_of_epoch: str) -> Window:
    """The window of the next batch of `size` examples; the one after it starts at its `stop`."""
    left = num_examples - start % num_examples
    if end_of_epoch == "drop" and left < size:
        start, left = start + left, num_examples
    return Window(start, start + (size if end_of_epoch == "carry" else min(size, left)), size)


def window_rows(window: Window, seed: int, num_examples: int) -> tuple[Rows, np.ndarray]:
    """The rows of a batch, and which of them are real; padding repeats the first row."""
    start, stop, size = window
    real = rows(start, stop, seed, num_examples)
    mask = np.arange(size) < stop - start
    if stop - start == size:
        return real, mask
    padded = np.where(mask, np.arange(size), 0)
    return Rows(*(column[padded] for column in real)), mask
