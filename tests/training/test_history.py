"""The history of a run: any tree of metrics, one that goes on, and one whose metrics change."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import growth, training
from gapjax.training import _history


class Pair(NamedTuple):
    a: object
    b: object


def _run(step, folder, num_updates):
    batches = itertools.repeat(np.float32(1))
    with training.Checkpoints(folder, every=2) as checkpoints:
        return training.fit(
            step, jnp.zeros(()), batches, num_updates=num_updates, checkpoints=checkpoints
        )


@pytest.mark.parametrize(
    "measure",
    [
        lambda x: None,
        lambda x: {},
        lambda x: x,
        lambda x: (x, 2 * x),
        lambda x: Pair(x, [2 * x, None]),
        lambda x: {"pair": Pair(x, {1: x, 10: x}), "a/b.c": x},
    ],
)
def test_any_tree_of_metrics_goes_on_as_it_was(tmp_path, measure):
    step = jax.jit(lambda state, batch: (state + batch, measure(state)))
    _run(step, tmp_path, 4)
    _, found = _run(step, tmp_path, 8)
    expected = measure(np.arange(8, dtype=np.float32))
    assert jax.tree.structure(found.metrics) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found.metrics, expected)
    np.testing.assert_array_equal(found.step, np.arange(1, 9))


@pytest.mark.parametrize("then", ["skip", "ignore"])
def test_a_run_that_stopped_at_a_fault_goes_on_without_it(tmp_path, then):
    """What the error advises: update 6 is not finite, and the newest checkpoint is of update 4."""
    tx = optax.sgd(0.0)

    def run(on_fault):
        step = training.make_train_step(
            lambda p, b: jnp.where(b[0] == 6, jnp.nan, p * b[0]), tx, on_fault=on_fault
        )
        state = training.init_state(jnp.float32(1), tx, key=jax.random.key(0))
        with training.Checkpoints(tmp_path, every=2) as checkpoints:
            return training.fit(
                jax.jit(step),
                state,
                np.arange(1, 9, dtype=np.float32)[:, None],
                num_updates=8,
                checkpoints=checkpoints,
            )

    with pytest.raises(training.NumericalFault, match="update 6"):
        run("stop")
    if then == "skip":
        with pytest.warns(RuntimeWarning, match="1 updates were skipped; the first, update 6"):
            _, history = run(then)
        np.testing.assert_array_equal(history.metrics["skipped"], [-1] * 5 + [1, -1, -1])
        assert history.metrics["skipped"].dtype == np.int32
    else:
        _, history = run(then)
        assert "skipped" not in history.metrics
    np.testing.assert_array_equal(history.metrics["fault"], [-1] * 8)
    np.testing.assert_array_equal(history.metrics["loss"], [1, 2, 3, 4, 5, np.nan, 7, 8])


def test_what_only_a_part_of_a_run_measured_is_unknown_in_the_other(tmp_path):
    def step(*extra):
        return jax.jit(
            lambda state, batch: (
                state + batch,
                {"loss": state, **{n: {"x": state} for n in extra}},
            )
        )

    _run(step("old"), tmp_path, 2)
    _run(step("new"), tmp_path, 4)
    _, history = _run(step("new"), tmp_path, 5)
    unknown = np.nan
    np.testing.assert_array_equal(history.metrics["loss"], np.arange(5))
    np.testing.assert_array_equal(history.metrics["old"]["x"], [0, 1, unknown, unknown, unknown])
    np.testing.assert_array_equal(history.metrics["new"]["x"], [unknown, unknown, 2, 3, 4])
    tuples = jax.jit(lambda state, batch: (state + batch, (state,)))
    with pytest.raises(ValueError, match="the metric 'loss', and there is no place for it"):
        _run(tuples, tmp_path, 7)


def test_a_metric_whose_shape_changes_is_told_when_it_does(tmp_path):
    source, seen = {"x": np.ones(8, np.float32)}, []
    step = jax.jit(lambda state, batch: (state + 1, {"per_example": batch["x"]}))
    with pytest.raises(ValueError, match=r"'per_example' has the shape \(4,\) at update 3"):
        training.fit(
            step,
            jnp.zeros(()),
            growth.GrowingBatches(source, growth.piecewise_batch(2, {2: 4}), seed=0),
            num_updates=9,
            callbacks=[lambda update, state, metrics: seen.append(update)],
        )
    assert seen[-1] < 6
    steps = [
        jax.jit(lambda state, batch, n=n: (state + batch, {"loss": jnp.ones(n)})) for n in (2, 3)
    ]
    _run(steps[0], tmp_path, 2)
    with pytest.raises(ValueError, match=r"'loss' has the shape \(3,\) at update 3"):
        _run(steps[1], tmp_path, 4)


def test_long_runs_keep_their_metrics_on_the_host():
    recorder = _history.Recorder()
    last = 2 * _history._CHUNK + 100
    for update in range(1, last + 1):
        recorder.add(update, {"loss": jnp.float32(update), "pair": Pair(np.float32(1), [2])})
        assert len(recorder._new) < _history._CHUNK + _history._IN_FLIGHT
    history = recorder.history()
    assert history.step.tolist() == list(range(1, last + 1))
    np.testing.assert_array_equal(history.metrics["loss"], history.step)
    recorder.add(last + 1, {"loss": jnp.float32(0), "pair": Pair(np.float32(1), [2])})
    assert recorder.history().metrics["loss"].shape == (last + 1,)
