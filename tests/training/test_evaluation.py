import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import growth, training

STATE = training.init_state({}, optax.identity(), key=jax.random.key(0))


def _square(params, model_state, batch):
    return {"v": batch["x"] ** 2}


def test_ragged_evaluation_adds_up_to_the_exact_mean():
    values = np.arange(10, dtype=np.float32)
    step = jax.jit(training.make_eval_step(_square))
    parts = [{"x": values[:6]}, {"x": values[6:]}]
    padded = {"x": np.append(values[6:], [7e9, np.nan]).astype(np.float32)}
    padded["mask"] = np.array([1, 1, 1, 1, 0, 0], np.float32)
    for last in (parts[1], padded):
        sums = jax.tree.map(jnp.add, step(STATE, parts[0]), step(STATE, last))
        assert float(sums["v"] / sums["count"]) == np.mean(values**2)


def test_padding_of_growing_batches_is_left_out():
    source = {"x": np.arange(10, dtype=np.float32)}
    batches = growth.GrowingBatches(source, growth.constant_batch(4), seed=0, end_of_epoch="pad")
    step = training.make_eval_step(lambda p, s, batch: {"v": batch.data["x"] ** 2})
    sums = [step(STATE, next(batches)) for _ in range(3)]
    total = jax.tree.map(lambda *xs: float(sum(xs)), *sums)
    assert total == {"v": float(np.sum(source["x"] ** 2)), "count": 10.0}


def test_examples_weigh_what_is_said():
    batch = {"x": np.array([1.0, 2.0, np.nan], np.float32), "tokens": np.array([2, 3, 0])}
    step = training.make_eval_step(_square, weight_fn=lambda batch: batch["tokens"])
    assert step(STATE, batch) == {"v": 2 * 1 + 3 * 4, "count": 5}
    masked = {"x": batch["x"], "mask": np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]])}
    assert training.make_eval_step(_square)(STATE, masked) == {"v": 2 * 1 + 3 * 4, "count": 5}
    halves = {"x": batch["x"], "mask": np.array([0.5, 1.0, 0.0], np.float32)}
    assert training.make_eval_step(_square)(STATE, halves) == {"v": 4.5, "count": 1.5}


def test_values_of_every_example():
    batch = {"x": np.array([1, 2, np.nan], np.float32), "mask": np.array([True, True, False])}
    found = training.make_eval_step(_square, reduce=False)(STATE, batch)
    assert found["v"].tolist() == [1, 4, 0] and found["weight"].tolist() == [1, 1, 0]
    assert {x.dtype for x in found.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda x: x[:, None], r"'v' has shape \(4, 1\): v.reshape\(-1\) is"),
        (lambda x: x.mean(), r"'v' has shape \(\): do not take its mean"),
        (lambda x: jnp.ones((4, 3)), r"'v' has shape \(4, 3\): take the mean over its other axes"),
        (
            lambda x: x[:2],
            r"one number for each of the 4 examples, \[4\], and 'v' has shape \(2,\)",
        ),
    ],
)
def test_values_of_another_shape_are_refused_by_name(value, told):
    """Broadcast against the mask, [B, 1] would count every example B times."""
    step = training.make_eval_step(lambda p, s, batch: {"v": value(batch["x"])})
    mask = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=told):
        step(STATE, {"x": jnp.arange(4.0), "mask": mask})


def test_names_and_weights_that_do_not_fit_are_refused():
    batch = {"x": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="a value 'count', which this step has for its own"):
        training.make_eval_step(lambda p, s, b: {"count": b["x"]})(STATE, batch)
    with pytest.raises(ValueError, match="a value 'weight'"):
        training.make_eval_step(lambda p, s, b: {"weight": b["x"]}, reduce=False)(STATE, batch)
    with pytest.raises(ValueError, match=r"a weight for each example, \[B\], not shape \(\)"):
        training.make_eval_step(_square, weight_fn=lambda b: 3.0)(STATE, batch)
    with pytest.raises(ValueError, match=r"\['y'\] has shape \(5,\)"):
        training.make_eval_step(_square)(STATE, {**batch, "y": np.ones(5)})


def test_members_of_a_population_are_evaluated_together():
    states = jax.tree.map(lambda x: jnp.stack([x, x]), STATE)._replace(params=jnp.array([1.0, 2.0]))
    step = training.make_eval_step(lambda p, s, batch: {"v": p * batch["x"]})
    found = jax.vmap(step, (0, None))(states, {"x": np.arange(3, dtype=np.float32)})
    assert found["v"].tolist() == [3, 6] and found["count"].tolist() == [3, 3]
