"""Weights of examples: a batch has the same mean however it is split, and padding adds nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax import diffusion, growth, training
from tests.meshes import data_mesh

SGD = optax.sgd(1.0)


def _start(params, tx=SGD, **kwargs):
    return training.init_state(params, tx, key=jax.random.key(0), **kwargs)


def _masked(params, batch):
    """A mean over real rows that is NaN where there is none."""
    mask = batch.mask.astype(jnp.float32)
    return jnp.sum(mask * (params - batch.data["y"]) ** 2) / jnp.sum(mask)


@pytest.mark.parametrize("microbatch", [None, 2])
@pytest.mark.parametrize("natural", [True, False])
def test_padded_microbatches_weigh_what_they_hold(microbatch, natural):
    """Five ones by batches of 4: the second holds one of them; p = 0.2, then 0.2 + 0.2 * 0.8."""

    def guarded(params, batch):
        mask = batch.mask.astype(jnp.float32)
        return jnp.sum(mask * (params - batch.data["y"]) ** 2) / jnp.maximum(jnp.sum(mask), 1.0)

    source = {"y": np.ones(5, np.float32)}
    batches = growth.GrowingBatches(
        source,
        growth.constant_batch(4),
        seed=0,
        end_of_epoch="pad",
        microbatch=microbatch,
        independent_examples=True,
    )
    tx = optax.sgd(0.1)
    loss_fn = _masked if natural else guarded
    step = training.make_train_step(loss_fn, tx, microbatched=microbatch is not None)
    state, history = training.fit(jax.jit(step), _start(jnp.float32(0), tx), batches, num_updates=2)
    assert abs(float(state.params) - 0.36) < 1e-6
    np.testing.assert_allclose(history.metrics["loss"], [1.0, 0.64], rtol=1e-6)


def _token_loss(params, batch):
    """The mean over tokens that count; NaN where none does."""
    mask = batch["mask"]
    losses = (jnp.sin(params["w"] * batch["x"]) + params["b"]) ** 2
    return jnp.sum(losses * mask) / jnp.sum(mask)


def _tokens(seed, rows=12, length=5):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, length + 1, size=rows)
    lengths[rng.integers(rows)] = length  # at least one counts
    mask = (np.arange(length) < lengths[:, None]).astype(np.float32)
    return {"x": rng.normal(size=(rows, length)).astype(np.float32), "mask": mask}


PARAMS = {"w": jnp.float32(0.7), "b": jnp.float32(-0.2)}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4, 6, 12]), st.booleans())
def test_token_means_do_not_depend_on_microbatches(seed, parts, own):
    batch = _tokens(seed)
    split = jax.tree.map(lambda x: x.reshape(parts, 12 // parts, *x.shape[1:]), batch)
    weight_fn = (lambda batch: batch["mask"].sum()) if own else None
    step = training.make_train_step(_token_loss, SGD, microbatched=True, weight_fn=weight_fn)
    found, metrics = step(_start(PARAMS), split)
    loss, grads = jax.value_and_grad(_token_loss)(PARAMS, batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    for name, grad in grads.items():
        np.testing.assert_allclose(PARAMS[name] - found.params[name], grad, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("microbatched", [False, True])
@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_token_means_do_not_depend_on_devices(strategy, microbatched):
    batch = _tokens(0, rows=16)
    batch["mask"][:4] = 0  # a device, and a microbatch of it, has nothing that counts
    loss, grads = jax.value_and_grad(_token_loss)(PARAMS, batch)
    if microbatched:
        batch = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), batch)
    step = training.make_train_step(_token_loss, SGD, microbatched=microbatched)
    compiled = training.compile_step(step, mesh=data_mesh(4), strategy=strategy)
    found, metrics = compiled(_start(jax.tree.map(jnp.copy, PARAMS)), batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    for name, grad in grads.items():
        np.testing.assert_allclose(PARAMS[name] - found.params[name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("microbatched", [False, True])
def test_a_batch_of_padding_changes_nothing(microbatched):
    def loss_fn(params, model_state, batch, key):
        loss = _token_loss(params, batch)
        return loss, ({"mean": batch["x"].mean() * jnp.inf}, {"other": loss})

    batch = {"x": np.ones((4, 5), np.float32), "mask": np.zeros((4, 5), np.float32)}
    if microbatched:
        batch = jax.tree.map(lambda x: x.reshape(2, 2, 5), batch)
    step = training.make_train_step(loss_fn, SGD, microbatched=microbatched, on_fault="stop")
    state, metrics = step(_start(PARAMS, model_state={"mean": jnp.float32(3)}), batch)
    assert jax.tree.map(float, state.params) == jax.tree.map(float, PARAMS)
    assert float(state.model_state["mean"]) == 3.0
    assert {name: float(x) for name, x in metrics.items()} == {"loss": 0, "other": 0, "fault": -1}


@pytest.mark.parametrize("microbatched", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_loss_and_gradient_as_functions_agree_with_the_update(mapped, microbatched):
    """What an optimizer that looks around is handed is the very same batch, parts of no weight
    and all, and can be differentiated twice.
    """
    seen = {}

    def update(updates, state, params=None, *, value, grad, value_fn, grad_fn, **extra):
        seen["update"] = value, grad
        seen["functions"] = value_fn(params), grad_fn(params, 0)
        seen["derived"] = jax.value_and_grad(value_fn)(params)
        seen["curved"] = jax.jvp(jax.grad(extra["obj_fn"]), (params,), (params,))[1]
        return updates, seen

    batch = _tokens(1, rows=16)
    batch["mask"][:4] = 0
    curved = jax.jvp(jax.grad(_token_loss), (PARAMS, batch), (PARAMS, _zeros(batch)))[1]
    if microbatched:
        batch = jax.tree.map(lambda x: x.reshape(2, 8, *x.shape[1:]), batch)
    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    step = training.make_train_step(_token_loss, tx, microbatched=microbatched)
    if mapped:
        step = training.compile_step(step, mesh=data_mesh(4), strategy="pmap")
    start = _start(jax.tree.map(jnp.copy, PARAMS), tx)  # what is donated is gone
    found = jax.device_get(step(start, batch)[0].opt_state)
    for other in ("functions", "derived"):
        for mine, theirs in zip(
            jax.tree.leaves(found[other]), jax.tree.leaves(found["update"]), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    for name, expected in curved.items():
        np.testing.assert_allclose(found["curved"][name], expected, rtol=1e-4, atol=1e-5)


def _zeros(tree):
    return jax.tree.map(np.zeros_like, tree)


def test_parts_of_unequal_weight_still_tell_the_noise():
    """E|g_w|^2 = |G|^2 + trace / w: the mean by weight is that of parts of W / n."""
    told = {}

    def update(updates, state, params=None, **extra):
        told.update(extra)
        return updates, state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    step = training.make_train_step(
        lambda p, b: jnp.sum(b["mask"] * p * b["x"]) / jnp.sum(b["mask"]), tx, microbatched=True
    )
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    mask = np.array([[1, 1], [1, 0], [0, 0], [1, 1]], np.float32)
    step(_start(jnp.float32(1), tx), {"x": x, "mask": mask})
    means = [0.5, 2.0, 6.5]
    np.testing.assert_allclose(told["part_squared_norm"], np.dot([2, 1, 2], np.square(means)) / 5)
    np.testing.assert_allclose([told["part_size"], told["effective_size"]], [5 / 3, 5], rtol=1e-6)
    assert told["batch_size"] == 8


@pytest.mark.parametrize("padding", [1, 3])
def test_padded_microbatches_teach_the_noise_of_the_training_set(padding):
    """The mean over every draw of 3 of 5 examples, in parts of 2, 1 and, of padding alone, 0."""
    x = np.random.default_rng(0).normal(0.5, 1, (5, 2)).astype(np.float32)
    tx = optax.chain(growth.noise_scale_tracker(0.5, num_examples=5), optax.sgd(0.0))
    step = jax.jit(
        training.make_train_step(
            lambda p, b: jnp.sum(b["mask"] * (b["x"] @ p)) / jnp.sum(b["mask"]),
            tx,
            microbatched=True,
        )
    )
    mask = np.array([1, 1, 1] + [0] * padding, np.float32).reshape(-1, 2)
    found = []
    for draw in itertools.permutations(range(5), 3):
        rows = x[[*draw] + [0] * padding].reshape(-1, 2, 2)
        state, _ = step(_start(jnp.zeros(2), tx), {"x": rows, "mask": mask})
        found.append(growth.noise_scale_record(state.opt_state)[:2])
    exact = x.astype(np.float64)
    expected = [exact.var(axis=0).sum(), np.square(exact.mean(axis=0)).sum()]
    np.testing.assert_allclose(np.mean(found, axis=0), expected, rtol=1e-4)


def test_one_part_that_counts_teaches_no_noise():
    tx = optax.chain(growth.noise_scale_tracker(), optax.sgd(0.1))
    step = training.make_train_step(
        lambda p, b: jnp.sum(b["mask"] * p * b["x"]) / jnp.maximum(jnp.sum(b["mask"]), 1),
        tx,
        microbatched=True,
    )
    x, full = np.arange(4, dtype=np.float32).reshape(2, 2), np.ones((2, 2), np.float32)
    before, _ = step(_start(jnp.float32(1), tx), {"x": x, "mask": full})
    for last in ([0, 0], [np.nan, np.nan]):
        mask = np.array([[1, 1], [0, 0]], np.float32)
        batch = {"x": np.stack([x[0], np.float32(last)]), "mask": mask}
        after, _ = step(before, batch)
        assert float(after.params) != float(before.params)
        np.testing.assert_array_equal(after.opt_state[0].means, before.opt_state[0].means)
        assert int(after.opt_state[0].num_updates) == 1


def test_leaves_that_share_no_axis_are_refused_or_weighed():
    """Ten class weights beside 512 examples are no batch of 10."""
    batch = {
        "class_weight": np.ones(10, np.float32),
        "x": np.ones((512, 3), np.float32),
        "y": np.ones(512, np.float32),
    }

    def loss_fn(params, batch):
        return jnp.mean(batch["x"] @ params) * batch["class_weight"].mean()

    tx = optax.chain(optax.sgd(0.2), diffusion.scale_by_batch_size(128))
    with pytest.raises(ValueError, match=r"class_weight.*has shape \(10,\).*weight_fn="):
        training.make_train_step(loss_fn, tx)(_start(jnp.zeros(3), tx), batch)
    step = training.make_train_step(loss_fn, tx, weight_fn=lambda batch: batch["x"].shape[0])
    state, _ = jax.jit(step)(_start(jnp.zeros(3), tx), batch)
    np.testing.assert_allclose(state.params, -0.4, rtol=1e-6)


def test_weights_and_losses_of_another_shape_are_refused():
    batch = {"x": np.ones((4, 3), np.float32)}
    step = training.make_train_step(
        lambda p, b: jnp.mean(b["x"] @ p), SGD, weight_fn=lambda b: jnp.ones(4)
    )
    with pytest.raises(ValueError, match=r"one number for a batch, not shape \(4,\): sum it"):
        step(_start(jnp.zeros(3)), batch)
    step = training.make_train_step(lambda p, b: b["x"] @ p, SGD)
    with pytest.raises(ValueError, match=r"the mean loss, one number, not shape \(4,\)"):
        step(_start(jnp.zeros(3)), batch)
    step = training.make_train_step(lambda p, s, b, k: jnp.mean(b["x"] @ p), SGD)
    with pytest.raises(
        ValueError, match=r"must give \(loss, \(model_state, metrics\)\), metrics a dict, not"
    ):
        step(_start(jnp.zeros(3)), batch)
    with pytest.raises(ValueError, match="weight_fn must be a function, or left out, not 3"):
        training.make_train_step(lambda p, b: 0.0, SGD, weight_fn=3)


def test_a_batch_of_no_examples_is_none_of_the_steps_faults():
    """As Flax has it: NaN where a mean of nothing is taken, and no error."""
    batch = {"x": np.ones((0, 3), np.float32)}
    for gradient in (None, training.sam(0.1, group_size=2)):
        step = training.make_train_step(
            lambda p, b: jnp.mean(b["x"] @ p), SGD, gradient=gradient, on_fault="skip"
        )
        state, metrics = step(_start(jnp.zeros(3)), batch)
        assert state.params.tolist() == [0, 0, 0] and int(metrics["skipped"]) >= 0
    step = training.make_eval_step(lambda p, s, b: {"v": b["x"].sum(1)})
    assert step(_start(jnp.zeros(3)), batch) == {"v": 0, "count": 0}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["eval", "examples", "microbatched", "groups", "pmap"])
def test_a_weight_below_0_is_no_weight(kind, own):
    """Weights of 1 and -1 have a sum of 0, over which no mean is taken; it is not 0 either."""
    mask = np.array([1, 1, 1, 1, -1, -1, -1, 0], np.float32)
    batch = {"x": np.arange(8, dtype=np.float32), "mask": mask}
    if kind == "eval":
        weight_fn = (lambda batch: batch["mask"]) if own else None
        step = training.make_eval_step(lambda p, s, b: {"v": b["x"]}, weight_fn=weight_fn)
        found = jax.jit(step)(_start(PARAMS), batch)
        assert np.isnan(found["v"]) and np.isnan(found["count"])
        step = training.make_eval_step(
            lambda p, s, b: {"v": b["x"]}, weight_fn=weight_fn, reduce=False
        )
        assert np.isnan(step(_start(PARAMS), batch)["weight"]).tolist() == (mask < 0).tolist()
        return
    if kind == "microbatched":
        batch = jax.tree.map(lambda x: x.reshape(4, 2), batch)
    step = training.make_train_step(
        lambda p, b: jnp.sum(p * b["x"] * b["mask"]) / jnp.sum(b["mask"]),
        SGD,
        gradient=training.sam(0.0, group_size=2) if kind == "groups" else None,
        microbatched=kind == "microbatched",
        on_fault="skip",
        weight_fn=(lambda batch: batch["mask"].sum()) if own else None,
    )
    step = (
        training.compile_step(step, mesh=data_mesh(4), strategy="pmap") if kind == "pmap" else step
    )
    state, metrics = step(_start(jnp.float32(1)), batch)
    if kind == "examples":  # one mean, taken by the loss itself
        assert metrics["loss"] == pytest.approx((0 + 1 + 2 + 3 - 4 - 5 - 6) / 1)
        return
    assert np.isnan(metrics["loss"]) and int(metrics["skipped"]) == 0
    assert float(state.params) == 1
