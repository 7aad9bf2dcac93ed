"""Gradient noise between devices: the same numbers under jit with a mesh, pmap and shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from gapjax.growth import (
    gradient_noise_scale,
    mean_over_devices,
    value_grad_and_device_noise,
)
from tests.meshes import data_mesh

DEVICES, EXAMPLES = 4, 24


def _loss(params, batch):
    return jnp.mean(jnp.square(jnp.tanh(batch["x"] @ params["w"]) - batch["y"]) + params["b"] ** 2)


def _case():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=5), jnp.float32), "b": jnp.float32(0.3)}
    batch = {
        "x": jnp.asarray(rng.normal(size=(EXAMPLES, 5)), jnp.float32),
        "y": jnp.asarray(rng.normal(size=EXAMPLES), jnp.float32),
    }
    shares = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)
    grads = jax.vmap(jax.grad(_loss), (None, 0))(params, shares)
    flat = np.concatenate(
        [np.asarray(g, np.float64).reshape(DEVICES, -1) for g in grads.values()], 1
    )
    norms = np.mean(np.sum(flat**2, axis=1)), np.sum(flat.mean(axis=0) ** 2)
    return params, batch, shares, norms


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("num_examples", [None, 100])
def test_under_jit_with_a_mesh(kind, num_examples):
    params, batch, _, norms = _case()
    mesh = data_mesh(DEVICES, kind)
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
    compute = jax.jit(value_grad_and_device_noise(_loss, mesh, num_examples=num_examples))
    value, grads, noise = compute(params, jax.device_put(batch, sharding))
    expected = gradient_noise_scale(*norms, part_size=6, batch_size=24, num_examples=num_examples)
    np.testing.assert_allclose(noise[:2], expected[:2], rtol=1e-4, atol=1e-6)
    expected_value, expected_grads = jax.value_and_grad(_loss)(params, batch)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), grads, expected_grads)


def test_what_the_loss_gives_besides_is_averaged():
    params, batch, shares, _ = _case()

    def loss(params, batch, shift):
        value = _loss(params, batch)
        return value + shift, {"mean": jnp.mean(batch["x"]), "count": len(batch["y"])}

    compute = jax.jit(value_grad_and_device_noise(loss, data_mesh(DEVICES), has_aux=True))
    (value, aux), _, _ = compute(params, batch, jnp.float32(1.0))
    np.testing.assert_allclose(value, _loss(params, batch) + 1, rtol=1e-5)
    np.testing.assert_allclose(aux["mean"], jnp.mean(batch["x"]), rtol=1e-4)
    assert aux["count"] == shares["y"].shape[1]


def test_a_share_counts_as_much_as_it_holds():
    """Real rows of 6, 2, 0 and 1: each device has its part of the one mean over them."""
    params, batch, _, _ = _case()
    mask = np.concatenate([np.arange(6) < count for count in (6, 2, 0, 1)])
    batch = {**batch, "mask": mask}

    def loss(params, batch):
        errors = jnp.square(jnp.tanh(batch["x"] @ params["w"]) - batch["y"]) + params["b"] ** 2
        weights = batch["mask"].astype(jnp.float32)
        return jnp.sum(errors * weights) / jnp.sum(weights), {"rows": jnp.sum(weights)}

    compute = jax.jit(value_grad_and_device_noise(loss, data_mesh(DEVICES), has_aux=True))
    (value, aux), grads, noise = compute(params, batch)
    (expected, _), whole = jax.value_and_grad(loss, has_aux=True)(params, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(aux["rows"], (6 * 6 + 2 * 2 + 1 * 1) / 9, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), grads, whole)

    def squares(rows):
        share = jax.tree.map(lambda x: x[rows], batch)
        found = jax.grad(lambda params: loss(params, share)[0])(params)
        return sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in found.values())

    parts = 6 * squares(slice(0, 6)) + 2 * squares(slice(6, 8)) + squares(slice(18, 19))
    # E|g_n|^2 = |G|^2 + trace / n, of parts and of the whole
    trace = (parts / 9 - squares(mask)) / (3 / 9 - 1 / 9)
    np.testing.assert_allclose(noise.trace, trace, rtol=1e-4)
    np.testing.assert_allclose(noise.squared_norm, squares(mask) - trace / 9, rtol=1e-4, atol=1e-6)
    _, _, alone = compute(params, {**batch, "mask": np.arange(EXAMPLES) < 3})
    assert np.isnan(alone.trace) and np.isnan(alone.squared_norm)


def _mapped(how, params, batch, shares):
    def step(params, batch):
        return mean_over_devices(jax.grad(_loss)(params, batch), "data")

    if how == "pmap":
        found = jax.pmap(
            step, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:DEVICES]
        )(params, shares)
        return jax.tree.map(lambda x: x[0], found)
    if how == "vmap":
        found = jax.vmap(step, axis_name="data", in_axes=(None, 0))(params, shares)
        return jax.tree.map(lambda x: x[0], found)

    def varying(params, batch):
        return step(jax.tree.map(lambda x: jax.lax.pcast(x, "data", to="varying"), params), batch)

    return jax.jit(
        jax.shard_map(
            varying,
            mesh=data_mesh(DEVICES),
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec(),
        )
    )(params, batch)


@pytest.mark.parametrize("how", ["pmap", "vmap", "shard_map"])
def test_inside_a_mapped_axis(how):
    params, batch, shares, (part, whole) = _case()
    grads, norm = _mapped(how, params, batch, shares)
    np.testing.assert_allclose(norm, part, rtol=1e-5)
    squares = sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads.values())
    assert squares == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mesh": data_mesh(1)}, "needs at least 2 along 'data'"),
        ({"mesh": data_mesh(2), "axis": "model"}, "along 'model'"),
        ({"mesh": data_mesh(2), "num_examples": 0}, "num_examples must be"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        value_grad_and_device_noise(_loss, **kwargs)


@pytest.mark.parametrize("several", [False, True])
def test_shares_draw_numbers_of_their_own(several):
    def loss(w, x, keys):
        key = keys[0] if several else keys
        return jnp.mean(jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * w * x, 0))

    compute = jax.jit(value_grad_and_device_noise(loss, data_mesh(2)))
    keys = jax.random.split(jax.random.key(0), 400)
    found = [
        compute(jnp.zeros(()), jnp.ones(16), jax.random.split(key) if several else key)
        for key in keys
    ]
    assert np.mean([noise.trace for _, _, noise in found]) == pytest.approx(1.0, rel=0.2)
    assert np.var([grad for _, grad, _ in found]) == pytest.approx(1 / 16, rel=0.2)
