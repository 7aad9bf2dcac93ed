"""A batch that a controller drives: what it is shown, what follows from what it says."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from gapjax import growth
from gapjax.study import make_plan
from gapjax.study._population import _driven, _keep
from gapjax.study._population._keep import Keeper
from gapjax.study._population._member import Member
from gapjax.study._population._setup import make_setup
from gapjax.study._population._train import Curves, train
from gapjax.study._results._records import Decision
from tests.study.conftest import at_looks, tiny_study
from tests.study.population.test_keep import _assert_same, _Cut, _Power

pytestmark = pytest.mark.xdist_group("driven")  # they share runs that take long


def _plan(regime="GROW", **changes):
    study = tiny_study(regimes=("SB", "LB", regime), **changes)
    return make_plan(study, study.regimes[-1], 64)


def _decided(plan, *pairs):
    """The plan after growths at updates, told by hand."""
    for update, size in pairs:
        before = plan.batch_sizes(update)
        seen = plan.batch_sizes.examples_before(update)
        told = Decision(update, seen, before, size, "so")
        plan = dataclasses.replace(plan, decisions=(*plan.decisions, told))
    return plan


def _train(plan, keeper=None, progress=lambda at: None):
    setup = make_setup(plan.study, plan.study.load_dataset())
    members = [Member(0, plan.rate), Member(1, plan.rate)]
    return train(setup, plan, setup.train, setup.test, members, progress=progress, keeper=keeper)


# ---- the plan, as far as it is known ------------------------------------------------------------


def test_a_driven_batch_starts_as_the_small_one_and_may_be_any_of_its_sizes():
    plan, small = _plan(controller="noise-scale"), _plan("8")
    assert plan.batch_sizes.values == (8,) and plan.sizes == (8, 16, 32)
    assert plan.batch_size == 32 and plan.updates == small.updates == 32
    assert (plan.marks, plan.evaluations) == (small.marks, small.evaluations)
    assert plan.examples == small.examples == 256 and plan.rate == small.rate


def test_looks_are_after_as_many_examples_whatever_the_batch():
    start = _plan(controller="noise-scale", evaluations=8)
    plan = _decided(start, (8, 16), (12, 32))
    assert plan.batch_sizes.values == (8, 16, 32) and plan.start.marks == start.marks
    assert plan.updates == 12 + 4 and plan.examples == 256  # 64 + 64 + 4 of 32
    wanted = set()
    for update in start.marks:
        seen = made = 0
        while seen < 8 * update:
            seen += 8 if made < 8 else 16 if made < 12 else 32
            made += 1
        wanted.add(made)
    assert set(plan.marks) == wanted and max(plan.marks) == plan.updates
    # What was before a growth stays as it was.
    assert [u for u in plan.marks if u <= 8] == [u for u in start.marks if u <= 8]


@pytest.mark.parametrize(
    ("regime", "factor"), [("GROW", 1.0), ("GROW+LR", math.sqrt(2)), ("GROW+LINEAR", 2.0)]
)
def test_rates_run_over_examples_and_follow_the_batch_by_the_rule(regime, factor):
    changes = {"controller": "cabs", "schedule": "step", "decay_at": (0.5,), "warmup": 0.125}
    plan = _decided(_plan(regime, **changes), (8, 16))
    rate = plan.schedule()
    small = _plan("8", schedule="step", decay_at=(0.5,), warmup=0.125).schedule()
    for update in range(plan.updates):
        seen = plan.batch_sizes.examples_before(update)
        wanted = float(small(seen // 8)) * (1.0 if update < 8 else factor)
        assert float(rate(update)) == pytest.approx(wanted, rel=1e-6)
    traced = jax.jit(jax.vmap(rate))(np.arange(plan.updates))
    np.testing.assert_allclose(traced, [float(rate(u)) for u in range(plan.updates)], rtol=1e-6)
    assert plan.boundaries == (8, 12)  # it grows, and the rate drops after 128 examples


# ---- what a controller is shown -----------------------------------------------------------------


def _curves(plan, noise, norm, loss):
    marks = np.array(plan.marks)
    shape = (len(marks), len(noise))
    values = {"gradient_noise": noise, "gradient_norm": norm, "train_loss": loss}
    full = {k: np.broadcast_to(np.array(v, float), shape).copy() for k, v in values.items()}
    return Curves(marks, np.zeros(len(marks)), full)


@pytest.mark.parametrize(
    ("noise", "norm", "loss", "wanted"),
    [
        ([2.0, 6.0], [1.0, 3.0], [0.5, 1.5], (4.0, 2.0, 2.0, 1.0)),
        ([2.0, np.nan], [1.0, np.nan], [0.5, np.nan], (2.0, 1.0, 2.0, 0.5)),  # one diverged
        ([2.0, 2.0], [-2.0, 1.0], [1.0, 1.0], (2.0, -0.5, math.inf, 1.0)),
        ([np.nan] * 2, [np.nan] * 2, [np.nan] * 2, (math.nan,) * 4),
    ],
)
def test_it_is_shown_means_over_seeds_the_loss_and_the_rate(noise, norm, loss, wanted):
    shown = []

    def update(state, measured, *, loss=None, learning_rate=None):
        shown.append((*measured[:3], loss, learning_rate))
        return growth.Proposal(state.size, ""), state

    watching = growth.Controller(lambda: growth.ControllerState(8, 0), update, lambda: (8, 32))
    plan = _plan(controller=watching, learning_rate=0.3, schedule="constant")
    _driven.look(_driven.start(plan), _curves(plan, noise, norm, loss), 0)
    np.testing.assert_allclose(shown, [(*wanted, 0.3)], rtol=1e-6)


def test_it_is_asked_at_evaluations_after_which_training_goes_on():
    plan = _plan(controller=at_looks({1: 32}), evaluations=4)
    driven, curves = _driven.start(plan), _curves(plan, [1.0], [1.0], [1.0])
    for row in range(len(plan.marks)):
        driven = _driven.look(driven, curves, row)
        curves.update[: len(driven.plan.marks)] = driven.plan.marks
    asked = [decision.update for decision in driven.plan.decisions]
    assert asked == sorted(driven.plan.evaluations - {driven.plan.updates})
    assert [decision.grows for decision in driven.plan.decisions][:3] == [False, True, False]


@pytest.mark.parametrize(("sizes", "said"), [({0: 16}, "of 16 after 8"), ({0: 4}, "of 4 after 8")])
def test_a_proposal_that_was_not_named_or_shrinks_is_refused(sizes, said):
    known = at_looks(sizes)._replace(sizes=lambda: (8, 32))
    plan = _plan(controller=known)
    with pytest.raises(ValueError, match=f"regime GROW: at update 1 the controller.*{said}"):
        _driven.look(_driven.start(plan), _curves(plan, [1.0], [1.0], [1.0]), 0)


# ---- training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    """A run that grows from 8 to 32 after half of its examples, as it was told to."""
    changes = {"schedule": "constant", "evaluations": 4}
    looks = sorted(_plan("8", **changes).evaluations)
    assert 16 in looks
    plan = _plan(controller=at_looks({looks.index(16): 32}), **changes)
    return _train(plan)


def test_known_decisions_give_the_known_ramp(known):
    plan = known.plan
    assert plan.batch_sizes == growth.piecewise_batch(8, {16: 32})
    assert plan.updates == known.curves.update[-1] == 16 + 4 and plan.examples == 256
    grown = [decision for decision in plan.decisions if decision.grows]
    assert grown == [Decision(16, 128, 8, 32, "said so")]
    assert known.curves.update.tolist() == list(plan.marks)


def test_it_is_the_run_of_a_ramp_that_was_known_ahead_bit_for_bit(known):
    ahead = _train(_plan(schedule="step", decay_at=(0.5,), decay_factor=0.25, evaluations=4))
    assert ahead.plan.batch_sizes == known.plan.batch_sizes
    for new, old in zip(
        jax.tree.leaves(known.states.params), jax.tree.leaves(ahead.states.params), strict=True
    ):
        np.testing.assert_array_equal(new, old)
    shared, here, there = np.intersect1d(
        known.curves.update, ahead.curves.update, return_indices=True
    )
    assert len(shared) > 8
    for name, column in ahead.curves.values.items():
        new, old = known.curves.values[name][here], column[there]
        both = np.isfinite(new) & np.isfinite(old)  # their evaluations are not the same
        assert both[-1].all()
        np.testing.assert_array_equal(new[both], old[both])


def _measured():
    return _plan(controller="noise-scale", schedule="constant", evaluations=8)


@pytest.fixture(scope="module")
def undisturbed():
    return _train(_measured())


def test_a_driven_regime_that_is_cut_decides_the_same(undisturbed, tmp_path, monkeypatch):
    assert any(decision.grows for decision in undisturbed.plan.decisions)
    monkeypatch.setattr(_keep, "_SECONDS", -1.0)
    last = undisturbed.plan.batch_sizes.boundaries[-1]
    seen = []

    def cut(at):
        """The power goes off behind the last growth."""
        seen.append(at)
        if at.update > last:
            raise _Cut

    with pytest.raises(_Cut):
        _train(_measured(), Keeper(tmp_path, "GROW"), _Power(9))
    with pytest.raises(_Cut):
        _train(_measured(), Keeper(tmp_path, "GROW"), cut)
    again = []
    outcome = _train(_measured(), Keeper(tmp_path, "GROW"), lambda at: again.append(at))
    assert again[0].update >= last  # not from the start
    assert again[-1].updates == outcome.plan.updates == again[-1].update
    assert outcome.plan.decisions == undisturbed.plan.decisions
    _assert_same(outcome, undisturbed)
