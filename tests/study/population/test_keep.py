"""A regime that is interrupted goes on inside, with the numbers of an undisturbed run."""

import os
import signal

import jax
import numpy as np
import pytest

from gapjax import study
from gapjax.study import Regime, make_plan
from gapjax.study._population import _keep
from gapjax.study._population._keep import Keeper, Snapshot
from gapjax.study._population._member import Member
from gapjax.study._population._setup import make_setup
from gapjax.study._population._train import Curves, train
from tests.study.conftest import tiny_study

pytestmark = pytest.mark.xdist_group("keep")  # they share runs that take long


@pytest.fixture
def often(monkeypatch):
    """Checkpoints after every segment."""
    monkeypatch.setattr(_keep, "_SECONDS", -1.0)


class _Cut(Exception):
    pass


class _Power:
    """A progress function at which the power goes off, so many calls after it came back."""

    def __init__(self, calls):
        self.seen, self.left = [], calls

    def __call__(self, progress):
        self.seen.append(progress)
        self.left -= 1
        if not self.left:
            raise _Cut


@pytest.mark.slow
def test_a_study_that_is_cut_ends_with_the_same_numbers(often, tmp_path):
    own = tiny_study(seeds=2, epochs=2, regimes=("SB",), tune=1)
    whole = study.run_study(own, tmp_path / "whole")
    power = _Power(25)
    with pytest.raises(_Cut):
        study.run_study(own, tmp_path / "cut", progress=power)
    assert power.seen[-1].phase == "train"
    seen = []
    again = study.run_study(own, tmp_path / "cut", progress=seen.append)
    # It does not tune again, and does one segment again at most.
    assert {p.phase for p in seen} == {"train"}
    assert seen[0].update >= power.seen[-1].update
    assert again.regimes["SB"].run == whole.regimes["SB"].run
    assert again.regimes["SB"].tuning == whole.regimes["SB"].tuning
    assert again.regimes["SB"].curves.values == whole.regimes["SB"].curves.values
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["SB"]


def _train(keeper, progress=lambda at: None):
    """A regime whose batch grows, in seeds that share one population."""
    own = tiny_study(decay_at=(0.5,), regimes=("SB", "GROW"))
    setup = make_setup(own, own.load_dataset())
    plan = make_plan(own, Regime.parse("GROW"), setup.num_examples)
    members = [Member(0, 0.1), Member(1, 0.1)]
    return train(setup, plan, setup.train, setup.test, members, progress=progress, keeper=keeper)


@pytest.fixture(scope="module")
def undisturbed():
    return _train(None)


def _assert_same(outcome, expected):
    np.testing.assert_array_equal(outcome.curves.update, expected.curves.update)
    assert list(outcome.curves.values) == list(expected.curves.values)
    for name, column in expected.curves.values.items():
        np.testing.assert_array_equal(outcome.curves.values[name], column)
        assert outcome.curves.values[name].dtype == column.dtype
    for new, old in zip(
        jax.tree.leaves(outcome.states), jax.tree.leaves(expected.states), strict=True
    ):
        if not jax.dtypes.issubdtype(old.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(outcome.examples["loss"], expected.examples["loss"])


def test_a_regime_that_is_cut_at_any_segment_goes_on_inside(often, tmp_path, undisturbed):
    for calls in (3, 6):
        power = _Power(calls)
        with pytest.raises(_Cut):
            _train(Keeper(tmp_path, "GROW"), power)
    again = []
    outcome = _train(Keeper(tmp_path, "GROW"), lambda at: again.append(at.update))
    # The last segment was told of before it was kept: it alone may be made again.
    assert 0 < power.seen[0].update <= power.seen[-2].update <= again[0]
    _assert_same(outcome, undisturbed)


def test_sigterm_saves_inside_a_regime(tmp_path, undisturbed):
    seen = []

    def tell(at):
        seen.append(at.update)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit, match=r"saved at update \d+ of this regime") as left:
        _train(Keeper(tmp_path, "GROW"), tell)
    assert left.value.code == 143
    again = []
    outcome = _train(Keeper(tmp_path, "GROW"), lambda at: again.append(at.update))
    assert again[0] >= seen[-1]
    _assert_same(outcome, undisturbed)


def test_another_population_does_not_go_on_from_it(tmp_path, often):
    def at(update):
        return Snapshot(update, 0, {"w": np.ones(1)}, np.zeros(1), np.zeros(1))

    none = Curves(np.zeros(0), np.zeros(0), {})
    with Keeper(tmp_path, [[0, 0.1]]) as keeper:
        keeper.save(at(3), none, told_to_leave=False)
    with pytest.raises(ValueError, match="belongs to another run"):
        Keeper(tmp_path, [[0, 0.2]]).restore(at(0), none)
