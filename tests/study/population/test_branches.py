"""Branches of a population: when they are trained, on what, at which rate, and what they say."""

import dataclasses

import jax
import numpy as np
import pytest

from gapjax import growth
from gapjax.study import make_plan
from gapjax.study._population import _branches, _keep
from gapjax.study._population._branches import (
    HIGH,
    LOW,
    branch_updates,
    check_branches,
    window,
)
from gapjax.study._population._keep import Keeper
from gapjax.study._population._member import Member
from gapjax.study._population._setup import make_setup
from gapjax.study._population._train import train
from gapjax.study._results._records import Decision
from tests.study.conftest import tiny_study
from tests.study.population.test_keep import _assert_same, _Cut, _Power

pytestmark = pytest.mark.xdist_group("branches")  # they share runs that take long


def _plan(regime="GROW+LINEAR", **changes):
    settings = {
        "regimes": ("SB", "LB", regime),
        "controller": "branching",
        "schedule": "constant",
        "evaluations": 8,
        "epochs": 16,
        "seeds": 2,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip_norm": None,
    }
    study = tiny_study(**{**settings, **changes})
    return make_plan(study, study.regimes[-1], 64)


def _setup(plan):
    return make_setup(plan.study, plan.study.load_dataset())


def _train(plan, keeper=None, progress=lambda at: None):
    setup = _setup(plan)
    members = [Member(seed, plan.rate) for seed in range(2)]
    return train(setup, plan, setup.train, setup.test, members, progress=progress, keeper=keeper)


def test_branches_are_trained_evenly_where_they_have_room():
    plan = _plan()
    assert plan.branches and plan.examples == 1024
    assert window(plan, 8) == 8 * 32 and window(plan, 16) == 8 * 64  # 8 updates of the largest
    assert sorted(branch_updates(plan)) == [16, 32, 48, 64, 80, 96]  # and not at 112
    long = _plan(epochs=400)
    assert window(long, 8) == 800  # a 32nd of 25600, in 25 updates of 32


def test_a_batch_that_is_the_largest_is_not_asked_any_more():
    plan = _plan()
    grown = (Decision(16, 128, 8, 16, "so"), Decision(24, 256, 16, 32, "so"))
    assert max(branch_updates(dataclasses.replace(plan, decisions=grown))) < 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regime": "GROW"}, "at the rate that suits it; say by which rule"),
        ({"seeds": 1}, "use at least 2, not 1"),
        ({"epochs": 4}, "leaves too few examples: each branch from a batch of 8 sees 256 of the"),
        ({"large_batch": 64}, "batches of up to 64.*leaves 51.* a large_batch of at most 25"),
    ],
)
def test_what_branches_could_not_tell_is_refused(changes, message):
    plan = _plan(**changes)
    with pytest.raises(ValueError, match=f"controller branching.*{message}") as found:
        check_branches(_setup(plan), plan)
    assert "\n" not in str(found.value)


@pytest.fixture(scope="module")
def run():
    """A run driven by its branches, and what the branches were trained with."""
    seen, real = [], growth.branched_critical_batch

    def spied(states, step, batches, **asked):
        start = asked["reseed"](jax.tree.map(lambda x: x, states), 1)
        seen.append((start, step, batches, asked))
        return real(states, step, batches, **asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "branched_critical_batch", spied)
        return _train(_plan()), seen


def test_branches_drive_the_batch_and_are_kept_in_the_curves(run):
    outcome, seen = run
    curves, plan = outcome.curves, outcome.plan
    asked = curves.update[np.isfinite(curves.values[LOW][:, 0])].tolist()
    assert asked == [decision.update for decision in plan.decisions] and len(asked) == len(seen)
    assert asked[0] == 16 and set(asked) <= set(plan.marks)
    controller = plan.controller
    state = controller.init()
    for decision in plan.decisions:
        row = curves.update.tolist().index(decision.update)
        low, high = (curves.values[name][row, 0] for name in (LOW, HIGH))
        assert low in (1, 2, 4) * np.array(decision.before) and high > low
        found = type("Found", (), {"low": low, "high": high})
        proposal, state = controller.update(state, found)
        assert (decision.after, decision.reason) == (proposal.size, proposal.reason)


def test_a_branch_starts_from_its_member_at_the_rate_of_the_rule(run):
    _, seen = run
    start, step, batches, asked = seen[0]
    assert asked["multiples"] == [1, 2, 4] and asked["examples"] == 256
    assert asked["seeds"] == [0, 1] and int(start.state.step) == 16 and start.seed == 1
    batch = next(batches.fork(growth.constant_batch(8)))
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), batch)

    def moved(batch):
        after = step(start, batch)[0].state.params
        return jax.tree.map(lambda new, old: np.asarray(new - old), after, start.state.params)

    # The same gradient by twice the batch: by the linear rule at twice the rate.
    once, double = (jax.tree.leaves(moved(b)) for b in (batch, twice))
    assert any(np.abs(x).max() > 1e-4 for x in once)
    for one, two in zip(once, double, strict=True):
        np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-6)


def test_branches_look_at_the_training_set_alone_and_are_judged_by_what_they_leave(run):
    outcome, seen = run
    setup = _setup(outcome.plan)
    batches = seen[0][2].fork(growth.constant_batch(51))
    trained = {tuple(row) for row in next(batches).data.images.tolist()}
    held = _branches.hold_out(setup.study, setup.train).validation
    judged = {tuple(row) for row in np.asarray(held.images).tolist()}
    everything = {tuple(row) for row in np.asarray(setup.train.images).tolist()}
    assert len(trained) == 51 and not trained & judged and trained | judged == everything


def test_a_run_that_is_cut_is_driven_the_same(run, tmp_path, monkeypatch):
    outcome, _ = run
    monkeypatch.setattr(_keep, "_SECONDS", -1.0)
    with pytest.raises(_Cut):
        _train(_plan(), Keeper(tmp_path, "GROW"), _Power(40))
    again = _train(_plan(), Keeper(tmp_path, "GROW"))
    assert again.plan.decisions == outcome.plan.decisions
    _assert_same(again, outcome)
