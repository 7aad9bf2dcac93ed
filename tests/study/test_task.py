"""Tasks against NumPy, and what is no task."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax import data, study
from gapjax.study._task import smooth

RNG = np.random.default_rng(0)


def _log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_classification():
    logits, labels = RNG.normal(size=(6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 0, 1])
    found = study.classification().measure(jnp.asarray(logits), {"labels": jnp.asarray(labels)})
    wanted = -_log_softmax(logits)[np.arange(6), labels]
    np.testing.assert_allclose(found["loss"], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found["accuracy"], logits.argmax(-1) == labels)
    smoothed = smooth(study.classification(), 0.2).losses(
        jnp.asarray(logits), {"labels": jnp.asarray(labels)}
    )
    mean = -_log_softmax(logits).mean(-1)
    np.testing.assert_allclose(smoothed, 0.8 * wanted + 0.2 * mean, rtol=1e-5)


def test_a_network_that_diverged_is_not_right_by_accident():
    batch = {"labels": jnp.zeros(2, jnp.int32)}
    found = study.classification().measure(jnp.full((2, 3), jnp.nan), batch)
    assert found["accuracy"].tolist() == [0, 0]
    batch = {"labels": jnp.zeros((2, 3), jnp.int32)}
    found = study.multilabel().measure(jnp.full((2, 3), jnp.nan), batch)
    assert found["exact_accuracy"].tolist() == [0, 0]


def test_multilabel():
    logits, labels = RNG.normal(size=(5, 3)).astype(np.float32), RNG.integers(0, 2, (5, 3))
    batch = {"y": jnp.asarray(labels)}
    found = study.multilabel().measure(jnp.asarray(logits), batch)
    wanted = np.logaddexp(0, -logits.astype(np.float64) * (2 * labels - 1)).mean(-1)
    np.testing.assert_allclose(found["loss"], wanted, rtol=1e-5)
    right = (logits > 0) == (labels > 0)
    np.testing.assert_allclose(found["accuracy"], right.mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(found["exact_accuracy"], right.all(-1))
    smoothed = smooth(study.multilabel(), 0.2).losses(jnp.asarray(logits), batch)
    turned = np.logaddexp(0, logits.astype(np.float64) * (2 * labels - 1)).mean(-1)
    np.testing.assert_allclose(smoothed, 0.9 * wanted + 0.1 * turned, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 2, 3)])
def test_regression(shape):
    outputs, targets = RNG.normal(size=(2, *shape)).astype(np.float32)
    task = study.regression()
    found = task.measure(jnp.asarray(outputs), {"y": jnp.asarray(targets)})
    error = (outputs - targets).reshape(5, -1).astype(np.float64)
    np.testing.assert_allclose(found["loss"], (error**2).mean(-1), rtol=1e-5)
    np.testing.assert_allclose(found["absolute_error"], np.abs(error).mean(-1), rtol=1e-5)
    assert (task.headline, task.maximize) == ("loss", False)


def test_a_column_of_outputs_is_no_table_of_differences():
    # [5, 1] against [5] would be broadcast to [5, 5].
    outputs, targets = jnp.arange(5.0)[:, None], jnp.arange(5.0)
    assert study.regression().losses(outputs, {"y": targets}).tolist() == [0.0] * 5
    with pytest.raises(ValueError, match=r"outputs of shape \[5, 2\] for targets of shape \[5\]"):
        study.regression().losses(jnp.zeros((5, 2)), {"y": targets})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_next_token_means_are_means_over_tokens_that_count(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 4, (3, 6))
    logits = rng.normal(size=(3, 5, 4)).astype(np.float32)
    task, batch = study.next_token(pad=0), {"tokens": jnp.asarray(tokens)}
    found, weights = task.measure(jnp.asarray(logits), batch), np.asarray(task.weights(batch))
    goal = tokens[:, 1:]
    each = -np.take_along_axis(_log_softmax(logits), goal[..., None], -1)[..., 0]
    counted = goal != 0
    np.testing.assert_array_equal(weights, counted.sum(-1))
    if counted.any():
        mean = (np.asarray(found["loss"]) * weights).sum() / weights.sum()
        np.testing.assert_allclose(mean, each[counted].mean(), rtol=1e-4)
        right = (np.asarray(found["accuracy"]) * weights).sum() / weights.sum()
        wanted = (logits.argmax(-1) == goal)[counted].mean()
        np.testing.assert_allclose(right, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["bits"], np.asarray(found["loss"]) / np.log(2), rtol=1e-5)


def test_a_mask_of_tokens_counts_too():
    tokens = jnp.array([[1, 2, 3]])
    for mask in ([[0.0, 0.0, 1.0]], [[0.0, 1.0]]):
        batch = {"tokens": tokens, "mask": jnp.array(mask)}
        assert study.next_token().weights(batch).tolist() == [1.0]


def test_fields_are_found_or_named():
    split = data.Split(jnp.ones((2, 3)), jnp.zeros(2, jnp.int32))
    assert study.classification().select(split).shape == (2, 3)
    task = study.regression(inputs="features", targets=lambda batch: batch["deep"]["goal"])
    batch = {"features": jnp.ones((2, 3)), "deep": {"goal": jnp.ones(2)}}
    assert task.select(batch).shape == (2, 3)
    assert task.losses(jnp.zeros((2, 1)), batch).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"no 'images' or .* \(it has 'a'\): say where the inputs"):
        study.classification().select({"a": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"it has 'tokens'.* take another task: .*, next-token\."):
        study.classification().select({"tokens": jnp.ones((2, 3), jnp.int32)})


def test_widths_are_those_of_the_data():
    x = np.zeros((4, 3))
    table = data.Dataset({"x": x, "y": np.zeros((4, 2))}, {"x": x, "y": np.zeros((4, 2))})
    assert study.regression().width(table) == study.multilabel().width(table) == 2
    column = data.Dataset({"x": x, "y": np.zeros(4)}, {"x": x, "y": np.zeros(4)})
    assert study.regression().width(column) == 1
    text = {"tokens": np.array([[1, 2, 300]])}
    assert study.next_token().width(data.Dataset(text, text)) == 301
    text = {"tokens": np.array([[1, 2, 30]])}
    assert study.next_token().width(data.Dataset(text, text)) == 31
    later = {"tokens": np.array([[1, 400, 30]])}  # judged too
    assert study.next_token().width(data.Dataset(text, later)) == 401
    one, two = ({"x": x, "y": np.array([0, 1, 1, top])} for top in (1, 4))
    assert study.classification().width(data.Dataset(one, two, class_names=tuple("abcde"))) == 5


def _loss(outputs, batch):
    return outputs[:, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": 3}, "loss of a task must be a function"),
        ({"metrics": {"f1": 3}}, r"metrics\['f1'\] of a task must be a function"),
        ({"metrics": [_loss]}, "metrics must be a dict"),
        ({"metrics": {"distance": _loss}}, "none of loss, weight, distance"),
        ({"metrics": {"weight": _loss}}, "'weight' is not"),
        ({"metrics": {"top 5": _loss}}, "'top 5' is not"),
        ({"headline": "acuracy"}, "Did you mean 'accuracy'"),
        ({"maximize": "no"}, "maximize must be True or False"),
        ({"percent": ("accuracies",)}, "percent must be one of"),
        ({"weight": 1.0}, "weight of a task must be a function"),
    ],
)
def test_what_is_no_task(arguments, message):
    good = {"loss": _loss, "metrics": {"accuracy": _loss}, "headline": "accuracy"}
    with pytest.raises(ValueError, match=message):
        study.Task(**{**good, **arguments})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o, b: o, r"loss of task 'custom' gives shape \[4, 1\] .*squeeze its last axis"),
        (lambda o, b: o.mean(), r"gives shape \[\] for a batch of 4 .*leave the mean over"),
        (lambda o, b: 1.0, "gives float for a batch of 4 examples"),
        (lambda o, b: jnp.zeros((4, 3)), "take the mean over all but the first axis"),
    ],
)
def test_values_that_are_not_one_per_example(loss, message):
    task = study.Task(loss, {}, "loss")
    with pytest.raises(ValueError, match=message):
        task.losses(jnp.zeros((4, 1)), {"x": jnp.zeros((4, 1))})


def test_a_loss_is_never_to_be_maximized():
    assert study.Task(_loss, {}, "loss", maximize=True).maximize is False
    task = study.Task(_loss, {"accuracy": _loss}, "accuracy")
    assert task.better(0.9, 0.8) and not study.regression().better(0.9, 0.8)


def test_labels_that_cannot_be_smoothed():
    with pytest.raises(ValueError, match="has no loss with smoothed labels"):
        smooth(study.regression(), 0.1)
