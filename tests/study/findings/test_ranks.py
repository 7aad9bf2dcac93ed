"""Rank correlations against scipy's, and groups that differ in one thing alone."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from gapjax.study._findings._intervals import Interval, jackknife
from gapjax.study._findings._ranks import (
    _granulated,
    _groups,
    _pooled,
    _tau,
    find_ranks,
    rank_interval,
    tau,
)
from gapjax.study._results._records import over_seeds
from tests.study.report.test_words import made


def _records(gaps, rates):
    """Regimes by name, with the gap of every seed and a rate."""
    result = made({name: np.zeros((len(row), 3)) for name, row in gaps.items()})
    return {
        name: dataclasses.replace(
            record,
            run=dataclasses.replace(
                record.run, gap=over_seeds(gaps[name]), learning_rate=rates[name]
            ),
        )
        for name, record in result.regimes.items()
    }


RATES = {"SB": 0.1, "LB": 0.1, "LB+LR": 0.6, "LB+GBN": 0.1}


def _found(sharp, gaps, seeds=4):
    records = _records(gaps, RATES)
    numbers = {name: {"top": over_seeds(row)} for name, row in sharp.items()}
    found = find_ranks(numbers, {name: list(range(seeds)) for name in sharp}, records, ["top"])
    return found[0]


def test_tau_is_that_of_scipy_where_nothing_is_tied():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    assert tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_numbers_by_hand():
    rng = np.random.default_rng(0)
    sharp = {name: rng.normal(size=4) for name in RATES}
    gaps = {name: rng.normal(size=4) for name in RATES}
    found = _found(sharp, gaps)
    x, y = (np.array(list(part.values())) for part in (sharp, gaps))
    assert found.tau.mean == pytest.approx(stats.kendalltau(x.ravel(), y.ravel()).statistic)
    wanted = jackknife(lambda a, b: stats.kendalltau(a.ravel(), b.ravel()).statistic, x, y)
    assert found.tau.low == pytest.approx(max(wanted.low, -1)) and found.runs == 16
    # SB and LB differ in the batch alone, LB and LB+LR in the rate.
    for axis, (a, b) in (("batch", ("SB", "LB")), ("rate", ("LB", "LB+LR"))):
        agree = np.sign(sharp[a] - sharp[b]) * np.sign(gaps[a] - gaps[b])
        assert found.psi[axis].mean == pytest.approx(agree.mean())
        assert found.psi[axis] == rank_interval(agree)


def test_few_seeds_that_agree_are_not_certain():
    assert rank_interval(np.zeros(0)).mean is None
    assert rank_interval(np.ones(1)) == Interval(1.0)
    for seeds, told in ((2, False), (4, False), (5, True)):
        found = rank_interval(np.ones(seeds))
        assert found.mean == found.high == 1 and (found.low > 0) is told


def _drawn(rng, seeds, apart, shared=0.0, regimes=4):
    """Sharpness and gap of regimes that lie so far apart in both, [regimes, seeds]."""
    middle = apart * np.linspace(0, 1, regimes)[:, None]
    return [
        middle + rng.normal(size=(regimes, seeds)) + shared * rng.normal(size=seeds)
        for _ in range(2)
    ]


@pytest.mark.montecarlo
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize(("apart", "shared"), [(0.0, 0.0), (2.0, 0.0), (6.0, 0.0), (2.0, 1.0)])
def test_the_interval_of_tau_covers(seeds, apart, shared):
    rng, draws = np.random.default_rng(0), 200
    found = [_tau(*_drawn(rng, seeds, apart, shared)) for _ in range(draws)]
    truth = _pooled(*_drawn(rng, 600, apart, shared))
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.89 <= covered <= 0.995  # 200 draws tell 95% to 1.5 points


@pytest.mark.montecarlo
@pytest.mark.parametrize("seeds", [3, 5, 8, 16])
@pytest.mark.parametrize("regimes", [2, 4])
@pytest.mark.parametrize("apart", [0.0, 2.0, 5.0])
def test_the_interval_of_psi_covers_at_least(seeds, regimes, apart):
    rng, groups = np.random.default_rng(0), [list(range(regimes))]

    def values(seeds):
        return _granulated(*_drawn(rng, seeds, apart, regimes=regimes), groups)

    truth = values(4000).mean()
    found = [rank_interval(values(seeds)) for _ in range(200)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.91


def test_what_goes_together_within_no_group_shows_in_psi():
    # Sharpness and gap both come from the remedy; the batch makes them go the other way.
    sharp = {"SB": [1.0, 1.1], "LB": [2.0, 2.1], "LB+LR": [2.2, 2.3], "LB+GBN": [8.0, 9.0]}
    gaps = {"SB": [0.3, 0.3], "LB": [0.1, 0.1], "LB+LR": [0.05, 0.0], "LB+GBN": [0.9, 0.8]}
    found = _found(sharp, gaps, seeds=2)
    assert found.psi["batch"].mean == -1 and found.psi["rate"].mean == -1
    assert found.tau.mean > -0.5


def test_seeds_that_diverged_and_single_regimes():
    sharp = {"SB": [1.0, np.nan, 1.2], "LB": [2.0, 2.1, 2.2]}
    gaps = {"SB": [0.1, 0.2, 0.15], "LB": [0.3, 0.2, 0.4]}
    assert _found(sharp, gaps, seeds=3).runs == 4
    records = _records({"SB": [0.1]}, RATES)
    assert find_ranks({"SB": {}}, {"SB": [0]}, records, ["top"]) == []


def test_a_batch_that_grows_is_no_large_batch_at_another_rate():
    gaps = {name: [0.1, 0.2] for name in ("SB", "LB", "LB+LR", "GROW")}
    records = _records(gaps, {"SB": 0.1, "LB": 0.1, "LB+LR": 0.6, "GROW": 0.1})
    records["GROW"] = dataclasses.replace(records["GROW"], batch_sizes=[(0, 16), (5, 640)])
    assert _groups(records, list(records), "rate") == [[1, 2]]
    assert _groups(records, list(records), "batch") == [[0, 1, 3]]
    same = {name: dataclasses.replace(records["LB"], name=name) for name in ("LB", "b")}
    assert _groups(same, list(same), "rate") == _groups(same, list(same), "batch") == []
