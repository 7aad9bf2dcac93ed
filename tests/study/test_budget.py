"""Budgets of the loss: when training stops, and that it stops there."""

import dataclasses

import numpy as np
import pytest

from gapjax import data, models, study
from gapjax.study._budget import Budget, is_flat, parse_keep
from gapjax.study._plan import make_plan
from tests.study.conftest import tiny_study


def test_budgets_by_their_text():
    assert parse_keep("keep", "loss=1e-2") == Budget("loss", 0.01)
    assert parse_keep("keep", "plateau").stops and not parse_keep("keep", "updates").stops
    assert Budget("loss", 0.01).said == "same training loss (0.01)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": "loss"}, "keep must be one of epochs, updates, plateau or loss=NUMBER"),
        ({"keep": "loss=low"}, "keep must be loss=NUMBER, such as loss=0.01, not 'loss=low'"),
        ({"keep": "loss=-1"}, "keep=loss must be a finite number above 0, not -1.0"),
        ({"keep": "loss=nan"}, "keep=loss must be a finite number above 0"),
        ({"keep": "loss"}, r"such as loss=0.01\), not 'loss'\.$"),
        ({"keep": "None"}, r"not 'None'\.$"),
        ({"keep": "epoch"}, "not 'epoch'. Did you mean 'epochs'"),
        ({"keep": 3}, "not 3"),
        ({"keep": "longest"}, "keep cannot be 'longest' for all regimes"),
        ({"keep": "loss=0.1", "schedule": "cosine"}, "ends at a rate of 0 after 4 epochs"),
        (
            {"keep": "plateau", "maximum": 2.0, "plateau_epochs": 8.0},
            "keep='plateau' stops after plateau_epochs=8 without improvement, and training ends "
            r"after 8 epochs \(maximum times epochs\) in any case: use fewer plateau_epochs",
        ),
        ({"maximum": 0.5}, "maximum must be a finite number of at least 1"),
        ({"plateau_factor": 1.0}, "plateau_factor must be a finite number above 0 and below 1"),
    ],
)
def test_what_is_no_budget(changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_study(**changes)


def test_flat_is_against_the_best_of_a_while_ago():
    rng = np.random.default_rng(0)
    losses, examples = rng.uniform(size=(30, 4)), np.cumsum(rng.integers(1, 9, 30))
    found = is_flat(losses, examples, 0.9, 12)
    for t in range(30):
        then = np.flatnonzero(examples <= examples[t] - 12)
        for p in range(4):
            wanted = bool(then.size) and losses[: t + 1, p].min() > 0.9 * losses[then, p].min()
            assert found[t, p] == wanted


@pytest.mark.parametrize(
    ("losses", "flat"),
    [
        ([-1.0, -1.0, -1.0, -1.0], [False, False, True, True]),
        ([0.0, 0.0, 0.0, 0.0], [False, False, True, True]),
        ([-1.0, -1.2, -1.4, -1.6], [False] * 4),
        ([-1.0, -1.005, -1.009, -1.2], [False, False, True, False]),
        ([1.0, 0.0, -1.0, -1.0], [False, False, False, False]),
    ],
)
def test_a_loss_may_be_negative_or_zero(losses, flat):
    examples = np.array([10, 20, 30, 40])
    assert is_flat(np.array(losses)[:, None], examples, 0.99, 20)[:, 0].tolist() == flat


def test_the_maximum_bounds_a_plan_and_its_schedule_stays():
    one = make_plan(tiny_study(), study.Regime.parse("LB"), 64)
    own = make_plan(tiny_study(keep="plateau", maximum=3), study.Regime.parse("LB"), 64)
    assert own.updates == 3 * one.updates and own.boundaries == one.boundaries
    mixed = make_plan(tiny_study(), study.Regime.parse("LB+PLATEAU"), 64)
    assert mixed.stopping is not None and mixed.budget.kind == "plateau"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """One batch gets to the level, in some evaluation or other; the other never does."""
    own = tiny_study(
        regimes=("8", "64"),
        baseline=("8", "64"),
        keep="loss=0.75",
        epochs=2,
        maximum=4,
        controls=False,
        schedule="constant",
    )
    return own, study.run_study(own, tmp_path_factory.mktemp("stopped") / "run")


@pytest.mark.slow
def test_seeds_stop_where_their_loss_does(stopped):
    own, result = stopped
    for record in result.regimes.values():
        curves = record.curves
        rows, losses = curves.measured("train_loss")
        for place, stop in enumerate(record.stopped):
            below = np.flatnonzero(losses[:, place] <= 0.75)
            assert (stop is None) == (not below.size)
            if stop is None:
                most = make_plan(own, study.Regime.parse(record.name), 64).updates
                assert curves.update[-1] == record.updates == most
                continue
            row = rows[below[0]]
            assert stop == curves.update[row]
            # From there on nothing changes, to the last result.
            for name in ("train_loss", "test_loss", "distance"):
                at = curves.array(name)[row:, place]
                np.testing.assert_array_equal(at[np.isfinite(at)], at[0])
                assert record.run.values[name].values[place] == at[0]


@pytest.mark.slow
def test_what_stopped_and_what_never_did_is_said(stopped):
    _, result = stopped
    assert any(result.regimes["8"].stopped) and result.regimes["64"].stopped == [None] * 3
    notes = " ".join(study.notes(result))
    assert "8, same training loss (0.75): 3 of 3 seeds stopped at update" in notes
    assert "3 never got there within the maximum of 8 updates, and are shown as they were" in notes
    assert "(never in 3 of 3)" in study.rows(result)[1][3]
    assert "never got there within the stated maximum: 64." in study.finding(result)


@pytest.mark.slow
def test_seeds_that_diverge_between_two_evaluations_are_evaluated(tmp_path):
    x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    table, test = ({"x": x[:n], "y": x[:n, 0]} for n in (256, 64))
    for rate in (1.0, 3.0):
        own = tiny_study(
            dataset=data.Dataset(table, test),
            model=models.MLP((), 1),
            task="regression",
            regimes=("LB", "SB"),
            keep="loss=1e-9",
            schedule="constant",
            seeds=2,
            evaluations=4,
            maximum=8.0,
            large_batch=64,
            controls=False,
            learning_rate=rate,
            clip_norm=None,
        )
        result = study.run_study(own, tmp_path / str(rate))
        for name, record in result.regimes.items():
            plan = make_plan(own, study.Regime.parse(name), 256)
            assert record.updates == record.curves.update[-1] in plan.evaluations
    assert len(result.regimes["SB"].run.diverged) == 2


@pytest.mark.slow
def test_what_a_tuned_regime_took_is_what_its_own_seeds_took(tmp_path):
    own = tiny_study(
        regimes=("SB", "LB"),
        keep="loss=0.8",
        tune=3,
        schedule="constant",
        evaluations=6,
        maximum=6.0,
        learning_rate=0.002,
        controls=False,
    )
    result = study.run_study(own, tmp_path / "run")
    untuned = study.run_study(dataclasses.replace(own, tune=0), tmp_path / "rule")
    columns = {c.title: i for i, c in enumerate(study.columns(result))}
    told = [columns[title] for title in ("held fixed", "batch", "updates", "examples", "rate")]
    rows = zip(study.rows(result, "rule"), study.rows(untuned), strict=True)
    assert all([row[i] for i in told] == [wanted[i] for i in told] for row, wanted in rows)
    assert any(record.updates != record.at("rule").updates for record in result.regimes.values())
    for name, record in result.regimes.items():
        assert record.curves.update[-1] == record.updates
        by_rule, wanted = record.at("rule"), untuned.regimes[name]
        assert by_rule.tuning is None and by_rule.rule is None and record.rule is not None
        for what in ("updates", "examples", "epochs", "stopped", "batch_sizes", "boundaries"):
            assert getattr(by_rule, what) == getattr(wanted, what), what
        for curve in ("test_loss", "distance"):
            np.testing.assert_allclose(
                by_rule.curves.array(curve), wanted.curves.array(curve), rtol=1e-5
            )
        assert by_rule.curves.flops == pytest.approx(wanted.curves.flops, rel=0.05)
        if all(record.stopped):
            assert record.updates == max(record.stopped)
    assert any(all(record.stopped) for record in result.regimes.values())
