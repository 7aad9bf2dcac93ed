import json
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapjax.growth import (
    Controller,
    GrowingBatches,
    NoiseScale,
    Proposal,
    cabs_controller,
    constant_batch,
    noise_scale_controller,
    norm_test_controller,
)


def _noise(trace, norm=1.0):
    return NoiseScale(trace, norm, None, None)


def _sizes(controller, noises, **kwargs):
    state, sizes = controller.init(), []
    for noise in noises:
        proposal, state = controller.update(state, noise, **kwargs)
        sizes.append(proposal.size)
    return sizes


def test_growth_waits_for_the_dwell_and_goes_one_rung_at_a_time():
    controller = noise_scale_controller(8, maximum=24, min_dwell=3)
    assert controller.sizes() == (8, 16, 24)
    sizes = _sizes(controller, [_noise(1000.0)] * 9)
    assert sizes == [8, 8, 16, 16, 16, 24, 24, 24, 24]


def test_one_observation_below_starts_the_dwell_again():
    high, low = _noise(11.0), _noise(10.0)  # hysteresis 1.3 times 8 is 10.4
    controller = noise_scale_controller(8, maximum=64, min_dwell=2)
    assert _sizes(controller, [high, low, high, low, high, high]) == [8, 8, 8, 8, 8, 16]


@pytest.mark.parametrize(
    ("noise", "grows"),
    [(_noise(5.0, -0.1), True), (_noise(5.0, 0.0), True), (_noise(np.nan, np.nan), False)],
)
def test_hidden_gradients_count_as_noise_and_nan_does_not(noise, grows):
    sizes = _sizes(noise_scale_controller(8, maximum=16, min_dwell=1), [noise])
    assert sizes == [16 if grows else 8]


@given(
    st.lists(st.floats(-10, 1e4) | st.just(np.nan), max_size=60),
    st.integers(1, 5),
    st.sampled_from([noise_scale_controller, norm_test_controller]),
)
def test_never_shrinks_and_stays_on_the_ladder(traces, dwell, make):
    controller = make(4, maximum=100, min_dwell=dwell)
    sizes = _sizes(controller, [_noise(trace) for trace in traces])
    assert sizes == sorted(sizes)
    assert set(sizes) <= set(controller.sizes())
    growths = np.flatnonzero(np.diff([4, *sizes]))
    assert (np.diff(growths) >= dwell).all()


def test_norm_test_grows_exactly_where_the_test_fails():
    controller = norm_test_controller(16, maximum=32, theta=0.5, min_dwell=1)
    # tr / B <= theta^2 (|G|^2 + tr / B)  <=>  tr <= B |G|^2 theta^2 / (1 - theta^2) = 16 / 3
    assert _sizes(controller, [_noise(16 / 3 - 0.01)]) == [16]
    assert _sizes(controller, [_noise(16 / 3 + 0.01)]) == [32]


def test_cabs_is_learning_rate_times_trace_over_loss():
    controller = cabs_controller(16, maximum=32, min_dwell=1)
    assert _sizes(controller, [_noise(80.0)], loss=0.5, learning_rate=0.1) == [16]
    assert _sizes(controller, [_noise(80.1)], loss=0.5, learning_rate=0.1) == [32]
    assert _sizes(controller, [_noise(80.1)], loss=0.0, learning_rate=0.1) == [16]
    with pytest.raises(ValueError, match="needs loss= and learning_rate="):
        controller.update(controller.init(), _noise(1.0))
    for wrong in (np.ones(2), "0.5", []):
        with pytest.raises(ValueError, match="one number for loss, not"):
            controller.update(controller.init(), _noise(1.0), loss=wrong, learning_rate=0.1)
        with pytest.raises(ValueError, match="one number for learning_rate, not"):
            controller.update(controller.init(), _noise(1.0), loss=1.0, learning_rate=wrong)


@pytest.mark.parametrize("make", [noise_scale_controller, norm_test_controller, cabs_controller])
@pytest.mark.parametrize("trace", [np.array([5.0, 6.0]), None, "5"])
def test_what_is_no_single_number_is_refused(make, trace):
    controller = make(8, maximum=16)
    told = r"of shape \(2,\)" if isinstance(trace, np.ndarray) else repr(trace)
    with pytest.raises(ValueError, match=f"one number for trace, not {told}: .* one member"):
        controller.update(controller.init(), _noise(trace), loss=1.0, learning_rate=0.1)
    same = [controller.update(controller.init(), _noise(5), loss=1.0, learning_rate=0.1)]
    same += [
        controller.update(controller.init(), _noise(kind(5.0)), loss=1.0, learning_rate=0.1)
        for kind in (np.float32, jnp.asarray, lambda value: np.array([value]))
    ]
    assert same.count(same[0]) == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: noise_scale_controller(8, maximum=4), "below the first"),
        (lambda: noise_scale_controller(8, maximum=64, factor=1), "must grow the batch"),
        (lambda: noise_scale_controller(8, maximum=64, hysteresis=0.5), "hysteresis must be"),
        (lambda: noise_scale_controller(8, maximum=64, min_dwell=0), "min_dwell"),
        (lambda: norm_test_controller(8, maximum=64, theta=1.0), "never fails"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _batches(**kwargs):
    controller = noise_scale_controller(4, maximum=16, min_dwell=2)
    return GrowingBatches({"x": np.arange(40)}, controller, seed=0, **kwargs)


def test_batches_follow_a_controller_and_resume_in_the_middle_of_a_dwell():
    def run(batches, observations):
        seen = []
        for trace in observations:
            seen.append(next(batches)["x"])
            batches.observe(_noise(trace))
        return seen

    observations = [1.0, 90.0, 90.0, 90.0, 1.0, 90.0, 90.0, 90.0]
    batches = _batches()
    assert batches.sizes() == (4, 8, 16)
    whole = run(batches, observations)
    assert [len(batch) for batch in whole] == [4, 4, 4, 8, 8, 8, 8, 16]
    assert [(s.update, s.size) for s in batches.switches] == [(0, 4), (3, 8), (7, 16)]
    assert batches.switches[1].reason == "noise scale 90 above 1.3 x 4 for 2 observations"
    for cut in range(8):
        first = _batches()
        head = run(first, observations[:cut])
        again = _batches()
        again.restore(json.loads(json.dumps(first.state())))
        tail = run(again, observations[cut:])
        for ours, theirs in zip(head + tail, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert again.switches == batches.switches


class _Plateau(NamedTuple):
    size: int
    best: float
    waited: int


def _plateau(loss, initial=4):
    def update(state, measured, *, loss=None, learning_rate=None):
        if loss < state.best:
            return Proposal(state.size, "falls"), state._replace(best=loss, waited=0)
        size = state.size * (2 if state.waited else 1)
        return Proposal(size, "no better"), _Plateau(size, state.best, 1 - state.waited)

    return Controller(lambda: _Plateau(initial, loss, 0), update, lambda: (4, 8, 16))


def test_batches_resume_with_a_controller_of_ones_own():
    losses = [jnp.asarray(loss) for loss in (1.0, 0.9, 0.95, 0.93, 0.94, 0.92)]
    batches = GrowingBatches({"x": np.arange(60)}, _plateau(math.inf), seed=0)
    states, sizes = [], []
    for loss in losses:
        states.append(json.loads(json.dumps(batches.state())))
        sizes.append(len(next(batches)["x"]))
        batches.observe(None, loss=loss)
    assert sizes == [4, 4, 4, 4, 8, 8] and batches.batch_size == 16
    for cut, state in enumerate(states):
        again = GrowingBatches({"x": np.arange(60)}, _plateau(math.inf), seed=0)
        again.restore(state)
        for loss in losses[cut:]:
            next(again)
            again.observe(None, loss=loss)
        assert again.state() == batches.state()
        assert again.switches == batches.switches


@pytest.mark.parametrize("numbers", [[4], [4, 0, 1], "ab", ["a", 0], [[4], 0], {"size": 4}, 7])
def test_a_state_of_another_controller_does_not_fit(numbers):
    batches = _batches()
    before = batches.state()
    with pytest.raises(ValueError, match="this one remembers 2 numbers; pass the controller of"):
        batches.restore({**before, "control": numbers})
    assert batches.state() == before


def test_a_controller_says_where_it_starts():
    lost = Controller(lambda: (4, 0), _plateau(math.inf).update, lambda: (4, 8))
    with pytest.raises(ValueError, match=r"has the first batch size as its size, .*not \(4, 0\)"):
        GrowingBatches({"x": np.arange(40)}, lost, seed=0)


def test_batches_on_a_schedule_observe_nothing():
    batches = GrowingBatches({"x": np.arange(40)}, constant_batch(4), seed=0)
    with pytest.raises(ValueError, match="pass a controller"):
        batches.observe(_noise(1.0))


def test_every_rung_must_fit():
    with pytest.raises(ValueError, match="ghosts of 8"):
        _batches(ghost_size=8)


@pytest.mark.parametrize("noise", [(math.nan, -1.0), (1.0, math.nan), (-5.0, -1.0), (-5.0, 1.0)])
def test_estimates_that_cannot_be_grow_nothing(noise):
    controller = noise_scale_controller(64, maximum=256, min_dwell=1)
    found = NoiseScale(*noise, math.nan, math.nan)
    assert controller.update(controller.init(), found)[0].size == 64
    drowned = NoiseScale(5.0, -1.0, math.inf, math.nan)
    assert controller.update(controller.init(), drowned)[0].size == 128
