"""Moments of every ghost, and normalization with them."""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gapjax.ghost._partition import feature_axes, partition
from gapjax.ghost._sums import rows_per_part, spread, sums


class Moments(NamedTuple):
    """Mean and biased variance of each ghost.

    The features are the axes of the input named by ``axis``, in order.
    """

    mean: jax.Array  # [G, *features]
    var: jax.Array  # [G, *features], divided by count, never negative
    # [G], elements per feature; [G, *features] if a mask tells features apart
    count: jax.Array | np.ndarray  # type: ignore[assignment]


def per_feature(count: Any, like: jax.Array) -> Any:
    """A count of [G] as [G, 1, ...], to go with moments of [G, *features]."""
    return count.reshape(count.shape + (1,) * (like.ndim - count.ndim))


def promote(*dtypes: Any) -> jnp.dtype:
    """The common dtype, also where the user has made implicit promotion an error."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def ghost_moments(
    x: ArrayLike,
    ghost_size: int | None = None,
    *,
    axis: int | Iterable[int] = -1,
    mask: ArrayLike | None = None,
    shift: ArrayLike | None = None,
    remainder: str = "error",
    axis_name: Any = None,
    axis_index_groups: Any = None,
    use_fast_variance: bool = True,
    dtype: DTypeLike | None = None,
) -> Moments:
    r"""Mean and variance of every ghost of a batch.

    Ghost :math:`i` is the :math:`i`-th contiguous run of ``ghost_size`` examples. With
    :math:`n` elements per feature in it,

    .. math:: \mu_i = s + \tfrac1n \sum (x - s), \qquad
              v_i = \tfrac1n \sum (x - s)^2 - (\mu_i - s)^2,

    where the shift :math:`s` (the running mean, in the modules) changes nothing but the rounding:
    without it the variance loses ``2 log2(mean / sd)`` of its bits.

    Args:
        x: ``[B, ...]``, any floating dtype. The first axis counts examples.
        ghost_size: Examples per ghost; ``None`` is one ghost.
        axis: The feature axis or axes, which keep their own moments.
        mask: True where an element counts; broadcastable to ``x``.
        shift: ``[*features]``, near the mean; treated as a constant by differentiation.
        remainder: What to do if ``ghost_size`` does not divide B: ``"error"``, ``"short"`` (the
            last ghost is smaller) or ``"merge"`` (the last ghost is larger). A batch smaller than
            one ghost is one short ghost under both.
        axis_name: Inside ``jax.shard_map`` or ``jax.pmap``: every ghost is joined with those of
            the same place on the devices along this axis (or these axes).
        axis_index_groups: Which devices are joined, as in ``jax.lax.psum``.
        use_fast_variance: One pass over ``x``. False: a second pass for the variance.
        dtype: The least precise dtype to compute in (default: float32).

    Returns:
        ``Moments``: ``mean`` and ``var`` of ``[G, *features]``, ``count`` of ``[G]``. A ghost
        without any (unmasked) element has count 0, variance 0 and the shift for a mean; a batch
        of no examples has no ghosts, or one such if ``ghost_size`` is None.

    Raises:
        ValueError: B is no multiple of ``ghost_size``, a ghost has one element per feature, the
            mask does not broadcast, or ``axis`` holds the axis of the examples.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax.ghost import ghost_moments
        >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
        >>> moments = ghost_moments(x, 2)
        >>> moments.mean.tolist(), moments.var.tolist()
        ([[2.0], [20.0]], [[1.0], [100.0]])
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
            f"the moments of a complex input ({x.dtype}) are not defined here. Put the real and "
            "the imaginary part side by side, as features."
        )
    x = x.astype(promote(x.dtype, jnp.float32 if dtype is None else dtype))
    axes = feature_axes(x.ndim, axis)
    reduced = tuple(i for i in range(x.ndim) if i not in axes)
    features = tuple(x.shape[i] for i in axes)
    if ghost_size is not None and 0 in axes:
        raise ValueError(
            f"axis={axis} makes the examples (axis 0 of shape {x.shape}) a feature, so "
            "there is nothing to cut into ghosts. Move the examples to the front, or use "
            "ghost_size=None."
        )
    cut = partition(x, ghost_size, remainder)
    per_example = math.prod(x.shape[i] for i in reduced[1:])
    if not x.shape[0] * per_example:
        zeros = jnp.zeros((len(cut.sizes), *features), x.dtype)
        mean = zeros if shift is None else zeros + _constant(shift, x.dtype, features)
        return Moments(mean, zeros, np.zeros(len(cut.sizes), x.dtype))
    if ghost_size is not None and min(cut.sizes) * per_example == 1:
        raise ValueError(
            f"a ghost of 1 example on input of shape {x.shape} has one element per feature, "
            "whose variance is zero. "
            + (
                'Use remainder="merge", or drop the last batch.'
                if ghost_size > 1
                else "Use a ghost_size of at least 2."
            )
        )
    # Sums run over x - shift; the shift comes back into the mean at the very end.
    if shift is not None:
        shift = _constant(shift, x.dtype, features)
        x = x - jnp.expand_dims(shift, reduced)
    part = rows_per_part(cut.run * per_example)
    if mask is None:
        mean, var = cut.map(lambda block: _moments(block, reduced, part, use_fast_variance), [x])
        full = np.full if isinstance(x.size, int) else jnp.full  # known, but in an export
        count = full(mean.shape[0], x.size / max(mean.size, 1), x.dtype)
    else:
        keep = _aligned_mask(mask, x.shape, axes)
        mean, var, count = cut.map(
            lambda block, keep: _masked_moments(block, keep, reduced, part, use_fast_variance),
            [x, keep],
        )
    moments = Moments(mean, var, count)
    if not cut.regular:
        moments = _merge(moments, cut)
    if axis_name is not None:
        moments = _join(moments, axis_name, axis_index_groups, use_fast_variance)
    if shift is not None:
        moments = moments._replace(mean=moments.mean + shift)
    return moments


def _moments(x, reduced, part, fast):
    """Of one block: each feature's mean and variance."""
    if fast:
        per = 1 / math.prod(x.shape[i] for i in reduced)
        mean, square = (total * per for total in sums(x, lax.square(x), reduced, part))
        # Rounding can bring the difference below zero.
        return mean, jnp.maximum(0.0, square - lax.square(mean))
    mean = x.mean(reduced)
    return mean, lax.square(x - jnp.expand_dims(mean, reduced)).mean(reduced)


def _masked_moments(x, keep, reduced, part, fast):
    """Of one block: mean, variance and count where ``keep``; elsewhere ``x`` need not be finite."""
    count = keep.sum(reduced, dtype=x.dtype)
    per = 1 / jnp.maximum(count, 1)
    x = jnp.where(keep, x, 0)
    if fast:
        mean, square = (total * per for total in sums(x, lax.square(x), reduced, part))
        var = jnp.maximum(0.0, square - lax.square(mean))
    else:
        mean = x.sum(reduced) * per
        off = jnp.where(keep, x - jnp.expand_dims(mean, reduced), 0)
        var = lax.square(off).sum(reduced) * per
    return mean, var, count.reshape(()) if count.size == 1 else count


def _aligned_mask(mask, shape, axes):
    """The mask over all elements, with features of size 1 if it does not tell them apart."""
    mask = jnp.asarray(mask)
    mask = mask if mask.dtype == bool else mask != 0
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"a mask of shape {mask.shape} does not broadcast to an input of shape {shape}. "
            "For a mask over examples, give it one axis per axis of the input: "
            f"mask.reshape({', '.join(['-1'] + ['1'] * (len(shape) - 1))})."
        )
    mask = mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape)
    apart = any(mask.shape[i] > 1 for i in axes)
    return jnp.broadcast_to(
        mask, tuple(1 if i in axes and not apart else n for i, n in enumerate(shape))
    )


def _merge(moments, cut):
    """From moments of blocks, exactly those of the ghosts they make up (Chan et al. 1979)."""
    weight = jnp.broadcast_to(per_feature(moments.count, moments.mean), moments.mean.shape)
    count = cut.gather(moments.count)
    per = per_feature(1 / jnp.maximum(count, 1), moments.mean)
    mean = cut.gather(weight * moments.mean) * per
    off = lax.square(moments.mean - cut.spread(mean))
    return Moments(mean, cut.gather(weight * (moments.var + off)) * per, count)


def _join(moments, axis_name, groups, fast):
    """Moments over several devices, from those of each."""
    mean, var, count = moments

    def psum(parts):
        try:
            return lax.psum(parts, axis_name, axis_index_groups=groups)
        except NotImplementedError as error:
            raise ValueError(
                "jax.shard_map does not support axis_index_groups while it checks replication "
                "(check_vma=True). Split the mesh axis in two, such as "
                'jax.make_mesh((devices // k, k), ("outer", "ghost")) with P(("outer", "ghost")) '
                'for a ghost on k devices, and pass axis_name=("outer", "ghost"); or pass '
                "check_vma=False to jax.shard_map."
            ) from error

    weight = jnp.broadcast_to(per_feature(jnp.asarray(count), mean), mean.shape)
    if fast:
        total, mean, square = psum(
            jnp.stack([weight, weight * mean, weight * (var + lax.square(mean))])
        )
        per = 1 / jnp.maximum(total, 1)
        mean, square = mean * per, square * per
        var = jnp.maximum(0.0, square - lax.square(mean))
    else:
        own = mean
        total, mean = psum(jnp.stack([weight, weight * own]))
        per = 1 / jnp.maximum(total, 1)
        mean = mean * per
        var = psum(weight * (var + lax.square(own - mean))) * per
    return Moments(mean, var, total.reshape(total.shape[0], -1)[:, 0] if count.ndim == 1 else total)


def normalize(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    ghost_size: int | None = None,
    *,
    axis: int | Iterable[int] = -1,
    remainder: str = "error",
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    shift: ArrayLike | None = None,
    epsilon: float = 1e-5,
    one_pass: bool = True,
) -> jax.Array:
    r"""Normalize each ghost with its own mean and variance.

    .. math:: y = \frac{x - \mu_i}{\sqrt{v_i + \epsilon}} \cdot \text{scale} + \text{bias}

    Args:
        x: ``[B, ...]``.
        mean: ``[G, *features]``, as from ``ghost_moments``; ``[1, *features]`` for running
            statistics.
        var: Likewise.
        ghost_size: As given to ``ghost_moments``.
        axis: As given to ``ghost_moments``.
        remainder: As given to ``ghost_moments``.
        scale: ``[*features]`` or None.
        bias: ``[*features]`` or None.
        shift: As given to ``ghost_moments``: both then read the same ``x - shift``, and the
            gradient takes two sums over ``x`` instead of three.
        epsilon: Added to the variance.
        one_pass: Take both sums of the gradient together. In evaluation, whose gradient asks for no
            more than they are, curvature products are a tenth faster without.

    Returns:
        An array like ``x``, in the widest dtype of the arguments.

    Raises:
        ValueError: ``ghost_size`` does not divide B.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax.ghost import ghost_moments, normalize
        >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
        >>> mean, var, _ = ghost_moments(x, 2)
        >>> normalize(x, mean, var, 2).ravel().round(3).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """
    given = [jnp.asarray(a) for a in (x, mean, var, scale, bias) if a is not None]
    dtype = promote(*(a.dtype for a in given))
    x, mean, var = (a.astype(dtype) for a in given[:3])
    axes = feature_axes(x.ndim, axis)
    reduced = tuple(i for i in range(x.ndim) if i not in axes)
    features = tuple(x.shape[i] for i in axes)
    if not x.size:
        return x
    cut = partition(x, ghost_size, remainder)
    wanted = (len(cut.sizes), *features)
    for name, array in (("mean", mean), ("var", var)):
        if array.shape != wanted:
            raise ValueError(
                f"{name} has shape {array.shape}; for {wanted[0]} ghosts it must be {wanted}. Of "
                "running statistics, which all examples share, give mean[None] and var[None]."
            )
    mul: Any = lax.rsqrt(var + epsilon)
    if scale is not None:
        mul = mul * jnp.asarray(scale).astype(dtype).reshape(features)
    # Any shift cancels. One near the means keeps the difference from rounding.
    shift = _constant(mean.mean(0) if shift is None else shift, dtype, features)
    add: Any = (shift - mean) * mul
    if bias is not None:
        add = add + jnp.asarray(bias).astype(dtype).reshape(features)

    rows = cut.run * math.prod(x.shape[i] for i in reduced[1:])
    part = rows_per_part(rows) if one_pass else 0

    def of_block(off, mul, add):
        mul, add = spread(mul, add, off.shape, reduced, part)
        return off * mul + add

    off = x - jnp.expand_dims(shift, reduced)
    return cut.map(of_block, [off], [cut.spread(mul), cut.spread(add)]).reshape(x.shape)


def _constant(shift, dtype, features):
    if np.size(shift) != math.prod(features):
        raise ValueError(f"shift has shape {np.shape(shift)}; it must be {features}, the features.")
    return lax.stop_gradient(jnp.asarray(shift)).astype(dtype).reshape(features)
