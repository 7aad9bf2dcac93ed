"""The gradient noise scale: how large a batch still averages noise away."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class NoiseScale(NamedTuple):
    """Estimates of gradient noise; scalars, or one entry per member of a population.

    Attributes:
        trace: the trace of the covariance of the gradients of single examples, ``tr(Sigma)``.
        squared_norm: the squared norm of the true gradient, ``|G|^2``. The estimate is unbiased, so
            it may be negative where noise hides the gradient.
        noise_scale: ``tr(Sigma) / |G|^2``, in examples.
        stderr: the standard error of ``noise_scale``, taking updates as independent; NaN where one
            estimate alone cannot tell.
    """

    trace: Any
    squared_norm: Any
    noise_scale: Any
    stderr: Any


def gradient_noise_scale(
    part_squared_norm: jax.typing.ArrayLike,
    squared_norm: jax.typing.ArrayLike,
    *,
    part_size: jax.typing.ArrayLike,
    batch_size: jax.typing.ArrayLike,
) -> NoiseScale:
    """Noise of the gradient, from its squared norm at two batch sizes.

    As ``E|g_B|^2 = |G|^2 + tr(Sigma) / B``, two sizes b < B give two unbiased estimates,

        ``tr(Sigma) = (|g_b|^2 - |g_B|^2) / (1/b - 1/B)`` and
        ``|G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b)``.

    Both norms come with every update that is made of microbatches or spread over devices: b is the
    size of a part, B of the whole. Their ratio from a single update is very noisy and biased;
    :func:`noise_scale_tracker` averages each before it divides.

    Args:
        part_squared_norm: the mean over parts of ``|g_b|^2``.
        squared_norm: ``|g_B|^2`` of the mean gradient.
        part_size: b, in examples.
        batch_size: B, in examples.

    Returns:
        The estimates of this one update.

    Raises:
        ValueError: if the sizes are known and the part is not smaller than the batch.

    Example:
        >>> noise = gradient_noise_scale(4.0, 1.3, part_size=32, batch_size=512)
        >>> [round(float(value), 2) for value in noise[:3]]
        [92.16, 1.12, 82.29]

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1.
    """
    _check_sizes(part_size, batch_size)
    b, big = jnp.asarray(part_size, jnp.float32), jnp.asarray(batch_size, jnp.float32)
    small_norm = jnp.asarray(part_squared_norm, jnp.float32)
    big_norm = jnp.asarray(squared_norm, jnp.float32)
    trace = (small_norm - big_norm) / (1.0 / b - 1.0 / big)
    norm = (big * big_norm - b * small_norm) / (big - b)
    return NoiseScale(trace, norm, trace / norm, jnp.full_like(trace, jnp.nan))


class NoiseScaleState(NamedTuple):
    """State of :func:`noise_scale_tracker`; :func:`noise_scale_record` reads it.

    Attributes:
        num_updates: updates seen.
        decay: of the averages, kept here so that a record needs nothing else.
        means: averages of the two estimates, ``[2]``.
        products: averages of their products, ``[2, 2]``, for the standard error.
    """

    num_updates: jax.Array
    decay: jax.Array
    means: jax.Array
    products: jax.Array


def noise_scale_tracker(decay: float = 0.99) -> optax.GradientTransformationExtraArgs:
    """Follow the gradient noise scale inside the optimizer's state, at no extra backward pass.

    A transform that leaves updates as they are. Place it first in the chain, where updates still
    are the mean gradient of the batch. At each update it needs the extra arguments

    * ``batch_size``: B, the examples of the whole batch,
    * ``part_size``: b, the examples of a microbatch, or of a device's share,
    * ``part_squared_norm``: the mean over those parts of the squared norm of their gradient.

    Exponential averages of the two unbiased estimates are kept apart, and only divided when read;
    neither depends on B, so a growth leaves them valid.

    Args:
        decay: of the averages per update; they look back over about ``1 / (1 - decay)`` updates.

    Returns:
        The transform; ``update`` raises a ValueError if an extra argument is missing.

    Example:
        >>> tx = optax.chain(noise_scale_tracker(), optax.sgd(0.1))
        >>> params = {"w": jnp.zeros(2)}
        >>> state = tx.init(params)
        >>> _, state = tx.update(
        ...     {"w": jnp.array([1.0, 0.0])}, state, params,
        ...     batch_size=512, part_size=32, part_squared_norm=4.0,
        ... )
        >>> round(float(noise_scale_record(state).trace), 1)
        102.4

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1.
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must lie between 0 and 1, not {decay!r}; 0.99 is usual.")

    def init(params: Any) -> NoiseScaleState:
        del params
        zeros = jnp.zeros
        return NoiseScaleState(
            zeros((), jnp.int32), jnp.full((), decay, jnp.float32), zeros(2), zeros((2, 2))
        )

    def update(
        updates: Any,
        state: NoiseScaleState,
        params: Any = None,
        *,
        batch_size: Any = None,
        part_size: Any = None,
        part_squared_norm: Any = None,
        **extra: Any,
    ) -> tuple[Any, NoiseScaleState]:
        del params, extra
        if batch_size is None or part_size is None or part_squared_norm is None:
            raise ValueError(
                "noise_scale_tracker needs batch_size=, part_size= and part_squared_norm= at "
                "update: train with at least two microbatches or devices, and a step that hands "
                "on the mean squared norm of their gradients."
            )
        norm = squared_norm(updates)
        noise = gradient_noise_scale(
            part_squared_norm, norm, part_size=part_size, batch_size=batch_size
        )
        pair = jnp.stack([noise.trace, noise.squared_norm])
        keep = state.decay

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return keep * old + (1.0 - keep) * new

        return updates, NoiseScaleState(
            optax.safe_increment(state.num_updates),
            keep,
            average(state.means, pair),
            average(state.products, pair[:, None] * pair[None, :]),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def noise_scale_record(opt_state: Any) -> NoiseScale:
    """Read what :func:`noise_scale_tracker` has found, on the host.

    Args:
        opt_state: the state of an optax chain with a tracker in it.

    Returns:
        The averaged estimates and their ratio, in float64; NaN before the first update.

    Raises:
        ValueError: if there is no tracker in the state, or more than one.
    """
    found = optax.tree.get_all_with_path(opt_state, NoiseScaleState.__name__)
    if len(found) != 1:
        raise ValueError(
            f"This optimizer state holds {len(found)} noise_scale_tracker()s, not one; put one "
            "first in the optax chain."
        )
    state = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(found[0][1]))
    left = state.decay**state.num_updates
    with np.errstate(divide="ignore", invalid="ignore"):
        trace, norm = np.moveaxis(state.means / (1 - left)[..., None], -1, 0)
        products = state.products / (1 - left)[..., None, None]
        # an exponential average of n updates weighs as much as this many equal ones
        weight = (1 + state.decay) / (1 - state.decay) * (1 - left) / (1 + left)
        trace_var = products[..., 0, 0] - trace**2
        norm_var = products[..., 1, 1] - norm**2
        covariance = products[..., 0, 1] - trace * norm
        ratio = trace / norm
        # the delta method for a ratio of two means
        relative = trace_var / trace**2 + norm_var / norm**2 - 2 * covariance / (trace * norm)
        stderr = np.abs(ratio) * np.sqrt(np.maximum(relative, 0) / (weight - 1))
        stderr = np.where(state.num_updates > 1, stderr, np.nan)
    return NoiseScale(trace, norm, ratio, stderr)


def squared_norm(tree: Any) -> jax.Array:
    """The squared norm of a pytree, summed in float32."""
    parts = [
        jnp.sum(jnp.square(jnp.abs(leaf).astype(jnp.float32))) for leaf in jax.tree.leaves(tree)
    ]
    return sum(parts, start=jnp.zeros((), jnp.float32))


def _check_sizes(part_size: Any, batch_size: Any) -> None:
    if any(isinstance(size, jax.core.Tracer) for size in (part_size, batch_size)):
        return
    if not np.all((np.asarray(part_size) > 0) & (np.asarray(part_size) < np.asarray(batch_size))):
        raise ValueError(
            f"A part of {part_size} examples is not smaller than the batch of {batch_size}; noise "
            "shows only between at least two microbatches or devices."
        )
