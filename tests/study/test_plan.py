"""Budgets, boundaries and growth of every regime, against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax import diffusion
from gapjax.study import Regime, Study, make_plan
from gapjax.study._plan import make_plans, warn_of_rules

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


@pytest.mark.parametrize("schedule", ["step", "constant"])
def test_rounding_of_floats_is_no_update_of_its_own(schedule):
    # 100 * (7 / 25) and 0.3 * 80 are a little more than 28 and 24, as floats.
    small = Study(small_batch=7, large_batch=25, epochs=1, decay_at=(0.25, 0.5), schedule=schedule)
    plan = make_plan(small, Regime.parse("LB"), 700)
    assert (plan.updates, plan.examples) == (28, 700)
    assert plan.boundaries == ((7, 14) if schedule == "step" else ())
    assert 0.1 * 3 * 1280 > 384
    for name in ("SB", "LB", "GROW", "HYBRID"):
        study = Study(epochs=0.1 * 3, large_batch=64, ghost_size=16)
        assert make_plan(study, Regime.parse(name), 1280).examples == 384


def test_the_budget_may_be_updates_for_all():
    study = Study(keep="updates")
    assert _plan("LB", study).updates == _plan("SB", study).updates == 1600
    assert _plan("LB", study).budget.said == "same updates"


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
        _plan("HYBRID", Study(schedule="cosine"))


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


SMOOTH = {"schedule": "cosine", "small_batch": 16, "large_batch": 64, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("optimizer", "power"), [("sgd", 1), ("nesterov", 1), ("adamw", 0.5), ("muon", 0.5)]
)
@pytest.mark.parametrize("name", ["SEESAW", "SEESAW+LATE"])
def test_seesaw_trades_the_fall_of_any_schedule_for_growth(name, optimizer, power):
    plan = _plan(name, Study(optimizer=optimizer, **SMOOTH))
    small = _plan("SB", Study(optimizer=optimizer, **SMOOTH))
    assert plan.examples == small.examples and plan.updates < small.updates
    sizes, rate, base = plan.batch_sizes, plan.schedule(), small.schedule()
    assert sizes.sizes() == (16, 32, 64)
    first = 16 * max(0, 0.75 * small.updates if name == "SEESAW+LATE" else 0)
    assert sizes.examples_before(sizes.boundaries[0]) >= first
    top = float(base(round(first / 16)))
    for update in sizes.boundaries:  # where the schedule has halved, give or take a batch
        size, there = sizes(update), float(base(sizes.examples_before(update) // 16))
        assert top / there == pytest.approx(size / 16, rel=0.06)
        assert float(rate(update)) == pytest.approx(there * (size / 16) ** power, rel=0.06)


def test_grow_follows_a_smooth_schedule_by_the_rule_of_sgd():
    plan = _plan("GROW", Study(**SMOOTH))
    assert plan.batch_sizes.sizes() == (16, 32, 64)
    rate = plan.schedule()
    held = [float(rate(update)) for update in (0, *plan.batch_sizes.boundaries[:1])]
    np.testing.assert_allclose(held, 0.1, rtol=0.02)


def test_seesaw_without_a_fall_or_whole_ghosts_is_refused():
    with pytest.raises(ValueError, match=r"regime SEESAW: .* never lets it"):
        _plan("SEESAW", Study(**{**SMOOTH, "schedule": "constant"}))
    with pytest.raises(ValueError, match=r"regime SEESAW\+GBN: .*multiple"):
        _plan("SEESAW+GBN", Study(**{**SMOOTH, "ghost_size": 32}))


@pytest.mark.parametrize("name", ["LB+LATE", "64+LATE", "GROW+LATE"])
def test_a_late_start_is_for_seesaw_alone(name):
    with pytest.raises(ValueError, match="LATE"):
        _plan(name, Study(**SMOOTH))


@pytest.mark.parametrize("name", ["SB", "LB", "GROW", "SEESAW"])
def test_warm_up_ends_after_its_share_of_the_examples(name):
    plan = _plan(name, Study(warmup=0.25, **{**SMOOTH, "schedule": "linear"}))
    with_, without = plan.schedule(), plan.schedule(0.0)
    ends = next(u for u in range(plan.updates) if with_(u) == without(u)) + 1
    seen = plan.batch_sizes.examples_before(ends)
    assert abs(seen - 0.25 * plan.examples) <= 2 * plan.batch_size


def test_the_rate_of_adam_takes_its_half_lives_along():
    study = Study(optimizer="adamw", b2=0.99, weight_decay=0.1, **SMOOTH)
    assert dict(_plan("LB", study).hyper) == {"b2": 0.99, "weight_decay": 0.1}
    wanted = diffusion.scale_adamw(
        1.0, b2=0.99, weight_decay=0.1, batch_size=64, base_batch_size=16
    )
    wanted.pop("learning_rate")
    assert dict(_plan("LB+LR", study).hyper) == pytest.approx(wanted)
    assert dict(_plan("LB+LR", Study(momentum=0.8, **SMOOTH)).hyper) == {"momentum": 0.8}
    l2 = _plan("LB+LR", Study(optimizer="adam-l2", weight_decay=0.1, **SMOOTH)).hyper
    assert l2["weight_decay"] == 0.1 and l2["b2"] < 0.999


@pytest.mark.parametrize(
    ("name", "instead"), [("LB+LINEAR", "LR"), ("GROW", "SEESAW"), ("LB", None), ("SEESAW", None)]
)
def test_the_rule_of_sgd_is_not_used_for_adam_in_silence(name, instead):
    plan = _plan(name, Study(optimizer="adamw", **SMOOTH))
    if instead is None:
        warn_of_rules(plan)
        return
    with pytest.warns(UserWarning, match=f"which is what {instead} keeps"):
        warn_of_rules(plan)


@pytest.mark.parametrize("name", ["SB", "LB", "LB+WARMUP", "LB+RA", "GROW", "HYBRID"])
@pytest.mark.parametrize("keep", ["loss=0.01", "plateau"])
def test_the_rates_of_a_run_that_the_loss_ends_are_those_of_its_epochs(name, keep):
    own = {"warmup": 0.1, "maximum": 7.0}
    ends, fixed = (_plan(name, Study(keep=kind, **own)) for kind in (keep, "epochs"))
    if name == "LB+RA":  # whose budget is the updates, whatever the loss
        assert ends.updates == fixed.updates
    for update in range(0, min(ends.updates, fixed.updates), 7):
        assert float(ends.schedule()(update)) == pytest.approx(float(fixed.schedule()(update)))


@pytest.mark.parametrize("name", ["SB", "LB", "GROW", "SEESAW"])
def test_every_regime_may_go_on_as_long_where_the_loss_decides(name):
    own = {"decay_factor": 0.5, "large_batch": 64}
    small = _plan("SB", Study(**own))
    plan = _plan(name, Study(keep="loss=0.01", maximum=3.0, **own))
    assert 0 <= plan.examples - 3 * small.examples < plan.batch_size


def test_what_is_left_over_at_the_start_of_seesaw_is_no_growth():
    plan = _plan("SEESAW", Study(decay_factor=0.3))
    sizes = plan.batch_sizes
    assert sizes(0) < 16 and sizes.boundaries[0] == 1
    assert plan.boundaries == sizes.boundaries[1:]


def test_drops_that_fall_on_one_update_of_a_grown_batch_are_both_made():
    own = Study(decay_at=(0.5, 0.751, 0.755), decay_factor=0.1)
    ends = [float(_plan(name, own).schedule()(10**4)) for name in ("SB", "HYBRID")]
    # The first drop is growth, of 10 times the batch: the rate keeps what the batch took.
    grown = _plan("HYBRID", own).batch_sizes.sizes()[-1] / 16
    assert ends[1] == pytest.approx(ends[0] * grown, rel=1e-5)
