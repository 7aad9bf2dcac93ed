"""The gradient noise scale: how large a batch still averages noise away."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import _checks
from gapjax._precision import widen


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
    num_examples: int | None = None,
) -> NoiseScale:
    r"""Noise of the gradient, from its squared norm at two batch sizes.

    With independent draws :math:`E|g_B|^2 = |G|^2 + \mathrm{tr}(\Sigma) / B`, so two sizes b < B
    give two unbiased estimates,

    .. math:: \mathrm{tr}(\Sigma) = \frac{|g_b|^2 - |g_B|^2}{1/b - 1/B}, \qquad
        |G|^2 = \frac{B |g_B|^2 - b |g_b|^2}{B - b}.

    Both norms come with every update that is made of microbatches or spread over devices: b is the
    size of a part, B of the whole. Their ratio from a single update is very noisy and biased;
    :func:`noise_scale_tracker` and :func:`average_noise_scale` average each before they divide.

    Batches of a training set are drawn without replacement. Then, with S the first estimate,
    :math:`E|g_B|^2 = |G_N|^2 + S (1/B - 1/N)`: the second estimates :math:`|G_N|^2 - S / N`, which
    is right for the population that the set was drawn from, but not for the set that is trained on,
    and negative where the weights have been fitted to it. With ``num_examples`` N both speak of the
    set: :math:`\mathrm{tr}(\Sigma) = S (1 - 1/N)`, the covariance of one of its examples, and
    :math:`|G_N|^2`, the estimate plus :math:`S / N`. No estimate is cut off at 0.

    It stands in for the critical batch size, and need not be near it: on language models Merrill et
    al. found it lower by orders of magnitude, with the wrong trend. Trust
    :func:`branched_critical_batch` more.

    Args:
        part_squared_norm: the mean over parts of ``|g_b|^2``.
        squared_norm: ``|g_B|^2`` of the mean gradient.
        part_size: b, in examples. Where it is traced and not below B, all is NaN.
        batch_size: B, in examples.
        num_examples: N of the training set whose examples are drawn without replacement; None for
            independent draws, or for the noise scale of the population.

    Returns:
        The estimates of this one update.

    Raises:
        ValueError: if the sizes are known and the part is not smaller than the batch, or the batch
            larger than the training set.

    Example:
        >>> noise = gradient_noise_scale(4.0, 1.3, part_size=32, batch_size=512)
        >>> [round(float(value), 2) for value in noise[:3]]
        [92.16, 1.12, 82.29]
        >>> noise = gradient_noise_scale(4.0, 1.3, part_size=32, batch_size=512, num_examples=1024)
        >>> [round(float(value), 2) for value in noise[:3]]
        [92.07, 1.21, 76.09]

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1.

        Merrill, Arora, Groeneveld, Hajishirzi, `Critical Batch Size Revisited
        <https://arxiv.org/abs/2505.23971>`_, 2025.
    """
    _check_sizes(part_size, batch_size, num_examples)
    return _estimates(part_squared_norm, squared_norm, part_size, batch_size, num_examples)


def _estimates(
    part_squared_norm: Any, squared_norm: Any, part_size: Any, batch_size: Any, num_examples: Any
) -> NoiseScale:
    small_norm, big_norm = widen(part_squared_norm), widen(squared_norm)
    dtype = jnp.promote_types(small_norm.dtype, big_norm.dtype)
    b, big = jnp.asarray(part_size, dtype), jnp.asarray(batch_size, dtype)
    b = jnp.where(b < big, b, jnp.nan)
    trace = (small_norm - big_norm) / (1.0 / b - 1.0 / big)
    norm = (big * big_norm - b * small_norm) / (big - b)
    if num_examples is not None:
        share = 1.0 / num_examples  # no whole number: there may be more than 32 bits hold
        trace, norm = trace * (1.0 - share), norm + trace * share
    return NoiseScale(trace, norm, trace / norm, jnp.full_like(trace, jnp.nan))


class NoiseScaleState(NamedTuple):
    """State of :func:`noise_scale_tracker`; :func:`noise_scale_record` reads it.

    Attributes:
        num_updates: updates seen.
        decay: of the averages, kept here so that a record needs nothing else.
        means: averages of the two estimates, ``[2]``.
        products: averages of their products, ``[2, 2]``, for the standard error, in a form that
            float32 holds wherever it holds the estimates: on the diagonal the roots of the mean
            squares, off it the mean product over both roots.
    """

    num_updates: jax.Array
    decay: jax.Array
    means: jax.Array
    products: jax.Array


def noise_scale_tracker(
    decay: float = 0.99, *, num_examples: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradient noise scale inside the optimizer's state, at no extra backward pass.

    A transform that leaves updates as they are. Place it first in the chain, where updates still
    are the mean gradient of the batch. At each update it needs the extra arguments

    * ``batch_size``: B, the examples of the whole batch,
    * ``part_size``: b, the examples of a microbatch, or of a device's share,
    * ``part_squared_norm``: the mean over those parts of the squared norm of their gradient.

    and, where examples do not all count alike (padding), ``effective_size``: the number of examples
    whose mean is as noisy, in place of B; b is then one of such examples too. An update in which a
    single part has all that counts says nothing, and leaves the averages as they are.

    Exponential averages of the two unbiased estimates are kept apart, and only divided when read;
    neither depends on B, so a growth leaves them valid. An update whose estimates are not finite
    says nothing either: one gradient that overflowed, which the optimizer leaves out, spoils no
    average.

    Args:
        decay: of the averages per update; they look back over about ``1 / (1 - decay)`` updates.
        num_examples: of the training set, as in :func:`gradient_noise_scale`.

    Returns:
        The transform; ``update`` raises a ValueError if an extra argument is missing, or inside
        of ``optax.masked`` and ``optax.partition``, which give it a part of the gradient alone.

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
    if num_examples is not None:
        _checks.positive_int("num_examples", num_examples)
    if not 0 < _checks.positive_float("decay", decay) < 1:
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
        effective_size: Any = None,
        **extra: Any,
    ) -> tuple[Any, NoiseScaleState]:
        del params, extra
        if batch_size is None or part_size is None or part_squared_norm is None:
            raise ValueError(
                "noise_scale_tracker needs batch_size=, part_size= and part_squared_norm= at "
                "update: train with at least two microbatches or devices, and a step that hands "
                "on the mean squared norm of their gradients."
            )
        size = batch_size if effective_size is None else effective_size
        _check_whole(updates)
        norm = squared_norm(updates)
        if effective_size is None:
            _check_sizes(part_size, size, num_examples)
        noise = _estimates(part_squared_norm, norm, part_size, size, num_examples)
        pair = jnp.stack([noise.trace, noise.squared_norm])

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            keep = state.decay.astype(old.dtype)
            return keep * old + (1.0 - keep) * new.astype(old.dtype)

        new = NoiseScaleState(
            optax.safe_increment(state.num_updates),
            state.decay,
            average(state.means, pair),
            _average_products(state.products, pair, state.decay),
        )
        told = jnp.all(jnp.isfinite(pair))
        if effective_size is not None:
            told &= jnp.asarray(part_size) < jnp.asarray(effective_size)
        return updates, jax.tree.map(lambda new, old: jnp.where(told, new, old), new, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _average_products(old: jax.Array, pair: jax.Array, decay: jax.Array) -> jax.Array:
    """The average of products with one more pair, in the form that the state keeps.

    The estimates are squared norms already, and their own squares are soon no float32. So both are
    divided by their root mean square, old or new whichever is larger, before anything is squared.
    """
    keep, pair = decay.astype(old.dtype), pair.astype(old.dtype)
    roots = jnp.diagonal(old)
    largest = jnp.maximum(roots, jnp.abs(pair))
    unit = jnp.where(largest > 0, largest, 1.0)
    scaled = pair / unit
    before, after = roots / unit, keep * (roots / unit) ** 2 + (1.0 - keep) * scaled**2
    product = keep * old[0, 1] * jnp.prod(before) + (1.0 - keep) * jnp.prod(scaled)
    root = jnp.sqrt(after)
    shared = product / jnp.where(root > 0, root, 1.0).prod()
    return jnp.diag(unit * root) + shared * (1.0 - jnp.eye(2, dtype=old.dtype))


def _check_whole(updates: Any) -> None:
    """Refuse a part of the gradient, beside which the norm of all microbatches means nothing."""
    leaves = jax.tree.leaves(updates, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
        raise ValueError(
            "noise_scale_tracker measures the whole gradient, and is given a part of it: put it "
            "first in the chain, outside of optax.masked and optax.partition."
        )


def noise_scale_record(opt_state: Any) -> NoiseScale:
    """Reads what :func:`noise_scale_tracker` has found, on the host.

    Args:
        opt_state: the state of an optax chain with a tracker in it.

    Returns:
        The averaged estimates and their ratio, in float64, over the updates whose estimates were
        finite; NaN before the first.

    Raises:
        ValueError: if there is no tracker in the state, or more than one.

    Example:
        >>> tx = noise_scale_tracker()
        >>> float(noise_scale_record(tx.init({"w": jnp.zeros(2)})).trace)
        nan
    """
    found = optax.tree.get_all_with_path(opt_state, NoiseScaleState.__name__)
    if len(found) != 1:
        raise ValueError(
            f"This optimizer state holds {len(found)} noise_scale_tracker()s, not one; put one "
            "first in the optax chain."
        )
    state = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(found[0][1]))
    left = state.decay**state.num_updates
    # an exponential average of n updates weighs as much as this many equal ones
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = (1 + state.decay) / (1 - state.decay) * (1 - left) / (1 + left)
        means = np.moveaxis(state.means / (1 - left)[..., None], -1, 0)
        roots = np.diagonal(state.products, axis1=-2, axis2=-1)
        # the diagonal holds the roots, and each of them is wholly alike with itself
        alike = np.where(np.eye(2, dtype=bool), 1.0, state.products)
        averages = alike * roots[..., :, None] * roots[..., None, :]
        products = np.moveaxis(averages / (1 - left)[..., None, None], (-2, -1), (0, 1))
    return _ratio(means, products, np.where(state.num_updates > 1, weight, np.nan))


def average_noise_scale(trace: Any, squared_norm: Any) -> NoiseScale:
    """The noise scale over several updates: each estimate averaged, then divided, on the host.

    Args:
        trace: the estimates of ``tr(Sigma)``, one per update, shape [T, ...]: what a step's metrics
            hold, or the ``trace`` of several :func:`gradient_noise_scale`.
        squared_norm: those of ``|G|^2``, of the same shape.

    Returns:
        The averages over updates and their ratio, float64, shape [...]. Signs are kept: where noise
        hides the gradient the ratio is negative, and no number of examples. NaN where any update
        is: a run has diverged, or of a last batch a single part counts; leave that one out.

    Raises:
        ValueError: for arrays of different shapes, or no updates.

    Example:
        >>> float(average_noise_scale([90.0, 110.0, 100.0], [1.5, 0.5, 1.0]).noise_scale)
        100.0

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1.
    """
    pair = [
        _checks.numbers_array(name, values)
        for name, values in (("trace", trace), ("squared_norm", squared_norm))
    ]
    if pair[0].shape != pair[1].shape or not pair[0].ndim or not len(pair[0]):
        raise ValueError(
            "trace and squared_norm must have one shape [T, ...], of at least one update, not "
            f"{pair[0].shape} and {pair[1].shape}."
        )
    estimates = np.stack(pair)
    products = np.mean(estimates[:, None] * estimates[None, :], axis=2)
    count = float(estimates.shape[1])
    return _ratio(estimates.mean(axis=1), products, np.array(count if count > 1 else np.nan))


def _ratio(means: np.ndarray, products: np.ndarray, weight: np.ndarray) -> NoiseScale:
    """Means, their ratio and its error by the delta method, of so many equal observations."""
    trace, norm = means
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = trace / norm
        relative = (
            (products[0, 0] - trace**2) / trace**2
            + (products[1, 1] - norm**2) / norm**2
            - 2 * (products[0, 1] - trace * norm) / (trace * norm)
        )
        stderr = np.abs(ratio) * np.sqrt(np.maximum(relative, 0) / (weight - 1))
    return NoiseScale(trace, norm, ratio, stderr)


def squared_norm(tree: Any) -> jax.Array:
    """The squared norm of a pytree, summed in float32 or better."""
    return optax.tree.norm(jax.tree.map(widen, tree), squared=True)


def _check_sizes(part_size: Any, batch_size: Any, num_examples: int | None) -> None:
    if num_examples is not None:
        _checks.positive_int("num_examples", num_examples)
    sizes = {"part_size": part_size, "batch_size": batch_size}
    if any(isinstance(size, jax.core.Tracer) for size in sizes.values()):
        return
    for name, size in sizes.items():
        if np.asarray(size).dtype.kind not in "iuf":
            raise ValueError(f"{name} must be a number of examples, not {size!r}.")
    if not np.all((np.asarray(part_size) > 0) & (np.asarray(part_size) < np.asarray(batch_size))):
        raise ValueError(
            f"A part of {part_size} examples is not smaller than the batch of {batch_size}; noise "
            "shows only between at least two microbatches or devices."
        )
    if num_examples is not None and np.any(np.asarray(batch_size) > num_examples):
        raise ValueError(
            f"A batch of {batch_size} is larger than the training set of {num_examples}."
        )
