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
    assert found.learning_rate == pytest.approx(len(x) / np.linalg.norm(x, 2) ** 2, rel=1e-5)
    for place, seed in enumerate(setup.study.all_seeds):
        start = jax.nn.initializers.lecun_normal()(jax.random.key(seed), (4, 3))
        start = np.vstack([np.asarray(start, np.float64), np.zeros(3)])
        w, trace, path = start.copy(), np.zeros_like(start), []
        ones = np.hstack([x, np.ones((len(x), 1))])
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
