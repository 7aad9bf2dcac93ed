"""Gradient noise at no extra cost from the normalization layers of ``flax.nnx`` models."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from gapjax.growth import _layer_noise
from gapjax.growth._noise_scale import NoiseScale

__all__ = ["layer_noise", "reporting", "value_grad_and_noise"]

Model = TypeVar("Model", bound=nnx.Module)

_LAYERS = (nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm)
_SETTINGS = (
    "num_groups",
    "epsilon",
    "reduction_axes",
    "feature_axes",
    "axis_name",
    "axis_index_groups",
    "use_fast_variance",
    "promote_dtype",
)


def reporting(model: Model) -> Model:
    """A copy of a model whose normalization layers can tell the gradient noise.

    Within :func:`value_grad_and_noise` they do; anywhere else they are what they were. The copy
    shares no variable with the model; paths, types and values of its state are the same.
    ``LayerNorm``, ``RMSNorm``, ``GroupNorm`` and ``InstanceNorm`` count, but no subclass with a
    ``__call__`` of its own.

    Args:
        model: any nnx module.

    Returns:
        The new model.

    Raises:
        ValueError: the model has no such layer.

    Example:
        >>> from flax import nnx
        >>> from gapjax.growth.nnx import reporting
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs))
        >>> isinstance(reporting(model).layers[1], nnx.LayerNorm)
        True
    """
    model = nnx.clone(model)
    layers: list[tuple[str, Any]] = [
        ("/".join(map(str, path)), layer)
        for path, layer in nnx.iter_modules(model)
        if any(type(layer).__call__ is kind.__call__ for kind in _LAYERS)
    ]
    if not layers:
        raise ValueError(
            f"no LayerNorm, RMSNorm, GroupNorm or InstanceNorm of flax.nnx was found in "
            f"{type(model).__name__}."
        )
    for name, layer in layers:
        kind: Any = type(layer)
        layer.__class__ = _reporting_kind(kind)
        layer.label = name
    return model


def value_grad_and_noise(
    loss_fn: Callable[..., Any], *, has_aux: bool = False
) -> Callable[..., tuple[Any, Any, dict[str, NoiseScale]]]:
    """Like ``nnx.value_and_grad``, with the gradient noise of every normalization layer.

    What is measured, what it says and what it does not is told by
    :func:`gapjax.growth.linen.value_grad_and_noise`. The model is one of :func:`reporting`. Call it
    under ``nnx.jit``: outside it compiles anew at every call.

    Args:
        loss_fn: ``(model, *args) -> loss``, or ``-> (loss, aux)``. Or, for models taken apart by
            ``nnx.split``, a function of any tree of parameters that merges them.
        has_aux: whether ``loss_fn`` gives a pair.

    Returns:
        ``(model, *args) -> (value, gradients, noise)``: gradients as a state of the model's
        ``nnx.Param``, ``noise`` by the path of the layer. Other variables of the model (running
        statistics, random keys) are updated by the call.

    Raises:
        ValueError: when called, if no layer reports, one is called several times, or they disagree
            on the number of examples.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from gapjax.growth.nnx import reporting, value_grad_and_noise
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs))
        >>> x = jax.random.normal(jax.random.key(0), (16, 4))
        >>> loss_fn = lambda model: jnp.mean(model(x) ** 4)
        >>> loss, grads, noise = value_grad_and_noise(loss_fn)(reporting(model))
        >>> sorted(noise), bool(noise["layers/1"].trace > 0)
        (['layers/1'], True)

    References:
        Gray, Tiwari, Bergsma, Hestness, `Normalization Layer Per-Example Gradients are Sufficient
        to Predict Gradient Noise Scale in Transformers <https://arxiv.org/abs/2411.00999>`_, 2024;
        Merrill, Arora, Groeneveld, Hajishirzi, `Critical Batch Size Revisited
        <https://arxiv.org/abs/2505.23971>`_, 2025 (the caveat).
    """

    def call(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, dict[str, NoiseScale]]:
        if not isinstance(model, nnx.Module):
            measure = _layer_noise.value_grad_and_noise(loss_fn, has_aux=has_aux)
            return measure(model, *args, **kwargs)
        parts: Any = nnx.split(model, nnx.Param, ...)
        graph, params, rest = parts

        def functional(params: Any) -> Any:
            merged = nnx.merge(graph, params, rest, copy=True)
            value = loss_fn(merged, *args, **kwargs)
            after = nnx.state(merged, nnx.Not(nnx.Param))
            return (value[0] if has_aux else value), (value, after)

        measure = _layer_noise.value_grad_and_noise(
            functional, has_aux=True, batches=(*args, *kwargs.values())
        )
        (_, (value, after)), grads, noise = measure(params)
        nnx.update(model, after)
        return value, grads, noise

    return call


def layer_noise(
    value_and_grad: Any, params: Any, model_state: Any, batch: Any, key: jax.Array
) -> tuple[Any, Any, dict[str, Any]]:
    """The ``gradient=`` of ``training.make_train_step`` that also measures the gradient noise.

    As :func:`gapjax.growth.linen.layer_noise`, for a loss function that merges a model of
    :func:`reporting`.

    Args:
        value_and_grad: the step's own.
        params: the parameters.
        model_state: before the batch.
        batch: the examples.
        key: their random key.

    Returns:
        The gradient, the model state after the batch, and the metrics.

    Raises:
        ValueError: as :func:`value_grad_and_noise`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from flax import nnx
        >>> from gapjax import training
        >>> from gapjax.growth.nnx import layer_noise, reporting
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs))
        >>> graph, params = nnx.split(reporting(model))
        >>> loss_fn = lambda params, batch: jnp.mean(nnx.merge(graph, params)(batch) ** 4)
        >>> tx = optax.sgd(0.1)
        >>> step = training.make_train_step(loss_fn, tx, gradient=layer_noise)
        >>> state = training.init_state(params, tx, key=jax.random.key(0))
        >>> _, metrics = jax.jit(step)(state, jax.random.normal(jax.random.key(1), (16, 4)))
        >>> bool(metrics["noise_trace/layers/1"] == metrics["noise_trace"])
        True
    """
    return _layer_noise.follow_with_noise(value_and_grad, params, model_state, batch, key)


@functools.cache
def _reporting_kind(kind: Any) -> Any:
    """The layer that tells the norms of its examples' gradients."""

    def call(self: Any, x: Any, mask: Any = None) -> jax.Array:
        values = {name: getattr(self, name, None) for name in ("scale", "bias")}
        parameters = {name: value[...] for name, value in values.items() if value is not None}
        if not (parameters and _layer_noise.asked()):
            return kind.__call__(self, x, mask=mask)

        def layer(own: dict[str, jax.Array]) -> jax.Array:
            twin = nnx.clone(self)
            for name, value in own.items():
                getattr(twin, name)[...] = value
            return kind.__call__(twin, x, mask=mask)

        features = getattr(self, "feature_axes", -1)
        return _layer_noise.report(
            self.label,
            jnp.asarray(x),
            parameters,
            features=(features,) if isinstance(features, int) else tuple(features),
            layer=layer,
            normalized=lambda dtype: _plain(self, dtype)(x, mask=mask),
        )

    return type(f"Reporting{kind.__name__}", (kind,), {"__call__": call})


def _plain(layer: Any, dtype: Any) -> Any:
    """The same layer without gain and bias, in another type."""
    settings = {name: getattr(layer, name) for name in _SETTINGS if hasattr(layer, name)}
    for used in ("use_scale", "use_bias"):
        if hasattr(layer, used):
            settings[used] = False
    if "num_groups" in settings:
        settings["group_size"] = None
    kind: Any = next(kind for kind in _LAYERS if isinstance(layer, kind))
    (features,) = (layer.bias if layer.scale is None else layer.scale).shape
    return kind(features, dtype=dtype, rngs=None, **settings)
