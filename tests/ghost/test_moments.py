"""The pure core against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax.ghost import ghost_moments, normalize


def test_masked_moments_and_an_empty_ghost():
    x = np.array(jax.random.normal(jax.random.key(0), (12, 5, 2)))
    mask = np.array(jax.random.bernoulli(jax.random.key(1), 0.6, (12, 5, 1)))
    mask[4:8] = False
    x[~mask[..., 0]] = np.nan  # what is masked need not even be a number
    mean, var, count = ghost_moments(x, 4, mask=mask, shift=jnp.array([1.0, -1.0]))
    np.testing.assert_array_equal(count, mask.reshape(3, -1).sum(1))
    for ghost in (0, 2):
        kept = x[4 * ghost : 4 * ghost + 4][mask[4 * ghost : 4 * ghost + 4, :, 0]]
        np.testing.assert_allclose(mean[ghost], kept.mean(0), atol=1e-6)
        np.testing.assert_allclose(var[ghost], kept.var(0), atol=1e-6)
    np.testing.assert_array_equal(mean[1], [1.0, -1.0])
    np.testing.assert_array_equal(var[1], [0.0, 0.0])


def test_masks_that_tell_features_apart_give_counts_per_feature():
    x = jnp.arange(12.0).reshape(6, 2)
    mask = jnp.array([[1, 1], [1, 0], [1, 1], [0, 1], [1, 1], [0, 0]])
    mean, _, count = ghost_moments(x, 3, mask=mask)
    np.testing.assert_array_equal(count, [[3, 2], [1, 2]])
    np.testing.assert_allclose(mean, [[2, 3], [8, 8]])


def test_features_on_any_axes():
    x = jax.random.normal(jax.random.key(0), (6, 3, 4, 2))
    for axis, back in ((1, (0, 2, 3, 1)), (-1, (0, 1, 2, 3)), ((1, -1), (0, 2, 1, 3))):
        mean, var, _ = ghost_moments(x, 2, axis=axis)
        y = normalize(x, mean, var, 2, axis=axis)
        z = np.transpose(np.asarray(x), back)
        z = z.reshape(3, 2, *z.shape[1:])
        over = tuple(range(1, z.ndim - (1 if np.ndim(axis) == 0 else 2)))
        np.testing.assert_allclose(mean, z.mean(over), atol=1e-6)
        np.testing.assert_allclose(var, z.var(over), atol=1e-6)
        expected = (z - z.mean(over, keepdims=True)) / np.sqrt(z.var(over, keepdims=True) + 1e-5)
        found = np.transpose(np.asarray(y), back).reshape(z.shape)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bad_input_says_what_would_fit():
    x = jnp.ones((8, 3))
    with pytest.raises(ValueError, match="makes the examples"):
        ghost_moments(x, 4, axis=0)
    with pytest.raises(ValueError, match="axis 2 does not exist"):
        ghost_moments(x, 4, axis=2)
    with pytest.raises(ValueError, match=r"mask.reshape\(-1, 1\)"):
        ghost_moments(x, 4, mask=jnp.ones(8, bool))
    with pytest.raises(ValueError, match="complex"):
        ghost_moments(x.astype(jnp.complex64))
    with pytest.raises(ValueError, match="ghost_size of at least 2"):
        ghost_moments(x, 1)
