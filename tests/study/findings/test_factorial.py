"""Effects of remedies against the numbers that made the tables."""

import dataclasses

import numpy as np
import pytest

from gapjax.study._findings._factorial import combinations, find_effects
from gapjax.study._findings._intervals import paired_difference
from gapjax.study._report import _comparisons
from tests.study.conftest import tiny_study
from tests.study.report.test_words import made


def _found(noise=0.01, factors=("LR", "GBN", "RA")):
    """All combinations, made of 0.03 LR + 0.02 GBN - 0.01 RA + 0.04 LR GBN."""
    rng = np.random.default_rng(0)
    tables = {
        name: 0.5
        + 0.03 * ("LR" in there)
        + 0.02 * ("GBN" in there)
        - 0.01 * ("RA" in there)
        + 0.04 * ({"LR", "GBN"} <= there)
        + noise * rng.normal(size=(6, 1))
        + noise * rng.normal(size=(6, 200))
        for there, name in combinations("LB", ("LR", "GBN", "RA")).items()
    }
    result = made({"SB": tables["LB"] + 0.1, **tables})
    config = dataclasses.replace(
        result.config, study={**result.config.study, "factorial": list(factors)}
    )
    examples = {name: {"accuracy": table} for name, table in tables.items()}
    return find_effects(result.regimes, examples, config), tables, result


def test_effects_are_those_that_made_the_tables():
    found = {tuple(e.remedies): e.estimate for e in _found(noise=1e-9)[0]}
    wanted = {
        ("LR",): 0.03 + 0.02,  # half of the others have GBN
        ("GBN",): 0.02 + 0.02,
        ("RA",): -0.01,
        ("LR", "GBN"): 0.04,
        ("LR", "RA"): 0.0,
        ("GBN", "RA"): 0.0,
    }
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].mean == pytest.approx(value, abs=1e-7)


def test_intervals_are_those_of_paired_differences_and_adjusted():
    found, tables, result = _found()
    with_ra = np.mean([t for n, t in tables.items() if "RA" in n], axis=0)
    without = np.mean([t for n, t in tables.items() if "RA" not in n], axis=0)
    own = next(e for e in found if e.remedies == ["RA"])
    wanted = paired_difference(with_ra, without)
    np.testing.assert_allclose(
        [own.estimate.low, own.estimate.high], [wanted.low, wanted.high], rtol=1e-9
    )
    assert all(e.p_adjusted >= e.estimate.p_value for e in found)
    rows = _comparisons.effects(dataclasses.replace(result, effects=found))
    assert rows[0]["name"] == "LR" and rows[3]["name"] == "LR with GBN"
    assert rows[0]["resolved"] == "yes"


def test_half_a_factorial_has_no_effects():
    assert _found(factors=("LR", "SAM"))[0] == [] and _found(factors=())[0] == []


def test_all_combinations_are_trained():
    def names(**changes):
        return [regime.name for regime in tiny_study(**changes).all_regimes]

    from gapjax.study._regimes import STANDARD

    assert names(regimes=STANDARD, factorial=("SAM", "EMA")) == [
        "SB", "LB", "LB+SAM", "LB+EMA", "LB+SAM+EMA",
    ]  # fmt: skip
    assert names(regimes=("SB", "GROW"), factorial=("LR",)) == ["SB", "GROW", "LB", "LB+LR"]
    again = tiny_study(regimes=STANDARD, factorial=("LR",))
    assert dataclasses.replace(again).all_regimes == again.all_regimes


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        (("LR", "LINEAR"), "LR and LINEAR exclude each other"),
        (("LR", "LR"), "at most 5 remedies, each once"),
        (("LR", "GBM"), "factorial must be one of"),
        ("LR", "factorial must be several"),
    ],
)
def test_what_is_no_factorial(factors, said):
    with pytest.raises(ValueError, match=said):
        tiny_study(factorial=factors)


@pytest.mark.montecarlo
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_intervals_of_effects_cover(seeds):
    truth = {("LR",): 0.03, ("GBN",): 0.05, ("LR", "GBN"): 0.02}
    names, rng, draws = combinations("LB", ("LR", "GBN")), np.random.default_rng(0), 200
    middle = {
        name: 0.5 + 0.02 * ("LR" in there) + 0.04 * ("GBN" in there) + 0.02 * (len(there) == 2)
        for there, name in names.items()
    }
    result = made({"SB": np.zeros((seeds, 60)), **{name: np.zeros((seeds, 60)) for name in middle}})
    config = dataclasses.replace(
        result.config, study={**result.config.study, "factorial": ["LR", "GBN"]}
    )
    covered = dict.fromkeys(truth, 0.0)
    for _ in range(draws):
        examples = {
            name: {
                "accuracy": mean
                + 0.02 * rng.normal(size=(seeds, 1))
                + 0.1 * rng.normal(size=(1, 60))
                + 0.1 * rng.normal(size=(seeds, 60))
            }
            for name, mean in middle.items()
        }
        for effect in find_effects(result.regimes, examples, config):
            there, found = tuple(effect.remedies), effect.estimate
            covered[there] += (found.low <= truth[there] <= found.high) / draws
    assert all(0.89 <= share <= 0.995 for share in covered.values()), covered
