import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.diffusion import fit_diffusion, log_spaced, updates_to_travel
from gapjax.diffusion._laws import fit_log

STEP = np.array([step for step in log_spaced(5000) if step >= 10])


def noise(rng, kind, step, seeds=1):
    """Residuals of S curves: white, Ornstein-Uhlenbeck in log t (length 1.5), or a random walk."""
    spacing = np.diff(np.log(step))
    values = rng.normal(size=(seeds, len(step)))
    if kind == "white":
        return values
    if kind == "walk":
        values[:, 0] = 0
        values[:, 1:] *= np.sqrt(spacing)
        return np.cumsum(values, axis=1)
    for i, gap in enumerate(spacing, 1):
        kept = math.exp(-gap / 1.5)
        values[:, i] = kept * values[:, i - 1] + math.sqrt(1 - kept**2) * values[:, i]
    return values


@given(a=st.floats(0, 10), b=st.floats(0.01, 5), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_log_law_is_recovered(a, b, seed):
    error = np.random.default_rng(seed).normal(0, 0.01 * b, STEP.size)
    fit = fit_diffusion(STEP, a + b * np.log(STEP) + error, first=10)
    assert fit.log_slope == pytest.approx(b, rel=0.02)
    assert fit.log_intercept == pytest.approx(a, abs=0.1 * b)
    assert fit.log_interval[0] < fit.log_slope < fit.log_interval[1]
    assert fit.log_r2 > 0.999
    assert fit.num_points == STEP.size
    assert fit.step_range == (STEP[0], STEP[-1])
    assert fit.better != "power"


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("unit", [1e-100, 1e-9, 1e-3, 3e7, 1e12, 1e100])
def test_the_unit_of_distance_does_not_matter(unit, seeds):
    rng = np.random.default_rng(1)
    curves = 1 + 0.5 * np.log(STEP) + 0.1 * noise(rng, "walk", STEP, seeds)
    one, other = fit_diffusion(STEP, curves), fit_diffusion(STEP, unit * curves)
    dimension = dict.fromkeys(("log_slope", "log_intercept", "power_factor", "slopes"), 1)
    dimension |= {"log_interval": 1, "log_intercept_interval": 1, "log_covariance": 2}
    for name, value in vars(one).items():
        if isinstance(value, str):
            assert getattr(other, name) == value
            continue
        found = np.asarray(getattr(other, name)) / unit ** dimension.get(name, 0)
        np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [None, 4])
def test_the_power_law_is_recovered(p, seeds):
    shape = STEP.shape if seeds is None else (seeds, STEP.size)
    error = np.random.default_rng(0).normal(0, 0.02, shape)
    fit = fit_diffusion(STEP, 0.3 * STEP**p + error)
    assert fit.better == "power"
    assert fit.delta_aic < -6
    assert fit.power_exponent == pytest.approx(p, abs=0.01)
    assert fit.power_factor == pytest.approx(0.3, rel=0.07)
    assert fit.power_interval[0] < p < fit.power_interval[1]
    assert fit.power_r2 > 0.99


def test_what_a_law_explains_is_of_its_slope_at_the_best_level():
    wander = np.random.default_rng(3).normal(0, 0.3, STEP.size).cumsum()
    curve = 5 + 2 * np.log(STEP) + wander
    fit = fit_diffusion(STEP, curve, first=1)
    left = curve - fit.log_slope * np.log(STEP)
    assert fit.log_r2 == pytest.approx(1 - left.var() / curve.var(), abs=1e-12)
    shape = STEP**fit.power_exponent
    left = curve - shape * (curve @ shape) / (shape @ shape)
    assert fit.power_r2 == pytest.approx(1 - np.mean(left**2) / curve.var(), abs=1e-9)


@pytest.mark.parametrize("p", [4.0, 6.0, 11.3, -6.0])
def test_a_steep_power_law_is_recovered(p):
    fit = fit_diffusion(STEP, 2e-3 * (STEP / 500.0) ** p)
    assert fit.power_exponent == pytest.approx(p, abs=1e-6)
    assert fit.power_interval == pytest.approx((p, p), abs=1e-4)
    assert fit.power_factor == pytest.approx(2e-3 * 500.0**-p, rel=1e-4)
    assert fit.power_r2 == pytest.approx(1) and "power" not in fit.note


@pytest.mark.parametrize("p", [17.0, -30.0])
def test_an_exponent_that_is_not_looked_for_is_said(p):
    fit = fit_diffusion(STEP, (STEP / 500.0) ** p)
    assert np.isnan(fit.power_interval).all()
    assert "the exponent of the power law lies beyond 16" in fit.note


def test_memory_does_not_grow_with_points_times_exponents():
    step = np.arange(50, 5050)
    distance = 1 + 0.5 * np.log(step) + np.random.default_rng(0).normal(0, 0.01, step.size)
    tracemalloc.start()
    fit = fit_diffusion(step, distance)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fit.log_slope == pytest.approx(0.5, rel=0.02)
    assert most < 150e6  # 48 lengths, 161 exponents and 5000 points are 309 MB


def _dense(x, curve, length):
    """Generalized least squares with the covariance matrix written out."""
    covariance = np.exp(-np.abs(x[:, None] - x) / length)
    basis = np.stack([np.ones_like(x), x], axis=1)
    inverse = np.linalg.inv(covariance)
    information = basis.T @ inverse @ basis
    parameters = np.linalg.solve(information, basis.T @ inverse @ curve)
    left = curve - basis @ parameters
    freedom = len(x) - 2
    variance = left @ inverse @ left / freedom
    restricted = -0.5 * (
        freedom * math.log(variance)
        + np.linalg.slogdet(covariance)[1]
        + np.linalg.slogdet(information)[1]
    )
    full = -0.5 * (
        len(x) * math.log(variance * freedom / len(x)) + np.linalg.slogdet(covariance)[1]
    )
    return parameters, variance * np.linalg.inv(information), restricted, full


@pytest.mark.parametrize("seed", range(5))
def test_a_distance_that_saturates_has_a_power_law_above_0(seed):
    # Noise like a random walk leaves the level open: -13 t^-0.04 rises as these do.
    step = np.unique(np.geomspace(54, 28797, 40).astype(int))
    walk = np.random.default_rng(seed).normal(0, 0.1, (8, len(step))).cumsum(axis=1)
    fit = fit_diffusion(step, 26 - 15 * (step / 54) ** -0.5 + walk)
    assert fit.power_factor > 0 and fit.power_exponent > 0


def test_each_correlation_length_is_generalized_least_squares():
    x = np.log(STEP[::4].astype(float))
    curve = 1 + 0.5 * x + 0.1 * noise(np.random.default_rng(3), "ou", STEP[::4])[0]
    law = fit_log(x, curve[None])
    dense = [_dense(x, curve, length) for length in law.lengths[:-8]]  # longer ones are singular
    parameters, covariances, restricted, full = map(np.array, zip(*dense, strict=True))
    np.testing.assert_allclose(law.parameters[:-8, 0], parameters, rtol=1e-6)
    np.testing.assert_allclose(law.covariances[:-8, 0], covariances, rtol=1e-5)
    weights = np.exp(restricted - restricted.max())
    found = law.weights[:-8] / law.weights[:-8].max()
    np.testing.assert_allclose(found, weights, rtol=1e-3, atol=1e-9)
    assert law.log_likelihood == pytest.approx(full.max(), rel=1e-9)


def test_white_residuals_are_ordinary_least_squares_but_for_a_little():
    rng = np.random.default_rng(4)
    curves = 1 + 0.5 * np.log(STEP) + 0.05 * noise(rng, "white", STEP, seeds=8)
    fit = fit_diffusion(STEP, curves)
    used = STEP >= 50
    ordinary = [np.polyfit(np.log(STEP[used]), curve[used], 1)[0] for curve in curves]
    np.testing.assert_allclose(fit.slopes, ordinary, atol=0.01)
    assert fit.correlation_length < 0.2
    assert fit.num_seeds == 8


def test_intervals_over_seeds_are_students():
    rng = np.random.default_rng(5)
    curves = 1 + 0.5 * np.log(STEP) + 0.2 * noise(rng, "walk", STEP, seeds=5)
    fit = fit_diffusion(STEP, curves)
    assert fit.degrees_of_freedom == 4
    mean, error = fit.slopes.mean(), fit.slopes.std(ddof=1) / math.sqrt(5)
    assert fit.log_slope == pytest.approx(mean)
    assert fit.log_interval == pytest.approx((mean - 2.776445 * error, mean + 2.776445 * error))
    assert fit.log_covariance[1, 1] == pytest.approx(error**2)
    assert fit.note == ""


def test_two_seeds_that_differ_have_the_interval_of_students_t():
    shared = 1 + 0.01 * noise(np.random.default_rng(5), "white", STEP)
    fit = fit_diffusion(STEP, shared + np.array([[0.4], [0.6]]) * np.log(STEP))
    assert fit.degrees_of_freedom == 1
    error = abs(fit.slopes[1] - fit.slopes[0]) / 2
    assert error == pytest.approx(0.1, rel=0.01)
    reach = 12.706205 * error
    assert fit.log_interval == pytest.approx((fit.log_slope - reach, fit.log_slope + reach))
    assert "fewer than 3 seeds: the interval rests on two seeds, and is wide" in fit.note
    assert updates_to_travel(fit, 6.0)[2] == math.inf  # by two such seeds the slope may be 0


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_cover_where_seeds_differ(seeds):
    rng, held = np.random.default_rng(8), 0
    for _ in range(80):
        slopes = 0.5 + 0.1 * rng.normal(size=(seeds, 1))
        fit = fit_diffusion(STEP, 3 + slopes * np.log(STEP) + 0.01 * rng.normal(size=STEP.size))
        held += fit.log_interval[0] <= 0.5 <= fit.log_interval[1]
    assert held >= 70


def _cover(kind, seeds, runs, step=STEP, scale=0.1):
    """How often intervals of the slope and of a time of travel hold the truth; wrong laws told."""
    rng = np.random.default_rng(6)
    slope = travel = wrong = 0
    for _ in range(runs):
        fit = fit_diffusion(step, 2 + 0.5 * np.log(step) + scale * noise(rng, kind, step, seeds))
        slope += fit.log_interval[0] <= 0.5 <= fit.log_interval[1]
        if fit.log_slope > 0:
            _, low, high = updates_to_travel(fit, 7.0)
            travel += low <= math.exp(10) <= high
        wrong += fit.better == "power"
    return slope / runs, travel / runs, wrong / runs


@pytest.mark.parametrize("kind", ["white", "ou", "walk"])
def test_intervals_cover_in_a_few_runs(kind):
    slope, travel, _ = _cover(kind, 3, 60)
    assert slope >= 0.87
    assert travel >= 0.85


@pytest.mark.montecarlo
@pytest.mark.parametrize("kind", ["white", "ou", "walk"])
@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_intervals_over_seeds_cover(kind, seeds):
    slope, _, wrong = _cover(kind, seeds, 1500)
    assert 0.93 <= slope <= 0.97
    assert wrong <= 0.1


@pytest.mark.montecarlo
@pytest.mark.parametrize(("kind", "at_least"), [("white", 0.95), ("ou", 0.93), ("walk", 0.86)])
def test_intervals_of_one_curve_cover_as_far_as_one_curve_can_tell(kind, at_least):
    assert _cover(kind, 1, 1500)[0] >= at_least


def test_the_ballistic_start_is_left_out():
    step = np.array(log_spaced(5000))
    distance = np.where(step < 50, 0.1 * step, 1.0 + 0.5 * np.log(step))
    fit = fit_diffusion(step, distance)
    assert fit.step_range[0] == min(step[step >= 50])
    assert fit.log_slope == pytest.approx(0.5, rel=1e-6)
    assert fit_diffusion(step, distance, momentum=0.0).step_range[0] == 5
    assert fit_diffusion(step, distance, momentum=0.95).step_range[0] >= 100
    assert fit_diffusion(step, distance, first=7).step_range[0] == 7
    short = fit_diffusion(np.arange(1, 40), np.log(np.arange(1, 40)))
    assert short.step_range == (1, 39)
    assert "too few steps past the ballistic start (50): all were used" in short.note


def test_range_and_points_that_are_not_finite():
    distance = 1 + np.log(STEP)
    distance[-1] = np.nan
    fit = fit_diffusion(np.append(0, STEP), np.append(0.0, distance), first=10, last=4000)
    assert fit.log_slope == pytest.approx(1)
    assert fit.step_range[0] >= 10
    assert fit.step_range[1] <= 4000
    assert not np.isnan(fit_diffusion(STEP, distance).log_slope)
    assert "1 points that are not finite" in fit_diffusion(STEP, distance).note
    many = np.stack([distance, np.full(STEP.size, np.nan), distance + 1])
    fit = fit_diffusion(STEP, many)
    assert fit.num_seeds == 2
    assert "1 seeds without a finite distance" in fit.note
    assert "fewer than 3 seeds" in fit.note


def test_the_order_of_the_points_does_not_matter():
    rng = np.random.default_rng(3)
    distance = 1 + 0.5 * np.log(STEP) + 0.05 * noise(rng, "walk", STEP)[0]
    shuffled = rng.permutation(STEP.size)
    assert fit_diffusion(STEP[shuffled], distance[shuffled]).log_interval == pytest.approx(
        fit_diffusion(STEP, distance).log_interval
    )


def test_updates_to_travel_by_hand():
    fit = fit_diffusion(STEP, 1 + 0.5 * np.log(STEP))
    updates, low, high = updates_to_travel(fit, 6.0)
    assert updates == pytest.approx(math.exp(10))
    assert low == pytest.approx(updates, rel=1e-3)
    assert high == pytest.approx(updates, rel=1e-3)
    assert updates_to_travel(fit, 1e4) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize("unit", [1e-140, 1e-100, 1e-3, 1e80, 1e140])
@pytest.mark.parametrize("slope", [0.5, 0.005])
def test_the_unit_of_distance_does_not_matter_to_the_updates(unit, slope):
    rng = np.random.default_rng(2)
    curve = 1 + slope * np.log(STEP) + rng.normal(0, 0.1 if slope == 0.5 else 0.2, STEP.size)
    expected = updates_to_travel(fit_diffusion(STEP, curve, first=10), 3.0)
    found = updates_to_travel(fit_diffusion(STEP, unit * curve, first=10), 3.0 * unit)
    assert expected[1] < expected[0] < expected[2]
    assert (expected[2] == math.inf) == (slope == 0.005)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_slope_that_may_be_zero_has_no_upper_end():
    rng = np.random.default_rng(2)
    fit = fit_diffusion(STEP, 1 + 0.005 * np.log(STEP) + rng.normal(0, 0.2, STEP.size), first=10)
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
        (lambda: fit_diffusion([], []), "at least 5 distinct steps; there are 0"),
        (lambda: fit_diffusion([], np.zeros((3, 0))), "at least 5 distinct steps; there are 0"),
        (lambda: fit_diffusion(STEP, np.log(STEP), first=4000), "widen the range"),
        (lambda: fit_diffusion([1, 2], [1, 2, 3]), r"not \(2,\) and \(3,\)"),
        (lambda: fit_diffusion(STEP, np.ones((2, 2, STEP.size))), r"\[S, n\] for S seeds"),
        (lambda: fit_diffusion(STEP, np.ones(STEP.size)), "Do the weights move"),
        (lambda: fit_diffusion(STEP, np.log(STEP) - 5), "at least 0, not -1.*from their start"),
        (lambda: fit_diffusion(STEP, 1e160 * np.log(STEP)), "give them in a larger unit"),
        (
            lambda: fit_diffusion(np.append(STEP, 100), np.append(np.log(STEP), 5.0), first=10),
            "Step 100 comes more than once. Several seeds",
        ),
        (lambda: fit_diffusion(STEP, np.log(STEP), momentum=1.0), "momentum must be a finite"),
        (lambda: fit_diffusion(STEP, np.log(STEP), momentum="0.9"), "momentum must be a finite"),
        (lambda: fit_diffusion(STEP, np.log(STEP), first=0), "first must be"),
        (lambda: updates_to_travel(fit_diffusion(STEP, 9 - np.log(STEP)), 2.0), "does not rise"),
        (lambda: updates_to_travel(fit_diffusion(STEP, np.log(STEP)), -1.0), "above 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
