"""Rank correlations against scipy's, and groups that differ in one thing alone."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from gapjax.study._findings._intervals import Interval, holm, pseudo_values
from gapjax.study._findings._ranks import (
    _granulated,
    _groups,
    _p_value,
    _pooled,
    _tau,
    fewest_regimes,
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
    each = pseudo_values(lambda a, b: stats.kendalltau(a.ravel(), b.ravel()).statistic, x, y)
    assert found.tau.low == pytest.approx(rank_interval(each).low) and found.runs == 16
    exact = stats.permutation_test(
        [range(4)],
        lambda order: stats.kendalltau(x.ravel(), y[np.array(order, int)].ravel()).statistic,
        permutation_type="pairings",
        vectorized=False,
    )
    assert found.tau.p_value == pytest.approx(exact.pvalue) == found.p_adjusted
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
    # 200 draws tell 95% to 1.5 points.
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.92


@pytest.mark.montecarlo
@pytest.mark.parametrize("regimes", [3, 5, 6, 8])
@pytest.mark.parametrize(("seeds", "own", "shared"), [(2, 0.0, 0.0), (3, 3.0, 0.0), (3, 3.0, 1.0)])
def test_an_association_is_told_by_chance_in_at_most_one_of_twenty_studies(
    regimes, seeds, own, shared
):
    """Regimes differ in both, seeds move both alike; the measures of a study are much the same."""
    rng, told = np.random.default_rng(0), []
    for _ in range(150):
        seed = shared * rng.normal(size=seeds)
        gap, sharp = (
            own * rng.normal(size=(regimes, 1)) + rng.normal(size=(regimes, seeds)) + seed
            for _ in range(2)
        )
        p = [
            _p_value(sharp + 0.5 * rng.normal(size=(regimes, seeds)), gap),
            _p_value(rng.normal(size=(regimes, seeds)), gap),
        ]
        told.append(min(holm(p)) < 0.05)
    assert np.mean(told) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


def test_few_regimes_tell_nothing_and_enough_that_agree_do():
    for regimes, told in ((2, False), (3, False), (4, False), (5, True), (8, True)):
        ranked = np.arange(float(regimes))[:, None] + np.zeros((1, 3))
        found = _tau(ranked, 2 * ranked)
        assert found.mean > 0.5 and (found.p_value < 0.05) is told
        if regimes <= 5:  # one order of all of them agrees so well, and as well the other way
            assert found.p_value == pytest.approx(2 / math.factorial(regimes))
        assert found.low < found.high
    assert [fewest_regimes(k) for k in (1, 2, 4, 17, 19)] == [5, 5, 6, 6, 7]
    assert 2 * 2 / 120 < 0.05 < 2 * 4 / 120 and 2 * 17 / 720 < 0.05 < 2 * 19 / 720


def test_seeds_that_agree_are_no_evidence_of_an_association():
    """Three seeds of two regimes, which leaving one out does not change."""
    sharp, gap = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[4.0, 5, 6], [1, 2, 3]])
    found = _tau(sharp, gap)
    assert found.mean < 0 < found.high and found.p_value == 1


def test_the_measures_of_a_study_are_adjusted_together():
    gaps = {name: np.array([k, k + 0.1]) for k, name in enumerate(RATES)}
    records = _records(gaps, RATES)
    numbers = {
        name: {measure: over_seeds(sign * row) for measure, sign in (("top", 1), ("trace", -1))}
        for name, row in gaps.items()
    }
    found = find_ranks(numbers, {name: [0, 1] for name in gaps}, records, ["top", "trace"])
    assert [one.tau.p_value for one in found] == pytest.approx([2 / 24] * 2)
    assert [one.p_adjusted for one in found] == pytest.approx([4 / 24] * 2)
    assert not any(one.resolved for one in found)


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
