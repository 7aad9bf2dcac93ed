"""What is said of solutions that were measured, from made measurements."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from gapjax.study._findings._summary import _between, _observations
from gapjax.study._results._records import over_seeds
from tests.study.report.test_words import made

TABLES = {"SB": np.full((3, 5), 0.9), "LB": np.full((3, 5), 0.8)}


def _half(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def _seen(result, mass, curve):
    """Observations of networks with so much negative curvature; the test curve of LB, [T, S]."""
    records = dict(result.regimes)
    curves = dataclasses.replace(
        records["LB"].curves,
        update=list(range(len(curve))),
        examples=list(range(len(curve))),
        seconds=[0.0] * len(curve),
        values={
            "test_accuracy": np.asarray(curve, float).tolist(),
            "distance": np.ones(np.shape(curve)).tolist(),
        },
        flops=[],
    )
    records["LB"] = dataclasses.replace(records["LB"], curves=curves)
    measured = [
        {"density": {"negative_mass": m}, "bottom": {"value": -m}, "top": {"values": [1.0]}}
        for m in mass
    ]
    return _observations([measured, measured], records, result.config)


def test_intervals_stay_within_what_a_number_can_be():
    mass, peak = [0.1, 0.2, 0.9], [0.0, 0.01, 0.2]
    seen = _seen(made(TABLES), mass, [np.add(0.8, peak), np.full(3, 0.8)])
    below = seen.below_own_peak
    assert below.mean == pytest.approx(np.mean(peak)) and below.low == 0.0
    assert below.high == pytest.approx(np.mean(peak) + _half(peak))
    assert _half(mass) > 0.6 and (seen.negative_mass["SB"].low, seen.negative_mass["SB"].high) == (
        0.0,
        1.0,
    )
    # The smallest eigenvalue may be as far below 0 as it will.
    assert seen.smallest_to_largest["SB"].low == pytest.approx(-np.mean(mass) - _half(mass))


def test_an_interval_that_fits_is_left_as_it_is():
    mass = [0.30, 0.31, 0.32]
    seen = _seen(made(TABLES), mass, np.full((2, 3), 0.8))
    assert seen.negative_mass["LB"].high == pytest.approx(0.31 + _half(mass))


def test_a_difference_of_the_training_metric_is_over_seeds():
    result = made(TABLES)
    train = {"SB": [0.99, 0.98, 0.97], "LB": [0.90, 0.95, 0.91]}
    records = {
        name: dataclasses.replace(
            record,
            run=dataclasses.replace(
                record.run,
                values={**record.run.values, "train_accuracy": over_seeds(np.array(train[name]))},
            ),
        )
        for name, record in result.regimes.items()
    }
    seen = _seen(dataclasses.replace(result, regimes=records), [0.1] * 3, np.full((2, 3), 0.8))
    less = np.subtract(train["LB"], train["SB"])
    assert seen.train_difference.low == pytest.approx(less.mean() - _half(less))


def test_a_barrier_is_not_below_nothing():
    rises = [0.0, 0.3, 0.05]
    paths = [
        {
            "alpha": [0.0, 0.5, 1.0],
            "train/loss": [1.0, 1.0 + rise, 1.0],
            "barrier": {"train/loss": rise, "test/loss": 2 * rise},
        }
        for rise in rises
    ]
    found = _between(paths)
    for scale, one in ((1, found.barrier), (2, found.test_barrier)):
        assert one.low == 0.0 and one.mean == pytest.approx(scale * np.mean(rises))
        assert one.high == pytest.approx(scale * (np.mean(rises) + _half(rises)))
