"""What is said of the landscape follows from the intervals that stand beside it."""

import dataclasses

import numpy as np
import pytest

from gapjax import study
from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._ranks import Rank
from gapjax.study._findings._surroundings import LandscapeFindings, Observations, Surroundings
from gapjax.study._report._landscape import observations, rank_words, ranks, sharpness
from gapjax.study._results._records import over_seeds
from tests.study.report.test_words import _draws, made

NONE = {"SB": Interval(None), "LB": Interval(None)}
SEEN = Observations(
    train_difference=Interval(-0.01, -0.02, 0.0),
    below_own_peak=Interval(0.02, 0.0, 0.05),
    smallest_to_largest=NONE,
    negative_mass=NONE,
    distance_ratio=Interval(2.0, 1.0, 4.0),
)


def _result(loss=None, found=(), regimes=2):
    """A study whose solutions were measured: the ratio of losses, and ranks."""
    result = made({"SB": _draws(0.95), "LB": _draws(0.94)})
    ratios = {"top": Interval(2.0, 1.5, 2.5), **({"train_loss": loss} if loss else {})}
    nothing = Surroundings([0], {}, {}, {}, {}, over_seeds(np.zeros(1)), {}, {}, [])
    measured = dict.fromkeys(["SB", "LB", *map(str, range(2, regimes))], nothing)
    seen = LandscapeFindings("", measured, ratios, [], None, SEEN, list(found))
    return dataclasses.replace(result, landscape=seen)


@pytest.mark.parametrize(
    ("loss", "apart"),
    [
        (Interval(1.47, 1.4, 1.54), True),
        (Interval(0.7, 0.6, 0.99), True),
        (Interval(1.03, 0.863, 1.24), False),
        (Interval(2.6), False),  # of one seed nothing tells
    ],
)
def test_solutions_are_of_unequal_loss_where_the_interval_says_so(loss, apart):
    text = sharpness(_result(loss))
    assert ("These are not solutions of equal loss" in text) is apart
    assert ("In loss they do not differ significantly" in text) is not apart
    assert f"the training loss at LB is {loss.mean} " in text


def test_one_difference_has_one_interval():
    result = _result()
    gap = result.gap.gap
    (answer,) = (text for question, text in observations(result) if "overfit" in question)
    low, mean, high = (f"{-100 * round(end, 5):.3g}" for end in (gap.high, gap.mean, gap.low))
    assert f"its test accuracy by {mean} [{low}, {high}] points (over seeds and test" in answer
    alone = study.paired_difference(*(_draws(m).mean(1, keepdims=True) for m in (0.94, 0.95)))
    assert not np.isclose(alone.low, -gap.high)  # as over seeds alone


def _rank(name, mean, p):
    psi = dict.fromkeys(("batch", "rate"), Interval(None))
    return Rank(name, Interval(mean, mean - 0.2, mean + 0.2, p), psi, 18, p)


def test_an_association_is_told_by_the_regimes_and_not_by_the_seeds():
    by_seeds = _rank("top", 0.5, 0.3)
    text = rank_words(_result(found=[by_seeds], regimes=3))
    assert "Over the 18 runs of 3 regimes no measure of sharpness correlates" in text
    assert "all measures counted); it takes 5 regimes to tell." in text
    assert "it takes" not in rank_words(_result(found=[by_seeds], regimes=6))
    some = [_rank("top", 0.5, 0.01), _rank("trace", -0.6, 0.02), _rank("sam", 0.4, 0.051)]
    text = rank_words(_result(found=some, regimes=6))
    assert "go with the gap: λ₁ (0.50 [0.30, 0.70], p = 0.01); these go against" in text
    assert "SAM" not in text
    rows = ranks(_result(found=some).landscape)
    assert [row["adjusted"] for row in rows] == ["0.01", "0.02", "0.051"]
