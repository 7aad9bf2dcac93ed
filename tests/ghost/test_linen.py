"""The linen module against a loop in NumPy and against Flax's own batch norm."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gapjax.ghost.linen import GhostBatchNorm
from tests.ghost.reference import ghost_batch_norm


def _inputs(shape, seed=0, dtype=jnp.float32):
    x = jax.random.normal(jax.random.key(seed), shape) * 2 + 1
    return x.astype(dtype)


def _train(layer, variables, x, **kwargs):
    y, updates = layer.apply(variables, x, False, mutable=["batch_stats"], **kwargs)
    return y, {**variables, **updates}


@pytest.mark.parametrize("ghost_size", [None, 24])
def test_one_ghost_is_flax(ghost_size):
    x = _inputs((24, 3, 3, 2))
    plain, ghost = nn.BatchNorm(), GhostBatchNorm(ghost_size=ghost_size)
    start = plain.init(jax.random.key(1), x, False)
    chex.assert_trees_all_equal(start, ghost.init(jax.random.key(1), x, False))

    @functools.partial(jax.jit, static_argnums=0)
    def run(layer, variables, x):
        def loss(params, x):
            y, after = _train(layer, {**variables, "params": params}, x)
            return jnp.sin(y).sum(), (y, after["batch_stats"])

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

    (_, theirs), their_grads = run(plain, start, x)
    (_, ours), our_grads = run(ghost, start, x)
    # The first call shifts by a mean of zero: the moments are Flax's own, to the last rounding.
    chex.assert_trees_all_close(ours[1], theirs[1], rtol=2e-7)
    chex.assert_trees_all_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(our_grads, their_grads, rtol=1e-5, atol=5e-5)
    start = {**start, "batch_stats": theirs[1]}
    chex.assert_trees_all_close(run(ghost, start, x), run(plain, start, x), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("update", ["sequential", "mean"])
@pytest.mark.parametrize("variance", ["within", "unbiased", "total"])
@pytest.mark.parametrize("remainder", ["short", "merge"])
def test_layer_is_the_loop(update, variance, remainder):
    x = _inputs((22, 3, 2))
    settings = {"ghost_size": 4, "update": update, "variance": variance, "remainder": remainder}
    layer = GhostBatchNorm(momentum=0.8, **settings)
    variables = layer.init(jax.random.key(0), x, False)
    mean, var = np.zeros(2), np.ones(2)
    for seed in range(2):
        x = _inputs((22, 3, 2), seed)
        y, variables = _train(layer, variables, x)
        expected, mean, var = ghost_batch_norm(x, mean, var, momentum=0.8, **settings)
        np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], var, rtol=1e-5)


def test_vmap_over_seeds_and_scan():
    norm = functools.partial(GhostBatchNorm, ghost_size=8, momentum=0.9)
    xs = _inputs((3, 2, 32, 5))  # [steps, seeds, B, C]

    def apply(stats, x):
        y, updates = norm(use_running_average=False).apply(
            {"params": params, "batch_stats": stats}, x, mutable=["batch_stats"]
        )
        return updates["batch_stats"], y

    variables = norm(use_running_average=False).init(jax.random.key(0), xs[0, 0])
    params = variables["params"]
    stats = jax.tree.map(lambda a: jnp.stack([a, a]), variables["batch_stats"])
    stats, ys = jax.jit(lambda s, xs: jax.lax.scan(jax.vmap(apply), s, xs))(stats, xs)
    for seed in range(2):
        mean, var = np.zeros(5), np.ones(5)
        for step in range(3):
            y, mean, var = ghost_batch_norm(xs[step, seed], mean, var, ghost_size=8, momentum=0.9)
            np.testing.assert_allclose(ys[step, seed], y, atol=1e-5)
        np.testing.assert_allclose(stats["mean"][seed], mean, atol=1e-5)
        np.testing.assert_allclose(stats["var"][seed], var, atol=1e-5)


class _Net(nn.Module):
    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, train):
        for width in (4, 3):
            x = nn.relu(self.norm(use_running_average=not train)(nn.Dense(width)(x)))
        return x


def test_automatic_names_are_those_of_batch_norm():
    x = _inputs((8, 6))
    plain = _Net(nn.BatchNorm).init(jax.random.key(0), x, True)
    ghost = _Net(functools.partial(GhostBatchNorm, ghost_size=4)).init(jax.random.key(0), x, True)
    chex.assert_trees_all_equal(plain, ghost)


def test_evaluation_is_flax_on_any_batch():
    x = _inputs((7, 3), dtype=jnp.bfloat16)
    layer = GhostBatchNorm(True, ghost_size=4, dtype=jnp.bfloat16)
    plain = nn.BatchNorm(True, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    stats = {"mean": jnp.array([1.0, 100.3, -3.0]), "var": jnp.array([4.0, 0.5, 1.0])}
    variables = {**variables, "batch_stats": stats}
    with jax.numpy_dtype_promotion("standard"):
        expected = plain.apply(variables, x)
    chex.assert_trees_all_equal(layer.apply(variables, x), expected)


def test_errors_name_the_layer_and_the_remedy():
    net = _Net(functools.partial(GhostBatchNorm, ghost_size=4))
    variables = net.init(jax.random.key(0), jnp.ones((1, 6)), True)  # a dummy batch is fine
    with pytest.raises(ValueError, match=r"'BatchNorm_0': a batch of 10 .* \(2, 5, 10\)"):
        net.apply(variables, jnp.ones((10, 6)), True, mutable=["batch_stats"])
    with pytest.raises(ValueError, match=r"a batch of 1 .* from \(1,\).* Inside pmap"):
        net.apply(variables, jnp.ones((1, 6)), True, mutable=["batch_stats"])
    net.apply(variables, jnp.ones((10, 6)), False)
    short = _Net(functools.partial(GhostBatchNorm, ghost_size=4, remainder="short"))
    with pytest.raises(ValueError, match=r'a ghost of 1 example.*remainder="merge"'):
        short.apply(variables, jnp.ones((9, 6)), True, mutable=["batch_stats"])
    with pytest.raises(ValueError, match="Did you mean 'merge'"):
        GhostBatchNorm(remainder="merged")
    with pytest.raises(ValueError, match="ghost_size must be a whole number"):
        GhostBatchNorm(ghost_size=0)


def test_a_model_is_exported_for_any_batch():
    examples = jax.export.symbolic_shape("b")[0]
    shape = jax.ShapeDtypeStruct((examples, 4, 3), jnp.float32)
    x = jax.random.normal(jax.random.key(0), (6, 4, 3))
    for layer in (GhostBatchNorm(True), GhostBatchNorm(False)):
        variables = layer.init(jax.random.key(1), x)

        def apply(x, layer=layer, variables=variables):
            return layer.apply(variables, x, mutable=["batch_stats"])[0]

        exported = jax.export.export(jax.jit(apply))(shape)
        np.testing.assert_allclose(exported.call(x), apply(x), atol=1e-6)
    cut = GhostBatchNorm(False, ghost_size=2)
    with pytest.raises(ValueError, match="a batch of b examples cannot be cut into ghosts of 2"):
        jax.export.export(jax.jit(lambda x: cut.apply(variables, x, mutable=["batch_stats"])))(
            shape
        )
