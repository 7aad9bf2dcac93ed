"""Gradient strategies against closed forms and loops; the same however the step is laid out."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from gapjax import models, training
from gapjax.training import penalize_gradient, sam
from tests.meshes import data_mesh
from tests.training import problem

EITHER = pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in turn"])


def _key():
    return jax.random.key(0)  # a new one: states are donated


def _quadratic(dimension=6, seed=0):
    """A loss 1/2 w'Hw - c'w whose linear term is the mean over examples, and its parts."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(dimension, dimension))
    hessian = (a @ a.T / dimension + np.eye(dimension)).astype(np.float32)
    x = rng.normal(size=(8, dimension)).astype(np.float32)
    w = rng.normal(size=dimension).astype(np.float32)

    def loss_fn(params, batch):
        w = jnp.concatenate([params["a"], params["b"]])
        return w @ (jnp.asarray(hessian) @ w) / 2 - jnp.mean(batch["x"] @ w)

    return loss_fn, {"a": jnp.asarray(w[:2]), "b": jnp.asarray(w[2:])}, {"x": x}, hessian


def _flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


TX = optax.sgd(1.0)


def _gradient(loss_fn, params, batch, strategy, model_state=None, **options):
    """What an update at rate 1 without momentum takes off, float64."""
    step = training.make_train_step(loss_fn, TX, gradient=strategy, **options)
    state = training.init_state(params, TX, key=_key(), model_state=model_state)
    return _flat(params) - _flat(jax.jit(step)(state, batch)[0].params)


def _groups(batch, size):
    count = len(jax.tree.leaves(batch)[0]) // size
    return [jax.tree.map(lambda x: x[i * size : (i + 1) * size], batch) for i in range(count)]


def _sam_of(hessian, w, c, rho, adaptive=False):
    """By hand, float64: the gradient of 1/2 w'Hw - c'w at the perturbed weights."""
    g = hessian @ w - c
    scale = np.abs(w) + 0.01 if adaptive else np.ones_like(w)
    return hessian @ (w + rho * scale**2 * g / np.linalg.norm(scale * g)) - c


@EITHER
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("size", [None, 8, 4, 2, 1])
def test_sam_on_a_quadratic(size, adaptive, at_once):
    loss_fn, params, batch, hessian = _quadratic()
    w, rho = _flat(params), 0.3
    parts = [batch] if size is None else _groups(batch, size)
    expected = np.mean(
        [
            _sam_of(hessian.astype(float), w, part["x"].mean(0, dtype=float), rho, adaptive)
            for part in parts
        ],
        axis=0,
    )
    strategy = sam(rho, adaptive=adaptive, group_size=size, at_once=at_once)
    found = _gradient(loss_fn, params, batch, strategy)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


@EITHER
@pytest.mark.parametrize(("method", "tolerance"), [("finite_difference", 1e-3), ("exact", 1e-6)])
@pytest.mark.parametrize("size", [None, 8, 2])
def test_penalty_on_a_quadratic(size, method, tolerance, at_once):
    loss_fn, params, batch, hessian = _quadratic()
    w, strength = _flat(params), 0.4
    parts = [batch] if size is None else _groups(batch, size)
    gradients = [hessian.astype(float) @ w - part["x"].mean(0, dtype=float) for part in parts]
    expected = np.mean([g + 2 * strength * hessian @ g for g in gradients], axis=0)
    strategy = penalize_gradient(strength, group_size=size, at_once=at_once, method=method)
    found = _gradient(loss_fn, params, batch, strategy)
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def test_exact_penalty_is_the_gradient_of_the_penalized_loss():
    """On a network, against the gradient of the penalized loss by reverse over reverse."""

    def loss_fn(params, batch):
        hidden = jnp.tanh(batch["x"] @ params["a"])
        return jnp.mean((hidden @ params["b"] - batch["y"]) ** 2)

    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.ones(4)}
    batch = {"x": rng.normal(size=(6, 3)).astype(np.float32), "y": np.ones(6, np.float32)}

    def penalized(params):
        def squared(part):
            return optax.tree.norm(jax.grad(loss_fn)(params, part), squared=True)

        parts = _groups(batch, 2)
        return loss_fn(params, batch) + 0.1 * sum(map(squared, parts)) / len(parts)

    expected = _flat(jax.grad(penalized)(params))
    for method, tolerance in (("exact", 1e-5), ("finite_difference", 2e-2)):
        strategy = penalize_gradient(0.1, group_size=2, method=method)
        found = _gradient(loss_fn, params, batch, strategy)
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def test_a_small_radius_is_the_gradient_and_adds_the_mean_norm():
    """To first order SAM over groups follows L + rho E|g_m|."""
    loss_fn, params, batch, _ = _quadratic()
    plain = _gradient(loss_fn, params, batch, None)
    np.testing.assert_allclose(
        _gradient(loss_fn, params, batch, sam(1e-6, group_size=2)), plain, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(_gradient(loss_fn, params, batch, sam(0.0)), plain)
    np.testing.assert_array_equal(_gradient(loss_fn, params, batch, penalize_gradient(0)), plain)

    def mean_norm(params):
        parts = _groups(batch, 2)
        norms = [optax.tree.norm(jax.grad(loss_fn)(params, part)) for part in parts]
        return sum(norms) / len(parts)

    rho = 1e-3
    added = (_gradient(loss_fn, params, batch, sam(rho, group_size=2)) - plain) / rho
    np.testing.assert_allclose(added, _flat(jax.grad(mean_norm)(params)), rtol=2e-2, atol=5e-3)


@pytest.mark.parametrize(
    "strategy",
    [
        sam(0.1),
        sam(0.1, adaptive=True, group_size=2),
        penalize_gradient(1.0),
        penalize_gradient(1.0, group_size=2, method="exact"),
    ],
)
def test_a_gradient_of_zero_gives_no_nan(strategy):
    params = {"w": jnp.zeros(3)}
    found = _gradient(
        lambda params, batch: jnp.sum(params["w"] ** 2) + 0 * batch["x"].mean(),
        params,
        {"x": np.ones(4, np.float32)},
        strategy,
    )
    np.testing.assert_array_equal(found, 0)


STRATEGIES = {
    "sam": sam(0.3),
    "asam of groups": sam(0.3, adaptive=True, group_size=2),
    "penalty": penalize_gradient(0.01),
    "exact penalty": penalize_gradient(0.01, method="exact"),
    "exact penalty of groups": penalize_gradient(0.01, group_size=2, method="exact"),
    "asam of groups, at once": sam(0.3, adaptive=True, group_size=2, at_once=True),
}


def _network_loss(params, model_state, batch, key):
    """A network with running statistics of a batch norm over this call's examples."""
    hidden = batch["x"] @ params["a"]
    norm = jnp.tanh(hidden / params["scale"])
    loss = jnp.mean((norm @ params["b"] - batch["y"]) ** 2)
    state = {
        "mean": 0.9 * model_state["mean"] + 0.1 * hidden.mean(0),
        "calls": model_state["calls"] + 1,
    }
    return loss, (state, {"largest": jnp.abs(norm).max()})


def _network():
    rng = np.random.default_rng(1)
    params = {
        "a": jnp.asarray(rng.normal(size=(4, 256)) / 2, jnp.float32),
        "b": jnp.asarray(rng.normal(size=256) / 16, jnp.float32),
        "scale": jnp.ones(()),
    }
    batch = {
        "x": rng.normal(size=(32, 4)).astype(np.float32),
        "y": rng.normal(size=32).astype(np.float32),
    }
    return params, {"mean": jnp.zeros(256), "calls": jnp.int32(0)}, batch


def _run(strategy, layout, updates=2):
    """State and loss after some updates, by the name of a layout."""
    params, model_state, batch = _network()
    tx = optax.sgd(0.1, momentum=0.9)
    step = training.make_train_step(_network_loss, tx, gradient=strategy)
    state = training.init_state(params, tx, key=_key(), model_state=model_state)
    if layout == "jit":
        compiled = jax.jit(step)
    elif layout == "vmap":
        compiled = jax.jit(jax.vmap(step, (0, None)))
        state = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    elif layout.startswith("shard_map"):
        compiled = jax.jit(
            jax.shard_map(
                dataclasses.replace(step, axis_name="data"),
                mesh=data_mesh(8),
                in_specs=(P(), P("data")),
                out_specs=P(),
                check_vma=layout.endswith("checked"),
            )
        )
    else:
        compiled = training.compile_step(
            step,
            mesh=data_mesh(8),
            strategy="pmap" if layout == "pmap" else "jit",
            parameters="sharded" if layout == "sharded" else "replicated",
        )
    for _ in range(updates):
        state, metrics = compiled(state, batch)
    found = state.params, state.model_state, metrics["loss"]
    return jax.tree.map(lambda x: x[0], found) if layout == "vmap" else found


@pytest.mark.parametrize(
    "layout", ["vmap", "mesh", "pmap", "sharded", "shard_map", "shard_map, checked"]
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_layout_follows_the_same_gradient(name, layout):
    expected = _reference(name)
    found = _run(STRATEGIES[name], layout)
    # A finite difference tells apart what two ways to sum leave over.
    exact = name != "penalty"
    chex.assert_trees_all_close(found, expected, rtol=2e-4, atol=2e-5 if exact else 2e-3)


@functools.cache
def _reference(name):
    return _run(STRATEGIES[name], "jit")


@pytest.mark.parametrize("checked", [False, True])
def test_shard_map_averages_gradients(checked):
    """Inside it, the gradient of what is the same everywhere would be a sum over devices."""
    layout = "shard_map, checked" if checked else "shard_map"
    chex.assert_trees_all_close(_run(None, layout), _run(None, "jit"), rtol=1e-5, atol=1e-6)


def test_microbatches_each_go_through_the_strategy():
    params, model_state, batch = _network()
    parts = jax.tree.map(lambda x: x.reshape(4, 8, *x.shape[1:]), batch)
    whole = _gradient(_network_loss, params, batch, sam(0.3, group_size=8), model_state)
    for strategy in (sam(0.3), sam(0.3, group_size=8)):
        found = _gradient(_network_loss, params, parts, strategy, model_state, microbatched=True)
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)


@EITHER
def test_running_statistics_are_updated_once_from_the_first_pass(at_once):
    """Over the groups, each from the statistics before, and of the weights before."""
    params, model_state, batch = _network()
    for strategy, size in (
        (sam(0.3), 32),
        (sam(0.3, group_size=8, at_once=at_once), 8),
        (penalize_gradient(1, group_size=8, at_once=at_once), 8),
    ):
        step = training.make_train_step(_network_loss, TX, gradient=strategy)
        state = training.init_state(params, TX, key=_key(), model_state=model_state)
        after, metrics = jax.jit(step)(state, batch)
        means = [0.1 * (part["x"] @ params["a"]).mean(0) for part in _groups(batch, size)]
        np.testing.assert_allclose(after.model_state["mean"], np.mean(means, 0), atol=1e-6)
        assert int(after.model_state["calls"]) == 1
        losses = [
            _network_loss(params, model_state, part, _key())[0] for part in _groups(batch, size)
        ]
        np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)


@EITHER
def test_batch_norm_of_a_group_is_its_own(at_once):
    network = models.as_network(models.MLP((16,), 4))
    loss_fn = problem.loss_function(network)
    batch = problem.batches(1)[0]
    state = problem.start(network, TX, batch["x"])
    strategy = sam(0.05, group_size=8, at_once=at_once)
    after, _ = jax.jit(training.make_train_step(loss_fn, TX, gradient=strategy))(state, batch)

    alone = jax.jit(training.make_train_step(loss_fn, TX, gradient=sam(0.05)))
    each = [alone(state, part)[0] for part in _groups(batch, 8)]
    mean = jax.tree.map(
        lambda *xs: sum(xs) / len(xs), *[(one.params, one.model_state) for one in each]
    )
    chex.assert_trees_all_close((after.params, after.model_state), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what is fast on a CPU")
@pytest.mark.parametrize(
    ("options", "loops", "times"),
    [
        ({}, False, 4),
        ({"at_once": True}, False, 1),
        ({"at_once": False}, True, 1),
        ({"group_size": 1}, False, 1),  # too many to unroll
    ],
)
def test_convolutions_of_groups_stay_out_of_loops(options, loops, times):
    """Where their gradients are slow: each of the 4 groups has its own place in the program."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)}
    batch = {"x": rng.normal(size=(64, 6, 6, 1)).astype(np.float32)}

    def loss_fn(params, batch):
        layout = ("NHWC", "HWIO", "NHWC")
        found = jax.lax.conv_general_dilated(
            batch["x"], params["kernel"], (1, 1), "SAME", dimension_numbers=layout
        )
        return jnp.mean(jnp.tanh(found) ** 2)

    def program(**options):
        strategy = sam(0.1, **{"group_size": 16, **options})
        step = training.make_train_step(loss_fn, TX, gradient=strategy)
        state = training.init_state(params, TX, key=_key())
        compiled = jax.jit(step).lower(state, batch).compile()
        return compiled.as_text(), compiled(state, batch)[0].params

    text, found = program(**options)
    assert (" while(" in text) == loops
    passes = 4  # two forward, two for the kernel's gradient
    assert text.count(" convolution(") == passes * times
    _, expected = program(**{**options, "at_once": True})
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)


@EITHER
def test_both_passes_see_the_same_dropout_and_groups_different_ones(at_once):
    seen = []

    def loss_fn(params, model_state, batch, key):
        mask = jax.random.bernoulli(key, 0.5, (4,)).astype(jnp.float32)
        jax.debug.callback(lambda m: seen.append(tuple(m.tolist())), mask)
        return jnp.sum(params * mask) * batch["x"].mean(), (model_state, {})

    step = jax.jit(training.make_train_step(loss_fn, TX, gradient=sam(0.1)))
    state = training.init_state(jnp.ones(4), TX, key=_key())
    jax.block_until_ready(step(state, {"x": np.ones(8, np.float32)}))
    jax.effects_barrier()
    assert len(seen) == 2 and seen[0] == seen[1]
    seen.clear()
    groups = sam(0.1, group_size=1, at_once=at_once)
    step = jax.jit(training.make_train_step(loss_fn, TX, gradient=groups))
    jax.block_until_ready(step(state, {"x": np.ones(8, np.float32)}))
    jax.effects_barrier()
    assert len(seen) == 16 and 1 < len(set(seen)) <= 8


@EITHER
def test_groups_are_weighted_and_an_empty_one_adds_nothing(at_once):
    def loss_fn(params, batch):
        return jnp.sum(batch["mask"] * (params - batch["y"]) ** 2) / jnp.sum(batch["mask"])

    y = np.arange(8, dtype=np.float32)
    mask = np.array([1, 1, 1, 0, 0, 0, 0, 1], np.float32)  # the third group is empty: NaN
    batch, params, rho = {"y": y, "mask": mask}, jnp.float32(0.5), 0.25
    total = 0.0
    for part in _groups(batch, 2):
        weight = part["mask"].sum()
        if weight:
            mean = (part["mask"] * part["y"]).sum() / weight
            g = 2 * (0.5 - mean)
            total += weight * 2 * (0.5 + rho * np.sign(g) - mean)
    strategy = sam(rho, group_size=2, at_once=at_once)
    step = jax.jit(training.make_train_step(loss_fn, TX, gradient=strategy))
    state, metrics = step(training.init_state(params, TX, key=_key()), batch)
    np.testing.assert_allclose(0.5 - state.params, total / mask.sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], _mean_square(y, mask), rtol=1e-6)


def _mean_square(y, mask):
    return (mask * (0.5 - y) ** 2).sum() / mask.sum()


@pytest.mark.parametrize("strategy", [sam(0.05), penalize_gradient(0.1, group_size=2)])
def test_parameters_of_low_precision_are_moved_in_float32(strategy):
    """A step of 0.01 in one direction is less than bfloat16 tells apart at 1 and beyond."""
    params = {"w": jnp.asarray([1.0, 2.0, 3.0], jnp.bfloat16)}
    seen = []

    def loss_fn(params, batch):
        w = params["w"].astype(jnp.float32)
        seen.append(params["w"].dtype)
        return jnp.sum(w**2) * jnp.mean(batch["x"])

    state = training.init_state(params, TX, key=_key())
    step = training.make_train_step(loss_fn, TX, gradient=strategy)
    after, _ = step(state, {"x": np.ones(4, np.float32)})
    assert after.params["w"].dtype == jnp.bfloat16
    assert jnp.float32 in seen


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("layout", ["whole", "groups at once", "groups in turn", "microbatches"])
def test_the_difference_of_a_penalty_is_of_gradients_as_precise(layout, dtype):
    """Of two gradients 0.01 apart, the first was rounded to the 8 bits of bfloat16 weights."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 64)).astype(np.float32), rng.normal(size=32).astype(np.float32)
    w = jnp.asarray(rng.normal(size=64), dtype)

    def loss_fn(params, model_state, batch, key):
        residuals = batch["x"] @ params.astype(jnp.float32) - batch["y"]
        after = model_state.astype(params.dtype) + params  # in whatever type it is computed in
        return jnp.mean(residuals**2), (after, {})

    groups = 1 if layout == "whole" else 4
    expected = np.zeros(64)
    for own, target in zip(np.split(np.float64(x), groups), np.split(y, groups), strict=True):
        hessian = 2 * own.T @ own / len(own)
        g = 2 * own.T @ (own @ np.asarray(w, np.float64) - target) / len(own)
        expected += (g + 2 * 3.0 * hessian @ g) / groups

    keep = optax.GradientTransformation(
        jnp.zeros_like, lambda g, state, params: (jnp.zeros_like(g), g)
    )
    batch, microbatched = {"x": x, "y": y}, layout == "microbatches"
    if microbatched:
        batch = jax.tree.map(lambda leaf: leaf.reshape(groups, -1, *leaf.shape[1:]), batch)
    size = 8 if layout.startswith("groups") else None
    strategy = penalize_gradient(3.0, group_size=size, at_once=layout == "groups at once")
    step = training.make_train_step(loss_fn, keep, gradient=strategy, microbatched=microbatched)
    after, _ = step(training.init_state(w, keep, key=_key(), model_state=w), batch)
    assert after.model_state.dtype == after.opt_state.dtype == dtype
    error = np.asarray(after.opt_state, np.float64) - expected
    assert np.linalg.norm(error) < 5e-3 * np.linalg.norm(expected)


@EITHER
def test_means_over_groups_are_taken_in_float32(at_once):
    """512 gradients of -2 in bfloat16 sum to -1024, where steps of 2 are lost past 512."""
    params = {"w": jnp.zeros((), jnp.bfloat16)}

    def loss_fn(params, batch):
        return -2 * params["w"].astype(jnp.float32) * jnp.mean(batch["x"])

    batch = {"x": np.ones(512, np.float32)}
    found = _gradient(loss_fn, params, batch, penalize_gradient(0.0, group_size=1, at_once=at_once))
    assert found.tolist() == [-2.0]
    parts = {"x": np.ones((512, 1), np.float32)}
    assert _gradient(loss_fn, params, parts, None, microbatched=True).tolist() == [-2.0]


def test_strength_and_radius_may_be_hyperparameters_of_a_population():
    loss_fn, params, batch, _ = _quadratic()
    rho = jnp.array([0.1, 0.3])

    def one(rho):
        step = training.make_train_step(loss_fn, TX, gradient=sam(rho))
        return step(training.init_state(params, TX, key=_key()), batch)[0].params

    together = jax.jit(jax.vmap(one))(rho)
    for i, value in enumerate((0.1, 0.3)):
        mine = _flat(params) - _flat(jax.tree.map(lambda x: x[i], together))
        np.testing.assert_allclose(mine, _gradient(loss_fn, params, batch, sam(value)), rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
)
def test_groups_do_not_care_for_microbatches(size, parts, seed):
    """Groups that divide the microbatches are the same groups."""
    if (12 // parts) % size:
        return
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(12, 2)).astype(np.float32)

    def loss_fn(params, batch):
        return jnp.mean(jnp.sin(batch["x"] @ params) ** 2)

    params, strategy = jnp.array([0.3, -0.7]), sam(0.1, group_size=size)
    whole = _gradient(loss_fn, params, {"x": x}, strategy)
    split = {"x": x.reshape(parts, 12 // parts, 2)}
    found = _gradient(loss_fn, params, split, strategy, microbatched=True)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-6)


def test_a_strategy_of_ones_own():
    def lookahead(value_and_grad, params, model_state, batch, key):
        grads, after, metrics = value_and_grad(params, model_state, batch, key)
        grads = value_and_grad.mean(grads, batch)
        ahead = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
        return value_and_grad(ahead, model_state, batch, key)[0], after, metrics

    chex.assert_trees_all_close(
        _run(lookahead, "pmap"), _run(lookahead, "jit"), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: sam(-0.1), "rho must be a finite number of at least 0, not -0.1"),
        (lambda: sam("0.1"), "rho must be a finite number of at least 0, not '0.1'"),
        (lambda: sam(float("nan")), "rho must be a finite number of at least 0, not nan"),
        (lambda: sam(0.1, group_size=0), "group_size must be a whole number of at least 1, not 0"),
        (lambda: penalize_gradient(-1), "strength must be a finite number of at least 0, not -1"),
        (lambda: sam(0.1, group_size=2, at_once="no"), "at_once must be True or False, not 'no'"),
        (lambda: penalize_gradient(1, group_size=2.5), "group_size must be a whole number"),
        (lambda: penalize_gradient(1, method="exakt"), "Did you mean 'exact'"),
    ],
)
def test_mistakes_are_named_at_construction(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_groups_that_do_not_divide_say_what_would():
    params, model_state, batch = _network()
    with pytest.raises(ValueError, match=r"group_size=12 does not divide the 32 .* use 8 or 16"):
        _gradient(_network_loss, params, batch, sam(0.1, group_size=12), model_state)
    with pytest.raises(ValueError, match=r"group_size=64 does not divide the 32 .* use 32\."):
        _gradient(_network_loss, params, batch, sam(0.1, group_size=64), model_state)
    step = training.make_train_step(_network_loss, TX, gradient=sam(0.1, group_size=8))
    compiled = training.compile_step(step, mesh=data_mesh(8), strategy="pmap")
    state = training.init_state(params, TX, key=_key(), model_state=model_state)
    with pytest.raises(ValueError, match=r"group_size=8 does not divide the 4 .* use 4\."):
        compiled(state, batch)


def test_groups_on_their_devices_add_no_communication():
    params, model_state, batch = _network()
    programs = []
    for strategy in (None, sam(0.3, group_size=4)):
        step = training.make_train_step(_network_loss, TX, gradient=strategy)
        state = training.init_state(params, TX, key=_key(), model_state=model_state)
        compiled = training.compile_step(step, mesh=data_mesh(8))
        programs.append(training.inspect_program(compiled.lower(state, batch).compile()).by_kind())
    (_, plain), (_, grouped) = (kinds.pop("all-reduce") for kinds in programs)
    assert programs == [{}, {}] and grouped == plain


@pytest.mark.parametrize(
    "gradient",
    [
        None,
        training.sam(0.01),
        training.penalize_gradient(0.01),
        training.penalize_gradient(0.01, method="exact"),
    ],
)
def test_complex_weights_go_downhill(gradient):
    def loss(w, batch):
        return jnp.mean(jnp.abs(w - (1 + 2j)) ** 2 * batch["x"])

    tx = optax.sgd(0.1)
    state = training.init_state(jnp.zeros((), jnp.complex64), tx, key=jax.random.key(0))
    step = jax.jit(training.make_train_step(loss, tx, gradient=gradient))
    for _ in range(50):
        state, _ = step(state, {"x": jnp.ones(4)})
    assert abs(state.params - (1 + 2j)) < 0.01


def test_groups_in_turn_take_the_memory_of_one():
    """64 groups of a layer of 512 x 512: their gradients would be 64 times its megabyte."""
    params = {"w": jnp.zeros((512, 512)), "v": jnp.ones(512)}
    batch = {"x": np.ones((128, 512), np.float32)}

    def loss_fn(params, batch):
        return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - 1) ** 2)

    def needed(strategy):
        step = jax.jit(training.make_train_step(loss_fn, TX, gradient=strategy))
        state = training.init_state(params, TX, key=_key())
        return step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    for make in (sam, penalize_gradient):
        assert needed(make(0.1, group_size=2, at_once=False)) < 12 * 2**20
        assert needed(make(0.1, group_size=2, at_once=True)) > 60 * 2**20


@pytest.mark.parametrize(
    ("platform", "shape", "in_turn"),
    [("cpu", (6, 2), True), ("cpu", (3, 2, 2), True), ("gpu", (6, 2), False)],
)
def test_groups_are_seen_in_turn_where_that_is_faster(monkeypatch, platform, shape, in_turn):
    """Not on accelerators."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)

    def loss_fn(params, batch):
        return jnp.mean((batch["x"] @ params.reshape(6, 2)) ** 2)

    step = training.make_train_step(loss_fn, TX, gradient=sam(0.1, group_size=2))
    state = training.init_state(jnp.ones(shape), TX, key=jax.random.key(0))
    program = jax.make_jaxpr(step)(state, {"x": np.ones((8, 6), np.float32)})
    assert ("scan" in str(program)) == in_turn
