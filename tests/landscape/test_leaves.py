"""Parameters kept in few bits, and leaves that are no parameters: integers, booleans, keys."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import landscape

KEY = jax.random.key(0)
SILENT = {"progress": False}


def loss(params, batch):
    return jnp.mean((batch @ params["w"] - 1) ** 2)


BATCHES = [jnp.asarray([[1.0, 0.5, -1.0], [0.3, 2.0, 1.0]]), jnp.ones((1, 3))]
SHARPNESS = {
    "keskar": lambda p: landscape.keskar_sharpness(loss, p, BATCHES, **SILENT),
    "keskar, subspace": lambda p: landscape.keskar_sharpness(
        loss, p, BATCHES, subspace_dim=2, key=KEY, **SILENT
    ),
    "sam": lambda p: landscape.sam_sharpness(loss, p, BATCHES, rho=1e-3, **SILENT),
    "sam, per batch": lambda p: landscape.sam_sharpness(
        loss, p, BATCHES, rho=1e-3, per_batch=True, **SILENT
    ),
    "adaptive": lambda p: landscape.adaptive_sharpness(loss, p, BATCHES, rho=1e-3, **SILENT),
    "adaptive, box": lambda p: landscape.adaptive_sharpness(
        loss, p, BATCHES, rho=1e-3, norm="linf", **SILENT
    ),
    "adaptive, average": lambda p: landscape.adaptive_sharpness(
        loss, p, BATCHES, rho=1e-2, mode="average", key=KEY, **SILENT
    ),
}


@pytest.mark.parametrize("name", SHARPNESS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sharpness_is_that_of_float32_weights(name, dtype):
    w = jnp.asarray([1.0, 2.0, 3.0])
    expected = SHARPNESS[name]({"w": w})
    found = SHARPNESS[name]({"w": w.astype(dtype)})
    assert expected.value > 1e-6
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.loss == expected.loss


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_curvature_directions_and_paths_are_those_of_float32_weights(dtype):
    def both(function, *trees):
        narrow = jax.tree.map(lambda x: x.astype(dtype), trees)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
        jax.tree.map(np.testing.assert_array_equal, function(*narrow), function(*wide))

    one, two = {"w": jnp.asarray([1.0, 2.0, 3.0])}, {"w": jnp.asarray([1.0, 2.0, 4.0])}
    fine = {"w": jnp.asarray([1e-3, 0.0, 1e-3])}
    at = landscape.evaluator(loss, BATCHES)
    both(lambda p: landscape.hessian(loss, p, BATCHES) @ p, one)
    both(lambda p: landscape.eigh_topk(landscape.hessian(loss, p, BATCHES), KEY, 2), one)
    both(lambda p: landscape.interpolate(at, p, two, [0.001, 0.5]).values, one)
    both(lambda p, d: landscape.line(at, p, d, [0.0, 1.0]).values, one, fine)
    both(lambda p, d: landscape.plane(at, p, d, d, [0.0, 1.0], [0.0, 1.0]).values, one, fine)
    both(lambda *p: landscape.plane_through(*p)[:3], one, two, {"w": jnp.asarray([0.0, 1.0, 1.0])})
    both(lambda *p: landscape.trajectory_pca(p, num_components=1)[:3], one, two)
    both(lambda p: landscape.random_direction(KEY, p, normalize=None), one)
    path = landscape.line(at, {"w": one["w"].astype(dtype)}, fine, [0.0, 1.0])
    assert path.values["value"][0] != path.values["value"][1]


@pytest.mark.parametrize("normalize", ["layer", "filter"])
def test_norms_of_float16_kernels_do_not_overflow(normalize):
    params = {"kernel": jax.random.normal(KEY, (512, 512), jnp.float16)}
    found = landscape.random_direction(KEY, params, normalize=normalize)["kernel"]
    axis = None if normalize == "layer" else 0
    lengths = [
        np.linalg.norm(np.asarray(x, np.float64), axis=axis) for x in (found, *params.values())
    ]
    np.testing.assert_allclose(*lengths, rtol=1e-3)
    large = {"kernel": jnp.full((64, 4), 6e4, jnp.float16)}
    assert np.isfinite(landscape.random_direction(KEY, large, normalize=normalize)["kernel"]).all()


def with_others(w, n):
    """Weights beside what is none."""
    return {
        "a flag": jnp.asarray(n > 0),
        "key": jax.random.key(n),
        "n": jnp.int32(n),
        "numbers": np.arange(n % 7, n % 7 + 2, dtype=np.uint8),
        "w": jnp.asarray(w),
    }


def test_a_plane_has_coordinates_of_weights_alone():
    points = [{"n": jnp.int32(1000), "w": jnp.asarray(w)} for w in ([0.0] * 3, [3.0, 0, 0])]
    points.append({"n": jnp.int32(1000), "w": jnp.asarray([0.0, 4.0, 0.0])})
    for trees in (points, [p | {"n": jnp.int32(i)} for i, p in enumerate(points)]):
        basis = landscape.plane_through(*trees)
        np.testing.assert_allclose(basis.points, [[0, 0], [3, 0], [0, 4]], atol=1e-6)
        pca = landscape.trajectory_pca(trees, center="mean")
        distances = np.linalg.norm(pca.coords[:, None] - pca.coords, axis=-1)
        np.testing.assert_allclose(distances, [[0, 3, 4], [3, 0, 5], [4, 5, 0]], atol=1e-5)


def test_every_function_passes_over_what_is_no_weight():
    alone, other = {"w": jnp.asarray([1.0, 2.0, 3.0])}, {"w": jnp.asarray([0.0, 1.0, 5.0])}
    mixed, mixed_other = with_others(alone["w"], 1000), with_others(other["w"], 3)
    for measure in SHARPNESS.values():
        np.testing.assert_array_equal(measure(mixed).values, measure(alone).values)
    op, plain = (landscape.hessian(loss, p, BATCHES) for p in (mixed, alone))
    assert op.size == 3
    product = op @ mixed
    np.testing.assert_array_equal(product["w"], (plain @ alone)["w"])
    assert product["n"] == 0 and product["n"].dtype == jnp.int32
    assert jax.tree.structure(product) == jax.tree.structure(mixed)
    pairs = landscape.eigh_topk(op, KEY, 2)
    np.testing.assert_allclose(pairs.values, landscape.eigh_topk(plain, KEY, 2).values)
    assert pairs.vectors["numbers"].shape == (2, 2) and not pairs.vectors["numbers"].any()
    at = landscape.evaluator(loss, BATCHES)
    direction = landscape.random_direction(KEY, mixed, normalize=None)
    assert direction["n"] == 0 and not direction["numbers"].any()
    for function in (
        lambda p, q: landscape.interpolate(at, p, q, [0.5]).values["value"],
        lambda p, q: landscape.line(at, p, q, [0.5]).values["value"],
        lambda p, q: landscape.plane(at, p, q, q, [0.5], [0.5]).values["value"],
        lambda p, q: (
            landscape.fit_curve(
                loss, p, q, BATCHES, KEY, optimizer=optax.sgd(0.01), num_updates=3
            ).losses
        ),
    ):
        np.testing.assert_allclose(function(mixed, mixed_other), function(alone, other), rtol=1e-6)
    sgd = optax.sgd(0.01)
    curve = landscape.fit_curve(
        loss, mixed, mixed_other, BATCHES, KEY, optimizer=sgd, num_updates=1
    )
    assert landscape.curve_point(curve, 0.5)["n"] == 1000
