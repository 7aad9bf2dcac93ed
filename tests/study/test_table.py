import numpy as np

from gapjax import study
from gapjax.study import _measure, _table


def test_a_row_per_regime_a_cell_per_column(finished):
    _, result, _ = finished
    rows = study.rows(result)
    assert [row[0] for row in rows] == list(result.regimes)
    assert all(len(row) == len(study.COLUMNS) for row in rows)
    assert rows[0][1] == "epochs"


def _result(accuracies, closed=None):
    regimes = {
        name: {
            "batch_size": size,
            "budget": "same epochs",
            "seeds": list(range(len(a))),
            "tuned": None,
            "diverged": [],
            "test_accuracy": _measure.over_seeds(np.array(a)),
            "gap_closed": closed or {"mean": None, "low": None, "high": None},
        }
        for (name, a), size in zip(accuracies.items(), (16, 640, 640), strict=False)
    }
    return study.StudyResult({}, regimes, {})


def test_finding_says_the_gap_and_the_best_remedy():
    accuracies = {"SB": [0.98, 0.99], "LB": [0.94, 0.95], "LB+LR": [0.97, 0.98]}
    text = study.finding(_result(accuracies, {"mean": 0.75, "low": 0.6, "high": 0.9}))
    assert "falls by 4.00 points (standard error 0.71, 2 seeds)" in text
    assert "LB+LR closes 75% of the gap (95% interval 60% to 90%)" in text


def test_finding_claims_no_gap_within_two_standard_errors():
    accuracies = {"SB": [0.95, 0.97], "LB": [0.94, 0.96], "LB+LR": [0.97, 0.98]}
    text = study.finding(_result(accuracies, {"mean": 0.75, "low": 0.6, "high": 0.9}))
    assert "within two standard errors" in text and "closes" not in text

    assert _table.closed(_result(accuracies)) == {"LB+LR": "no clear gap"}
    assert "no clear gap: SB is not above LB" in study.notes(_result(accuracies))[1]


def test_a_large_batch_that_is_better_leaves_no_gap_to_close():
    accuracies = {"SB": [0.90, 0.91], "LB": [0.96, 0.97], "LB+LR": [0.95, 0.98]}
    result = _result(accuracies, {"mean": -0.1, "low": -0.2, "high": 0.1})
    assert study.finding(result).endswith("There is no gap to close.")
    assert _table.closed(result) == {"LB+LR": "no clear gap"} and not _table.shares(result)


def test_means_that_do_not_exist():
    assert _table.plus_minus({"mean": None, "std": None}, 2) == "diverged"
    result = _result({"SB": [0.98, 0.99], "LB": [0.94, 0.95], "LB+LR": [0.97, 0.98]})
    assert _table.closed(result) == {"LB+LR": "too few seeds"}  # a share that is not there
    assert "too few seeds: an interval takes two" in study.notes(result)[1]


def test_without_remedies_nothing_is_said_about_shares():
    result = _result({"SB": [0.98, 0.99], "LB": [0.94, 0.95]})
    assert _table.closed(result) == {}
    assert "gap closed" not in " ".join(study.notes(result))


def test_one_seed_has_no_error_bar():
    result = _result({"SB": [0.98], "LB": [0.94], "LB+LR": [0.97]})
    assert "4.00 points (one seed" in study.finding(result)
    assert "standard error" not in study.finding(result)
    assert "±" not in " ".join(study.notes(result))
    assert _table.plus_minus(result.regimes["SB"]["test_accuracy"], 2, 100) == "98.00"
