import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.diffusion import fit_diffusion, updates_to_travel

STEP = np.unique(np.round(1.1 ** np.arange(2, 90))).astype(np.int64)


@given(a=st.floats(-2, 10), b=st.floats(0.01, 5), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_log_law_is_recovered(a, b, seed):
    noise = np.random.default_rng(seed).normal(0, 0.01 * b, STEP.size)
    fit = fit_diffusion(STEP, a + b * np.log(STEP) + noise)
    low, high = fit.log_interval
    assert low < fit.log_slope < high
    assert fit.log_slope == pytest.approx(b, rel=0.01)
    assert fit.log_intercept == pytest.approx(a, abs=0.03 * b)
    assert fit.log_r2 > 0.999
    assert fit.num_points == STEP.size
    assert fit.step_range == (STEP[0], STEP[-1])


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
def test_the_power_law_is_recovered(p):
    noise = np.random.default_rng(0).normal(0, 0.01, STEP.size)
    fit = fit_diffusion(STEP, 0.3 * STEP**p * (1 + noise))
    assert fit.better == "power"
    assert fit.delta_aic < -2
    assert fit.power_exponent == pytest.approx(p, abs=0.01)
    assert fit.power_factor == pytest.approx(0.3, rel=0.05)


def test_aic_by_hand():
    step = np.array([1.0, math.e, math.e**2, math.e**3, math.e**4])
    distance = np.array([0.0, 1.0, 2.0, 3.0, 4.5])
    fit = fit_diffusion(step, distance)
    # Slope sum((x - 2)(d - 2.1)) / 10 = (4.2 + 1.1 + 0 + 0.9 + 4.8) / 10 = 1.1.
    assert fit.log_slope == pytest.approx(1.1)
    assert fit.log_intercept == pytest.approx(-0.1)
    rss = 0.01 + 0 + 0.01 + 0.04 + 0.04
    assert fit.log_r2 == pytest.approx(1 - rss / 12.2)
    power_rss = np.sum((distance - fit.power_factor * step**fit.power_exponent) ** 2)
    assert fit.delta_aic == pytest.approx(5 * math.log(power_rss / rss))
    assert fit.better == "log"
    assert "only 5 points" in fit.note


def test_intervals_cover_the_truth_also_for_correlated_residuals():
    rng = np.random.default_rng(0)
    for correlation, at_least in [(0.0, 0.90), (0.7, 0.85)]:
        covered = 0
        for _ in range(200):
            noise = np.zeros(STEP.size)
            for i in range(STEP.size):
                noise[i] = correlation * noise[i - 1] * (i > 0) + rng.normal(0, 0.2)
            low, high = fit_diffusion(STEP, 1 + 0.5 * np.log(STEP) + noise).log_interval
            covered += low <= 0.5 <= high
        assert covered / 200 >= at_least


def test_range_and_points_that_are_not_finite():
    distance = 1 + np.log(STEP)
    distance[-1] = np.nan
    fit = fit_diffusion(np.append(0, STEP), np.append(0.0, distance), first=10, last=5000)
    assert fit.log_slope == pytest.approx(1)
    assert fit.step_range[0] >= 10
    assert fit.step_range[1] <= 5000
    assert not np.isnan(fit_diffusion(STEP, distance).log_slope)
    assert "1 points that are not finite" in fit_diffusion(STEP, distance).note


def test_updates_to_travel_by_hand():
    fit = fit_diffusion(STEP, 1 + 0.5 * np.log(STEP))
    updates, low, high = updates_to_travel(fit, 6.0)
    assert updates == pytest.approx(math.exp(10))
    assert low == pytest.approx(updates, rel=1e-3)
    assert high == pytest.approx(updates, rel=1e-3)
    assert updates_to_travel(fit, 1e4) == (math.inf, math.inf, math.inf)


def test_updates_to_travel_covers_the_truth():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        fit = fit_diffusion(STEP, 1 + 0.5 * np.log(STEP) + rng.normal(0, 0.2, STEP.size))
        updates, low, high = updates_to_travel(fit, 7.0)
        assert low < updates < high
        covered += low <= math.exp(12) <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_a_slope_that_may_be_zero_has_no_upper_end():
    rng = np.random.default_rng(2)
    fit = fit_diffusion(STEP, 1 + 0.005 * np.log(STEP) + rng.normal(0, 0.2, STEP.size))
    assert fit.log_interval[0] < 0 < fit.log_slope
    updates, low, high = updates_to_travel(fit, 3.0)
    assert high == math.inf
    assert 0 < low < updates


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_diffusion([1, 2, 3, 4], [1, 2, 3, 4]),
            "at least 5 distinct steps; there are 4",
        ),
        (lambda: fit_diffusion([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]), "there are 4 from step 1"),
        (lambda: fit_diffusion(STEP, np.log(STEP), first=4000), "widen the range"),
        (lambda: fit_diffusion([1, 2], [1, 2, 3]), "one shape"),
        (lambda: fit_diffusion(STEP, np.ones((2, STEP.size))), "For several seeds fit each"),
        (lambda: fit_diffusion(STEP, np.ones(STEP.size)), "Do the weights move"),
        (lambda: updates_to_travel(fit_diffusion(STEP, -np.log(STEP)), 2.0), "does not rise"),
        (lambda: updates_to_travel(fit_diffusion(STEP, np.log(STEP)), -1.0), "above 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_order_of_the_points_does_not_matter():
    rng = np.random.default_rng(3)
    distance = 1 + 0.5 * np.log(STEP) + np.cumsum(rng.normal(0, 0.05, STEP.size))
    shuffled = rng.permutation(STEP.size)
    assert fit_diffusion(STEP[shuffled], distance[shuffled]).log_interval == pytest.approx(
        fit_diffusion(STEP, distance).log_interval
    )
