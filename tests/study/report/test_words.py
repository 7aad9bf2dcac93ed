"""Sentences say what the numbers say, and no more."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from gapjax import study
from gapjax.study._findings._gap import of_run
from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._result import find_all, results_json
from gapjax.study._report._figures._list import figures_of
from gapjax.study._report._numbers import interval, plus_minus, share
from gapjax.study._report._table import closed, digits, measured, notes
from gapjax.study._results._records import (
    Config,
    Curves,
    Diverged,
    RegimeRecord,
    Run,
    TaskFacts,
    over_seeds,
)

ACCURACY = TaskFacts("classification", "accuracy", True, ["loss", "accuracy"], ["accuracy"], False)
LOSS = TaskFacts("regression", "loss", False, ["loss"], [], False)


def made(tables, task=ACCURACY, factor=1, baseline=("SB", "LB")):
    """A result of which every example of every seed is given, [S, n] by regime."""
    records, examples = {}, {}
    for name, table in tables.items():
        table = np.atleast_2d(np.asarray(table, float))
        values = {
            f"{split}_{measure}": over_seeds(table.mean(1))
            for split in ("train", "test")
            for measure in task.measures
        } | {"distance": over_seeds(np.ones(len(table)))}
        run = Run(0.1, {}, values, over_seeds(np.zeros(len(table))), [])
        batch = 16 if name.startswith("SB") else 640
        records[name] = RegimeRecord(
            name=name,
            remedies=name.split("+")[1:],
            batch_size=batch,
            batch_sizes=[(0, batch)],
            ghost_size=None,
            updates=10,
            epochs=1.0,
            examples=160 * (factor if "+" in name else 1),
            seconds=1.0,
            budget="same epochs",
            boundaries=[],
            seeds=list(range(len(table))),
            run=run,
            rule=None,
            tuning=None,
            curves=Curves(
                [1],
                [16],
                [0.1],
                {
                    "distance": [[1.0] * len(table)],
                    f"test_{task.headline}": [table.mean(1).tolist()],
                },
                [1e6],
            ),
        )
        examples[name] = {task.headline: table, "weight": np.ones(table.shape[1])}
    config = Config(
        {
            "baseline": list(baseline),
            "dataset": {"name": "made", "normalize": None},
            "validation": 0.2,
            "regimes": [{"name": name} for name in tables],
        },
        task,
        {},
    )
    return find_all(config, records, examples)


def _draws(mean, seeds=4, spread=0.01, key=0):
    rng = np.random.default_rng([key, int(1e6 * abs(mean))])
    return mean + spread * rng.normal(size=(seeds, 1)) + 0.05 * rng.normal(size=(seeds, 400))


def test_the_gap_and_what_closes_it():
    result = made({"SB": _draws(0.98), "LB": _draws(0.90), "LB+LR": _draws(0.96)}, factor=40)
    text = study.finding(result)
    assert text.startswith(
        "From batch 16 to batch 640, same epochs (160 examples, 10 updates), test accuracy falls "
    )
    gap = result.gap.gap
    assert f"{100 * gap.mean:.2f} points (95% interval {100 * gap.low:.2f} to" in text
    assert f"LB+LR {share(result.gap.shares['LB+LR'])}% at 40 times the examples" in text
    assert "best" not in text


def test_notes_tell_of_the_budgets_that_are_there():
    result = made({"SB": _draws(0.95), "LB": _draws(0.90)})
    (said,) = (line for line in notes(result) if line.startswith("held fixed against the small"))
    assert "epochs (as many" in said and "updates (" not in said and "most examples" not in said
    more = dataclasses.replace(result.regimes["LB"], budget="same updates")
    result = dataclasses.replace(result, regimes={**result.regimes, "LB": more})
    (said,) = (line for line in notes(result) if line.startswith("held fixed against the small"))
    assert said.index("epochs (") < said.index("updates (as many")


@pytest.mark.parametrize(
    ("task", "said"), [(ACCURACY, "test accuracy, in points."), (LOSS, "against test loss.")]
)
def test_notes_tell_the_unit_of_the_gap_where_it_has_one(task, said):
    assert said in notes(made({"SB": _draws(0.95), "LB": _draws(0.90)}, task))[0]


def test_notes_tell_the_optimizer_with_what_was_left_to_it():
    result = made({"SB": _draws(0.95), "LB": _draws(0.90)})
    asked = {"optimizer": "sgd", "clip_norm": 5.0, "momentum": 0.95, "weight_decay": None}
    asked |= dict.fromkeys(("b1", "b2", "eps"))

    def said(study):
        config = dataclasses.replace(result.config, study=result.config.study | study)
        return [n for n in notes(dataclasses.replace(result, config=config)) if "Optimizer" in n]

    (note,) = said(asked)
    assert "sgd (momentum 0.95, weight_decay 0.0001), gradients clipped to a norm of 5." in note
    (note,) = said(asked | {"optimizer": "adam", "momentum": None, "clip_norm": None})
    assert note.endswith("adam (b1 0.9, b2 0.999, eps 1e-08).")
    assert not said(asked | {"optimizer": "<lambda> [0123456789abcdef]"})


def test_small_losses_are_told_by_their_powers():
    small = dataclasses.replace(LOSS, headline="loss")
    run = Run(
        0.1, {}, {"test_loss": over_seeds(np.array([1e-5, 2e-5]))}, over_seeds(np.zeros(2)), []
    )
    assert measured(small, run, "test", "loss") == "1.5e-5 ± 7.1e-6"


def test_what_all_but_diverged_is_told_by_its_power():
    values = {"test_loss": over_seeds(np.array([3.2e18, 1e18]))}
    run = Run(0.1, {}, values, over_seeds(np.zeros(2)), [])
    assert measured(LOSS, run, "test", "loss") == "2.1e18 ± 1.6e18"


def test_what_saw_more_stands_beside_a_small_batch_that_did():
    tables = {"SB": _draws(0.95), "LB": _draws(0.90), "LB+RA": _draws(0.95, key=1)}
    result = made({**tables, "SB+LONG": _draws(0.99)}, factor=40)
    assert result.gap.control == "SB+LONG"
    one = result.gap.beside("LB+RA", "SB+LONG")
    low, high = -100 * one.difference.high, -100 * one.difference.low
    text = study.finding(result)
    assert "SB with as many examples, SB+LONG (6,400 examples, 10 updates)" in text
    said = f"ends +{-100 * one.difference.mean:.2f} [{low:.2f}, {high:.2f}] points from LB+RA."
    assert said in text
    assert "SB+LONG 1" not in text  # a control is no remedy
    alike = study.finding(made({**tables, "SB+LONG": _draws(0.95, key=2)}, factor=40))
    assert "points from LB+RA (not resolved, all comparisons counted)." in alike
    assert made(tables, factor=40).gap.control is None


def test_a_control_that_saw_more_is_not_said_to_see_as_much():
    tables = {"SB": _draws(0.95), "LB": _draws(0.90), "160+RA": _draws(0.95, key=1)}
    result = made({**tables, "SB+LONG": _draws(0.99)}, factor=40)
    less = dataclasses.replace(result.regimes["160+RA"], examples=1600)
    result = dataclasses.replace(result, regimes={**result.regimes, "160+RA": less})
    assert "points from 160+RA (which saw 4 times fewer)." in study.finding(result)


def test_what_is_evaluated_at_other_weights_has_statistics_of_its_own():
    result = made({"SB": _draws(0.95), "LB": _draws(0.90), "LB+EMA": _draws(0.92)})
    (said,) = (line for line in notes(result) if line.startswith("LB+EMA: evaluated at other"))
    assert "statistics of batch norms taken anew" in said
    assert not any("taken anew" in line for line in notes(made({"SB": [[1.0, 1.0]]})))


def test_shares_without_simultaneous_bounds_are_drawn_across():
    from matplotlib.figure import Figure

    result = made({"SB": _draws(0.98), "LB": _draws(0.90), "LB+LR": _draws(0.95, key=1)})
    open_ended = {**result.gap.simultaneous, "LB+LR": Interval(0.6)}
    gap = dataclasses.replace(result.gap, simultaneous=open_ended)
    axis = Figure().add_subplot()
    study.plot_gap_closed(dataclasses.replace(result, gap=gap), axis)
    (line,) = (one for one in axis.lines if one.get_label().endswith("no bound"))
    assert line.get_transform() == axis.get_yaxis_transform() and list(line.get_xdata()) == [0, 1]


def test_a_result_is_told_in_one_line():
    result = made({"SB": _draws(0.98), "LB": _draws(0.90)})
    gap = result.gap.gap
    told = f"{gap.mean:.4g} [{gap.low:.4g}, {gap.high:.4g}]"
    assert repr(result) == f"StudyResult(SB, LB; test accuracy, SB - LB: {told})"


def test_what_is_not_told_from_the_large_batch_is_said():
    tables = {"SB": _draws(0.98), "LB": _draws(0.9), "LB+LR": _draws(0.901), "LB+A": _draws(0.96)}
    assert "Not significantly different from LB, all comparisons counted: LB+LR." in study.finding(
        made(tables)
    )


def test_no_gap_is_claimed_that_is_not_told_from_chance():
    result = made({"SB": _draws(0.951), "LB": _draws(0.950), "LB+LR": _draws(0.96)})
    text = study.finding(result)
    assert "That is not statistically significant." in text and "closed" not in text
    assert f"Beside LB, at the rates of the rules, with 95% intervals: {_beside(result)}" in text
    assert closed(result) == {"LB+LR": "no clear gap"}
    assert any("SB and LB do not differ significantly" in note for note in study.notes(result))


def _beside(result):
    one = result.gap.beside("LB+LR", "LB").difference
    mean, low, high = (100 * end for end in (one.mean, one.low, one.high))
    return f"LB+LR {mean:+.2f} [{low:.2f}, {high:.2f}] points"


def test_a_large_batch_that_is_better_leaves_no_gap_to_close():
    from matplotlib.figure import Figure

    tables = {"SB": _draws(0.90), "LB": _draws(0.96), "LB+LR": _draws(0.99)}
    result = made(tables)
    text = study.finding(result)
    assert "rises by" in text and "no gap to close: LB ends better than SB." in text
    assert f"Beside LB, at the rates of the rules, with 95% intervals: {_beside(result)}." in text
    assert closed(result) == {"LB+LR": "no gap"}
    said = " ".join(study.notes(result))
    assert (
        "LB ends better than SB: there is no gap to close" in said
        and "do not differ significantly" not in said
    )
    # No other door tells a share.
    empty = {"mean": None, "low": None, "high": None}
    assert {r["gap_closed"] and tuple(r["gap_closed"].values()) for r in _json(result)} == {
        tuple(empty.values())
    }
    rows = csv.DictReader(io.StringIO(study.format_table(result, "csv")))
    assert {row[f"gap_closed_{end}"] for row in rows for end in empty} == {""}
    assert not {"closed", "travelled"} & {figure.name for figure in figures_of(result, "gap")}
    study.plot_gap_closed(result, axis := Figure().add_subplot())
    assert not axis.lines


def _json(result):
    return results_json(result, "")["regimes"].values()


def test_no_gap_to_close_follows_from_the_interval_and_not_from_the_mean():
    result = made({"SB": _draws(0.950), "LB": _draws(0.951), "LB+LR": _draws(0.96)})
    gap = result.gap.gap
    assert gap.mean < 0 < gap.high
    text = study.finding(result)
    assert "That is not statistically significant." in text and "no gap to close" not in text
    assert closed(result) == {"LB+LR": "no clear gap"}
    assert all(r["gap_closed"]["mean"] is None for r in _json(result))


def test_of_a_loss_a_large_batch_that_ends_below_is_better():
    result = made({"SB": _draws(0.9), "LB": _draws(0.5), "LB+A": _draws(0.4)}, LOSS)
    text = study.finding(result)
    assert "no gap to close: LB ends better than SB. Beside LB" in text
    assert "LB+A -0." in text and "points" not in text


def test_a_batch_that_grows_is_not_told_as_its_largest():
    result = made({"SB": _draws(0.98), "GROW": _draws(0.9)}, baseline=("SB", "GROW"))
    grown = dataclasses.replace(result.regimes["GROW"], batch_sizes=[(0, 16), (4, 64), (7, 640)])
    result = dataclasses.replace(result, regimes={**result.regimes, "GROW": grown})
    assert study.finding(result).startswith("From batch 16 to GROW (batch 16→64→640), same epochs")
    rows = csv.DictReader(io.StringIO(study.format_table(result, "csv")))
    assert [(r["first_batch_size"], r["batch_size"]) for r in rows] == [("16", "16"), ("16", "640")]


@pytest.mark.parametrize(
    ("small", "large", "said"),
    [
        # The budget of a regime is against the small batch of the study, whatever the ends are.
        (("same epochs", 10, 1280), ("same updates", 80, 10240), "LB+RA (1,280 and"),
        (("same epochs", 80, 1280), ("same updates", 80, 10240), "LB+RA, same updates (1,280"),
        (("same updates", 80, 10240), ("same epochs", 80, 1280), "LB+RA, same updates (10,240"),
        (("most examples", 80, 1280), ("same epochs", 10, 1280), "LB+RA, same epochs (1,280"),
        (("same loss", 80, 1280), ("same loss", 9, 1152), "LB+RA, same loss (1,280 and"),
    ],
)
def test_what_both_ends_have_in_common_is_told_and_nothing_else(small, large, said):
    result = made({"LB": _draws(0.98), "LB+RA": _draws(0.9)}, baseline=("LB", "LB+RA"))
    records = {
        name: dataclasses.replace(record, budget=budget, updates=updates, examples=examples)
        for (name, record), (budget, updates, examples) in zip(
            result.regimes.items(), (small, large), strict=True
        )
    }
    assert said in study.finding(dataclasses.replace(result, regimes=records))


def test_of_a_loss_more_is_worse():
    result = made({"SB": _draws(0.5), "LB": _draws(0.9), "LB+LR": _draws(0.6)}, LOSS)
    text = study.finding(result)
    assert "test loss rises by 0." in text and "points" not in text
    assert 60 < 100 * result.gap.shares["LB+LR"].mean < 90


def test_one_seed_has_no_interval():
    result = made({"SB": _draws(0.98, 1), "LB": _draws(0.94, 1), "LB+LR": _draws(0.97, 1)})
    assert "(one seed: no confidence interval)" in study.finding(result)
    assert "±" not in " ".join(study.notes(result))
    assert closed(result) == {"LB+LR": "too few seeds"}
    assert any("too few seeds: an interval takes two" in note for note in study.notes(result))
    assert plus_minus(result.regimes["SB"].run.values["test_accuracy"], 2, 100).count("±") == 0


@pytest.mark.parametrize(("missing", "said"), [("SB", "SB was not"), ("LB", "LB was not")])
def test_an_end_that_is_missing_is_named(missing, said):
    tables = {"SB": _draws(0.98), "LB": _draws(0.90), "LB+LR": _draws(0.96)}
    tables.pop(missing)
    assert study.finding(made(tables)).startswith(said)


def test_numbers_for_people():
    assert plus_minus(study.OverSeeds(None, None, [None]), 2) == "diverged"
    assert interval(study.Interval(0.5), 2) == "0.50 [no bound]"
    assert interval(study.Interval(None), 2) == "–"
    assert share(study.Interval(-1e-4, -0.02, 0.001)) == "0 [-2, 0]"


def _diverging(result, lost):
    """The same where seeds of some regimes diverged."""
    records = {
        name: dataclasses.replace(
            record,
            run=dataclasses.replace(
                record.run, diverged=[Diverged(seed, 1, "loss") for seed in lost.get(name, ())]
            ),
        )
        for name, record in result.regimes.items()
    }
    tables = {"SB": _draws(0.98), "LB": _draws(0.90)}
    examples = {n: {"accuracy": t, "weight": np.ones(400)} for n, t in tables.items()}
    return find_all(result.config, records, examples)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({"LB": [0, 1]}, "over the 2 of 4 seeds that went through in both and the test examples"),
        ({"LB": [0, 1], "SB": [2]}, "(the 1 of 4 seeds that went through in both: no confidence"),
        ({"LB": [0, 1], "SB": [2, 3]}, "No seed went through in both SB and LB"),
        ({"LB": [0, 1, 2, 3]}, "LB diverged in every seed: there is no gap"),
    ],
)
def test_seeds_that_diverged_are_not_counted(lost, said):
    result = made({"SB": _draws(0.98), "LB": _draws(0.90)})
    assert said in study.finding(_diverging(result, lost))


def test_ends_of_one_batch_go_by_their_names():
    result = made({"LB": _draws(0.98), "LB+MINE": _draws(0.90)}, baseline=("LB", "LB+MINE"))
    assert study.finding(result).startswith("From LB to LB+MINE, ")


def test_small_numbers_have_digits_that_count():
    result = made({"SB": _draws(0.003, spread=1e-4) * 1e-2, "LB": _draws(0.9) * 1e-3}, LOSS)
    assert "rises by 0.000" in study.finding(result)
    amount = study.finding(result).split("rises by ")[1].split()[0]
    assert len(amount.lstrip("0.")) >= 3
    assert digits(LOSS, "loss", 0.00123) == 5 and digits(LOSS, "loss", 12.0) == 3
    assert digits(LOSS, "loss", None) == digits(LOSS, "loss", 0.0) == 3
    assert digits(ACCURACY, "accuracy", 0.001) == 2


def test_what_an_example_of_no_weight_gave_is_not_looked_at():
    table = _draws(0.9)
    weight = np.ones(400)
    weight[:3], spoiled = 0, table.copy()
    spoiled[:, :3] = np.nan
    record = made({"SB": table}).regimes["SB"]
    found = of_run({"accuracy": spoiled, "weight": weight}, "accuracy", "run", record)
    assert np.isfinite(found).all() and (found[:, 3:] == table[:, 3:]).all()
