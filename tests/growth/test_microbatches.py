"""What the layout (A, B / A, ...) promises to a step that sums over microbatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gapjax import training
from gapjax.growth import GrowingBatches, constant_batch, gradient_noise_scale

PARTS = 4
GHOST = 8


def _source():
    generator = np.random.default_rng(0)
    return {
        "x": generator.normal(size=(256, 6)).astype(np.float32),
        "y": generator.normal(size=(256, 2)).astype(np.float32),
    }


def _params():
    keys = jax.random.split(jax.random.key(0))
    return {
        "w": jax.random.normal(keys[0], (6, 16)) / jnp.float32(6**0.5),
        "v": jax.random.normal(keys[1], (16, 2)) / jnp.float32(4),
    }


def _loss(params, batch):
    """A network with a batch norm over ghosts of 8 examples."""
    h = batch["x"] @ params["w"]
    ghosts = h.reshape(-1, GHOST, h.shape[-1])
    mean, var = ghosts.mean(1, keepdims=True), ghosts.var(1, keepdims=True)
    h = jnp.tanh((ghosts - mean) / jnp.sqrt(var + 1e-5)).reshape(h.shape)
    return jnp.mean(jnp.sum((h @ params["v"] - batch["y"]) ** 2, axis=-1))


def _accumulated(params, batch):
    """The gradient of the mean over microbatches, and the mean of their squared norms."""

    def add(total, part):
        grad = jax.grad(_loss)(params, part)
        norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad))
        return jax.tree.map(jnp.add, total, (grad, norm)), None

    zero = jax.tree.map(jnp.zeros_like, params), jnp.zeros(())
    total, _ = jax.lax.scan(add, zero, batch)
    return jax.tree.map(lambda leaf: leaf / PARTS, total)


def _mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def _batches(**kwargs):
    return GrowingBatches(
        _source(), constant_batch(32 * PARTS), seed=0, mesh=_mesh(), ghost_size=GHOST, **kwargs
    )


def test_the_gradient_is_that_of_the_whole_batch():
    whole, parts = next(_batches()), next(_batches(microbatch=32))
    assert parts["x"].shape == (PARTS, 32, 6)
    expected = jax.jit(jax.grad(_loss))(_params(), whole)
    grad, _ = jax.jit(_accumulated)(_params(), parts)
    for ours, theirs in zip(jax.tree.leaves(grad), jax.tree.leaves(expected), strict=True):
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_no_example_leaves_its_device():
    batches = _batches(microbatch=32)
    params = jax.device_put(_params(), NamedSharding(_mesh(), PartitionSpec()))
    compiled = jax.jit(_accumulated).lower(params, batches.spec(128)).compile()
    assert set(training.inspect_program(compiled).by_kind()) == {"all-reduce"}


def test_the_noise_scale_comes_with_the_microbatches():
    grad, part_norm = jax.jit(_accumulated)(_params(), next(_batches(microbatch=32)))
    norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad))
    noise = gradient_noise_scale(part_norm, norm, part_size=32, batch_size=128)
    assert float(noise.trace) > 0
    assert np.isfinite(float(noise.noise_scale))


@pytest.mark.parametrize("kwargs", [{"microbatch": 32}])
def test_batch_norm_without_ghosts_is_refused(kwargs):
    with pytest.raises(ValueError, match="batch norm without ghosts"):
        GrowingBatches(_source(), constant_batch(128), seed=0, **kwargs)
