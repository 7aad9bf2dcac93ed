"""Multiplicative noise on a linear model whose gradient moments are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax.diffusion import example_weights, noise_std

BASE, LARGE, REPEATS, SIGMA = 8, 128, 20_000, 0.7
INPUT_COVARIANCE = np.array([[1.0, 0.4, 0.0], [0.4, 0.8, -0.2], [0.0, -0.2, 0.5]])
AWAY = np.array([0.2, -0.1, 0.3])  # the weights less the true ones
# g = x (x . a - e), with x ~ N(0, C) and e ~ N(0, sigma^2), has mean C a and, by Isserlis'
# theorem, covariance C a a' C + (a' C a + sigma^2) C.
MEAN = INPUT_COVARIANCE @ AWAY
COVARIANCE = np.outer(MEAN, MEAN) + (AWAY @ MEAN + SIGMA**2) * INPUT_COVARIANCE


def gradients(batch_size, std):
    """Gradients of many batches of the weighted loss, shape [REPEATS, 3]."""
    root = jnp.asarray(np.linalg.cholesky(INPUT_COVARIANCE), jnp.float32)

    def gradient(key):
        keys = jax.random.split(key, 3)
        x = jax.random.normal(keys[0], (batch_size, 3)) @ root.T
        y = SIGMA * jax.random.normal(keys[1], (batch_size,))
        weights = example_weights(keys[2], batch_size, std)

        def loss(w):
            return jnp.mean(weights * 0.5 * (x @ w - y) ** 2)

        return jax.grad(loss)(jnp.asarray(AWAY, jnp.float32))

    keys = jax.random.split(jax.random.key(batch_size), REPEATS)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(gradient, keys, batch_size=1000))(keys))


def assert_moments(sample, mean, covariance):
    """Both moments, each entry within 4.5 standard errors estimated from the sample itself."""
    centred = sample - sample.mean(axis=0)
    products = centred[:, :, None] * centred[:, None, :]
    for values, expected in ((sample, mean), (products, covariance)):
        error = values.std(axis=0) / REPEATS**0.5
        assert (np.abs(values.mean(axis=0) - expected) < 4.5 * error).all()
    # And those errors are small: a covariance off by a tenth is seen.
    assert (products.std(axis=0) / REPEATS**0.5 < 0.1 / 4.5 * np.diag(covariance).max()).all()


def test_a_small_batch_has_the_covariance_of_the_model():
    assert_moments(gradients(BASE, 0.0), MEAN, COVARIANCE / BASE)


def test_a_weighted_large_batch_has_both_moments_of_the_small_one():
    noisy = gradients(LARGE, noise_std(LARGE, BASE))
    surplus = (1 / BASE - 1 / LARGE) * np.outer(MEAN, MEAN)
    assert_moments(noisy, MEAN, COVARIANCE / BASE + surplus)
    # The surplus, the random length of the mean step, is small beside the noise here.
    assert np.trace(surplus) < 0.2 * np.trace(COVARIANCE / BASE)
    # Without weights the large batch is 16 times quieter.
    quiet = np.cov(gradients(LARGE, 0.0).T)
    assert np.trace(quiet) == pytest.approx(np.trace(COVARIANCE / LARGE), rel=0.05)


def test_noise_by_hand():
    assert noise_std(128, 128) == 0
    assert noise_std(1280, 128) == pytest.approx(3)
    weights = example_weights(jax.random.key(0), 200_000, 3.0)
    assert weights.shape == (200_000,)
    assert weights.dtype == jnp.float32
    assert float(weights.mean()) == pytest.approx(1, abs=4 * 3 / 200_000**0.5)
    assert float(weights.std()) == pytest.approx(3, rel=4 / 400_000**0.5)


def test_bad_input():
    with pytest.raises(ValueError, match="below base_batch_size=128"):
        noise_std(64, 128)
    with pytest.raises(ValueError, match="num_examples must be"):
        example_weights(jax.random.key(0), 0, 1.0)
    for wrong in ("1", None, True, -1.0, float("nan")):
        with pytest.raises(ValueError, match="std must be a finite number of at least 0"):
            example_weights(jax.random.key(0), 2, wrong)
