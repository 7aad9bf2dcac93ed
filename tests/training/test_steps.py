import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import ghost, growth, models, training
from tests.training import problem


def _quadratic(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def _batch(size=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 3)).astype(np.float32)
    return {"x": x, "y": rng.normal(size=size).astype(np.float32)}


def _start(tx, **kwargs):
    return training.init_state({"w": jnp.zeros(3)}, tx, key=jax.random.key(1), **kwargs)


def test_two_updates_equal_a_float64_loop():
    tx = optax.sgd(0.1, momentum=0.9)
    step, state = training.make_train_step(_quadratic, tx), _start(tx)
    w, velocity = np.zeros(3), np.zeros(3)
    for seed in (0, 1):
        batch = _batch(seed=seed)
        state, metrics = step(state, batch)
        x, y = batch["x"].astype(np.float64), batch["y"].astype(np.float64)
        np.testing.assert_allclose(metrics["loss"], np.mean((x @ w - y) ** 2), rtol=1e-6)
        velocity = 0.9 * velocity + 2 * x.T @ (x @ w - y) / len(y)
        w = w - 0.1 * velocity
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    assert int(state.step) == 2


def test_key_of_an_update_depends_on_seed_and_step_alone():
    def loss_fn(params, model_state, batch, key):
        noise = jax.random.normal(key)
        return jnp.sum(params["w"]) * noise, (model_state, {"noise": noise})

    tx = optax.sgd(0.1)
    step = training.make_train_step(loss_fn, tx)
    state = _start(tx)
    noises = []
    for _ in range(3):
        state, metrics = step(state, _batch())
        noises.append(float(metrics["noise"]))
    assert len(set(noises)) == 3
    _, again = step(state._replace(step=jnp.ones((), jnp.int32)), _batch())
    assert float(again["noise"]) == noises[1]


def test_optimizer_is_handed_the_loss():
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append(value)
        return updates, state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    _, metrics = training.make_train_step(_quadratic, tx)(_start(tx), _batch())
    assert float(seen[0]) == float(metrics["loss"])


def test_loss_of_other_arity_is_refused():
    with pytest.raises(ValueError, match=r"this one takes 3: \(a, b, c\)"):
        training.make_train_step(lambda a, b, c: 0.0, optax.sgd(0.1))


def test_step_compiles_once():
    tx = optax.sgd(0.1)
    step = jax.jit(chex.assert_max_traces(training.make_train_step(_quadratic, tx).__call__, n=1))
    state = _start(tx)
    for seed in range(3):
        state, _ = step(state, _batch(seed=seed))


def test_microbatches_give_the_gradient_of_the_whole():
    tx = optax.sgd(0.1, momentum=0.9)
    batch = _batch(12)
    parts = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), batch)
    whole, metrics = training.make_train_step(_quadratic, tx)(_start(tx), batch)
    summed, same = training.make_train_step(_quadratic, tx, microbatched=True)(_start(tx), parts)
    np.testing.assert_allclose(summed.params["w"], whole.params["w"], rtol=1e-6)
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-6)


def test_model_state_goes_from_one_microbatch_to_the_next():
    def loss_fn(params, model_state, batch, key):
        return jnp.sum(params["w"]), (2 * model_state + batch["x"].mean(), {})

    tx = optax.sgd(0.1)
    step = training.make_train_step(loss_fn, tx, microbatched=True)
    state, _ = step(_start(tx, model_state=jnp.ones(())), {"x": jnp.array([[1.0], [2.0], [3.0]])})
    assert float(state.model_state) == 2 * (2 * (2 * 1 + 1) + 2) + 3


def test_optimizer_is_told_batch_and_parts():
    told = {}

    def update(updates, state, params=None, **extra):
        told.update(extra)
        return updates, state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    training.make_train_step(_quadratic, tx)(_start(tx), _batch(6))
    assert {"part_size", "part_squared_norm"}.isdisjoint(told) and told["batch_size"] == 6
    batch = _batch(6)
    parts = jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), batch)
    training.make_train_step(_quadratic, tx, microbatched=True)(_start(tx), parts)
    assert (told["batch_size"], told["part_size"]) == (6, 2)
    x, y = batch["x"].reshape(3, 2, 3), batch["y"].reshape(3, 2)
    squares = [np.sum((2 * a.T @ -b / 2) ** 2) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(told["part_squared_norm"], np.mean(squares), rtol=1e-5)


def test_microbatches_teach_the_noise_scale():
    tx = optax.chain(growth.noise_scale_tracker(), optax.sgd(0.0))
    step = jax.jit(training.make_train_step(_quadratic, tx, microbatched=True))
    state, rng = _start(tx), np.random.default_rng(0)
    for _ in range(300):
        x = rng.normal(size=(4, 8, 3)).astype(np.float32)
        y = (x @ np.array([1.0, 2.0, 3.0]) + rng.normal(size=(4, 8))).astype(np.float32)
        state, _ = step(state, {"x": x, "y": y})
    found = growth.noise_scale_record(state.opt_state)
    # At w = 0 the gradient of an example is -2 x y, y = x w* + noise, x standard normal:
    # |G|^2 = 4 |w*|^2 and E|g|^2 = 4 E[|x|^2 y^2] = 4 ((3 + 2) |w*|^2 + 3), so the trace is
    norm, trace = 4 * 14, 4 * (5 * 14 + 3) - 4 * 14
    assert abs(float(found.noise_scale) / (trace / norm) - 1) < 0.15


def test_bfloat16_computes_and_float32_stays():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen["gradients"] = [leaf.dtype for leaf in jax.tree.leaves(updates)]
        return updates, state

    norm = functools.partial(ghost.linen.GhostBatchNorm, ghost_size=8, momentum=0.9)
    network = models.as_network(models.MLP((64, 64), 4, norm=norm))
    inner = problem.loss_function(network)

    def loss_fn(params, model_state, batch, key):
        loss, (after, _) = inner(params, model_state, batch, key)
        seen["given"] = {leaf.dtype for leaf in jax.tree.leaves(params)}
        seen["batch"] = batch["x"].dtype, batch["y"].dtype
        seen["loss"] = loss.dtype
        return loss, (after, {"mean": batch["x"].mean(), "count": jnp.int32(3)})

    spy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = optax.chain(spy, optax.sgd(0.1, momentum=0.9))
    batches = problem.batches(4)
    state = problem.start(network, tx, batches[0]["x"])
    found = {}
    for dtype in (None, jnp.bfloat16):
        step = jax.jit(training.make_train_step(loss_fn, tx, compute_dtype=dtype))
        after = state
        for batch in batches:
            after, metrics = step(after, batch)
        found[dtype] = after, metrics
    # Inside: bfloat16, labels as they were; what a network puts out, and so the loss, is float32.
    assert seen["given"] == {jnp.dtype(jnp.bfloat16)} and seen["loss"] == jnp.float32
    assert seen["batch"] == (jnp.bfloat16, jnp.int32)
    # Outside: the types of float32 training, and its numbers up to rounding.
    assert set(seen["gradients"]) == {jnp.dtype(jnp.float32)}
    chex.assert_trees_all_equal_shapes_and_dtypes(found[None], found[jnp.bfloat16])
    (full, metrics), (half, same) = found[None], found[jnp.bfloat16]
    assert same["loss"].dtype == jnp.float32
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=2e-2)
    stats = [s.model_state["batch_stats"] for s in (half, full)]
    chex.assert_trees_all_close(*stats, rtol=2e-2, atol=2e-2)
    moved = optax.tree.norm(optax.tree.sub(full.params, state.params))
    apart = optax.tree.norm(optax.tree.sub(full.params, half.params))
    assert 0 < apart < 0.1 * moved


def test_bfloat16_with_microbatches_accumulates_in_float32():
    tx = optax.sgd(0.1)
    parts = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), _batch(12))
    expected, _ = training.make_train_step(_quadratic, tx, microbatched=True)(_start(tx), parts)
    step = training.make_train_step(_quadratic, tx, microbatched=True, compute_dtype="bfloat16")
    found, metrics = step(_start(tx), parts)
    assert found.params["w"].dtype == metrics["loss"].dtype == jnp.float32
    np.testing.assert_allclose(found.params["w"], expected.params["w"], rtol=2e-2, atol=1e-3)


def test_types_that_cannot_train_are_refused():
    with pytest.raises(ValueError, match=r"float16 would lose small gradients.*jnp.bfloat16"):
        training.make_train_step(_quadratic, optax.sgd(0.1), compute_dtype=jnp.float16)
    with pytest.raises(ValueError, match="must be a floating-point type, not 'int8'"):
        training.make_train_step(_quadratic, optax.sgd(0.1), compute_dtype="int8")


def test_mixed_precision_leaves_keys_and_counts_of_the_model_state_alone():
    tx = optax.sgd(0.1)
    kept = {"key": jax.random.key(1), "count": jnp.int32(1), "mean": jnp.zeros(3)}
    state = training.init_state({"w": jnp.ones(3)}, tx, key=jax.random.key(0), model_state=kept)

    def loss(params, model_state, batch, key):
        after = {**model_state, "mean": batch["x"].mean(0)}
        return _quadratic(params, batch), (after, {"constant": 1.0})

    step = training.make_train_step(loss, tx, compute_dtype=jnp.bfloat16)
    after, metrics = step(state, _batch())
    chex.assert_trees_all_equal_shapes_and_dtypes(after.model_state, kept)
    assert metrics["constant"] == 1


@pytest.mark.parametrize("compute_dtype", [None, jnp.float64])
def test_what_is_wider_than_float32_is_not_narrowed(compute_dtype):
    """1 + 1e-12 in float64 is 1 in float32."""
    tx = optax.sgd(0.1)

    def loss(params, model_state, batch, key):
        small = jnp.sum(params["w"]).astype(jnp.float64) + 1e-12
        return small, (model_state, {"small": small, "half": jnp.bfloat16(1), "count": 3})

    with jax.enable_x64(True):
        state = training.init_state({"w": jnp.ones(1, jnp.float32)}, tx, key=jax.random.key(0))
        step = jax.jit(training.make_train_step(loss, tx, compute_dtype=compute_dtype))
        after, metrics = step(state, {"x": np.ones(4, np.float32)})
        assert float(metrics["loss"]) == float(metrics["small"]) == 1 + 1e-12
        assert after.params["w"].dtype == jnp.float32 and int(metrics["count"]) == 3
        assert metrics["half"].dtype == (jnp.bfloat16 if compute_dtype is None else jnp.float32)
        values = training.make_eval_step(lambda p, s, batch: {"v": batch["x"] + 1e-12})
        assert float(values(state, {"x": np.ones(1)})["v"]) == 1 + 1e-12


def _gives(what):
    return lambda params, model_state, batch, key: what(params, model_state)


@pytest.mark.parametrize("compute_dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (None, "loss_fn must be a function, not None"),
        (_gives(lambda params, _: params["w"].sum()), "must give"),
        (_gives(lambda params, state: (params["w"].sum(), (state, None))), "metrics a dict"),
        (lambda params, batch: 1.0, "one number, not a float"),
        *(
            (
                _gives(lambda params, state, name=name: (params["w"].sum(), (state, {name: 2.0}))),
                f"a metric '{name}', which this step has for its own: give it another name",
            )
            for name in ("loss", "fault", "skipped")
        ),
    ],
)
def test_what_a_loss_must_give(loss_fn, message, compute_dtype):
    tx = optax.sgd(0.1)
    state = training.init_state({"w": jnp.ones(3)}, tx, key=jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        training.make_train_step(loss_fn, tx, compute_dtype=compute_dtype)(state, _batch())


def _general(params, model_state, batch, key):
    return _quadratic(params, batch), (model_state, {})


@dataclasses.dataclass
class _Loss:
    """A callable of a user's, which has no hash."""

    factor: float = 1.0

    def __call__(self, params, model_state, batch, key):
        return self.factor * _quadratic(params, batch), (model_state, {})


@pytest.mark.parametrize("gradient", [None, training.sam(jnp.asarray(0.05)), training.sam(0.05)])
def test_a_step_of_what_has_no_hash_is_compiled(gradient):
    tx = optax.sgd(0.1)
    step = training.make_train_step(_Loss(), tx, gradient=gradient, weight_fn=_Weight())
    state, metrics = training.compile_step(step)(_start(tx), _batch(8))
    assert np.isfinite(metrics["loss"]) and int(state.step) == 1


@dataclasses.dataclass
class _Weight:
    by: str = "x"

    def __call__(self, batch):
        return len(batch[self.by])


def test_equal_steps_have_equal_hashes():
    tx = optax.sgd(0.1)
    one, two = (training.make_train_step(_general, tx) for _ in range(2))
    assert hash(dataclasses.replace(one, tx=two.tx)) == hash(two)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"stats": {"e": 1.0}}, "loses e;.* structure of model_state|has more"),
        ({}, "loses e; it must have the structure of model_state"),
        ({"e": jnp.zeros(2)}, r"has shape \(2,\) at e, where model_state has \(\)"),
    ],
)
def test_a_model_state_of_another_structure_is_named(after, message):
    def loss_fn(params, model_state, batch, key):
        return _quadratic(params, batch), (after, {})

    tx = optax.sgd(0.1)
    step = training.make_train_step(loss_fn, tx)
    with pytest.raises(ValueError, match=f"model state that loss_fn gives.*{message}"):
        step(_start(tx, model_state={"e": jnp.zeros(())}), _batch())


def test_a_loss_that_needs_another_keyword_is_refused():
    def loss_fn(params, batch, *, temperature):
        return _quadratic(params, batch) / temperature

    with pytest.raises(ValueError, match=r"needs the keyword temperature.*partial"):
        training.make_train_step(loss_fn, optax.sgd(0.1))


def test_a_parameter_without_a_gradient_is_named():
    tx = optax.sgd(0.1)
    state = training.init_state(
        {"w": jnp.zeros(3), "n": jnp.zeros(2, int)}, tx, key=jax.random.key(0)
    )
    step = training.make_train_step(_quadratic, tx)
    with pytest.raises(ValueError, match=r"params\['n'\] is int32, of which .* model_state"):
        step(state, _batch())
