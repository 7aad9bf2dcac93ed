"""Records go to JSON and back; what is no record is named by its field."""

import json
import math

import numpy as np
import pytest

from gapjax.study._results._records import (
    Curves,
    OverSeeds,
    RegimeRecord,
    dumps,
    from_plain,
    over_seeds,
    to_plain,
)


def test_over_seeds_is_the_sample_mean_and_deviation():
    values = np.array([1.0, 2.0, 4.0])
    found = over_seeds(values)
    assert found == OverSeeds(values.mean(), values.std(ddof=1), [1.0, 2.0, 4.0])
    assert (found.array == values).all() and found.count == 3


def test_a_curve_that_is_not_there_is_named_with_those_that_are():
    curves = Curves([0, 1], [0, 16], [0.0, 1.0], {"distance": [[0.0], [1.0]]})
    assert curves.array("distance").shape == (2, 1)
    with pytest.raises(
        ValueError, match=r"must be one of 'distance', not 'distanse'\. Did you mean"
    ):
        curves.array("distanse")


def test_seeds_that_diverged_count_in_nothing():
    assert over_seeds(np.array([np.nan, 2.0])) == OverSeeds(2.0, 0.0, [None, 2.0])
    assert over_seeds(np.array([np.inf])) == OverSeeds(None, None, [None])


def test_plain_values_are_exact_and_know_no_nan():
    value = {"a": np.float64(0.1), "b": [np.int64(3), math.nan, math.inf], "c": np.eye(2)}
    assert json.loads(dumps(value)) == {
        "a": 0.1,
        "b": [3, None, None],
        "c": [[1.0, 0.0], [0.0, 1.0]],
    }


def test_a_record_comes_back_as_it_was(finished):
    _, result, _ = finished
    for record in result.regimes.values():
        assert from_plain(json.loads(dumps(record)), RegimeRecord) == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("updates"), "its top level: object missing .*updates"),
        (lambda r: r.update(updates="many"), "updates: expected `int`, got `str`"),
        (
            lambda r: r["run"]["values"]["test_loss"].update(mean=[1]),
            r"run.values\[...\].mean: exp",
        ),
        (lambda r: r["run"].update(diverged={}), "run.diverged: expected `array`"),
        (lambda r: r.update(curves=None), "curves: expected `object`, got `null`"),
    ],
)
def test_what_is_no_record_is_named_by_its_field(change, message, finished):
    _, result, _ = finished
    plain = to_plain(result.regimes["LB"])
    change(plain)
    with pytest.raises(ValueError, match=message) as found:
        from_plain(plain, RegimeRecord)
    assert "\n" not in str(found.value)


def test_curves_know_where_something_was_measured():
    curves = Curves([1, 2, 4], [8, 16, 32], [0.1, 0.2, 0.4], {"a": [[1.0], [None], [3.0]]})
    rows, values = curves.measured("a")
    assert rows.tolist() == [0, 2] and values.tolist() == [[1.0], [3.0]]


def test_numbers_that_do_not_belong_together_are_no_record(finished):
    _, result, _ = finished
    for change, said in (
        (lambda r: r["run"]["values"]["test_loss"]["values"].pop(), "test_loss has 2 values for 3"),
        (lambda r: r["curves"]["seconds"].pop(), "curves: seconds has"),
        (lambda r: r["curves"]["values"]["distance"][0].pop(), "distance has rows of other"),
        (lambda r: [row.clear() for row in r["curves"]["values"]["distance"]], "rows of other"),
        (lambda r: r["curves"]["values"].pop("distance"), "there is no distance"),
        (lambda r: r["batch_sizes"].clear(), "must not be empty"),
        (lambda r: r.update(stopped=[1]), "stopped has 1 values for 3"),
    ):
        plain = to_plain(result.regimes["LB"])
        change(plain)
        with pytest.raises(ValueError, match=said):
            from_plain(plain, RegimeRecord)
