"""Means are exact over ragged batches and weighted as the task says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import models, study
from gapjax.study._population import _evaluate
from gapjax.study._population._evaluate import (
    Evaluator,
    Weights,
    _batches,
    rows_that_fit,
)
from tests.study.conftest import make_blobs


def _members(network, inputs, count=3):
    keys = jax.random.split(jax.random.key(0), count)
    params, state = jax.vmap(network.init, (0, None))(keys, inputs)
    return Weights(params, state)


@pytest.mark.parametrize("rows", [7, 30, 1000])
def test_means_are_those_of_all_examples_at_once(rows, monkeypatch):
    monkeypatch.setattr(_evaluate, "_ROWS", 3 * rows)
    network = models.as_network(models.MLP((5,), 3))
    split, task = make_blobs().test, study.classification()
    weights = _members(network, split.images)
    evaluator = Evaluator(network, task, task.select)
    found, each = evaluator.means(weights, split), evaluator.examples(weights, split)
    for member in range(3):
        own = jax.tree.map(lambda x, m=member: x[m], weights)
        outputs, _ = network.apply(*own, split.images, train=False)
        wanted = task.measure(outputs, split)
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name][member], values.mean(), rtol=1e-5)
            np.testing.assert_allclose(each[name][member], values, rtol=1e-5, atol=1e-6)


def test_examples_weigh_what_the_task_says(monkeypatch):
    monkeypatch.setattr(_evaluate, "_ROWS", 4)
    rng = np.random.default_rng(0)
    split = {"x": rng.normal(size=(10, 2)).astype(np.float32), "w": np.arange(10, dtype=np.float32)}
    task = study.Task(
        lambda o, b: o[:, 0] ** 2, {}, "loss", inputs=lambda b: b["x"], weight=lambda b: b["w"]
    )
    network = models.Network(
        lambda key, x: ({"w": jnp.ones(2)}, {}),
        lambda params, state, x, **_: ((x * params["w"])[:, :1], state),
        lambda *_: {},
    )
    evaluator = Evaluator(network, task, task.select)
    found = evaluator.means(_members(network, split["x"], 1), split)
    wanted = (split["x"][:, 0] ** 2 * split["w"]).sum() / split["w"].sum()
    np.testing.assert_allclose(found["loss"][0], wanted, rtol=1e-6)
    np.testing.assert_array_equal(evaluator.example_weights(split), split["w"])


def test_statistics_are_taken_anew_for_every_member(monkeypatch):
    monkeypatch.setattr(_evaluate, "_ROWS", 30)
    network = models.as_network(models.MLP((5,), 3))
    split, task = make_blobs().train, study.classification()
    weights = _members(network, split.images)
    precise = Evaluator(network, task, task.select).with_precise_statistics(weights, split)
    assert precise.params is weights.params
    for member in range(3):
        dense = jax.tree.map(lambda x, m=member: np.asarray(x[m], float), weights.params["Dense_0"])
        hidden = split.images @ dense["kernel"] + dense["bias"]
        norm = precise.model_state["batch_stats"]["BatchNorm_0"]
        np.testing.assert_allclose(norm["mean"][member], hidden.mean(0), atol=1e-4)
        np.testing.assert_allclose(norm["var"][member], hidden.var(0), rtol=1e-3)


def test_examples_of_many_outputs_come_in_smaller_batches(monkeypatch):
    """As sequences do, with a row of logits at every token."""
    network = models.as_network(models.MLP((5,), 3))
    split, task = make_blobs().test, study.classification()
    weights = _members(network, split.images)
    monkeypatch.setattr(_evaluate, "_BYTES", 3 * 4 * 3 * 7)  # 7 examples of 3 members
    seen = []

    def select(batch):
        seen.append(len(batch.images))
        return task.select(batch)

    found = Evaluator(network, task, select).means(weights, split)
    assert max(seen) == 7
    monkeypatch.undo()
    whole = Evaluator(network, task, task.select).means(weights, split)
    for name, values in whole.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


def test_examples_of_large_inputs_come_in_smaller_batches():
    """8192 images of ImageNet's size take a ResNet-50 114 GiB, as the network is given them."""
    images = {"x": np.zeros((300, 224, 224, 3), np.uint8)}
    seen = []

    def inputs(batch):
        seen.append(len(batch["x"]))
        return batch["x"].astype(jnp.float32)

    task = study.Task(lambda outputs, batch: outputs[:, 0], {}, "loss", inputs=lambda b: b["x"])
    network = models.Network(
        lambda key, x: ({"w": jnp.ones(())}, {}),
        lambda params, state, x, **_: (x[:, 0, 0, :1] * params["w"], state),
        lambda *_: {},
    )
    weights = Weights({"w": jnp.ones(2)}, {})
    Evaluator(network, task, inputs).means(weights, images)
    assert max(seen) == 100  # 2 members, 2^27 bytes of 602,112 each: 111, and cut evenly
    assert rows_that_fit(inputs, images, 4096) == 222
    assert rows_that_fit(inputs, {"x": images["x"][:, :32, :32]}, 8192) == 8192  # CIFAR's size


def test_a_split_is_cut_as_evenly_as_its_batches_allow():
    split = {"x": np.arange(1280)}
    sizes = [(len(batch["x"]), int(mask.sum())) for batch, mask in _batches(split, 1024)]
    assert sizes == [(640, 640), (640, 640)]  # and not 1024 twice, 768 of them for nothing
    ragged = list(_batches({"x": np.arange(7)}, 3))
    assert [(len(batch["x"]), int(mask.sum())) for batch, mask in ragged] == [
        (3, 3),
        (3, 3),
        (3, 1),
    ]
