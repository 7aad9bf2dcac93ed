from gapjax import study
from gapjax.study import _table


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
            "seeds": [0, 1],
            "tuned": None,
            "diverged": [],
            "test_accuracy": {"mean": sum(a) / 2, "std": abs(a[0] - a[1]) / 2**0.5, "values": a},
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


def test_intervals_that_do_not_exist():
    assert _table.interval({"mean": None, "low": None, "high": None}) == "no gap to close"
    assert _table.plus_minus({"mean": None, "std": None}, 2) == "diverged"


def test_one_seed_has_no_error_bar():
    result = _result({"SB": [0.98, 0.99], "LB": [0.94, 0.95]})
    for regime in result.regimes.values():
        regime["seeds"] = [0]
    assert "one seed" in study.finding(result) and "standard error" not in study.finding(result)
