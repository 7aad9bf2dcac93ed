"""A batch of no examples: an empty array, as in Flax, and statistics that stay as they are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from gapjax.ghost import ghost_moments, normalize, precise_statistics, update_running
from gapjax.ghost.linen import GhostBatchNorm
from gapjax.ghost.nnx import GhostBatchNorm as NnxGhostBatchNorm

SHAPES = [(0, 3), (0, 5, 3), (8, 0, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ghost_size", [None, 4])
@pytest.mark.parametrize("remainder", ["error", "short", "merge"])
def test_modules_give_what_flax_gives(shape, ghost_size, remainder):
    x = jnp.zeros(shape)
    settings = {"ghost_size": ghost_size, "remainder": remainder}
    layer = GhostBatchNorm(use_running_average=False, **settings)
    variables = layer.init(jax.random.key(0), jnp.zeros((2, *shape[1:])))
    plain, _ = nn.BatchNorm(use_running_average=False).apply(variables, x, mutable=["batch_stats"])
    y, updates = layer.apply(variables, x, mutable=["batch_stats"])
    chex.assert_trees_all_equal_shapes_and_dtypes(y, plain)
    chex.assert_trees_all_equal(updates["batch_stats"], variables["batch_stats"])
    other = NnxGhostBatchNorm(3, **settings, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(other(x), plain)
    np.testing.assert_array_equal(other.mean[...], 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("ghost_size", "ghosts"), [(None, 1), (4, None)])
def test_the_core_counts_nothing(shape, ghost_size, ghosts):
    x, shift = jnp.zeros(shape), jnp.arange(3.0)
    ghosts = shape[0] // 4 if ghosts is None else ghosts
    moments = ghost_moments(x, ghost_size, shift=shift)
    assert moments.mean.shape == (ghosts, 3)
    np.testing.assert_array_equal(moments.mean, np.tile(shift, (ghosts, 1)))
    np.testing.assert_array_equal(moments.count, np.zeros(ghosts))
    assert normalize(x, moments.mean, moments.var, ghost_size).shape == shape
    for update in ("sequential", "mean"):
        running = update_running((shift, shift), moments, momentum=0.5, update=update)
        np.testing.assert_array_equal(running.mean, shift)


def test_precise_statistics_pass_over_it():
    def apply(params, batch):
        moments = ghost_moments(batch["x"], mask=batch["mask"][:, None])
        return {"mean": moments.mean[0], "var": moments.var[0]}

    whole = {
        "x": jnp.array([[1.0], [3.0], [8.0], [99.0]]),
        "mask": jnp.array([True, True, True, False]),
    }
    batches = [jax.tree.map(lambda a: a[i:j], whole) for i, j in ((0, 2), (2, 2), (2, 4))]
    found = precise_statistics(apply, None, batches)
    np.testing.assert_allclose(found["mean"], 4.0)
    np.testing.assert_allclose(found["var"], np.var([1, 3, 8]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"batch\['w'\] has shape \(3,\)"):
        precise_statistics(apply, None, [whole | {"w": jnp.ones(3)}])
    with pytest.raises(ValueError, match="no examples"):
        precise_statistics(apply, None, [batches[1]])
