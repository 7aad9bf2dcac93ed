"""Directions: random ones with the norms of the weights, and those through solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from tests.landscape import networks


@pytest.fixture(scope="module")
def ends():
    return networks.make(0)[0], networks.make(1)[0]


def test_filters_are_the_last_axis_of_a_kernel():
    rng = np.random.default_rng(0)
    params = {
        "conv": jnp.asarray(rng.normal(size=(3, 3, 2, 5)) * np.arange(1, 6), jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32).at[:, 2].set(0),
        "scale": jnp.ones(5),
        "count": jnp.arange(3),
    }
    d = landscape.random_direction(jax.random.key(0), params)

    def norms(leaf):
        return np.linalg.norm(np.asarray(leaf).reshape(-1, leaf.shape[-1]), axis=0)

    for name in ("conv", "dense"):
        np.testing.assert_allclose(norms(d[name]), norms(params[name]), rtol=1e-5)
    assert not d["scale"].any()
    assert not d["count"].any()
    assert not d["dense"][:, 2].any()
    whole = landscape.random_direction(jax.random.key(0), params, normalize="layer")
    np.testing.assert_allclose(
        np.linalg.norm(whole["conv"]), np.linalg.norm(params["conv"]), rtol=1e-5
    )
    plain = landscape.random_direction(jax.random.key(0), params, normalize=None)
    assert plain["scale"].any()


@pytest.mark.parametrize("normalize", ["filter", "layer"])
def test_directions_of_stacked_layers_are_those_of_each(normalize):
    rng = np.random.default_rng(0)

    def some(*shape):
        return jnp.asarray(rng.normal(size=shape) + 1, jnp.float32)

    blocks = {
        "norm": {"scale": some(3, 4), "bias": some(3, 4)},
        "query": {"kernel": some(3, 4, 2, 2), "bias": some(3, 2, 2)},
        "thin": {"kernel": some(3, 5)},
    }
    params = {"blocks": blocks, "head": {"kernel": some(4, 6), "bias": some(2, 3)}}
    d = landscape.random_direction(jax.random.key(0), params, normalize=normalize)
    for none in (*d["blocks"]["norm"].values(), d["blocks"]["query"]["bias"], d["head"]["bias"]):
        assert not np.any(none)
    # One number a layer and output is a vector, as it is in a layer alone.
    assert not np.any(d["blocks"]["thin"]["kernel"])
    axes = (0, 1) if normalize == "filter" else (0, 1, 2)
    for own, moved in zip(blocks["query"]["kernel"], d["blocks"]["query"]["kernel"], strict=True):
        norms = (np.sqrt(np.sum(np.square(x), axis=axes)) for x in (own, moved))
        np.testing.assert_allclose(*norms, rtol=1e-5)
    axes = axes[:-1]
    norms = (np.sqrt(np.sum(np.square(x["head"]["kernel"]), axis=axes)) for x in (params, d))
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_the_plane_through_three_solutions(ends):
    third = networks.make(2)[0]
    basis = landscape.plane_through(*ends, third)
    for (x, y), solution in zip(basis.points, (*ends, third), strict=True):
        there = jax.tree.map(lambda o, a, b, x=float(x), y=float(y): o + x * a + y * b, *basis[:3])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), there, solution)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    with pytest.raises(ValueError, match="one line"):
        landscape.plane_through(*ends, middle)
    with pytest.raises(ValueError, match="different"):
        landscape.plane_through(ends[0], ends[0], third)


@pytest.mark.parametrize("center", ["last", "mean"])
def test_trajectory_pca_agrees_with_the_singular_values(center):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 12)).cumsum(0).astype(np.float32)
    run = [{"a": jnp.asarray(r[:4]), "b": jnp.asarray(r[4:]).reshape(2, 4)} for r in rows]
    pca = landscape.trajectory_pca(run, center=center, num_components=3)
    centered = rows.astype(np.float64) - (rows[-1] if center == "last" else rows.mean(0))
    _, s, v = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(pca.explained, s[:3] ** 2 / np.sum(s**2), rtol=1e-5)
    for i, d in enumerate(pca.directions):
        flat = np.concatenate([np.ravel(d["a"]), np.ravel(d["b"])])
        np.testing.assert_allclose(abs(flat @ v[i]), 1, rtol=1e-4)
        np.testing.assert_allclose(centered @ flat, pca.coords[:, i], atol=1e-4)
    with pytest.raises(ValueError, match="at least 7 checkpoints"):
        landscape.trajectory_pca(run, num_components=6)
    with pytest.raises(ValueError, match="fewer than 2"):
        landscape.trajectory_pca([run[0], run[1], run[1]], num_components=2)


def test_variables_and_boxes_are_told_by_the_name_of_their_layer():
    from flax import linen, nnx

    attention = nnx.MultiHeadAttention(2, in_features=8, decode=False, rngs=nnx.Rngs(0))
    state = nnx.state(attention, nnx.Param)
    d = landscape.random_direction(jax.random.key(0), state)
    plain = landscape.random_direction(jax.random.key(0), nnx.to_pure_dict(state))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(d), plain)
    for name in ("query", "key", "value"):
        assert plain[name]["bias"].shape == (2, 4) and not plain[name]["bias"].any()
        assert plain[name]["kernel"].all()

    class Block(nnx.Module):
        def __init__(self, key):
            self.norm = nnx.LayerNorm(4, rngs=nnx.Rngs(key))
            self.dense = nnx.Linear(4, 5, rngs=nnx.Rngs(key))

    blocks = nnx.state(nnx.vmap(Block)(jax.random.split(jax.random.key(0), 3)))
    d = nnx.to_pure_dict(landscape.random_direction(jax.random.key(0), blocks))
    assert not d["norm"]["scale"].any() and not d["norm"]["bias"].any()
    own = nnx.to_pure_dict(blocks)["dense"]["kernel"]
    assert own.shape == (3, 4, 5) and not d["dense"]["bias"].any()
    norms = (np.linalg.norm(x, axis=1) for x in (own, d["dense"]["kernel"]))
    np.testing.assert_allclose(*norms, rtol=1e-5)

    boxed = linen.with_partitioning(linen.initializers.ones, (None, "model"))
    dense = linen.DenseGeneral((2, 3), bias_init=boxed)
    params = dense.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    d = landscape.random_direction(jax.random.key(0), params)
    assert params["bias"].value.shape == (2, 3) and not d["bias"].value.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_solutions_that_are_not_finite_are_named(bad):
    run = [{"a": jnp.asarray([t, t**2]), "b": jnp.asarray([1.0])} for t in (0.0, 1.0, 2.0, 4.0)]
    broken = {"a": jnp.asarray([0.0, bad]), "b": jnp.asarray([1.0])}
    for index in range(4):
        some = [*run[:index], broken, *run[index + 1 :]]
        with pytest.raises(ValueError, match=f"checkpoint {index} holds.*not finite, at 'a'"):
            landscape.trajectory_pca(some)
    for index, name in enumerate(("first", "second", "third")):
        some = [*run[:index], broken, *run[index + 1 : 3]]
        with pytest.raises(ValueError, match=f"the {name} solution holds.*at 'a'.*Leave it out"):
            landscape.plane_through(*some)
