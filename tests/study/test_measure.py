import numpy as np
import pytest

from gapjax.study._measure import gap_closed, over_seeds


def test_over_seeds_is_the_sample_mean_and_deviation():
    values = np.array([1.0, 2.0, 4.0])
    assert over_seeds(values) == {
        "mean": values.mean(),
        "std": values.std(ddof=1),
        "values": [1.0, 2.0, 4.0],
    }


def test_seeds_that_diverged_count_in_nothing():
    assert over_seeds(np.array([np.nan, 2.0]))["mean"] == 2.0
    assert over_seeds(np.array([np.inf])) == {"mean": None, "std": None, "values": [None]}
    sb, lb = np.array([0.9, 0.92, 0.91]), np.array([0.8, 0.81, 0.82])
    with_nan = gap_closed(np.array([0.85, np.nan, 0.86]), sb, lb)
    without = gap_closed(np.array([0.85, 0.86]), sb[[0, 2]], lb[[0, 2]])
    assert with_nan == without


def test_ends_of_the_scale():
    sb, lb = np.array([0.9, 0.92, 0.91]), np.array([0.8, 0.81, 0.82])
    assert gap_closed(sb, sb, lb) == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert gap_closed(lb, sb, lb) == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_no_gap_or_no_seeds_give_no_share():
    nothing = {"mean": None, "low": None, "high": None}
    same = np.array([0.9, 0.9])
    assert gap_closed(same, same, same) == nothing
    assert gap_closed(np.array([0.9]), np.array([0.95]), np.array([0.8])) == nothing


@pytest.mark.parametrize("paired", [True, False])
def test_interval_covers_the_truth_about_as_often_as_it_says(paired):
    rng = np.random.default_rng(3)
    covered = 0
    for i in range(200):
        noise = rng.normal(size=(3, 12)) * 0.01
        if paired:
            noise[:] = noise[0]  # the luck of a seed is the same in every regime: it cancels
        sb, lb, own = 0.98 + noise[0], 0.9 + noise[1], 0.95 + noise[2]
        closed = gap_closed(own, sb, lb, resamples=400, seed=i)
        covered += closed["low"] - 1e-9 <= 0.05 / 0.08 <= closed["high"] + 1e-9
    assert covered >= 170  # the percentile bootstrap is a little short at 12 seeds
