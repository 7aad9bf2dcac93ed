import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.growth import (
    constant_batch,
    geometric_batch,
    grow_instead_of_decay,
    piecewise_batch,
)


def test_constant():
    assert constant_batch(32)(0) == constant_batch(32)(10**9) == 32
    assert constant_batch(np.int64(32)).sizes() == (32,)


@given(st.integers(1, 50), st.integers(2, 5), st.integers(1, 20), st.integers(1, 500))
def test_geometric_is_its_formula(initial, factor, every, extra):
    maximum = initial + extra
    schedule = geometric_batch(initial, factor=factor, every=every, maximum=maximum)
    updates = range(every * 12)
    expected = [min(maximum, initial * factor ** (update // every)) for update in updates]
    assert [schedule(update) for update in updates] == expected
    assert set(expected) == set(schedule.sizes()) or schedule.sizes()[-1] == maximum
    assert list(schedule.sizes()) == sorted(set(schedule.sizes()))


@pytest.mark.parametrize("factor", [np.uint8(2), np.int16(2), np.int32(2), np.float16(2), 2.0])
def test_geometric_by_a_number_of_numpy_is_that_by_one_of_python(factor):
    grown = geometric_batch(4, factor=factor, every=1, maximum=2**33)
    assert grown == geometric_batch(4, factor=2, every=1, maximum=2**33)
    assert grown.values == tuple(2**power for power in range(2, 34))


@pytest.mark.parametrize("factor", [1e308, 10**400])
def test_geometric_by_more_than_there_is_room_for_ends_at_the_maximum(factor):
    assert geometric_batch(10, factor=factor, every=3, maximum=64).values == (10, 64)


def test_geometric_at_its_maximum_is_constant():
    assert geometric_batch(64, factor=2, every=10, maximum=64).sizes() == (64,)


def test_piecewise():
    schedule = piecewise_batch(8, {10: 16, 5: 8, 20: 64})
    assert [schedule(update) for update in (0, 9, 10, 19, 20, 99)] == [8, 8, 16, 16, 64, 64]
    assert schedule.sizes() == (8, 16, 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant_batch(0), "at least 1, not 0"),
        (lambda: constant_batch(12.0), "whole number"),
        (lambda: geometric_batch(8, factor=1, every=5, maximum=64), "must grow the batch"),
        (lambda: geometric_batch(8, factor=0.5, every=5, maximum=64), "must grow the batch"),
        (lambda: geometric_batch(8, factor=float("nan"), every=5, maximum=64), "must grow"),
        (lambda: geometric_batch(8, factor=-math.inf, every=5, maximum=64), "must grow"),
        (lambda: geometric_batch(8, factor="2", every=5, maximum=64), "must grow"),
        (lambda: geometric_batch(8, factor=2, every=0, maximum=64), "every must be"),
        (lambda: geometric_batch(8, factor=2, every=5, maximum=4), "below the first batch size 8"),
        (lambda: piecewise_batch(8, {5: 4}), "shrink from 8 to 4 at update 5"),
        (lambda: piecewise_batch(8, {0: 16}), "boundary must be"),
        (
            lambda: grow_instead_of_decay(0.1, {5: 2.0}, batch_size=8, maximum=64),
            "at most 1, not 2.0",
        ),
        (
            lambda: grow_instead_of_decay(0.1, {5: 0.5}, batch_size=8, maximum=64, keep="epoch"),
            "Did you mean 'epochs'",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _decayed(lr, boundaries_and_scales, update):
    return lr * np.prod([scale for at, scale in boundaries_and_scales.items() if update >= at])


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.integers(1, 60), st.sampled_from([0.1, 0.2, 0.3, 0.5, 1.0]), min_size=1, max_size=4
    ),
    st.sampled_from([128, 640, 1000, 5120, 10**6]),
)
def test_noise_follows_the_schedule_given(drops, maximum):
    lr, size = grow_instead_of_decay(0.4, drops, batch_size=128, maximum=maximum)
    for update in sorted({0, *drops, *(at - 1 for at in drops), 61}):
        # the noise scale of SGD, lr / B, is that of the schedule given; B never passes the maximum
        np.testing.assert_allclose(
            float(lr(update)) / size(update), _decayed(0.4, drops, update) / 128, rtol=1e-5
        )
        assert 128 <= size(update) <= maximum
        assert float(lr(update)) <= 0.4 * (1 + 1e-6)
    values = [size(update) for update in range(61)]
    assert values == sorted(values)


def test_past_the_maximum_the_learning_rate_decays_again():
    # the schedule of the paper: a factor of 5 three times, at most 5120
    lr, size = grow_instead_of_decay(
        0.1, {60: 0.2, 120: 0.2, 160: 0.2}, batch_size=128, maximum=5120
    )
    assert [size(update) for update in (59, 60, 120, 160)] == [128, 640, 3200, 5120]
    np.testing.assert_allclose([float(lr(u)) for u in (0, 60, 120)], 0.1, rtol=1e-6)
    np.testing.assert_allclose(float(lr(160)), 0.1 * 0.2**3 * 40, rtol=1e-5)


def test_sizes_are_multiples_of_the_first_also_at_the_maximum():
    lr, size = grow_instead_of_decay(0.1, {10: 0.1}, batch_size=128, maximum=1000)
    assert size.sizes() == (128, 896)
    assert float(lr(10)) == pytest.approx(0.1 * 0.1 * 7)


def test_keep_epochs_moves_boundaries_to_the_same_examples():
    drops = {60 * 390: 0.2, 120 * 390: 0.2, 160 * 390: 0.2}
    lr, size = grow_instead_of_decay(0.1, drops, batch_size=128, maximum=5120, keep="epochs")
    at = (0, *size.boundaries)
    examples = np.cumsum([(b - a) * size(a) for a, b in itertools.pairwise(at)])
    for reached, boundary, used in zip(examples, sorted(drops), (128, 640, 3200), strict=True):
        assert 0 <= reached - boundary * 128 < used
    # the paper reports about 29 thousand updates in place of 80 thousand, 200 epochs
    total = size.boundaries[-1] + (200 * 390 * 128 - examples[-1]) // 5120
    assert 28_000 < total < 30_500
    assert float(lr(size.boundaries[-1])) < float(lr(size.boundaries[-1] - 1))


def test_the_learning_rate_can_be_traced():
    lr, _ = grow_instead_of_decay(0.1, {5: 0.5}, batch_size=8, maximum=8)
    assert float(jax.jit(lr)(7)) == pytest.approx(0.05)
