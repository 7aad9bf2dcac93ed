"""Pure evaluation steps: the values of examples, or their sums."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gapjax._examples import count_examples, example_weights
from gapjax._precision import widen
from gapjax.training._losses import without_negative
from gapjax.training._state import TrainState

Batch = Any


def make_eval_step(
    eval_fn: Callable[..., dict[str, jax.Array]],
    *,
    weight_fn: Callable[[Batch], Any] | None = None,
    reduce: bool = True,
) -> Callable[[TrainState, Batch], dict[str, jax.Array]]:
    r"""What a batch is worth, as a pure function ``(state, batch) -> {name: value}``.

    Over the n examples of a batch, with weights :math:`w_i`, it gives the sum of each value
    :math:`v` and of the weights, ``"count"``:

    .. math::

        V = \sum_{i=1}^n w_i v_i, \qquad \text{count} = \sum_{i=1}^n w_i.

    Add both up over batches and divide once, and the mean over a data set is exact, also when its
    last batch is ragged or padded. What an example of weight 0 gives is not looked at, even if it
    is NaN.

    It evaluates ``state.params``. Where an optimizer keeps other weights to evaluate with, hand in
    ``state._replace(params=evaluation_params(state.opt_state, state.params))``.

    Args:
        eval_fn: ``(params, model_state, batch) -> {name: value of each example, [B]}``, in
            evaluation mode.
        weight_fn: ``batch -> weight of each example, [B]``, such as its number of tokens where
            values are means over tokens. By default the batch's own mask, where it has one (an
            entry or field ``mask``, ``[B]``, or ``[B, T]`` summed over T, as in ``growth.Batch``),
            else 1. At least 0: one below makes the count NaN, and every sum.
        reduce: False for values of the examples instead of sums: ``{name: [B]}``, float32 or
            better, with 0 for examples of weight 0, and ``"weight"``, ``[B]``.

    Returns:
        The step.

    Raises:
        ValueError: when called: values or weights that are not one number per example, or a value
            of a name that is taken.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state
        >>> step = make_eval_step(lambda params, model_state, batch: {"square": batch["x"] ** 2})
        >>> state = init_state({}, optax.identity(), key=jax.random.key(0))
        >>> batch = {"x": jax.numpy.arange(3.0), "mask": jax.numpy.array([1.0, 1.0, 0.0])}
        >>> {name: float(value) for name, value in step(state, batch).items()}
        {'square': 1.0, 'count': 2.0}
    """
    taken = "count" if reduce else "weight"

    def step(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        values = eval_fn(state.params, state.model_state, batch)
        if not isinstance(values, Mapping):
            raise ValueError(
                "eval_fn must give {name: value of each example, [B]}, not "
                f"{jax.tree.structure(values)}."
            )
        if taken in values:
            raise ValueError(
                f"eval_fn gives a value {taken!r}, which this step has for its own: "
                "give it another name."
            )
        weights = example_weights(batch) if weight_fn is None else jnp.asarray(weight_fn(batch))
        if weights is None:
            weights = jnp.ones(count_examples(batch), jnp.float32)
        if weights.ndim != 1:
            raise ValueError(
                f"weight_fn must give a weight for each example, [B], not shape {weights.shape}."
            )
        weights = without_negative(weights.astype(jnp.float32))

        def one(name: str, value: Any) -> jax.Array:
            value = widen(value)
            if value.shape != weights.shape:
                raise ValueError(_say(name, value.shape, len(weights)))
            return jnp.where(weights == 0, jnp.zeros((), value.dtype), value)

        found = {name: one(name, value) for name, value in values.items()}
        if not reduce:
            return {**found, "weight": weights}
        return {
            **{name: jnp.sum(weights.astype(value.dtype) * value) for name, value in found.items()},
            "count": jnp.sum(weights),
        }

    return step


def _say(name: str, shape: tuple[int, ...], examples: int) -> str:
    if not shape:
        remedy = "do not take its mean"
    elif shape[0] == examples and all(length == 1 for length in shape[1:]):
        remedy = f"{name}.reshape(-1) is"
    else:
        remedy = "take the mean over its other axes"
    return (
        f"eval_fn must give one number for each of the {examples} examples, [{examples}], and "
        f"{name!r} has shape {shape}: {remedy}."
    )
