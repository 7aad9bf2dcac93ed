"""Loss functions as a step sees them: in one form, checked, in the types to compute in, weighed."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gapjax import _checks
from gapjax._examples import example_weights
from gapjax._means import Weight
from gapjax._precision import widen
from gapjax.training._names import named_leaves

Batch = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[..., Any]
OWN_METRICS = ("loss", "fault", "skipped")  # of a step, which ``fit`` knows by these names


def with_state(loss_fn: LossFn) -> LossFn:
    """``loss_fn`` with the four arguments of the general form."""
    _checks.function("loss_fn", loss_fn)
    parameters = inspect.signature(loss_fn).parameters.values()
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            raise ValueError(
                f"loss_fn needs the keyword {p.name}, which a step does not tell: bind it with "
                f"functools.partial(loss_fn, {p.name}=...)."
            )
    required = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if len(required) == 4 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return loss_fn
    if len(required) == 2:
        return lambda params, model_state, batch, key: (loss_fn(params, batch), (model_state, {}))
    raise ValueError(
        "loss_fn must take (params, model_state, batch, key) and give (loss, (model_state, "
        f"metrics)), or take (params, batch) and give the loss; this one takes {len(required)}: "
        f"({', '.join(p.name for p in required)})."
    )


def checked(loss_fn: LossFn) -> LossFn:
    """``loss_fn``, refused where it gives something else than it has to."""

    def call(params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Any:
        given = loss_fn(params, model_state, batch, key)
        try:
            loss, (after, metrics) = given
            if not isinstance(metrics, Mapping):
                raise TypeError
        except (TypeError, ValueError):
            raise ValueError(
                "loss_fn of (params, model_state, batch, key) must give (loss, (model_state, "
                f"metrics)), metrics a dict, not {jax.tree.structure(given)}."
            ) from None
        _check_state(model_state, after)
        if not hasattr(loss, "shape") or loss.shape:
            found = f"shape {loss.shape}" if hasattr(loss, "shape") else f"a {type(loss).__name__}"
            raise ValueError(f"loss_fn must give the mean loss, one number, not {found}.")
        for name in OWN_METRICS:
            if name in metrics:
                raise ValueError(
                    f"loss_fn gives a metric {name!r}, which this step has for its own: give it "
                    "another name."
                )
        return loss, (after, metrics)

    return call


def _check_state(before: Any, after: Any) -> None:
    """Refuse a model state that is not like the one before: the next update starts from it."""
    wanted, given = named_leaves(before), named_leaves(after)
    for name in [*wanted, *given]:
        if name not in given or name not in wanted:
            there = "loses" if name not in given else "has more than it was given:"
            raise ValueError(
                f"the model state that loss_fn gives {there} {name}; it must have the structure "
                "of model_state."
            )
        old, new = wanted[name], given[name]
        if jnp.shape(old) != jnp.shape(new):
            raise ValueError(
                f"the model state that loss_fn gives has shape {jnp.shape(new)} at {name}, where "
                f"model_state has {jnp.shape(old)}."
            )


def check_dtype(dtype: Any) -> None:
    if dtype is None:
        return
    try:
        good = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"compute_dtype must be a floating-point type, not {dtype!r}.")
    if jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp:
        raise ValueError(
            f"compute_dtype={jnp.dtype(dtype).name} would lose small gradients: its range is "
            "smaller than float32's, and losses are not scaled here. Use jnp.bfloat16."
        )


def computing_in(dtype: Any, loss_fn: LossFn) -> LossFn:
    """A checked ``loss_fn`` on parameters and batch in another type; it gives what it gave."""
    if dtype is None:
        return loss_fn

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda x: _cast(x, dtype), tree)

    def loss(params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Any:
        value, (after, metrics) = loss_fn(cast(params), model_state, cast(batch), key)
        metrics = jax.tree.map(lambda x: widen(x) if _is_real(x) else x, metrics)
        return widen(value), (in_types_of(model_state, after), metrics)

    return loss


def in_types_of(before: Any, after: Any) -> Any:
    """The model state after a pass in another type, in the types that it had."""
    return jax.tree.map(lambda new, old: _cast(new, _dtype(old)), after, before)


def _cast(x: Any, dtype: Any) -> Any:
    return jnp.asarray(x, dtype) if _is_real(x) else x


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(_dtype(x), jnp.floating)


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else jnp.result_type(x)


def weigh(batch: Batch, weight_fn: Callable[[Batch], Any] | None) -> Weight:
    """How much a batch, or a part of one, counts; None where all parts are alike."""
    if weight_fn is None:
        weights = example_weights(batch)
        return None if weights is None else jnp.sum(without_negative(weights))
    weight = without_negative(jnp.asarray(weight_fn(batch)).astype(jnp.float32))
    if weight.shape:
        raise ValueError(
            f"weight_fn must give one number for a batch, not shape {weight.shape}: sum it."
        )
    return weight


def without_negative(weights: jax.Array) -> jax.Array:
    """Weights, NaN in place of one below 0: no mean has such a weight, and none comes of it."""
    return jnp.where(weights < 0, jnp.nan, weights)
