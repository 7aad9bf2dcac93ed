"""Curvature where the parameters lie: the same numbers, and nothing gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from gapjax import landscape, training
from gapjax.landscape import _lanczos, _linear
from gapjax.landscape._data import Batches, _move_mean, as_partial
from gapjax.landscape._products import ForwardOverReverse
from tests.landscape import networks, transformer

KEY = jax.random.key(0)
LAYOUTS = [("tensor", AxisType.Auto), ("fsdp", AxisType.Explicit)]


@pytest.fixture(scope="module")
def problem():
    return transformer.make()


@pytest.fixture(scope="module")
def one_device(problem):
    params, batches = jax.tree.map(jnp.asarray, problem)
    return landscape.hessian(transformer.loss, params, batches)


@pytest.fixture(scope="module")
def top(one_device):
    return landscape.eigh_topk(one_device, KEY, 5)


@pytest.mark.parametrize(("how", "kind"), LAYOUTS)
def test_eigenpairs_are_those_of_one_device_and_lie_like_the_parameters(problem, top, how, kind):
    mesh = transformer.mesh_for(how, kind)
    params, batches = transformer.place(mesh, *problem, how)
    op = landscape.hessian(transformer.loss, params, batches, check=False)
    held = []

    def look(progress):
        if progress.done == 20:
            held.append(_bytes_on_first_device())

    before = _bytes_on_first_device()
    pairs = landscape.eigh_topk(op, KEY, 5, progress=look)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, top.values, rtol=1e-4)

    def alike(vectors, leaf):
        assert vectors[0].sharding.is_equivalent_to(leaf.sharding, leaf.ndim)

    jax.tree.map(alike, pairs.vectors, params)
    for leaf, whole in zip(*map(jax.tree.leaves, (pairs.vectors, top.vectors)), strict=True):
        signs = np.sign(
            np.sum(np.asarray(leaf) * np.asarray(whole), axis=tuple(range(1, leaf.ndim)))
        )
        signed = np.asarray(leaf) * signs.reshape(-1, *[1] * (leaf.ndim - 1))
        np.testing.assert_allclose(signed, whole, atol=0.02)
    # Two blocks of 16 vectors, and the few that are at work.
    assert held[0] - before <= 1.3 * 4 * op.space.size_per_device * (2 * 16 + 2)


def _bytes_on_first_device():
    first = jax.devices()[0]
    shards = [s for a in jax.live_arrays() for s in a.addressable_shards if s.device == first]
    return sum(shard.data.nbytes for shard in shards)


@pytest.mark.parametrize(("how", "kind"), LAYOUTS)
def test_no_program_gathers_more_than_a_weight(problem, how, kind):
    mesh = transformer.mesh_for(how, kind)
    params, batches = transformer.place(mesh, *problem, how)
    space = landscape.hessian(transformer.loss, params, batches, check=False).space
    vector, block = space.normal(KEY), space.zeros(16)
    kernel, args = ForwardOverReverse(space), (batches[0], as_partial(transformer.loss), params)
    mean = space.zeros(), np.float32(1)
    product = _move_mean.lower(kernel, *mean, *args, vector)
    assert _linear.linearized(kernel, Batches(batches), *args[1:]) is None, "that is the program"
    largest = max(leaf.size for leaf in jax.tree.leaves(params))
    for one in training.inspect_program(product.compile()).collectives:
        for _, shape in one.arrays if one.kind != "all-reduce" else ():
            activation = 16 in shape  # of so many sequences; the compiler may move these instead
            assert activation or np.prod(shape) <= largest, shape
    weights = np.ones((16, 16), np.float32)
    for program in (
        _lanczos._project_out.lower(block, vector),
        _lanczos._set_row.lower(block, np.int32(3), vector, np.float32(2)),
        _lanczos._get_row.lower(block, np.int32(3)),
        _lanczos._combine.lower(block, weights, block),
    ):
        for one in training.inspect_program(program.compile()).collectives:
            assert one.kind == "all-reduce" and one.bytes <= 4 * 16 * len(vector), "16 numbers"


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_everything_else_is_the_same_on_a_mesh(axes):
    params, batch = networks.make(hidden=8, examples=64)
    alone = params, networks.split(batch, 32)
    spread = networks.placed(*alone, axes)
    one, many = (landscape.hessian(networks.loss, *where) for where in (alone, spread))
    spectra = [landscape.spectral_density(op, KEY, num_probes=2, num_steps=6) for op in (one, many)]
    np.testing.assert_allclose(spectra[0].nodes, spectra[1].nodes, rtol=1e-4, atol=1e-4)
    traces = [landscape.trace(op, KEY, 6, method="krylov") for op in (one, many)]
    np.testing.assert_allclose(traces[0].mean, traces[1].mean, rtol=1e-4)
    counts = [
        landscape.count_above(op, 0.1, key=KEY, num_probes=2, num_steps=6) for op in (one, many)
    ]
    np.testing.assert_allclose(counts[0].mean, counts[1].mean, rtol=1e-3, atol=1e-3)
    for measure in (
        lambda *a: landscape.keskar_sharpness(*a, maxiter=2, num_starts=1),
        lambda *a: landscape.keskar_sharpness(*a, maxiter=2, subspace_dim=3, key=KEY),
        lambda *a: landscape.adaptive_sharpness(*a, maxiter=2, num_starts=2, key=KEY),
        lambda *a: landscape.adaptive_sharpness(*a, mode="average", num_draws=2, key=KEY),
        landscape.sam_sharpness,
    ):
        found = [measure(networks.loss, *where).values for where in (alone, spread)]
        np.testing.assert_allclose(*found, rtol=2e-3)
    for operator in (
        lambda *a: landscape.ggn(networks.apply, networks.output_loss, *a),
        lambda *a: landscape.fisher(networks.apply, *a),
        lambda *a: landscape.fisher(
            networks.apply, *a, kind="empirical", output_loss=networks.output_loss
        ),
    ):
        found = [operator(*where) @ where[0] for where in (alone, spread)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_what_an_optimizer_meets_is_the_same_on_a_mesh(axes):
    params, batch = networks.make(hidden=8, examples=64)
    alone = params, networks.split(batch, 32)
    spread = networks.placed(*alone, axes)
    for product in ("reverse_over_reverse", "finite_difference"):
        found = [
            landscape.hessian(networks.loss, *at, product=product, check=False) @ at[0]
            for at in (alone, spread)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), *found)
        for vector, leaf in zip(*map(jax.tree.leaves, (found[1], spread[0])), strict=True):
            assert vector.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)

    def measures(params, batches):
        gradient = jax.jit(jax.grad(networks.loss))(params, batches[0])
        scale = jax.tree.map(lambda leaf: 1 + jnp.abs(leaf), params)
        op = landscape.hessian(networks.loss, params, batches, check=False)
        return (
            landscape.critical_sharpness(networks.loss, params, gradient, batches).value,
            landscape.batch_sharpness(networks.loss, params, batches).mean,
            landscape.trace(landscape.preconditioned(op, scale), KEY, 4).mean,
        )

    np.testing.assert_allclose(measures(*alone), measures(*spread), rtol=1e-3)


def test_a_saved_state_goes_on_laid_out_like_the_parameters(problem, one_device):
    mesh = transformer.mesh_for("tensor", AxisType.Auto)
    params, batches = transformer.place(mesh, *problem, "tensor")
    many = landscape.hessian(transformer.loss, params, batches, check=False)
    begun = landscape.lanczos(one_device, KEY, 5)
    saved = jax.tree.map(np.asarray, begun)  # as from a file
    state = landscape.lanczos(many, KEY, 8, resume=saved)
    for part, leaf in zip(state.blocks[0], jax.tree.leaves(params), strict=True):
        assert part.sharding.shard_shape(part.shape)[1:] == leaf.sharding.shard_shape(leaf.shape)
    straight = landscape.lanczos(one_device, KEY, 8)
    np.testing.assert_allclose(state.projection, straight.projection, rtol=1e-3, atol=1e-3)


def test_memory_is_stated_for_each_device(problem, one_device, monkeypatch):
    from gapjax.landscape import _memory

    mesh = transformer.mesh_for("tensor", AxisType.Auto)
    params, batches = transformer.place(mesh, *problem, "tensor")
    many = landscape.hessian(transformer.loss, params, batches, check=False)
    each = 9 * 4 * many.space.size_per_device
    assert 8 * each < 3 * 9 * 4 * one_device.size  # split over 4 of the 8 devices, all but a scale
    monkeypatch.setattr(_memory, "_available_bytes", lambda: 8 * each)
    landscape.lanczos(many, KEY, 8)
    with pytest.raises(MemoryError, match=rf"takes {10 * each // 9} bytes on each device .*free"):
        landscape.lanczos(many, KEY, 9)
