"""The convex control: gradient descent on a linear network, by hand in float64."""

import jax
import numpy as np
import pytest

from gapjax import data, study
from gapjax.diffusion import log_spaced
from gapjax.study._population._convex import keep_convex, read_convex
from gapjax.study._population._setup import make_setup
from gapjax.study._results._records import Config, task_facts
from tests.study.conftest import tiny_study


def _kept(folder, updates=30, **changes):
    own = tiny_study(**changes)
    dataset = own.load_dataset()
    setup = make_setup(own, dataset)
    config = Config({}, task_facts(own.task), {})
    keep_convex(setup, own.task.width and own.task.width(dataset), updates, folder, config)
    return setup, read_convex(folder, config)


def test_the_curve_is_that_of_gradient_descent(tmp_path):
    setup, found = _kept(tmp_path)
    x = np.asarray(setup.inputs(setup.train), np.float64)
    y = np.eye(3)[setup.train.labels]
    assert found.update == list(log_spaced(30)) and found.examples == len(x) == 64
    ones = np.hstack([x, np.ones((len(x), 1))])
    assert found.learning_rate == pytest.approx(len(x) / np.linalg.norm(ones, 2) ** 2, rel=1e-5)
    for place, seed in enumerate(setup.study.all_seeds):
        start = jax.nn.initializers.lecun_normal()(jax.random.key(seed), (4, 3))
        start = np.vstack([np.asarray(start, np.float64), np.zeros(3)])
        w, trace, path = start.copy(), np.zeros_like(start), []
        for _ in range(30):
            z = np.exp(ones @ w - (ones @ w).max(1, keepdims=True))
            gradient = ones.T @ (z / z.sum(1, keepdims=True) - y) / len(x)
            trace = gradient + 0.9 * trace
            w = w - found.learning_rate * trace
            path.append(np.linalg.norm(w - start))
        wanted = [path[u - 1] for u in found.update]
        np.testing.assert_allclose([row[place] for row in found.distance], wanted, rtol=1e-4)


def test_it_is_trained_once(tmp_path):
    _, found = _kept(tmp_path)
    assert _kept(tmp_path, updates=7)[1] == found


def test_what_has_no_linear_network_has_none(tmp_path):
    tokens = {"tokens": np.zeros((20, 5), np.int32)}
    own = {"dataset": data.Dataset(tokens, tokens, name="t"), "task": study.next_token()}
    _, found = _kept(tmp_path, **own)
    assert found is None


def _table(y, **changes):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    table = {"x": changes.pop("scale", 1.0) * x, "y": y}
    return {"dataset": data.Dataset(table, table, name="t"), "regimes": ("SB", "LB"), **changes}


def test_targets_of_several_axes_have_none(tmp_path):
    y = np.random.default_rng(1).normal(size=(64, 3, 4)).astype(np.float32)
    _, found = _kept(tmp_path, **_table(y, task="regression"))
    assert found is None


def test_a_bias_counts_where_inputs_are_small(tmp_path):
    y = np.random.default_rng(1).normal(size=64).astype(np.float32)
    _, found = _kept(tmp_path, updates=300, **_table(y, task="regression", scale=0.01))
    assert np.isfinite(found.distance).all()


def test_a_loss_that_is_too_steep_has_none(tmp_path):
    y = np.random.default_rng(1).normal(size=64).astype(np.float32)
    task = study.Task(
        loss=lambda outputs, batch: 1000 * (outputs[:, 0] - batch["y"]) ** 2,
        metrics={"error": lambda outputs, batch: (outputs[:, 0] - batch["y"]) ** 2},
        headline="error",
        maximize=False,
        width=lambda dataset: 1,
    )
    _, found = _kept(tmp_path, updates=300, **_table(y, task=task))
    assert found is None
