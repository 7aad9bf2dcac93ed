"""Properties, over random shapes, ghosts, masks, dtypes and momenta, against a loop in float64."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gapjax.ghost import ghost_moments, normalize, update_running
from gapjax.ghost.linen import GhostBatchNorm
from tests.ghost.reference import ghost_batch_norm

_settings = functools.partial(hypothesis.settings, deadline=None, derandomize=True)
CASES = {
    "shape": st.sampled_from([(12, 3), (12, 5, 3), (12, 2, 2, 3), (12, 2, 1, 2, 3)]),
    "ghost_size": st.sampled_from([None, 2, 3, 4, 5, 7, 12]),
    "momentum": st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    "update": st.sampled_from(["sequential", "mean"]),
    "variance": st.sampled_from(["within", "unbiased", "total"]),
    "remainder": st.sampled_from(["short", "merge"]),
    "mask": st.sampled_from([None, "examples", "elements", "a ghost"]),
    "fast": st.booleans(),
    "seed": st.integers(0, 2**30),
}


def _mask(kind, shape, rng):
    if kind is None:
        return None
    if kind == "elements":
        return rng.random(shape) < 0.7
    mask = rng.random((shape[0],) + (1,) * (len(shape) - 1)) < 0.7
    if kind == "a ghost":
        mask[:5] = False
    return mask


def _count_in_ghost(mask, shape, ghost_size, remainder):
    """How many elements each element's ghost and channel has, itself included."""
    size = ghost_size or shape[0]
    ghost = np.arange(shape[0]) // size
    if remainder == "merge" and shape[0] % size:
        ghost = np.minimum(ghost, max(shape[0] // size, 1) - 1)
    kept = np.broadcast_to(True if mask is None else mask, shape).reshape(shape[0], -1, shape[-1])
    counts = np.stack([kept[ghost == g].sum((0, 1)) for g in range(ghost.max() + 1)])
    return np.broadcast_to(np.expand_dims(counts[ghost], tuple(range(1, len(shape) - 1))), shape)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 2e-3)]
)
@_settings(max_examples=12)
@hypothesis.given(case=st.fixed_dictionaries(CASES))
def test_layer_is_the_loop(dtype, tolerance, case):
    rng = np.random.default_rng(case["seed"])
    shape = case["shape"]
    x = jnp.asarray(rng.normal(1, 2, shape)).astype(dtype)
    mask = _mask(case["mask"], shape, rng)
    settings = {name: case[name] for name in ("ghost_size", "momentum", "update", "variance")}
    if len(shape) == 2 and case["ghost_size"] is not None and 12 % case["ghost_size"] == 1:
        settings["remainder"] = "merge"  # a tail of one example is refused
    else:
        settings["remainder"] = case["remainder"]
    stats = {"mean": rng.normal(1, 1, 3), "var": rng.uniform(1, 3, 3)}
    params = {"scale": rng.normal(1, 0.3, 3), "bias": rng.normal(0, 1, 3)}
    layer = GhostBatchNorm(dtype=dtype, use_fast_variance=case["fast"], **settings)
    variables = {"batch_stats": stats, "params": params}
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    y, updates = jax.jit(
        lambda v, x, mask: layer.apply(v, x, False, mask=mask, mutable=["batch_stats"])
    )(variables, x, mask)
    assert y.dtype == dtype
    expected, mean, var = ghost_batch_norm(
        x, stats["mean"], stats["var"], mask=mask, **settings, **params
    )
    # What is masked may be normalized by next to nothing; there it has to be finite only.
    assert np.isfinite(np.asarray(y, float)).all()
    off = np.abs(np.asarray(y, float) - expected) / np.maximum(1, np.abs(expected))
    # An element that is alone in its ghost has no variance: what float32 rounds off it is
    # multiplied by 1 / sqrt(epsilon) = 316 there, whatever the arithmetic.
    alone = _count_in_ghost(mask, shape, case["ghost_size"], settings["remainder"]) < 2
    bound = np.where(alone, np.maximum(tolerance, 1e-4), tolerance)
    assert np.max(off - bound, initial=-1, where=True if mask is None else mask) <= 0
    for found, exact in (
        (updates["batch_stats"]["mean"], mean),
        (updates["batch_stats"]["var"], var),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_float64_keeps_its_precision():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (12, 3), jnp.float64) + 100
        mean, var, _ = ghost_moments(x, 4)
        assert mean.dtype == var.dtype == jnp.float64
        y = normalize(x, mean, var, 4)
        expected, _, _ = ghost_batch_norm(x, np.zeros(3), np.ones(3), ghost_size=4)
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)
        layer = GhostBatchNorm(ghost_size=4)
        variables = layer.init(jax.random.key(0), x, False)
        _, updates = layer.apply(variables, x, False, mutable=["batch_stats"])
        assert {a.dtype for a in jax.tree.leaves(updates)} == {jnp.dtype("float32")}


@_settings(max_examples=10)
@hypothesis.given(
    calls=st.sampled_from([1, 2, 3, 6]),
    variance=st.sampled_from(["within", "unbiased"]),
    momentum=st.sampled_from([0.5, 0.9, 0.99]),
    masked=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_accumulated_calls_leave_the_statistics_of_one_call(
    calls, variance, momentum, masked, seed
):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(1, 2, (24, 3)), jnp.float32)
    mask = jnp.asarray(rng.random((24, 1)) < 0.6) if masked else jnp.ones((24, 1), bool)
    running = (jnp.zeros(3), jnp.ones(3))

    def train(running, x, mask):
        moments = ghost_moments(x, 2, mask=mask if masked else None, shift=running[0])
        return update_running(running, moments, momentum=momentum, variance=variance)

    whole = train(running, x, mask)
    for part in range(calls):
        here = slice(part * 24 // calls, (part + 1) * 24 // calls)
        running = train(running, x[here], mask[here])
    for found, expected in zip(running, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@_settings(max_examples=8)
@hypothesis.given(
    ghosts=st.sampled_from([1, 2, 3, 4]),
    weights=st.sampled_from(["sequential", "mean"]),
    seed=st.integers(0, 2**30),
)
def test_total_variance_of_equal_ghosts_is_that_of_the_batch(ghosts, weights, seed):
    x = jnp.asarray(np.random.default_rng(seed).normal(3, 2, (12, 2)), jnp.float32)
    moments = ghost_moments(x, 12 // ghosts)
    start = (jnp.zeros(2), jnp.zeros(2))
    if weights == "sequential":  # equal weights in the limit of momentum 1
        whole = update_running(start, moments, momentum=1 - 1e-4, variance="total")
        share = 1 - (1 - 1e-4) ** ghosts
        tolerance = 1e-3
    else:
        whole = update_running(start, moments, momentum=0.5, update="mean", variance="total")
        share, tolerance = 0.5, 1e-5
    np.testing.assert_allclose(whole.mean / share, x.mean(0), rtol=tolerance)
    np.testing.assert_allclose(whole.var / share, x.var(0), rtol=tolerance)


def test_gradients_are_those_of_the_loop():
    """Against central differences of the float64 loop, with a remainder and a mask."""
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (7, 2))
    target = rng.normal(0, 1, (7, 2))
    mask = rng.random((7, 1)) < 0.8
    mask[:2] = True

    def loop(x):
        y, _, _ = ghost_batch_norm(
            x, np.zeros(2), np.ones(2), ghost_size=3, remainder="merge", mask=mask
        )
        return (np.sin(y) * target).sum()

    def ours(x):
        moments = ghost_moments(x, 3, remainder="merge", mask=mask, shift=jnp.ones(2))
        y = normalize(x, moments.mean, moments.var, 3, remainder="merge")
        return (jnp.sin(y) * jnp.asarray(target, x.dtype)).sum()

    found = jax.grad(ours)(jnp.asarray(x, jnp.float32))
    step = 1e-5
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        expected = (loop(up) - loop(down)) / (2 * step)
        np.testing.assert_allclose(found[index], expected, rtol=1e-3, atol=1e-4)


def test_a_mean_far_from_zero_costs_no_precision():
    """At mean 1000 and deviation 1 Flax's variance is 2.5 % off; the shift saves it."""
    x = 1000 + jax.random.normal(jax.random.key(0), (1024, 8))
    exact = np.asarray(x, np.float64).var(0)
    plain, layer = nn.BatchNorm(momentum=0.0), GhostBatchNorm(momentum=0.0)
    variables = layer.init(jax.random.key(0), x, False)
    settled = {**variables, "batch_stats": {"mean": jnp.full(8, 1000.3), "var": jnp.ones(8)}}

    def error(layer):
        _, updates = layer.apply(settled, x, False, mutable=["batch_stats"])
        return np.abs(updates["batch_stats"]["var"] / exact - 1).max()

    assert error(layer) < 1e-4 < 1e-3 < error(plain)
    ghosts = ghost_moments(x, 32, shift=jnp.full(8, 1000.3))
    exact = np.asarray(x, np.float64).reshape(32, 32, 8).var(1)
    assert np.abs(ghosts.var / exact - 1).max() < 1e-4


def test_one_trace_for_one_shape():
    layer = GhostBatchNorm(ghost_size=4)
    x = jnp.ones((8, 3))
    variables = layer.init(jax.random.key(0), x, False)
    traces = []

    @jax.jit
    def apply(variables, x):
        traces.append(x.shape)
        _, updates = layer.apply(variables, x, False, mutable=["batch_stats"])
        return {**variables, **updates}

    for shape in ((8, 3), (8, 3), (12, 3), (12, 3)):
        variables = apply(variables, jnp.ones(shape))
    assert traces == [(8, 3), (12, 3)]


def test_momentum_can_be_an_array_under_vmap():
    x = jax.random.normal(jax.random.key(0), (8, 3))
    moments = ghost_moments(x, 2)
    start = (jnp.zeros(3), jnp.ones(3))
    momenta = jnp.array([0.5, 0.9, 0.99])
    found = jax.vmap(lambda m: update_running(start, moments, momentum=m))(momenta)
    for i, momentum in enumerate([0.5, 0.9, 0.99]):
        expected = update_running(start, moments, momentum=momentum)
        np.testing.assert_allclose(found.mean[i], expected.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.var[i], expected.var, rtol=1e-5)


@pytest.mark.parametrize(
    "momentum", [5.0, np.array(5.0), -0.1, True, np.True_, None, np.nan, "0.9", [0.9]]
)
def test_what_is_no_fraction_is_no_momentum(momentum):
    start, moments = (jnp.zeros(1), jnp.ones(1)), ghost_moments(jnp.arange(8.0)[:, None], 4)
    told = "momentum, the fraction kept, must be a finite number of at least 0 and at most 1, not"
    with pytest.raises(ValueError, match=told):
        update_running(start, moments, momentum=momentum)


@pytest.mark.parametrize("kind", [float, np.float32, np.array, jnp.float32, jax.jit(lambda x: x)])
def test_momenta_of_any_kind_are_taken(kind):
    start, moments = (jnp.zeros(1), jnp.ones(1)), ghost_moments(jnp.arange(8.0)[:, None], 4)
    found = update_running(start, moments, momentum=kind(0.5))
    np.testing.assert_allclose(found.mean, [0.25 * 1.5 + 0.5 * 5.5])
