"""A regime that is interrupted goes on inside, with the numbers of an undisturbed run."""

import os
import signal

import jax
import numpy as np
import pytest

from gapjax import data, study
from gapjax.study import REGIMES, _keep, make_plan
from gapjax.study._keep import Keeper, Position
from gapjax.study._members import make_setup
from gapjax.study._train import Stream, train

pytestmark = pytest.mark.xdist_group("keep")  # they share runs that take long


def test_a_stream_begins_anywhere():
    whole = Stream(3, 10).take(60)
    for start in (0, 4, 10, 37):
        np.testing.assert_array_equal(Stream(3, 10, start).take(20), whole[start : start + 20])


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


def test_a_study_that_is_cut_ends_with_the_same_files(often, tmp_path):
    small = study.Study(seeds=2, epochs=1, regimes=("SB",), small_batch=128, evaluations=2, tune=1)
    study.run_study(small, tmp_path / "whole")
    power = _Power(13)
    with pytest.raises(_Cut):
        study.run_study(small, tmp_path / "cut", progress=power)
    assert power.seen[-1].phase == "train"
    seen = []
    study.run_study(small, tmp_path / "cut", progress=seen.append)
    # It does not tune again, and does one segment again at most.
    assert {p.phase for p in seen} == {"train"}
    assert seen[0].update >= power.seen[-1].update
    for name in ("results.json", "history.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["SB"]


def _train(keeper, progress=lambda *_: None):
    """A regime whose batch grows, in seeds that share one population."""
    dataset = data.load("digits")
    few = jax.tree.map(lambda x: x[:96], dataset.train)
    small = study.Study(
        seeds=2,
        epochs=3,
        small_batch=16,
        large_batch=96,
        evaluations=2,
        decay_at=(0.5,),
        regimes=("SB", "GROW"),
    )
    setup = make_setup(small, small.make_network(10), few, dataset.test)
    plan = make_plan(small, REGIMES["GROW"], len(few))
    members = [(0, 0.1), (1, 0.1)]
    return train(setup, plan, few, dataset.test, members, progress=progress, keeper=keeper)


@pytest.fixture(scope="module")
def undisturbed():
    return _train(None)


def _assert_same(outcome, expected):
    assert list(outcome.history) == list(expected.history)
    for name, column in expected.history.items():
        np.testing.assert_array_equal(outcome.history[name], column)
        assert outcome.history[name].dtype == column.dtype
    for new, old in zip(
        jax.tree.leaves(outcome.states), jax.tree.leaves(expected.states), strict=True
    ):
        if not jax.dtypes.issubdtype(old.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(new, old)


def test_a_regime_that_is_cut_at_any_segment_goes_on_inside(often, tmp_path, undisturbed):
    for calls in (2, 4):
        power = _Power(calls)
        with pytest.raises(_Cut):
            _train(Keeper(tmp_path, "GROW"), lambda *numbers, power=power: power(numbers))
    again = []
    outcome = _train(Keeper(tmp_path, "GROW"), lambda update, *_: again.append(update))
    assert power.seen[0][0] > 1 and again[0] == power.seen[-1][0]
    _assert_same(outcome, undisturbed)


def test_sigterm_saves_inside_a_regime(tmp_path, undisturbed):
    seen = []

    def tell(update, speed, left):
        seen.append(update)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit, match=r"saved at update \d+ of this regime") as left:
        _train(Keeper(tmp_path, "GROW"), tell)
    assert left.value.code == 143 and len(seen) == 3
    again = []
    outcome = _train(Keeper(tmp_path, "GROW"), lambda update, *_: again.append(update))
    assert again[0] > seen[-1]
    _assert_same(outcome, undisturbed)


def test_another_population_does_not_go_on_from_it(tmp_path, often):
    at = Position(3, {"w": np.ones(1)}, np.zeros(1), np.zeros(1), [])
    with Keeper(tmp_path, [[0, 0.1]]) as keeper:
        keeper.save(at, told_to_leave=False)
    with pytest.raises(ValueError, match="belongs to another run"):
        Keeper(tmp_path, [[0, 0.2]]).restore(
            Position(0, {"w": np.ones(1)}, np.zeros(1), np.zeros(1), [])
        )
