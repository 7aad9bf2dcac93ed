"""Budgets, boundaries and growth of every regime, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.study import Regime, Study, make_plan
from gapjax.study._plan import make_plans

STUDY = Study()
NAMES = ["SB", "LB", "LB+LR", "LB+LR+GBN", "LB+LR+GBN+RA", "GROW", "HYBRID", "160+LINEAR+WARMUP"]


def _plan(name, study=STUDY, examples=1280):
    return make_plan(study, Regime.parse(name), examples)


@pytest.mark.parametrize(
    ("name", "batch", "updates", "epochs", "rate", "boundaries"),
    [
        ("SB", 16, 1600, 20, 0.05, (800, 1200)),
        ("LB", 640, 40, 20, 0.05, (20, 30)),
        ("LB+LR", 640, 40, 20, 0.05 * 40**0.5, (20, 30)),
        ("LB+LR+GBN+RA", 640, 1600, 800, 0.05 * 40**0.5, (800, 1200)),
        ("32+LINEAR", 32, 800, 20, 0.1, (400, 600)),
    ],
)
def test_budgets_of_the_default_preset(name, batch, updates, epochs, rate, boundaries):
    plan = _plan(name)
    assert (plan.batch_size, plan.updates, plan.epochs) == (batch, updates, epochs)
    assert (plan.boundaries, plan.examples) == (boundaries, updates * batch)
    np.testing.assert_allclose(plan.rate, rate, rtol=1e-6)
    schedule = plan.schedule()
    drops = [u for u in range(1, updates) if schedule(u) < 0.5 * schedule(u - 1)]
    assert tuple(drops) == boundaries
    np.testing.assert_allclose(schedule(updates - 1), rate * 0.01, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_schedules_are_adapted_by_epochs_or_by_updates(schedule):
    study = Study(schedule=schedule)
    small = _plan("SB", study).schedule()
    large, same = _plan("LB", study).schedule(), _plan("LB+RA", study).schedule()
    for update in (0, 7, 39):
        np.testing.assert_allclose(large(update), small(40 * update), rtol=1e-6)
        np.testing.assert_allclose(same(update), small(update), rtol=1e-6)


def test_the_budget_may_be_updates_for_all():
    study = Study(keep="updates")
    assert _plan("LB", study).updates == _plan("SB", study).updates == 1600
    assert _plan("LB", study).budget == "same updates"


def test_warm_up_counts_the_updates_of_the_regime():
    study = Study(warmup=0.25)
    schedule = _plan("LB", study).schedule()
    rates = [float(schedule(u)) for u in range(20)]
    np.testing.assert_allclose(rates, 0.05 * np.minimum(1, np.arange(1, 21) / 10), rtol=1e-6)
    other = _plan("LB", study).schedule(0.5)
    np.testing.assert_allclose(other(9), 0.025, rtol=1e-6)


def test_what_does_not_fit_the_data():
    with pytest.raises(ValueError, match="regime LB: a batch of 640 is larger than the 600"):
        _plan("LB", examples=600)
    with pytest.raises(ValueError, match="multiple of ghost_size=48: use 32 or 40 or 64"):
        _plan("LB+LR+GBN", Study(ghost_size=48))
    with pytest.raises(ValueError, match="regime GROW: a batch of 640 is larger"):
        _plan("GROW", examples=600)
    with pytest.raises(ValueError, match=r"regime GROW\+GBN: a batch of 16 is not a multiple"):
        _plan("GROW+GBN", Study(ghost_size=32))
    with pytest.raises(ValueError, match="schedule='cosine' has no drops"):
        _plan("GROW", Study(schedule="cosine"))


@settings(max_examples=25, deadline=None)
@given(st.integers(700, 5000), st.floats(0.1, 30), st.sampled_from(NAMES))
def test_marks_end_with_an_evaluation_of_the_last_update(examples, epochs, name):
    plan = _plan(name, Study(epochs=epochs), examples)
    assert plan.marks[-1] == plan.updates
    assert plan.updates in plan.evaluations
    assert plan.evaluations <= set(plan.marks)
    assert plan.examples >= epochs * examples - 1e-6


def test_growth_takes_the_place_of_decay_at_the_same_epochs():
    plan = _plan("GROW")
    # 10 epochs by 16, 5 epochs by 160, 5 by 640 where the rate makes up for the missing growth
    assert plan.batch_sizes.boundaries == (800, 840)
    assert plan.batch_sizes.values == (16, 160, 640)
    assert (plan.updates, plan.epochs, plan.batch_size) == (850, 20, 640)
    rates = [float(plan.schedule()(u)) for u in (0, 799, 800, 840, 849)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.05, 0.02, 0.02], rtol=1e-5)


def test_hybrid_grows_first_and_decays_then():
    plan = _plan("HYBRID")
    assert (plan.batch_sizes.boundaries, plan.batch_sizes.values) == ((800,), (16, 160))
    assert plan.updates == 880
    rates = [float(plan.schedule()(u)) for u in (800, 839, 840)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005], rtol=1e-5)


def test_a_regime_that_follows_another_comes_after_it():
    study = Study(regimes=("LB+MATCH", "LB", "SB"))
    assert list(make_plans(study, study.regimes, 1280)) == ["LB", "SB", "LB+MATCH"]
    for regimes, message in (
        (("LB", "LB+MATCH"), "follows SB, which must be among the regimes"),
        (("SB+MATCH",), "follows SB"),
    ):
        study = Study(regimes=regimes)
        with pytest.raises(ValueError, match=message):
            make_plans(study, study.regimes, 1280)
    study = Study(regimes=("SB", "LB+MATCH"), baseline=("LB+MATCH", "SB"))
    with pytest.raises(ValueError, match="cannot follow itself"):
        make_plans(study, study.regimes, 1280)
