"""Tuning: what is tried, where it goes on, and which regimes are one."""

import dataclasses

import numpy as np
import pytest

from gapjax import study
from gapjax.study import _tune
from gapjax.study._axes import Axis, as_axis
from gapjax.study._plan import make_plan, make_plans
from gapjax.study._results._records import Trial, over_seeds
from tests.study.conftest import tiny_study


def _plans(*regimes, **changes):
    own = tiny_study(regimes=("SB", *regimes), tune=3, **changes)
    return own, make_plans(own, own.all_regimes, 64)


def test_a_grid_is_around_the_rule_and_a_union_has_each_rate_once():
    _, plans = _plans("LB", "LB+LR")
    rates = [rate for rate, _ in _tune.first_trials([plans["LB"]])]
    np.testing.assert_allclose(rates, 0.05 * np.array([0.5, 1, 2]))
    both = [rate for rate, _ in _tune.first_trials([plans["LB"], plans["LB+LR"]])]
    np.testing.assert_allclose(both, 0.05 * np.array([0.5, 1, 2, 4]))  # sqrt(4) is 2


def test_regimes_that_differ_only_in_their_rule_are_one():
    _, plans = _plans("LB", "LB+LR", "LB+LINEAR", "LB+GBN", "LB+LR+GBN", "LB+RA")
    assert _tune.one_algorithm(plans, "LB+LINEAR") == ["LB", "LB+LR", "LB+LINEAR"]
    assert _tune.one_algorithm(plans, "LB+GBN") == ["LB+GBN", "LB+LR+GBN"]
    assert _tune.one_algorithm(plans, "LB+RA") == ["LB+RA"]
    assert _tune.one_algorithm(plans, "SB") == ["SB"]


def test_a_remedy_of_ones_own_is_none_of_the_rules_whatever_its_name():
    mine = study.Remedy("LR", "short", optimizer=lambda tx, plan: tx)
    _, plans = _plans("LB", study.Regime("LB+LR", "large", (mine,)))
    assert _tune.one_algorithm(plans, "LB") == ["LB"]


def test_the_longest_is_tuned_on_as_much_as_what_it_controls(monkeypatch):
    own, plans = _plans("LB", "LB+RA", "SB+LONG")
    met = {}

    def stop(setup, plan, *_, **__):
        met[plan.name] = plan.examples
        raise StopIteration

    monkeypatch.setattr(_tune, "train", stop)
    setup = dataclasses.make_dataclass("Setup", ["study"])(own)
    none = {"report": lambda _: None, "keeper": lambda *_: None}
    for name in ("LB+RA", "SB+LONG"):
        with pytest.raises(StopIteration):
            _tune.tune(setup, [plans[name]], np.zeros(51), 0, **none)
    assert met["SB+LONG"] == met["LB+RA"] < plans["SB+LONG"].examples


@pytest.mark.parametrize(
    ("keep", "ends"), [("epochs", False), ("loss=0.1", True), ("plateau", True)]
)
def test_what_only_judges_is_looked_at_where_training_ends(monkeypatch, keep, ends):
    own, plans = _plans("LB", keep=keep)
    met = []

    def stop(*_, watched, **__):
        met.extend(watched)
        raise StopIteration

    monkeypatch.setattr(_tune, "train", stop)
    setup = dataclasses.make_dataclass("Setup", ["study"])(own)
    none = {"report": lambda _: None, "keeper": lambda *_: None}
    with pytest.raises(StopIteration):
        _tune.tune(setup, [plans["LB"]], np.zeros(51), 0, **none)
    train, judge = met
    assert train.at_end and judge.at_end
    assert train.is_due(1) == ends  # where its loss ends training
    assert not judge.is_due(1)


def _judged(monkeypatch, best_rate, **changes):
    """Tune where the validation metric falls with the distance from a rate, in octaves."""
    own, plans = _plans("LB", **changes)
    stages = []

    class Outcome:
        def __init__(self, members):
            self.rates = np.array([m.learning_rate for m in members])

        def final(self, name):
            assert name == "test_accuracy"
            return -np.abs(np.log2(self.rates / best_rate))

    def train(setup, plan, train_split, validation, members, **_):
        stages.append(sorted({m.learning_rate for m in members}))
        return Outcome(members)

    monkeypatch.setattr(_tune, "train", train)
    setup = dataclasses.make_dataclass("Setup", ["study"])(own)
    split = np.zeros((51, 2))
    none = {"report": lambda _: None, "keeper": lambda *_: None}
    return _tune.tune(setup, [plans["LB"]], split, split, **none), stages


def test_a_best_rate_inside_ends_the_search(monkeypatch):
    found, stages = _judged(monkeypatch, 0.05)
    assert found.trials[found.best].learning_rate == pytest.approx(0.05)
    assert len(stages) == 1 and not found.at_edge and found.extended == 0


@pytest.mark.parametrize(
    ("best", "side", "extended"),
    [(0.2, 2.0, 2), (0.0125, 0.5, 2), (1.6, 2.0, 5), (0.0015625, 0.5, 5)],
)
def test_a_grid_goes_on_where_its_best_is_at_the_edge(monkeypatch, best, side, extended):
    """A step past the edge at a time until it finds it, one more: it is no edge any more."""
    found, stages = _judged(monkeypatch, best)
    assert (found.extended, len(stages), found.at_edge) == (extended, extended + 1, False)
    assert found.trials[found.best].learning_rate == pytest.approx(best)
    np.testing.assert_allclose(stages[1], [0.05 * side**2])
    rates = [trial.learning_rate for trial in found.trials]
    assert rates == sorted(rates)


def test_it_ends_somewhere_and_is_marked(monkeypatch):
    found, stages = _judged(monkeypatch, 1e6)
    most = _tune.MOST_EXTENSIONS
    assert len(stages) == 1 + most and found.extended == most and found.at_edge


def test_random_draws_have_no_edge(monkeypatch):
    found, stages = _judged(monkeypatch, 1e6, tune_also=("momentum=0.8:0.99",))
    assert found.best == len(found.trials) - 1 > 0 and len(stages) == 1
    assert not found.at_edge


def test_a_trial_with_a_seed_that_diverged_is_never_best():
    trials = [
        Trial(rate, {}, over_seeds(np.array(values)))
        for rate, values in ((1.0, [0.5, 0.5]), (2.0, [0.9, np.nan]), (3.0, [0.4, 0.4]))
    ]
    assert _tune._choose(trials, True, 0).best == 0
    assert _tune._choose(trials, False, 0).best == 2


@pytest.mark.parametrize(
    ("values", "best", "at_edge"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0], 2, False),
        ([0.9, 0.9, 0.8, 0.7, 0.6], 1, False),
        ([0.6, 0.7, 0.8, 0.9, 0.9], 3, False),
        ([0.9, 0.8, 0.8, 0.8, 0.9], 0, True),
        ([np.nan, np.nan, np.nan], 0, True),
    ],
)
def test_of_trials_that_are_as_good_the_inner_one_is_best(values, best, at_edge):
    for sign, maximize in ((1, True), (-1, False)):
        trials = [
            Trial(2.0**power, {}, over_seeds(np.array([sign * value] * 2)))
            for power, value in enumerate(values)
        ]
        found = _tune._choose(trials, maximize, 0)
        assert (found.best, found.at_edge) == (best, at_edge)


def test_other_axes_are_drawn_alike_for_every_regime():
    axes = ("momentum=0.5:0.99", "weight_decay=1e-5:1e-2", "warmup=0:0.2")
    own, plans = _plans("LB", "LB+GBN", tune_also=axes)
    one, other = (_tune.first_trials([plans[name]]) for name in ("LB", "LB+GBN"))
    assert one == other and len(one) == 3
    rate, hyper = one[0]  # the rule itself is among them
    assert rate == plans["LB"].rate
    assert hyper == {"momentum": 0.9, "weight_decay": 1e-4, "warmup": 0.0}
    for rate, hyper in one[1:]:
        assert 0.025 <= rate <= 0.1 and 0.5 <= hyper["momentum"] <= 0.99
        assert 1e-5 <= hyper["weight_decay"] <= 1e-2 and 0 <= hyper["warmup"] <= 0.2
    lamb = make_plan(own, study.Regime.parse("LB+LAMB"), 64)
    assert set(_tune.rule_hyper(lamb)) == {"weight_decay", "warmup"}  # it has no momentum


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune_also": ("momentum=0.9:0.8",)}, r"tune_also\[0\]=momentum=0.9:0.8 is empty"),
        ({"tune_also": ("momentum=-1:0.8",)}, "must be a finite number of at least 0 and below 1"),
        ({"tune_also": ("weight_decay=nan:1",)}, "must be a finite number of at least 0"),
        ({"tune_also": ("momentun=0:0.8",)}, "Did you mean .momentum"),
        ({"tune_also": ("momentum",)}, r"must be AXIS=LOW:HIGH, .*, not 'momentum'\.$"),
        ({"tune_also": ("momentum=a:b",)}, "must have numbers as its ends"),
        ({"tune_also": (3,)}, "must be AXIS=LOW:HIGH"),
        ({"tune_also": ("b1=0:0.9",)}, "the optimizer has no b1; it has momentum, weight_decay"),
        ({"tune_also": ("warmup=0:1", "warmup=0:0.5")}, "names an axis twice"),
        ({"tune_also": ("warmup=0:1",), "tune": 0}, "say how much with tune=8"),
    ],
)
def test_what_is_no_axis(changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_study(**{"tune": 3, **changes})


def test_draws_span_the_range():
    shares = np.linspace(0, 1, 5)
    for text in ("momentum=0.8:0.99", "weight_decay=1e-6:1e-2", "weight_decay=0:1", "warmup=0:0.3"):
        axis = as_axis("x", text)
        drawn = axis.draw(shares)
        np.testing.assert_allclose(drawn[[0, -1]], [axis.low, axis.high])
        assert (np.diff(drawn) > 0).all()
    np.testing.assert_allclose(Axis("weight_decay", 1e-6, 1e-2).draw(0.5), 1e-4)


def test_two_rules_of_one_algorithm_are_shown_as_one_once_tuned(tmp_path):
    own = tiny_study(
        regimes=("SB", "LB", "LB+LR"),
        tune=2,
        seeds=2,
        epochs=1,
        tune_also=("momentum=0.5:0.95",),
        controls=False,
    )
    result = study.run_study(own, tmp_path / "run")
    base, other = result.regimes["LB"], result.regimes["LB+LR"]
    assert other.same_as == "LB" and other.run == base.run and other.tuning == base.tuning
    assert set(base.run.hyper) == {"momentum"}
    assert other.rule is None or other.rule.learning_rate == pytest.approx(0.1)
    assert all("LB+LR" not in (c.regime, c.baseline) for c in result.gap.comparisons)
    assert "LB+LR" not in result.gap.shares
    assert any("LB+LR and LB differ only in the rule" in note for note in study.notes(result))


def test_the_rule_of_adam_makes_another_algorithm():
    own = tiny_study(regimes=("SB", "LB", "LB+LR"), optimizer="adamw", learning_rate=0.01)
    plans = make_plans(own, own.regimes, 64)
    assert _tune.one_algorithm(plans, "LB+LR") == ["LB+LR"]
    sgd = tiny_study(regimes=("SB", "LB+LR", "LB"))
    plans = make_plans(sgd, sgd.regimes, 64)
    assert _tune.one_algorithm(plans, "LB+LR") == ["LB", "LB+LR"], "an end of the gap comes first"


def test_a_tuned_study_whose_end_is_one_with_another_regime_has_all_its_parts(tmp_path):
    names = ("SB", "LB+LR", "LB", "LB+RA", "LB+LR+RA")
    own = tiny_study(regimes=names, tune=2, seeds=2, epochs=1, controls=False)
    result = study.run_study(own, tmp_path / "run", landscape=True)
    found = study.load_result(tmp_path / "run")
    assert list(result.regimes) == list(found.regimes) == list(names)
    assert {n: r.same_as for n, r in found.regimes.items() if r.same_as} == {
        "LB+LR": "LB",
        "LB+LR+RA": "LB+RA",
    }
    assert found.landscape.between is not None and found.landscape.ratios
    assert study.finding(found) == study.finding(result)
    told = {(c.regime, c.baseline) for c in found.gap.comparisons}
    assert not any("LB+LR" in pair for pair in told)
