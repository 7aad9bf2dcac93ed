"""Multiplicative gradient noise as a function of the batch size."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gapjax._checks import number, positive_int, random_key
from gapjax.diffusion._rules import checked_ratio


def noise_std(batch_size: int, base_batch_size: int) -> float:
    r"""How strongly to weight examples at random so that a large batch is as noisy as a small one.

    .. math:: \sigma = \sqrt{B / B_\mathrm{base} - 1}

    Let single-example gradients be independent with mean :math:`\mu` and covariance
    :math:`\Sigma`. The weighted mean :math:`\frac1B \sum_n z_n g_n`, with
    :math:`z_n \sim N(1, \sigma^2)`, has mean :math:`\mu` and covariance
    :math:`\frac1B [(1 + \sigma^2) \Sigma + \sigma^2 \mu\mu^\top]`. With this :math:`\sigma` that
    is :math:`\Sigma / B_\mathrm{base}`, the covariance of the small batch, plus
    :math:`(1/B_\mathrm{base} - 1/B)\, \mu\mu^\top`: a random length of the mean step, small
    wherever noise dominates.

    Args:
        batch_size: examples per update.
        base_batch_size: examples per update of the small batch to be imitated, at most
            ``batch_size``.

    Returns:
        The standard deviation for :func:`example_weights`.

    Raises:
        ValueError: when ``batch_size`` is below ``base_batch_size``.

    Example:
        >>> noise_std(512, 128) ** 2
        2.9999999999999996

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, section on the learning rate (multiplicative
        noise). The constant follows from the covariance above.
    """
    ratio = checked_ratio(batch_size, base_batch_size)
    if ratio < 1:
        raise ValueError(
            f"batch_size={batch_size} is below base_batch_size={base_batch_size}: its gradient is "
            "already noisier, and weights can only add noise. Swap the two, or use a larger batch."
        )
    return math.sqrt(ratio - 1)


def example_weights(key: jax.Array, num_examples: int, std: ArrayLike) -> jax.Array:
    r"""Random weights of per-example losses: multiplicative gradient noise.

    :math:`z_n \sim N(1, \mathrm{std}^2)`, independent. The gradient of
    :math:`\frac1B \sum_n z_n \ell_n` has the mean of the plain gradient and, with ``std`` from
    :func:`noise_std`, the covariance of a smaller batch, in one backward pass. Weights may be
    negative. Divide by B, not by the sum of the weights.

    Args:
        key: a random key, a fresh one for every update.
        num_examples: examples in the batch, B.
        std: standard deviation of the weights, from :func:`noise_std`.

    Returns:
        Weights, float32, shape [num_examples].

    Raises:
        ValueError: for what is no key, no examples, or a standard deviation below 0.

    Example:
        >>> z = example_weights(jax.random.key(0), 512, noise_std(512, 128))
        >>> losses = jnp.ones(512)
        >>> noisy_loss = jnp.mean(z * losses)

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, section on the learning rate.
    """
    random_key("key", key)
    num_examples = positive_int("num_examples", num_examples)
    if not isinstance(std, jax.Array | np.ndarray):
        number("std", std, least=0)
    return 1 + jnp.asarray(std, jnp.float32) * jax.random.normal(key, (num_examples,), jnp.float32)
