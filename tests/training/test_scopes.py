"""Which examples a batch norm sees: the same on any number of devices, under jit and under pmap."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from gapjax import ghost, models, training
from tests.meshes import data_mesh
from tests.training import problem

BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9)
GhostNorm = functools.partial(ghost.linen.GhostBatchNorm, momentum=0.9)


def _step(norm):
    # At a rate of 1 without momentum what an update takes off is the gradient.
    return problem.make(models.MLP((8,), 4, norm=norm), optax.sgd(1.0))


@functools.cache
def _expected(ghost_size):
    norm = BatchNorm if ghost_size is None else functools.partial(GhostNorm, ghost_size=ghost_size)
    step, state, batches = _step(norm)
    after, metrics = jax.jit(step)(state, batches[0])
    return _told(state, after, metrics)


def _told(before, after, metrics):
    gradients = jax.tree.map(jnp.subtract, before.params, after.params)
    return jax.device_get((metrics["loss"], gradients, after.model_state))


def _found(norm, devices, strategy, parameters="replicated"):
    step, state, batches = _step(norm)
    compiled = training.compile_step(
        step, mesh=data_mesh(devices), strategy=strategy, parameters=parameters
    )
    return _told(state, *compiled(jax.tree.map(jnp.copy, state), batches[0]))


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("ghost_size", [None, 8, 16])  # devices hold 32, 16, 8 and 4 examples
def test_batch_norm_sees_the_same_on_all_devices(ghost_size, devices, strategy):
    norm = BatchNorm if ghost_size is None else functools.partial(GhostNorm, ghost_size=ghost_size)
    if strategy == "pmap":
        norm = functools.partial(norm, axis_name="data")
    found = _found(norm, devices, strategy)
    chex.assert_trees_all_close(found, _expected(ghost_size), rtol=1e-5, atol=1e-5)


def test_without_an_axis_name_pmap_is_an_accidental_ghost_norm():
    ghosts = functools.partial(GhostNorm, ghost_size=problem.BATCH // 4, update="mean")
    found, same = _found(BatchNorm, 4, "pmap"), _found(ghosts, 4, "jit")
    chex.assert_trees_all_close(found, same, rtol=1e-5, atol=1e-5)
    assert abs(found[0] - _expected(None)[0]) > 1e-3


def test_without_an_axis_name_ghosts_stay_but_running_statistics_do_not():
    norm = functools.partial(GhostNorm, ghost_size=8)
    (loss, grads, stats), expected = _found(norm, 2, "pmap"), _expected(8)
    chex.assert_trees_all_close((loss, grads), expected[:2], rtol=1e-5, atol=1e-5)
    means = [s["batch_stats"]["BatchNorm_0"]["mean"] for s in (stats, expected[2])]
    assert abs(means[0] - means[1]).max() > 1e-3
