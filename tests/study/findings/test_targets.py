"""What it takes to reach a level, by hand."""

import dataclasses

import numpy as np

from gapjax.study._findings._targets import find_targets
from gapjax.study._results._records import Curves, Diverged, over_seeds
from tests.study.report.test_words import ACCURACY, LOSS, made


def _records(curve, task=ACCURACY, **run):
    """Two regimes with one curve, [T, S]; the last row is where both end."""
    name = f"test_{task.headline}"
    curve = np.asarray(curve, float)
    base = made({"SB": np.zeros((curve.shape[1], 3)), "LB": np.zeros((curve.shape[1], 3))}, task)
    values = {name: curve.tolist(), "distance": curve.tolist()}
    curves = Curves([1, 2, 4], [10, 20, 40], [0.5, 1.0, 2.0], values, [3.0, 6.0, 9.0])
    return {
        regime: dataclasses.replace(
            record,
            curves=curves,
            run=dataclasses.replace(record.run, values={name: over_seeds(curve[-1])}, **run),
        )
        for regime, record in base.regimes.items()
    }


def test_the_first_evaluation_at_the_level():
    found = find_targets(_records([[0.1, 0.8], [0.7, 0.2], [0.6, 0.8]]), ("SB", "LB"), ACCURACY)
    assert [target.end for target in found] == ["LB", "SB"]
    np.testing.assert_allclose(found[0].level, 0.7)
    costs = found[0].costs["SB"]
    assert costs["update"].values == [2.0, 1.0] and costs["examples"].values == [20.0, 10.0]
    assert costs["seconds"].values == [1.0, 0.5] and costs["flops"].values == [6.0, 3.0]


def test_what_never_gets_there_has_none_and_of_a_loss_less_is_better():
    found = find_targets(_records([[0.1, 0.3], [0.2, 0.9], [0.4, 0.2]], LOSS), ("SB", "LB"), LOSS)
    assert found[0].costs["LB"]["update"].values == [1.0, 1.0]
    lost = _records([[0.1, 0.3], [0.2, 0.9], [0.4, 0.9]], diverged=[Diverged(1, 2, None)])
    found = find_targets(lost, ("SB", "LB"), ACCURACY)
    assert found[0].costs["LB"]["update"].values == [None, None]
    assert find_targets({}, ("SB", "LB"), ACCURACY) == []
