"""Means over the parts of a batch (microbatches, devices, groups), each as heavy as it says.

A weight of None means that all parts are alike. A part of weight 0 adds nothing, even where its
own mean is NaN; one whose weight is NaN makes the mean NaN. Sums are taken in float32 or better,
whatever the type of what is summed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gapjax._precision import widen

Weight = jax.Array | None
AxisName = str | tuple[str, ...]
Mean = Callable[[jax.Array, jax.Array], jax.Array]


def share(x: jax.Array, weight: Weight) -> jax.Array:
    """What the value of a part adds to the sum over parts."""
    x = widen(x)
    if weight is None:
        return x
    return jnp.where(weight > 0, x * weight.astype(x.dtype), jnp.zeros((), x.dtype))


def settle(total: jax.Array, whole: Any, otherwise: jax.Array) -> jax.Array:
    """The mean, from the sum of shares.

    Args:
        total: the sum of ``share`` over parts.
        whole: the sum of their weights, or the number of parts that are all alike.
        otherwise: what to take, and in which type, where nothing has any weight.
    """
    if not isinstance(whole, jax.Array):
        return (total / whole).astype(otherwise.dtype)
    empty = whole <= 0
    mean = total / jnp.where(empty, jnp.ones_like(whole), whole).astype(total.dtype)
    return jnp.where(empty, otherwise, mean.astype(otherwise.dtype))


def mean_of_parts(weights: Weight, parts: int) -> Mean:
    """The mean over a leading axis of parts, whose weights are ``[parts]``."""
    whole = parts if weights is None else jnp.sum(weights)

    def mean(x: jax.Array, otherwise: jax.Array) -> jax.Array:
        return settle(jnp.sum(jax.vmap(share)(x, weights), axis=0), whole, otherwise)

    return mean


def mean_of_devices(weight: Weight, axis: AxisName | None) -> Mean:
    """The mean over a mapped axis, to which this device adds so much; without one, what is here."""
    if axis is None:

        def alone(x: jax.Array, otherwise: jax.Array) -> jax.Array:
            return x if weight is None else jnp.where(weight == 0, otherwise.astype(x.dtype), x)

        return alone
    whole = jax.lax.psum(1 if weight is None else weight, axis)

    def mean(x: jax.Array, otherwise: jax.Array) -> jax.Array:
        return settle(jax.lax.psum(share(x, weight), axis), whole, otherwise)

    return mean


def combine(
    result: Any, params: Any, model_state: Any, *, mean: Mean, first: Callable[[Any], Any]
) -> Any:
    """The means of gradients, model states and metrics.

    Args:
        result: ``(gradient, model_state, metrics)``.
        params: what the gradient is of, and in whose types it is wanted.
        model_state: before the batch; it stays where nothing has any weight.
        mean: over parts or devices.
        first: of parts or devices: for counters and random keys, which have no mean.
    """
    grads, after, metrics = result
    return (
        jax.tree.map(lambda g, w: mean(g, jnp.zeros_like(w)), grads, params),
        mean_state(after, model_state, mean=mean, first=first),
        mean_metrics(metrics, mean=mean),
    )


def mean_state(after: Any, before: Any, *, mean: Mean, first: Callable[[Any], Any]) -> Any:
    """The mean of model states, as in ``combine``."""

    def one(new: jax.Array, old: jax.Array) -> jax.Array:
        return mean(new, old) if jnp.issubdtype(old.dtype, jnp.inexact) else first(new)

    return jax.tree.map(one, after, before)


def mean_metrics(metrics: Any, *, mean: Mean) -> Any:
    """The mean of metrics, as in ``combine``."""
    return jax.tree.map(lambda m: mean(m, jnp.zeros((), widen(m).dtype)), metrics)


def mean_in_turn(
    of_part: Callable[[Any, Any, Weight], tuple[Any, Any, Any]],
    state: Any,
    parts: Any,
    weights: Weight,
    params: Any,
    axis: AxisName | None,
    *,
    unroll: bool = False,
) -> tuple[Any, Any, Any]:
    """The mean gradient over parts that are seen one after the other, in the memory of one.

    Args:
        of_part: ``(state, part, weight) -> (gradient, state, rest)``.
        state: before the first part.
        parts: a tree with a leading axis of parts.
        weights: of the parts.
        params: what the gradient is of, and in whose types it is wanted.
        axis: the mapped axis over which ``params`` are different.
        unroll: whether each part has its own place in the program, instead of a loop; the compiler
            then takes the memory of all.

    Returns:
        The gradient, the state after the last part, and the rest of all parts, stacked.
    """

    def add(carry: tuple[Any, Any], weighted: tuple[Any, Weight]) -> Any:
        (total, state), (part, weight) = carry, weighted
        grads, state, rest = of_part(state, part, weight)
        total = jax.tree.map(lambda t, g: t + share(g, weight), total, grads)
        return (total, state), rest

    start = varying(jax.tree.map(lambda w: jnp.zeros_like(widen(w)), params), axis)
    (total, state), rest = jax.lax.scan(add, (start, state), (parts, weights), unroll=unroll)
    whole: Any = jax.tree.leaves(parts)[0].shape[0] if weights is None else jnp.sum(weights)
    grads = jax.tree.map(lambda t, w: settle(t, whole, jnp.zeros_like(w)), total, params)
    return grads, state, rest


def first_device(x: jax.Array, axis: AxisName | None) -> jax.Array:
    """What the first device has, on all."""
    if axis is None:
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = first_device(jax.random.key_data(x), axis)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    here = jax.lax.axis_index(axis) == 0
    return jax.lax.psum(jnp.where(here, x, jnp.zeros_like(x)), axis).astype(x.dtype)


def varying(tree: Any, axis: AxisName | None) -> Any:
    """As different on each device, where ``shard_map`` tells such types apart.

    The gradient of what is the same on all devices would be summed over them, at every use.
    """
    if axis is None:
        return tree

    def one(x: jax.Array) -> jax.Array:
        try:
            return jax.lax.pcast(x, axis, to="varying")
        except ValueError:  # it is already
            return x

    return jax.tree.map(one, tree)


def spread(tree: Any, axis: AxisName | None) -> Any:
    """What is the same on all devices, for use on each, such that ``average`` is its transpose.

    Both may be differentiated any number of times, in either mode, with the same derivatives under
    ``pmap`` and under ``shard_map``, though these transpose sums over devices each in its own way:
    for that the mean over devices, which changes nothing here, has to stand there.
    """
    if axis is None:
        return tree
    return varying(jax.lax.pmean(varying(tree, axis), axis), axis)


def average(x: jax.Array, axis: AxisName | None) -> jax.Array:
    """The mean over devices; ``spread`` is its transpose."""
    return x if axis is None else jax.lax.pmean(x, axis)


def guarded(tree: Any, weight: Weight) -> Any:
    """A tree whose gradient is 0 where the weight is 0, even if it would be NaN."""
    if weight is None:
        return tree
    return jax.tree.map(lambda x: jnp.where(weight > 0, x, jax.lax.stop_gradient(x)), tree)
