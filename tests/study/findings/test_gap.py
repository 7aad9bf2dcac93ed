"""The gap and its shares are those of the arrays; comparisons are paired and adjusted."""

import dataclasses

import numpy as np
import pytest

from gapjax import study
from gapjax.study._findings._gap import find_gap
from gapjax.study._results import _folder


@pytest.fixture(scope="module")
def parts(finished):
    folder, result, _ = finished
    examples = {
        name: _folder.read_examples(folder, record) for name, record in result.regimes.items()
    }
    return result, examples


def test_what_every_example_gave_is_what_the_table_says(parts):
    result, examples = parts
    for name, record in result.regimes.items():
        table = examples[name]["accuracy"]
        assert table.shape == (3, 32)
        np.testing.assert_allclose(
            table.mean(1), record.run.values["test_accuracy"].values, atol=1e-6
        )
        np.testing.assert_allclose(
            examples[name]["loss"].mean(1), record.run.values["test_loss"].values, rtol=1e-5
        )


def test_a_study_uses_the_public_functions(parts):
    result, examples = parts
    sb, lb, own = (np.array(examples[n]["accuracy"], float) for n in ("SB", "LB", "LB+LR+GBN"))
    assert result.gap.gap == study.paired_difference(sb, lb)
    assert result.gap.shares == {"LB+LR+GBN": study.share_of_gap(own, sb, lb)}
    pairs = {(c.regime, c.baseline): c for c in result.gap.comparisons}
    assert set(pairs) == {("LB", "SB"), ("LB+LR+GBN", "SB"), ("LB+LR+GBN", "LB")}
    against = pairs["LB+LR+GBN", "SB"]
    assert against.difference == study.paired_difference(own, sb)
    assert all(c.p_adjusted >= c.difference.p_value for c in result.gap.comparisons)


def test_the_ends_go_by_any_name(parts):
    result, examples = parts
    other = dataclasses.replace(
        result.config, study={**result.config.study, "baseline": ["LB+LR+GBN", "LB"]}
    )
    found = find_gap(result.regimes, examples, other)
    assert list(found.shares) == ["SB"] and found.gap.mean is not None
    missing = dataclasses.replace(
        result.config, study={**result.config.study, "baseline": ["SB", "nothing"]}
    )
    found = find_gap(result.regimes, examples, missing)
    assert found.gap is None and found.shares == {}
    # Every regime still stands beside the end that is there.
    assert {c.baseline for c in found.comparisons} == {"SB"}


def test_simultaneous_intervals_are_wider(parts):
    result, examples = parts
    records = {**result.regimes, "again": result.regimes["LB+LR+GBN"]}
    found = find_gap(records, {**examples, "again": examples["LB+LR+GBN"]}, result.config)
    own, together = found.shares["again"], found.simultaneous["again"]
    if own.is_bounded and together.is_bounded:
        assert together.low < own.low < own.high < together.high
