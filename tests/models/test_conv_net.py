"""C1 in linen and in nnx: the same numbers as loops in float64, in the order of either code."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import ghost, models
from tests.models import reference

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype(np.float32)
ORDERS = {
    "keskar": "conv norm relu pool:3/2same " * 2,
    "hoffer": "conv pool:3/2 norm relu " * 2,
}
DENSE = "flatten " + "dense norm relu " * 2 + "dense"
# Where linen keeps the layers of nnx.
IN_LINEN = (
    *(("Conv_0", "BatchNorm_0"), ("Conv_1", "BatchNorm_1")),
    *(("Dense_0", "BatchNorm_2"), ("Dense_1", "BatchNorm_3"), ("Dense_2",)),
)


def _linen(layers):
    """Layers of the nnx network as variables of the linen one."""
    names = [name for pair in IN_LINEN for name in pair]
    variables = {"params": {}, "batch_stats": {}}
    for name, layer in zip(names, layers, strict=True):
        for kind, leaf in layer.items():
            collection = "batch_stats" if kind in ("mean", "var") else "params"
            variables[collection].setdefault(name, {})[kind] = leaf.astype(np.float32)
    return variables


@pytest.mark.parametrize("code", ORDERS)
def test_outputs_equal_loops_in_float64_in_linen_and_nnx(code):
    network, params, state = reference.drawn(models.c1(5, code=code, thin=32), IMAGES)
    layers = reference.nnx_layers(params, state)
    expected = reference.forward(IMAGES, ORDERS[code] + DENSE, layers)
    outputs, _ = jax.jit(functools.partial(network.apply, train=False))(params, state, IMAGES)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    linen = models.ConvNet(5, code, thin=32)
    variables = _linen(layers)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        variables, dict(jax.eval_shape(linen.init, jax.random.key(0), IMAGES))
    )
    np.testing.assert_allclose(
        jax.jit(linen.apply)(variables, IMAGES), outputs, rtol=1e-5, atol=1e-5
    )


def test_ghosts_go_in_by_norm_and_by_ghostify_and_dropout_is_drawn_per_example():
    norm = functools.partial(ghost.nnx.GhostBatchNorm, ghost_size=2, momentum=0.9**0.5)
    plain, params, state = reference.drawn(models.c1(5, thin=32), IMAGES)
    ghosted = models.as_network(models.c1(5, norm, thin=32))
    alike = np.repeat(IMAGES[:1], 4, axis=0)

    @jax.jit
    def trained(params, state):
        key = jax.random.key(0)
        ghosts = plain.apply(params, state, IMAGES, train=True, key=key, ghost_size=2)
        same = ghosted.apply(params, state, IMAGES, train=True, key=key)
        return ghosts, same, plain.apply(params, state, alike, train=True, key=key)[0]

    ghosts, same, dropped = trained(params, state)
    chex.assert_trees_all_close(ghosts, same, atol=1e-5)
    assert len(np.unique(np.asarray(dropped), axis=0)) > 1
    with pytest.raises(ValueError, match="has no key to draw with"):
        jax.eval_shape(
            functools.partial(plain.apply, train=True), params, state, jnp.asarray(alike)
        )


def test_a_batch_is_not_taken_for_one_image():
    with pytest.raises(ValueError, match=r"takes images \[B, H, W, C\]"):
        jax.eval_shape(models.ConvNet().init, jax.random.key(0), jnp.zeros((4, 28, 28)))
