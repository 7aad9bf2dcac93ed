import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.growth import _stream


@st.composite
def _runs(draw):
    """A data size and rising batch sizes, each a multiple of 8 so that 8 hosts can share it."""
    num_examples = draw(st.integers(8, 200))
    largest = num_examples // 8
    steps = draw(st.lists(st.integers(1, largest), min_size=1, max_size=25))
    return num_examples, [8 * step for step in sorted(steps)]


def _stream_of(num_examples, sizes, end, seed, hosts):
    """What every host reads for every batch: [batch][host] -> Rows."""
    position, batches = _stream.Position(0, 0), []
    for size in sizes:
        window = _stream.cut(position, size, num_examples, end)
        local = size // hosts
        batches.append(
            [
                _stream.rows(
                    window, h * local, (h + 1) * local, seed=seed, num_examples=num_examples
                )
                for h in range(hosts)
            ]
        )
        position = window.after
    return batches


def _flat(batches):
    """The global stream: epochs and examples in order, padding left out."""
    rows = [host for batch in batches for host in batch]
    mask = np.concatenate([r.mask for r in rows])
    return (
        np.concatenate([r.epoch for r in rows])[mask],
        np.concatenate([r.example for r in rows])[mask],
    )


@settings(max_examples=60)
@given(_runs(), st.sampled_from(_stream.ENDS), st.integers(0, 5), st.sampled_from([2, 4, 8]))
def test_the_order_does_not_depend_on_the_number_of_hosts(run, end, seed, hosts):
    num_examples, sizes = run
    one = _stream_of(num_examples, sizes, end, seed, 1)
    many = _stream_of(num_examples, sizes, end, seed, hosts)
    for (whole,), parts in zip(one, many, strict=True):
        for ours, theirs in zip(zip(*parts, strict=True), whole, strict=True):
            np.testing.assert_array_equal(np.concatenate(ours), theirs)


@settings(max_examples=60)
@given(_runs(), st.sampled_from(["carry", "pad"]), st.integers(0, 5))
def test_each_example_appears_exactly_once_in_each_epoch(run, end, seed):
    num_examples, sizes = run
    epochs, examples = _flat(_stream_of(num_examples, sizes, end, seed, 2))
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
    _, examples = _flat(_stream_of(num_examples, sizes, "carry", seed, 1))
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
    for (batch,), size in zip(_stream_of(num_examples, sizes, end, 0, 1), sizes, strict=True):
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
    batches = _stream_of(num_examples, [size] * (3 * num_examples // size), "drop", 0, 1)
    counts = collections.Counter(int(batch.epoch[0]) for (batch,) in batches)
    assert all(counts[epoch] == num_examples // size for epoch in list(counts)[:-1])


def test_seeds_and_epochs_give_different_orders_and_stay_the_same():
    orders = {
        tuple(_stream.epoch_order(seed, epoch, 50)) for seed in range(4) for epoch in range(4)
    }
    assert len(orders) == 16
    # the order is part of what a saved run relies on, so it may never change
    assert _stream.epoch_order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert not _stream.epoch_order(0, 0, 10).flags.writeable


@pytest.mark.parametrize("offset", [0, 3])
def test_a_batch_of_the_whole_data(offset):
    window = _stream.cut(_stream.Position(2, offset), 10, 10, "carry")
    assert window.after == (3, offset)
