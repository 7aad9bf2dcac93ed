"""Schedules against optax and closed forms; the warm-up; functions that give no schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax.study import SCHEDULES, Regime, Study
from gapjax.study._plan import make_plan
from gapjax.study._schedules import course, warmed_up


def _rates(schedule, updates):
    return np.array([float(schedule(u)) for u in range(updates)])


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_its_peak_and_never_rises(name):
    found = course(Study(schedule=name), 200, 0.3)
    rates = _rates(found.schedule, 200)
    np.testing.assert_allclose(rates[0], 0.3, rtol=1e-6)
    assert (np.diff(rates) <= 1e-9).all() and (rates >= 0).all()
    assert name == "constant" or rates[-1] < 0.1


def test_closed_forms():
    t = np.arange(100)
    cosine = _rates(course(Study(schedule="cosine"), 100, 1.0).schedule, 100)
    np.testing.assert_allclose(cosine, 0.5 * (1 + np.cos(np.pi * t / 100)), atol=1e-6)
    linear = _rates(course(Study(schedule="linear"), 100, 1.0).schedule, 100)
    np.testing.assert_allclose(linear, 1 - t / 100, atol=1e-6)
    wsd = course(Study(schedule="wsd", cooldown=0.25), 100, 1.0)
    np.testing.assert_allclose(_rates(wsd.schedule, 100), np.minimum(1, (100 - t) / 25), atol=1e-6)
    assert list(wsd.boundaries) == [75]
    step = course(Study(decay_at=(0.5, 0.75), decay_factor=0.2), 100, 1.0)
    wanted = np.where(t < 50, 1, np.where(t < 75, 0.2, 0.04))
    np.testing.assert_allclose(_rates(step.schedule, 100), wanted, rtol=1e-6)
    assert step.boundaries == {50: 0.2, 75: 0.2}


def test_wsd_may_fall_all_the_way():
    found = course(Study(schedule="wsd", cooldown=1.0), 10, 1.0)
    np.testing.assert_allclose(_rates(found.schedule, 10), 1 - np.arange(10) / 10, atol=1e-6)


def test_warm_up_is_a_line_in_front_that_moves_from_the_first_update_on():
    base = optax.constant_schedule(0.4)
    rates = _rates(warmed_up(base, 4), 8)
    np.testing.assert_allclose(rates, 0.4 * np.minimum(1, (np.arange(8) + 1) / 4), rtol=1e-6)
    assert warmed_up(base, 0) is base and warmed_up(base, 1) is base
    traced = jax.jit(lambda w, t: warmed_up(base, w)(t))
    np.testing.assert_allclose(traced(jnp.float32(4), 1), 0.2, rtol=1e-6)
    np.testing.assert_allclose(traced(jnp.float32(0), 0), 0.4, rtol=1e-6)


def test_a_function_of_ones_own():
    own = Study(schedule=lambda updates, peak: optax.polynomial_schedule(peak, 0.0, 2, updates))
    rates = _rates(course(own, 10, 1.0).schedule, 10)
    np.testing.assert_allclose(rates, (1 - np.arange(10) / 10) ** 2, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("cosin", "Did you mean 'cosine'"),
        (0.1, "schedule must be one of step, cosine"),
    ],
)
def test_what_is_no_schedule(schedule, message):
    with pytest.raises(ValueError, match=message):
        Study(schedule=schedule)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda updates, peak: 0.1, "gave 0.1, which is no function of steps"),
        (lambda step: 0.1, "raised: .*positional argument"),
        (lambda updates, peak: lambda step: jnp.ones(2), "a rate is one number"),
        (lambda updates, peak: lambda step: -1.0, "finite and not negative"),
        (lambda updates, peak: lambda step: jnp.nan, "finite and not negative"),
    ],
)
def test_functions_that_give_no_schedule(schedule, message):
    with pytest.raises(ValueError, match=message):
        course(Study(schedule=schedule), 10, 0.1)


@pytest.mark.parametrize("schedule", [lambda step: None, lambda step, other: 0.1])
def test_a_function_that_gives_no_rates(schedule):
    with pytest.raises(ValueError, match=r"schedule must be a function .* at step 0 what"):
        make_plan(
            Study(schedule=lambda updates, peak: schedule), Regime.parse("SB"), 1280
        ).schedule()


def test_drops_that_fall_on_one_update_are_both_made():
    plan = make_plan(Study(decay_at=(0.5, 0.52), epochs=0.2), Regime.parse("SB"), 1280)
    end = float(plan.schedule()(plan.updates - 1))
    assert end == pytest.approx(plan.rate * plan.study.decay_factor**2, rel=1e-5)


def test_a_batch_that_never_grows_is_refused():
    with pytest.raises(ValueError, match="never lets it"):
        make_plan(Study(schedule="constant"), Regime.parse("SEESAW+LATE"), 1280)
