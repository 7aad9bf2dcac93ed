"""Averages of weights against sums in float64, wherever the average stands."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax import diffusion, growth, training
from gapjax.training import average_weights, evaluation_params
from tests.meshes import data_mesh


def _expected(weights, sizes, half_life):
    """The mean of the weights after each update, each halved for every half-life since."""
    since = np.cumsum(sizes[::-1])[::-1] - sizes
    mass = 0.5 ** (np.asarray(since, np.float64) / half_life)
    return np.tensordot(mass, np.asarray(weights, np.float64), 1) / mass.sum()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 512), min_size=1, max_size=8), st.floats(1.0, 1e6))
def test_the_exact_mean_whatever_the_batches(sizes, half_life):
    tx = optax.chain(optax.sgd(1.0), average_weights(half_life))
    w, weights = jnp.array([0.0, 1.0]), []
    state = tx.init(w)
    np.testing.assert_array_equal(evaluation_params(state, w), w)  # before the first update
    for i, size in enumerate(sizes):
        updates, state = tx.update(jnp.array([-1.0, i]), state, w, batch_size=size)
        w = optax.apply_updates(w, updates)
        weights.append(np.asarray(w))
    found = evaluation_params(state, w)
    np.testing.assert_allclose(found, _expected(weights, sizes, half_life), rtol=2e-5, atol=2e-5)


def test_a_fixed_batch_is_an_unbiased_moving_average():
    """And the closed form: w_t = t, decay 1/2."""
    tx = optax.chain(optax.sgd(1.0), average_weights(64, batch_size=64))
    w = jnp.zeros(())
    state = tx.init(w)
    for _ in range(10):
        updates, state = tx.update(jnp.float32(-1), state, w, batch_size=7)  # the own one holds
        w = optax.apply_updates(w, updates)
    d, t = 0.5, 10
    closed = sum(d ** (t - i) * i for i in range(1, t + 1)) * (1 - d) / (1 - d**t)
    np.testing.assert_allclose(evaluation_params(state, w), closed, rtol=1e-6)


@pytest.mark.parametrize("size", [2**33, np.int64(2**33)])
def test_a_batch_beyond_32_bits_counts_in_full(size):
    """In tokens, say."""
    tx = average_weights(2**34, batch_size=size)
    state = tx.init(jnp.zeros(()))
    for _ in range(2):
        _, state = tx.update(jnp.zeros(()), state, jnp.zeros(()))
    np.testing.assert_allclose(state.mass, 1 + 0.5**0.5, rtol=1e-6)


def _loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def _source():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 3)), rng.normal(size=64)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def _start(tx):
    return training.init_state({"w": jnp.ones(3)}, tx, key=jax.random.key(0))


@pytest.mark.parametrize("strategy", ["jit", "pmap", "sharded"])
def test_it_follows_a_batch_that_grows(strategy):
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), average_weights(30))
    mesh = data_mesh(4)
    batches = growth.GrowingBatches(_source(), growth.piecewise_batch(8, {3: 16}), seed=0)
    step = training.compile_step(
        training.make_train_step(_loss, tx),
        mesh=mesh,
        strategy="pmap" if strategy == "pmap" else "jit",
        parameters="sharded" if strategy == "sharded" else "replicated",
    )
    weights = []
    state, _ = training.fit(
        step,
        _start(tx),
        batches,
        num_updates=6,
        callbacks=[lambda update, state, metrics: weights.append(np.array(state.params["w"]))],
    )
    expected = _expected(weights, [8, 8, 8, 16, 16, 16], 30)
    found = evaluation_params(state.opt_state, state.params)["w"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_population_has_an_average_for_each_member():
    tx = optax.chain(optax.sgd(0.1), average_weights(16))
    step, batch = training.make_train_step(_loss, tx), _source()
    alone, together = [_start(tx), _start(tx)], None
    alone[1] = alone[1]._replace(params={"w": jnp.zeros(3)})
    together = jax.tree.map(lambda *xs: jnp.stack(xs), *alone)
    for _ in range(3):
        alone = [step(state, batch)[0] for state in alone]
        together, _ = jax.jit(jax.vmap(step, (0, None)))(together, batch)
    found = evaluation_params(together.opt_state, together.params)
    for i, state in enumerate(alone):
        expected = evaluation_params(state.opt_state, state.params)
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[i], found), expected, rtol=1e-5)


def test_averages_of_low_precision_are_kept_in_float32():
    """Of 1 and 1 + 2^-7, bfloat16's next: the mean of many is between what bfloat16 has."""
    params = {"w": jnp.ones((), jnp.bfloat16), "n": jnp.int32(3)}
    tx = average_weights(1e6, batch_size=1)
    state = tx.init(params)
    up = {"w": jnp.asarray(2.0**-7, jnp.bfloat16), "n": jnp.int32(0)}
    for direction in (1, -1) * 4:
        updates = {"w": direction * up["w"], "n": up["n"]}
        updates, state = tx.update(updates, state, params)
        params = optax.apply_updates(params, updates)
    assert state.mean["w"].dtype == jnp.float32 and state.mean["n"].dtype == jnp.int32
    np.testing.assert_allclose(state.mean["w"], 1 + 2.0**-8, rtol=1e-4)
    found = evaluation_params(state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, params)


def _schedule_free(params, grads, updates=3):
    """Weights and average of `schedule_free` by hand."""
    tx = optax.contrib.schedule_free_sgd(0.1, b1=0.8)
    state = tx.init(params)
    for _ in range(updates):
        moved, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, moved)
    return optax.contrib.schedule_free_eval_params(state, params)


PARAMS = {"a": {"w": jnp.array([1.0, 2.0])}, "b": jnp.array([3.0])}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)
FREE = optax.contrib.schedule_free_sgd(0.1, b1=0.8)


@pytest.mark.parametrize(
    ("tx", "averaged"),
    [
        (FREE, "ab"),
        (optax.chain(optax.clip(9.0), FREE, diffusion.track_diffusion(8)), "ab"),
        (optax.MultiSteps(FREE, 1), "ab"),
        (optax.masked(FREE, {"a": True, "b": False}), "a"),
        (optax.partition({"x": FREE, "y": optax.sgd(0.1)}, {"a": "y", "b": "x"}), "b"),
        (optax.partition({"x": FREE, "y": FREE}, {"a": "y", "b": "x"}), "ab"),
        (optax.inject_hyperparams(optax.contrib.schedule_free_sgd)(0.1, b1=0.8), "ab"),
        (optax.apply_if_finite(FREE, 3), "ab"),
        (optax.sgd(0.1), ""),
    ],
)
def test_schedule_free_is_evaluated_with_its_average(tx, averaged):
    state, params = tx.init(PARAMS), PARAMS
    with jax.numpy_dtype_promotion("standard"):  # MultiSteps divides by whole numbers
        for _ in range(3):
            updates, state = tx.update(GRADS, state, params)
            params = optax.apply_updates(params, updates)
    found, by_hand = evaluation_params(state, params), _schedule_free(PARAMS, GRADS)
    for name in "ab":
        expected = by_hand[name] if name in averaged else params[name]
        chex.assert_trees_all_close(found[name], expected, rtol=1e-6)
        if name in averaged:
            assert not np.allclose(*map(jax.tree.leaves, (found[name], params[name])))


def test_schedule_free_members_of_a_population():
    rates = jnp.array([0.1, 0.2])
    params = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)

    def run(rate, params):
        tx = optax.chain(optax.contrib.schedule_free_sgd(rate, b1=0.8))
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(GRADS, state, params)
            params = optax.apply_updates(params, updates)
        return state, params

    found = evaluation_params(*jax.vmap(run)(rates, params))
    for i in range(2):
        alone = evaluation_params(*run(rates[i], jax.tree.map(lambda x: x[i], params)))
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[i], found), alone, rtol=1e-6)


def test_mistakes_are_named():
    for half_life in (0, -1.0, float("inf"), "10"):
        with pytest.raises(ValueError, match="half_life must be a finite number above 0"):
            average_weights(half_life)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        average_weights(10, batch_size=0)
    tx, w = average_weights(10), jnp.ones(2)
    with pytest.raises(ValueError, match=r"told the batch size: average_weights\(half_life, batch"):
        tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        tx.update(w, tx.init(w), batch_size=3)
    twice = optax.chain(average_weights(10, batch_size=1), average_weights(20, batch_size=1))
    with pytest.raises(ValueError, match="two sets of weights to evaluate with"):
        evaluation_params(twice.init(w), w)
