"""How many examples a batch holds, and how much each counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import growth
from gapjax._examples import count_examples, effective_examples, example_weights, noise_sizes


@pytest.mark.parametrize(
    ("batch", "leading", "count"),
    [
        ({"x": np.ones((8, 3)), "y": np.ones(8)}, 1, 8),
        (np.ones((5, 2)), 1, 5),
        ({"x": np.ones((4, 2, 3)), "y": np.ones((4, 2))}, 2, 8),
        ({"x": np.ones((0, 3))}, 1, 0),
        ({"key": jax.random.split(jax.random.key(0), 3), "x": np.ones(3)}, 1, 3),
        (jax.ShapeDtypeStruct((7, 2), "float32"), 1, 7),
    ],
)
def test_the_axis_that_all_leaves_share(batch, leading, count):
    assert count_examples(batch, leading=leading) == count


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (
            {"class_weight": np.ones(10), "x": np.ones((512, 3)), "y": np.ones(512)},
            r"batch\['class_weight'\] has shape \(10,\), where the others begin with 512",
        ),
        (
            {"x": np.ones((4, 2)), "y": np.ones(5)},
            r"\['x'\] has shape \(4, 2\), .*\['y'\] .*\(5,\)",
        ),
        ({"x": np.ones((4, 2)), "y": np.ones(4), "rate": 0.1}, r"\['rate'\] has shape \(\)"),
        ({"a": 0.1, "b": 0.2, "x": np.ones(3)}, r"\['a'\] has shape \(\)"),
        ({}, "holds no arrays"),
    ],
)
def test_leaves_that_disagree_are_named(batch, told):
    with pytest.raises(ValueError, match=told):
        count_examples(batch)


def test_masks_of_examples_and_of_their_parts():
    x, rows = np.ones((3, 2)), np.array([True, True, False])
    tokens = np.array([[1, 1], [1, 0], [1, 1]])
    place = np.arange(3)
    assert example_weights({"x": x}) is None and example_weights(x) is None
    assert example_weights({"x": x, "mask": rows}).tolist() == [1, 1, 0]
    assert example_weights({"x": x, "mask": tokens}).tolist() == [2, 1, 2]
    assert example_weights({"x": x, "mask": rows[:, None]}).tolist() == [1, 1, 0]
    assert example_weights(growth.Batch({"x": x}, place, place, rows)).tolist() == [1, 1, 0]
    both = growth.Batch({"x": x, "mask": tokens}, place, place, rows)
    assert example_weights(both).tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match=r"mask of this batch has shape \(3, 4, 4\).*weight_fn="):
        example_weights({"x": x, "mask": np.ones((3, 4, 4))})


def test_the_sizes_that_tell_the_noise_of_unequal_parts():
    """Against the variance of a weighted mean of independent draws, written out."""
    weights = np.array([[1, 1, 0.5], [0.25, 0, 0], [0, 0, 0], [2, 1, 1]])
    shares = weights / weights.sum()
    sizes = jnp.stack([jnp.asarray(effective_examples({"mask": w})) for w in weights])
    part_size, batch_size = noise_sizes(jnp.asarray(weights.sum(axis=1)), sizes)
    assert float(batch_size) == pytest.approx(1 / np.sum(shares**2))
    own = [np.sum((w / w.sum()) ** 2) * w.sum() if w.any() else 0 for w in weights]
    assert float(part_size) == pytest.approx(weights.sum() / np.sum(own))
    alone = noise_sizes(jnp.array([0.0, 3.0]), jnp.array([0.0, 3.0]))
    assert float(alone[0]) == float(alone[1])
