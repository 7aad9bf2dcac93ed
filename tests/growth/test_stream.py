import collections
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.growth import (
    GrowingBatches,
    _stream,
    epoch_order,
    piecewise_batch,
    stream_rows,
)


@st.composite
def _runs(draw):
    """A data size and rising batch sizes, each a multiple of 8 so that 8 hosts can share it."""
    num_examples = draw(st.integers(8, 200))
    largest = num_examples // 8
    steps = draw(st.lists(st.integers(1, largest), min_size=1, max_size=25))
    return num_examples, [8 * step for step in sorted(steps)]


class _Read(NamedTuple):
    """What one batch is made of."""

    example: np.ndarray
    epoch: np.ndarray
    mask: np.ndarray


def _read(num_examples, sizes, end, seed):
    """Every batch."""
    row, batches = 0, []
    for size in sizes:
        window = _stream.cut(row, size, num_examples, end)
        rows, mask = _stream.window_rows(window, seed, num_examples)
        batches.append(_Read(*rows, mask))
        row = window.stop
    return batches


def _flat(batches):
    """The global stream: epochs and examples in order, padding left out."""
    mask = np.concatenate([batch.mask for batch in batches])
    return (
        np.concatenate([batch.epoch for batch in batches])[mask],
        np.concatenate([batch.example for batch in batches])[mask],
    )


@settings(max_examples=60)
@given(_runs(), st.sampled_from(["carry", "pad"]), st.integers(0, 5))
def test_each_example_appears_exactly_once_in_each_epoch(run, end, seed):
    num_examples, sizes = run
    epochs, examples = _flat(_read(num_examples, sizes, end, seed))
    assert list(epochs) == sorted(epochs)
    last = epochs[-1]
    for epoch in range(last + 1):
        seen = examples[epochs == epoch]
        assert len(set(seen.tolist())) == len(seen)
        if epoch < last:
            assert sorted(seen.tolist()) == list(range(num_examples))


@settings(max_examples=60)
@given(_runs(), st.integers(0, 5))
def test_carry_is_the_plain_concatenation_of_the_epochs(run, seed):
    num_examples, sizes = run
    _, examples = _flat(_read(num_examples, sizes, "carry", seed))
    epochs = -(-sum(sizes) // num_examples)
    stream = np.concatenate(
        [
            np.argsort(
                np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
            )
            for epoch in range(epochs)
        ]
    )
    np.testing.assert_array_equal(examples, stream[: sum(sizes)])


@settings(max_examples=60)
@given(_runs(), st.sampled_from(["pad", "drop"]))
def test_pad_and_drop_keep_batches_within_an_epoch(run, end):
    num_examples, sizes = run
    for batch, size in zip(_read(num_examples, sizes, end, 0), sizes, strict=True):
        assert len(batch.example) == size
        assert len(set(batch.epoch.tolist())) == 1
        assert batch.mask.all() or end == "pad"
        # padding comes last, and repeats an example of the batch
        assert list(batch.mask) == sorted(batch.mask, reverse=True)
        assert set(batch.example[~batch.mask].tolist()) <= set(batch.example[batch.mask].tolist())


@settings(max_examples=40)
@given(_runs())
def test_drop_leaves_out_less_than_a_batch(run):
    num_examples, sizes = run
    size = sizes[0]
    batches = _read(num_examples, [size] * (3 * num_examples // size), "drop", 0)
    counts = collections.Counter(int(batch.epoch[0]) for batch in batches)
    assert all(counts[epoch] == num_examples // size for epoch in list(counts)[:-1])


def test_seeds_and_epochs_give_different_orders_and_stay_the_same():
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    # the order is part of what a saved run relies on, so it may never change
    assert epoch_order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert not epoch_order(0, 0, 10).flags.writeable


@pytest.mark.parametrize("offset", [0, 3])
def test_a_batch_of_the_whole_data(offset):
    window = _stream.cut(20 + offset, 10, 10, "carry")
    assert window.stop == 30 + offset


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 200), st.integers(0, 200), st.integers(0, 5))
def test_rows_are_those_of_the_stream_anywhere(num_examples, start, length, seed):
    rows = stream_rows(seed, start, start + length, num_examples=num_examples)
    expected = [divmod(row, num_examples) for row in range(start, start + length)]
    assert rows.epoch.tolist() == [epoch for epoch, _ in expected]
    orders = {epoch: epoch_order(seed, epoch, num_examples) for epoch, _ in expected}
    assert rows.example.tolist() == [orders[epoch][offset] for epoch, offset in expected]
    assert rows.example.dtype == rows.epoch.dtype == np.int32


def test_rows_are_what_growing_batches_deliver():
    sizes = piecewise_batch(8, {2: 16, 5: 48})
    source = {"x": np.arange(50)}
    batches = GrowingBatches(source, sizes, seed=3, with_index=True)
    for _ in range(9):
        start = batches.examples
        batch = next(batches)
        rows = stream_rows(3, start, batches.examples, num_examples=50)
        np.testing.assert_array_equal(batch.example, rows.example)
        np.testing.assert_array_equal(batch.data["x"], rows.example)
        np.testing.assert_array_equal(batch.epoch, rows.epoch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 4), "seed must be a whole number of at least 0 and at most"),
        ((0, -1, 4), "start must be"),
        ((0, 0, 2.0), "stop must be"),
        ((0, 5, 4), "stop=4 lies before start=5"),
        (("0", 0, 4), "seed must be"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        stream_rows(*arguments, num_examples=10)
    with pytest.raises(ValueError, match="num_examples must be"):
        stream_rows(0, 0, 4, num_examples=0)


def test_the_largest_seeds():
    assert sorted(epoch_order(2**64 - 1, 2**64 - 1, 5)) == list(range(5))
    for seed, epoch in ((2**64, 0), (0, 2**64)):
        with pytest.raises(ValueError, match="at most 18446744073709551615"):
            epoch_order(seed, epoch, 5)


def test_streams_side_by_side_sort_an_epoch_once_each(monkeypatch):
    made = []
    monkeypatch.setattr(_stream, "_order", _stream._Kept(4, 256, 1 << 20))
    monkeypatch.setattr(_stream, "_sorted", lambda *key: made.append(key) or np.arange(key[-1]))
    for start in range(0, 100, 10):
        for seed in range(64):
            stream_rows(seed, start, start + 10, num_examples=100)
    assert len(made) == len(set(made)) == 64


def test_large_orders_are_kept_as_far_as_memory_allows(monkeypatch):
    monkeypatch.setattr(_stream, "_sorted", lambda *key: np.zeros(key[-1], np.int32))
    kept = _stream._Kept(4, 6, 4 * 250)
    for seed in range(9):
        kept(seed, 0, 100)
    assert len(kept._orders) == 4 and kept(8, 0, 100) is kept(8, 0, 100)  # the fewest
    for seed in range(9):
        kept(seed, 0, 10)
    assert list(kept._orders) == [(seed, 0, 10) for seed in range(3, 9)]  # the most
