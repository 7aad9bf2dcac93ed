"""The nnx module and its ghostify, against the linen module and Flax's own batch norm."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gapjax.ghost import linen as ghost_linen
from gapjax.ghost.nnx import GhostBatchNorm, batch_statistics, ghostify
from tests.ghost.reference import ghost_batch_norm


def _x(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape) * 2 + 1


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.bn(self.conv(x)))


class Net(nnx.Module):
    """Convolutions with a batch norm in a list, one behind a name, and one shared by two places."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.stem_bn = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List([Block(4, rngs), Block(4, rngs)])
        self.again = self.blocks[0]
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem_bn(self.stem(x)))
        for block in (*self.blocks, self.again):
            x = block(x)
        return self.head(x.mean((1, 2)))


def _train(layer, x):
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def loss(params, x):
        layer = nnx.merge(graph, params, rest, copy=True)
        y = layer(x)
        return jnp.sin(y).sum(), (y, nnx.state(layer, nnx.BatchStat))

    (_, aux), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    return nnx.to_pure_dict(aux[1]), aux[0], nnx.to_pure_dict(grads[0]), grads[1]


@pytest.mark.parametrize("ghost_size", [None, 24])
def test_one_ghost_is_flax(ghost_size):
    x = _x((24, 3, 2))
    plain = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    ghost = GhostBatchNorm(2, ghost_size=ghost_size, rngs=nnx.Rngs(0))
    assert nnx.to_pure_dict(nnx.state(plain)).keys() == nnx.to_pure_dict(nnx.state(ghost)).keys()
    theirs, ours = _train(plain, x), _train(ghost, x)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("dtype", "wide"), [(jnp.bfloat16, None), (jnp.bfloat16, jnp.float32)])
def test_is_the_linen_module(dtype, wide):
    x = _x((16, 3)).astype(wide or dtype)
    settings = {"ghost_size": 4, "momentum": 0.8, "update": "mean", "variance": "total"}
    ours = GhostBatchNorm(3, dtype=dtype, rngs=nnx.Rngs(0), **settings)
    theirs = ghost_linen.GhostBatchNorm(dtype=dtype, **settings)
    variables = theirs.init(jax.random.key(0), x, False)
    y, updates = theirs.apply(variables, x, False, mutable=["batch_stats"])
    chex.assert_trees_all_equal(ours(x), y)
    for name, value in updates["batch_stats"].items():
        chex.assert_trees_all_equal(ours.__dict__[name][...], value)
        assert value.dtype == jnp.float32
    chex.assert_trees_all_equal(
        ours(x, use_running_average=True), theirs.apply({**variables, **updates}, x, True)
    )


def test_evaluation_does_not_round_the_statistics():
    # Flax's own nnx batch norm is 0.2 off here.
    layer = GhostBatchNorm(1, dtype=jnp.bfloat16, use_running_average=True, rngs=nnx.Rngs(0))
    layer.mean[...], layer.var[...] = jnp.array([100.3]), jnp.array([4.0])
    x = 100.3 + 2 * jax.random.normal(jax.random.key(0), (512, 1))
    exact = (np.asarray(x, np.float64) - 100.3) / np.sqrt(4 + 1e-5)
    error = np.abs(np.asarray(layer(x), np.float64) - exact) / np.maximum(np.abs(exact), 0.1)
    assert error.max() < 2**-8


def test_custom_promotion_is_asked():
    asked = []

    def promote(arrays, *, dtype):
        asked.append(dtype)
        return tuple(None if a is None else a.astype(dtype) for a in arrays)

    GhostBatchNorm(2, dtype=jnp.bfloat16, promote_dtype=promote, rngs=nnx.Rngs(0))(_x((8, 2)))
    assert asked == [jnp.float32]


def test_ghostify_makes_a_new_model_with_the_same_paths():
    model = Net(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model))
    ghost = ghostify(model, 4, rescale_momentum=True)
    chex.assert_trees_all_equal(nnx.state(ghost), before)
    assert jax.tree.structure(nnx.state(ghost)) == jax.tree.structure(before)
    assert ghost.again is ghost.blocks[0]
    assert [type(m.bn) for m in ghost.blocks] == [GhostBatchNorm] * 2
    y = nnx.jit(lambda model, x: model(x))(ghost, _x((8, 5, 5, 2)))
    assert y.shape == (8, 3)
    # Training the copy leaves the model as it was.
    chex.assert_trees_all_equal(nnx.state(model), before)
    assert type(model.stem_bn) is nnx.BatchNorm
    stem = model.stem(_x((8, 5, 5, 2)))
    expected = ghost_batch_norm(stem, np.zeros(4), np.ones(4), ghost_size=4, momentum=0.9**0.5)
    np.testing.assert_allclose(ghost.stem_bn.mean[...], expected[1], atol=1e-6)
    np.testing.assert_allclose(ghost.stem_bn.var[...], expected[2], atol=1e-5)
    nnx.update(model, nnx.state(ghost))  # a checkpoint of one fits the other
    ghost.eval(), model.eval()
    chex.assert_trees_all_close(ghost(_x((3, 5, 5, 2))), model(_x((3, 5, 5, 2))), atol=1e-6)


class Small(nnx.Module):
    def __init__(self, norm, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.bn = norm(4, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.bn(self.first(x))))


@pytest.mark.slow
def test_checkpoints_move_both_ways(tmp_path):
    import orbax.checkpoint as ocp

    x = _x((8, 3))
    norms = {"plain": nnx.BatchNorm, "ghost": functools.partial(GhostBatchNorm, ghost_size=4)}

    def train(name, state):
        model = Small(norms[name], nnx.Rngs(0))
        nnx.update(model, state)
        grads = nnx.grad(lambda model: jnp.sin(model(x)).sum())(model)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))
        return nnx.state(model)

    with ocp.StandardCheckpointer() as checkpointer:
        for name, other in (("plain", "ghost"), ("ghost", "plain")):
            saved = train(name, nnx.state(Small(norms[name], nnx.Rngs(1))))
            checkpointer.save(tmp_path / name, saved)
            checkpointer.wait_until_finished()
            like = nnx.state(Small(norms[other], nnx.Rngs(7)))
            loaded = checkpointer.restore(tmp_path / name, like)
            chex.assert_trees_all_equal(loaded, saved)
            chex.assert_trees_all_equal(train(other, loaded), train(other, saved))


def test_ghostify_twice_is_once():
    once = ghostify(Net(nnx.Rngs(0)), 4)
    twice = ghostify(once, 2)
    assert twice.stem_bn.ghost_size == 4
    assert nnx.graphdef(twice) == nnx.graphdef(once)


def test_ghostify_some_layers():
    ghost = ghostify(Net(nnx.Rngs(0)), 4, filter=nnx.PathContains("stem_bn"))
    assert [type(m) for m in (ghost.stem_bn, ghost.again.bn)] == [GhostBatchNorm, nnx.BatchNorm]
    ghost = ghostify(Net(nnx.Rngs(0)), 4, filter=lambda path, layer: path[0] == "blocks")
    assert [type(m) for m in (ghost.stem_bn, ghost.blocks[1].bn)] == [
        nnx.BatchNorm,
        GhostBatchNorm,
    ]


def test_errors():
    model = Net(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"lets none .* pass: .*'stem_bn'"):
        ghostify(model, 4, filter=lambda path, layer: False)
    with pytest.raises(ValueError, match=r"no flax.nnx.BatchNorm was found in Linear"):
        ghostify(model.head, 4)
    with pytest.raises(ValueError, match="whole number"):
        ghostify(model, 0)
    with pytest.raises(ValueError, match=r"'stem_bn': a batch of 6 .* choose ghost_size from"):
        ghostify(model, 4)(_x((6, 5, 5, 2)))
    with pytest.raises(
        ValueError,
        match="momentum, the fraction kept, must be a finite number",
    ):
        GhostBatchNorm(2, momentum=1.1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="use_running_average"):
        GhostBatchNorm(2, use_running_average=None, rngs=nnx.Rngs(0))(_x((6, 2)))


def test_a_subclass_with_its_own_call_is_left_alone():
    class Own(nnx.BatchNorm):
        def __call__(self, x):
            return x

    class Defaults(nnx.BatchNorm):
        def __init__(self, width, rngs):
            super().__init__(width, momentum=0.5, rngs=rngs)

    rngs = nnx.Rngs(0)
    ghost = ghostify(nnx.Sequential(Own(2, rngs=rngs), Defaults(2, rngs)), 4)
    own, other = ghost.layers
    assert type(own) is Own and isinstance(other, GhostBatchNorm)
    assert ghost.layers[1].momentum == 0.5


def test_batch_statistics_keeps_ghosts():
    model = batch_statistics(ghostify(Net(nnx.Rngs(0)), 4))
    x = _x((8, 5, 5, 2))
    model(x)
    stem = model.stem(x)
    np.testing.assert_allclose(model.stem_bn.mean[...], stem.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(model.stem_bn.var[...], stem.var((0, 1, 2)), rtol=1e-5)
    assert model.stem_bn.ghost_size == 4


def test_vmap_over_seeds():
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def create(rngs):
        return GhostBatchNorm(3, ghost_size=4, rngs=rngs)

    layers = create(nnx.Rngs(0))
    x = _x((2, 8, 3))
    y = nnx.vmap(lambda layer, x: layer(x))(layers, x)
    for seed in range(2):
        expected = ghost_batch_norm(x[seed], np.zeros(3), np.ones(3), ghost_size=4)
        np.testing.assert_allclose(y[seed], expected[0], atol=1e-5)
        np.testing.assert_allclose(layers.mean[...][seed], expected[1], atol=1e-6)


class _Fusing(nnx.BatchNorm):
    def fuse(self):
        return "fused"


def test_a_batch_norm_of_ones_own_keeps_its_class():
    model = nnx.Sequential(_Fusing(4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    for ghosted in (ghostify(model, 2), batch_statistics(ghostify(model, 2))):
        layer = ghosted.layers[0]
        assert layer.fuse() == "fused" and isinstance(layer, GhostBatchNorm | _Fusing)
        assert isinstance(layer, GhostBatchNorm) and isinstance(layer, _Fusing)
    x = jax.random.normal(jax.random.key(0), (4, 4))
    found = ghostify(model, 2).layers[0](x)
    np.testing.assert_allclose(found[:2].mean(0), np.zeros(4), atol=1e-6)
