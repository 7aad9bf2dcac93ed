"""The same numbers on one device and on eight, and what the compiled programs communicate."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gapjax.ghost.linen import GhostBatchNorm
from gapjax.training import inspect_program

DEVICES = 8
BATCH = 64  # 8 on each device
SHAPE = (BATCH, 2, 3)


def _mesh(shape=(DEVICES,), names=("data",), kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


def _problem(shape=SHAPE, seed=0):
    x = jax.random.normal(jax.random.key(seed), shape) * 2 + 1
    target = jax.random.normal(jax.random.key(seed + 1), shape)
    stats = {"mean": jnp.array([1.0, 0.5, 0.0]), "var": jnp.array([4.0, 3.0, 5.0])}
    params = {"scale": jnp.array([1.0, 2.0, 0.5]), "bias": jnp.array([0.0, 1.0, -1.0])}
    return params, stats, x, target


def _loss(layer, params, stats, x, target, mask=None):
    y, updates = layer.apply(
        {"params": params, "batch_stats": stats}, x, False, mask=mask, mutable=["batch_stats"]
    )
    # Summed, so that the gradients of the shards add up to that of the whole.
    return (jnp.sin(y) * target).sum(), (y, updates["batch_stats"])


def _step(layer):
    return jax.value_and_grad(functools.partial(_loss, layer), argnums=(0, 2), has_aux=True)


def _kinds(compiled):
    return set(inspect_program(compiled).by_kind())


def _largest(compiled):
    """The number of elements of the largest array that a collective produces."""
    collectives = inspect_program(compiled).collectives
    return max((math.prod(shape) for c in collectives for _, shape in c.arrays), default=0)


@pytest.mark.parametrize(
    ("ghost_size", "kind"),
    [(size, AxisType.Auto) for size in (4, 8, 16, 32, 64, None)]
    + [(size, AxisType.Explicit) for size in (4, 16, 24, None)],
)
def test_jit_on_a_sharded_batch(ghost_size, kind):
    layer = GhostBatchNorm(momentum=0.9, ghost_size=ghost_size, remainder="short")
    params, stats, x, target = _problem()
    expected = jax.jit(_step(layer))(params, stats, x, target)
    sharded = jax.device_put((x, target), NamedSharding(_mesh(kind=kind), P("data")))
    compiled = jax.jit(_step(layer)).lower(params, stats, *sharded).compile()
    found = compiled(params, stats, *sharded)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
    # Moments and gradients of parameters, never activations (a shard has 48 elements).
    assert _largest(compiled) <= 3 * DEVICES
    if kind == AxisType.Auto:
        assert _kinds(compiled) <= {"all-reduce", "collective-permute"}


@pytest.mark.parametrize("ghost_size", [4, 8])
def test_ghosts_within_a_shard_communicate_nothing(ghost_size):
    layer = GhostBatchNorm(ghost_size=ghost_size)
    params, stats, x, target = _problem()
    sharding = NamedSharding(_mesh(), P("data"))
    x, target = jax.device_put((x, target), sharding)

    def of_input(x):
        return _loss(layer, params, stats, x, target)[0]

    def output(x):
        return _loss(layer, params, stats, x, target)[1][0]

    for function in (output, jax.grad(of_input)):
        assert not _kinds(jax.jit(function).lower(x).compile())
    # The running statistics need one small all-reduce.
    compiled = jax.jit(lambda x: _loss(layer, params, stats, x, target)[1]).lower(x).compile()
    assert inspect_program(compiled).by_kind()["all-reduce"][0] == 1
    assert _kinds(compiled) == {"all-reduce"}


@pytest.mark.parametrize("remainder", ["short", "merge"])
@pytest.mark.parametrize(("ghost_size", "shape"), [(12, SHAPE), (24, SHAPE), (36, (192, 3))])
def test_ghosts_across_shards_never_gather_activations(ghost_size, shape, remainder):
    layer = GhostBatchNorm(momentum=0.9, ghost_size=ghost_size, remainder=remainder)
    params, stats, x, target = _problem(shape)
    expected = jax.jit(_step(layer))(params, stats, x, target)
    sharded = jax.device_put((x, target), NamedSharding(_mesh(), P("data")))
    compiled = jax.jit(_step(layer)).lower(params, stats, *sharded).compile()
    chex.assert_trees_all_close(compiled(params, stats, *sharded), expected, rtol=1e-5, atol=1e-5)
    assert _kinds(compiled) <= {"all-reduce"}
    assert _largest(compiled) <= 3 * -(-shape[0] // ghost_size)  # moments of all ghosts


def _shard_map(layer, mesh, axes, masked=False, check_vma=True):
    """The step as users write it for shards: gradients of parameters summed over devices."""

    def local(params, stats, x, target, *mask):
        varying = jax.lax.pcast(params, axes, to="varying") if check_vma else params
        (_, aux), (grads, grad_x) = _step(layer)(varying, stats, x, target, *mask)
        return aux, (jax.lax.psum(grads, axes), grad_x)

    batch = P(axes)
    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P(), batch, batch) + (batch,) * masked,
            out_specs=((batch, P()), (P(), batch)),
            check_vma=check_vma,
        )
    )


def _mask(shape):
    mask = jax.random.bernoulli(jax.random.key(9), 0.7, (shape[0], 1, 1))
    return mask.at[8:24].set(False)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("update", ["sequential", "mean"])
@pytest.mark.parametrize("ghost_size", [4, 8, 64, None])
def test_shard_map(ghost_size, update, masked):
    layer = GhostBatchNorm(momentum=0.9, ghost_size=ghost_size, update=update, variance="total")
    params, stats, x, target = _problem()
    mask = (_mask(x.shape),) if masked else ()
    (_, aux), grads = jax.jit(_step(layer))(params, stats, x, target, *mask)
    local = layer.clone(axis_name="data")
    found = _shard_map(local, _mesh(), ("data",), masked)(params, stats, x, target, *mask)
    chex.assert_trees_all_close(found, (aux, grads), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_shard_map_joins_neighbours(masked):
    layer = GhostBatchNorm(momentum=0.9, ghost_size=16)  # two devices of 8
    params, stats, x, target = _problem()
    mask = (_mask(x.shape),) if masked else ()
    (_, aux), grads = jax.jit(_step(layer))(params, stats, x, target, *mask)
    split, axes = _mesh((4, 2), ("outer", "ghost")), ("outer", "ghost")
    local = layer.clone(axis_name=axes)
    found = _shard_map(local, split, axes, masked)(params, stats, x, target, *mask)
    chex.assert_trees_all_close(found, (aux, grads), rtol=1e-5, atol=1e-5)
    local = layer.clone(axis_name="data")
    run = _shard_map(local, _mesh(), ("data",), masked, check_vma=False)
    chex.assert_trees_all_close(
        run(params, stats, x, target, *mask), (aux, grads), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match=r"check_vma=False"):
        _shard_map(local, _mesh(), ("data",), masked)(params, stats, x, target, *mask)


@pytest.mark.parametrize("ghost_size", [4, 8, 16, 64, None])
def test_pmap(ghost_size):
    layer = GhostBatchNorm(momentum=0.9, ghost_size=ghost_size)
    params, stats, x, target = _problem()
    (_, (y, after)), (grads, grad_x) = jax.jit(_step(layer))(params, stats, x, target)

    def local(x, target):
        (_, aux), (grads, grad_x) = _step(layer.clone(axis_name="data"))(params, stats, x, target)
        return aux, (jax.lax.psum(grads, "data"), grad_x)

    split = [a.reshape(DEVICES, -1, *a.shape[1:]) for a in (x, target)]
    (ys, stats_of), (grads_of, grad_xs) = jax.pmap(local, axis_name="data")(*split)
    chex.assert_trees_all_close(ys.reshape(y.shape), y, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(grad_xs.reshape(x.shape), grad_x, rtol=1e-5, atol=1e-5)
    for device in range(DEVICES):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a: a[device], (stats_of, grads_of)),
            (after, grads),
            rtol=1e-5,
            atol=1e-5,
        )


def test_groups_and_ghosts_that_do_not_fit_the_devices():
    params, stats, x, target = _problem()

    def run(**settings):
        layer = GhostBatchNorm(axis_name="data", **settings)
        return _shard_map(layer, _mesh(), ("data",), check_vma=False)(params, stats, x, target)

    with pytest.raises(ValueError, match=r"straddles .* 8 devices hold 8 examples.*\(2, 4, 8"):
        run(ghost_size=6)
    with pytest.raises(ValueError, match=r"straddles"):
        run(ghost_size=24)
    with pytest.raises(ValueError, match=r"the groups are \[\[0, 1\], \[2, 3\]"):
        run(ghost_size=16, axis_index_groups=[[0, 2], [1, 3], [4, 6], [5, 7]])
    run(ghost_size=16, axis_index_groups=[[0, 1], [2, 3], [4, 5], [6, 7]])
    with pytest.raises(ValueError, match="axis_name is None"):
        GhostBatchNorm(axis_index_groups=[[0, 1]])


@pytest.mark.parametrize("ghost_size", [2, 4, 16])
def test_masked_ghosts_on_arrays_that_types_split(ghost_size):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(32, 16)).astype(np.float32), rng.random((32, 1)) < 0.7
    layer = GhostBatchNorm(use_running_average=False, ghost_size=ghost_size, momentum=0.9)
    variables = layer.init(jax.random.key(0), x)

    @jax.jit
    def call(x, mask):
        return layer.apply(variables, x, mask=mask, mutable=["batch_stats"])

    split = NamedSharding(_mesh(kind=AxisType.Explicit), P("data"))
    found = call(jax.device_put(x, split), jax.device_put(mask, split))
    chex.assert_trees_all_close(found, call(x, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [P(None, "data"), P(None, None, "data")])
@pytest.mark.parametrize("ghost_size", [None, 4])
def test_ghosts_of_arrays_whose_other_axes_types_split(spec, ghost_size):
    shape = (16, 8, 8)[: len(spec)] if len(spec) == 3 else (16, 8)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer = GhostBatchNorm(use_running_average=False, ghost_size=ghost_size)
    variables = layer.init(jax.random.key(0), x)

    @jax.jit
    def call(x):
        return layer.apply(variables, x, mutable=["batch_stats"])

    split = NamedSharding(_mesh(kind=AxisType.Explicit), spec)
    chex.assert_trees_all_close(call(jax.device_put(x, split)), call(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", [5, 16])
def test_a_batch_that_is_the_mapped_axis_alone(features):
    layer = GhostBatchNorm(use_running_average=False, axis_name="b")
    known = nn.BatchNorm(use_running_average=False, axis_name="b")
    x = jax.random.normal(jax.random.key(0), (8, features))
    variables = layer.init(jax.random.key(0), x[0])

    def mapped(layer):
        call = functools.partial(layer.apply, variables, mutable=["batch_stats"])
        return jax.jit(jax.vmap(call, axis_name="b"))(x)

    chex.assert_trees_all_close(mapped(layer), mapped(known), rtol=1e-4, atol=1e-5)
