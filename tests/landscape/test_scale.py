"""Losses and operators of any size: the same numbers, as long as float32 holds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from gapjax import landscape
from gapjax.landscape._space import l2_norm

KEY = jax.random.key(0)
SCALES = (1e-30, 1e-20, 1.0, 1e19, 1e30)


@pytest.mark.parametrize(
    ("leaves", "length"),
    [
        (([3e-30], [4e-30]), 5e-30),
        (([3e25], [[4e25]]), 5e25),
        (([3e-38, 4e-38], []), 5e-38),
        (([3e38], [[], []]), 3e38),
        (([2e38] * 4,), np.inf),
        (([1e-25], [1.0]), 1.0),
        (([0.0, 0.0],), 0.0),
        (([],), 0.0),
        (([np.inf, 1.0],), np.inf),
        (([-np.inf], [1e-30]), np.inf),
        (([1e30, np.nan],), np.nan),
    ],
)
def test_lengths_of_any_size(leaves, length):
    vector = tuple(jnp.asarray(leaf, jnp.float32) for leaf in leaves)
    found = jax.jit(l2_norm)(vector)
    assert found.shape == () and found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.float32(length), rtol=1e-6)


def test_lengths_of_rows_and_in_float64():
    rows = jnp.asarray([[3e-30, 4e-30], [3e30, 4e30], [3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(jax.vmap(l2_norm)((rows,)), [5e-30, 5e30, 5, 0], rtol=1e-6)
    with jax.enable_x64(True):
        for size in (1e-200, 1e200):
            found = l2_norm((jnp.asarray([3 * size, 4 * size]),))
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, 5 * size, rtol=1e-15)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_lengths_over_devices(kind, size):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(kind, kind))
    one = jax.device_put(jnp.full((8, 8), size), jax.NamedSharding(mesh, jax.P("a", "b")))
    two = jax.device_put(jnp.full(36, size), jax.NamedSharding(mesh, jax.P()))
    np.testing.assert_allclose(l2_norm((one, two)), 10 * size, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(l2_norm)((one,)), [8**0.5 * size] * 8, rtol=1e-6)


def test_spectra_of_any_size():
    values = np.arange(1, 51).astype(np.float32)
    counts = []
    for scale in SCALES:
        op = landscape.from_matvec(lambda v, s=scale: jnp.float32(s) * (values * v), jnp.zeros(50))
        pairs = landscape.eigh_topk(op, KEY, 3)
        np.testing.assert_allclose(pairs.values / scale, [50, 49, 48], rtol=1e-5)
        assert pairs.converged.all()
        count = landscape.count_above(op, 25.5 * scale, key=KEY, num_steps=50)
        np.testing.assert_allclose([count.mean, count.stderr], [25, 0], atol=1e-3)
        counts.append(landscape.count_above(op, 25.5 * scale, key=KEY, num_steps=20).mean)
    np.testing.assert_allclose(counts, counts[SCALES.index(1.0)], rtol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_sharpness_of_any_size(scale):
    def loss(w, x):
        return jnp.float32(scale) * jnp.mean((x @ w) ** 2) / 2

    w, x = jnp.asarray([2.0, 1.0]), jnp.eye(2)
    # The loss is |w|^2 / 4 here, and four times that on the second batch.
    batches = [x, 2 * x]
    rise = ((5**0.5 + 1) ** 2 - 5) / 4
    found = {
        "sam": landscape.sam_sharpness(loss, w, [x], rho=1.0).value,
        "ratios": landscape.batch_sharpness(loss, w, batches).mean,
        "ratio": landscape.batch_sharpness(loss, w, batches, average="ratio").mean,
        "critical": landscape.critical_sharpness(loss, w, jax.grad(loss)(w, x), [x]).value,
    }
    # Curvatures of 1/2 and 2, with squared gradients of 5/4 and 20.
    exact = {"sam": rise, "ratios": 1.25, "ratio": (0.5 + 2 * 16) / 17, "critical": 0.5}
    for name, value in exact.items():
        np.testing.assert_allclose(found[name] / scale, value, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_directions_of_weights_of_any_size(size):
    params = {"kernel": jnp.full((9, 4), size)}
    for normalize, axis in (("filter", 0), ("layer", None)):
        found = landscape.random_direction(KEY, params, normalize=normalize)["kernel"]
        lengths = [
            np.linalg.norm(np.asarray(x, np.float64), axis=axis) for x in (found, *params.values())
        ]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
