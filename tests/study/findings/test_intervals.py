"""Intervals against closed forms; their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from gapjax.study import paired_difference, share_of_gap
from gapjax.study._findings._intervals import (
    Interval,
    clipped,
    geometric_ratio,
    holm,
    jackknife,
    mean_interval,
    ratio_of_means,
    seeds_to_resolve,
)


def test_one_column_is_students_t_for_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 1))
    found = paired_difference(a, b)
    wanted = stats.ttest_rel(a[:, 0], b[:, 0])
    np.testing.assert_allclose(found.p_value, wanted.pvalue)
    np.testing.assert_allclose([found.low, found.high], wanted.confidence_interval(0.95))


def test_the_variance_is_the_sum_over_sources():
    rng = np.random.default_rng(1)
    d = rng.normal(size=(5, 1)) + rng.normal(size=(1, 40)) + rng.normal(size=(5, 40))
    found = paired_difference(d, np.zeros_like(d))
    seeds = d.mean(1).var(ddof=1) / 5
    examples = d.mean(0).var(ddof=1) / 40
    left = d - d.mean(1)[:, None] - d.mean(0)[None] + d.mean()
    rest = (left**2).sum() / (4 * 39) / 200
    total = max(seeds + examples - rest, seeds, examples)
    of_seeds, of_examples = (max(v - 0.65 * rest, 0) / total for v in (seeds, examples))
    others = (1 - of_seeds**1.15) / (1 - of_seeds)
    weights = [of_seeds**1.15, of_examples * others, (1 - of_seeds - of_examples) * others]
    half = (stats.t.ppf(0.975, [4, 39, 4 * 39]) ** 2 @ weights * total) ** 0.5
    np.testing.assert_allclose([found.low, found.high], [d.mean() - half, d.mean() + half])
    # The p value is that of the interval which ends at 0.
    edge = paired_difference(d, np.zeros_like(d), level=1 - found.p_value)
    np.testing.assert_allclose(min(abs(edge.low), abs(edge.high)), 0, atol=1e-9)
    np.testing.assert_allclose(
        [found.stderr_seeds, found.stderr_examples], [seeds**0.5, examples**0.5]
    )


def test_one_seed_has_no_interval_and_none_has_no_mean():
    a, b = np.ones((1, 9)), np.zeros((1, 9))
    assert paired_difference(a, b) == Interval(1.0)
    assert paired_difference(np.full((2, 9), np.nan), np.zeros((2, 9))) == Interval(None)
    assert share_of_gap(a, a, b) == Interval(1.0)


def test_seeds_that_diverged_are_left_out_of_both():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 30))
    a[1, 0] = np.nan
    keep = [0, 2, 3]
    assert paired_difference(a, b) == paired_difference(a[keep], b[keep])


def test_weights_are_those_of_a_weighted_mean():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 20))
    weight = rng.integers(1, 5, 20)
    found = paired_difference(a, b, weight=weight)
    np.testing.assert_allclose(found.mean, ((a - b).mean(0) * weight).sum() / weight.sum())
    alike = paired_difference(a, b, weight=np.full(20, 3.0))
    plain = paired_difference(a, b)
    np.testing.assert_allclose([alike.low, alike.high], [plain.low, plain.high])
    # An example of weight 0 is not there, but for its place in the count.
    weight[7] = 0
    a[:, 7] = 1e6
    np.testing.assert_allclose(
        paired_difference(a, b, weight=weight).mean,
        ((a - b).mean(0) * weight).sum() / weight.sum(),
    )


def test_shares_at_the_ends_of_the_scale():
    rng = np.random.default_rng(0)
    small, large = rng.normal(0.9, 0.01, (3, 50)), rng.normal(0.8, 0.01, (3, 50))
    for metric, share in ((small, 1.0), (large, 0.0)):
        found = share_of_gap(metric, small, large)
        np.testing.assert_allclose([found.mean, found.low, found.high], share, atol=1e-9)
    assert share_of_gap(small, small, small).mean is None


def test_fieller_is_the_root_of_its_parabola():
    top, bottom = np.array([1.0, 1.3, 0.8, 1.1]), np.array([2.0, 2.1, 1.7, 2.4])
    found = ratio_of_means(top, bottom)
    t = stats.t.ppf(0.975, 3)
    for end in (found.low, found.high):
        d = top - end * bottom
        np.testing.assert_allclose(abs(d.mean()), t * d.std(ddof=1) / 2, rtol=1e-9)


def test_a_gap_that_is_not_told_from_nothing_bounds_no_share():
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(2, 4, 20))
    found = share_of_gap(large + 0.1, small, large)
    assert found.mean is not None and (found.low, found.high) == (None, None)
    assert not found.is_bounded


def test_shares_do_not_care_for_the_direction_of_the_metric():
    rng = np.random.default_rng(0)
    metric, small, large = (rng.normal(m, 0.1, (5, 60)) for m in (1.3, 1.0, 2.0))
    up, down = share_of_gap(metric, small, large), share_of_gap(-metric, -small, -large)
    np.testing.assert_allclose([up.low, up.high], [down.low, down.high])


def test_holm_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=7).tolist()
    order = np.argsort(p)
    wanted = np.empty(7)
    wanted[order] = np.minimum(1, np.maximum.accumulate((7 - np.arange(7)) * np.sort(p)))
    np.testing.assert_allclose(holm(p), wanted)
    assert holm([]) == []


def test_seeds_that_would_resolve_a_difference_resolve_it():
    rng = np.random.default_rng(0)
    seeds = rng.normal(0.5, 1.0, (6, 1))
    a, b = seeds + np.zeros((6, 50)), np.zeros((6, 50))
    count = seeds_to_resolve(a, b)
    assert count is not None
    spread, mean = seeds.std(ddof=1), seeds.mean()
    shift = mean / (spread / count**0.5)
    power = 1 - stats.nct.cdf(stats.t.ppf(0.975, count - 1), count - 1, shift)
    assert 0.75 < power < 0.87
    # Where the examples alone leave too much open, no number of seeds will do.
    noise = np.tile(rng.normal(size=50), (6, 1)) + 1e-6 * rng.normal(size=(6, 50))
    assert seeds_to_resolve(noise, np.zeros((6, 50))) is None
    assert seeds_to_resolve(a[:1], b[:1]) is None


def test_means_ratios_and_jackknife():
    assert mean_interval([np.nan]) == Interval(None)
    assert mean_interval([2.0]) == Interval(2.0)
    rng = np.random.default_rng(0)
    over, under = rng.uniform(1, 2, size=(2, 4))
    np.testing.assert_allclose(
        geometric_ratio(over, under).low, 1 / geometric_ratio(under, over).high
    )
    values = rng.normal(size=5)
    wanted = mean_interval(values)
    found = jackknife(np.mean, values)
    np.testing.assert_allclose([found.low, found.high], [wanted.low, wanted.high])
    assert jackknife(np.mean, np.ones((3, 1))) == Interval(1.0)
    assert clipped(found, low=10.0) == Interval(found.mean, 10.0, found.high)
    assert clipped(found, high=-3.5) == Interval(found.mean, found.low, -3.5)
    assert clipped(Interval(1.0), 0.0, 0.5) == Interval(1.0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.ones(3), np.ones(3)), r"must be tables \[seeds, examples\] of one shape"),
        ((np.ones((3, 2)), np.ones((3, 3))), r"a has \(3, 2\), b has \(3, 3\)"),
        ((np.ones((3, 0)), np.ones((3, 0))), "at least one test example"),
    ],
)
def test_what_is_no_table(arrays, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(*arrays)
    with pytest.raises(ValueError, match="weight must be one number per example"):
        paired_difference(np.ones((2, 3)), np.ones((2, 3)), weight=np.zeros(3))


def test_seeds_that_all_agree_leave_the_examples():
    d = np.tile(np.random.default_rng(0).normal(size=50), (3, 1))
    found = paired_difference(d, np.zeros_like(d))
    assert found.stderr_seeds == 0 and found.low < d.mean() < found.high


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_two_seeds_and_any_scale_have_an_interval_and_a_p_value(scale):
    rng = np.random.default_rng(0)
    for d in (rng.normal(size=(2, 9)), 1 + 1e-9 * rng.normal(size=(2, 9)), np.eye(2, 9)):
        found = paired_difference(scale * d, np.zeros_like(d))
        assert found.low <= scale * d.mean() <= found.high and 0 <= found.p_value <= 1


@pytest.mark.montecarlo
@pytest.mark.parametrize("world", coverage.WORLDS.values(), ids=coverage.WORLDS.keys())
@pytest.mark.parametrize("seeds", [3, 8])
def test_intervals_cover(world, seeds):
    rng, means = np.random.default_rng(seeds), tuple(coverage.MEANS.values())
    drawn = [coverage.Drawn(world(rng, seeds, 200, means)) for _ in range(250)]
    drawn[0].check()
    hits = [coverage.crossed(one) for one in drawn]
    for name in hits[0]:
        assert coverage.within(name, np.mean([one[name] for one in hits]), 0.03), name


@pytest.mark.montecarlo
def test_a_table_without_effects_is_not_called_one():
    rng = np.random.default_rng(0)
    drawn = (coverage.Drawn(coverage.bernoulli(rng, 5, 200, (0.9,) * 4)) for _ in range(250))
    hits = [coverage.no_effect(one) for one in drawn]
    assert coverage.within("any difference", np.mean([list(one.values()) for one in hits]), 0.03)


def test_two_seeds_that_differ_by_little_overflow_nothing():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 2, 32))
    found = paired_difference(first, second)
    assert 0 < found.p_value <= 1 and np.isfinite([found.low, found.high]).all()


def test_a_ratio_of_two_negative_numbers_is_none():
    assert geometric_ratio(-np.array([2.0, 4.0, 3.0]), -np.ones(3)).mean is None
    assert geometric_ratio(np.array([-2.0, 4.0]), np.array([-1.0, 2.0])).mean == pytest.approx(2.0)
