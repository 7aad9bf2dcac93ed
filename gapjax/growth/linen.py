"""Gradient noise at no extra cost from the normalization layers of ``flax.linen`` models."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta

from gapjax.growth import _layer_noise
from gapjax.growth._noise_scale import NoiseScale

__all__ = ["layer_noise", "value_grad_and_noise"]

_LAYERS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm)


def value_grad_and_noise(
    loss_fn: Callable[..., Any], *, has_aux: bool = False
) -> Callable[..., tuple[Any, Any, dict[str, NoiseScale]]]:
    r"""Like ``jax.value_and_grad``, with the gradient noise of every normalization layer.

    Let :math:`p_b` be the gradient of the loss of example b alone with respect to the gain and bias
    of a layer. The backward pass sums over positions t and examples,
    :math:`\frac1B \sum_b p_b`, :math:`p_b = \sum_t \hat x_{bt} u_{bt}`; here it sums over t first,
    and takes :math:`\frac1B \sum_b |p_b|^2` and :math:`|\frac1B \sum_b p_b|^2` on the way: the
    squared norms at batch sizes 1 and B, from which :func:`gapjax.growth.gradient_noise_scale`
    gives both estimates. No example is computed twice, loss and gradients are what they were, and
    the cost is one array [B, features] per layer.

    The noise scale of these layers follows that of the whole network closely in transformers, at a
    smaller value; for other networks, measure the ratio once. It need not be the critical batch
    size: on language models Merrill et al. found the noise scale lower by orders of magnitude, with
    the wrong trend. Trust :func:`gapjax.growth.branched_critical_batch` more.

    The model is not edited. ``LayerNorm``, ``RMSNorm``, ``GroupNorm`` and ``InstanceNorm`` count,
    but no subclass with a ``__call__`` of its own, and no batch norm, whose examples see each
    other. The loss must be a mean over examples, and every layer must see them on its leading axis.
    Where an argument has a mask (an entry or field ``mask``, as in ``growth.Batch``), the loss must
    be the mean weighted by it, and B is the number of examples that count; one alone gives NaN.
    Inside ``pmap`` or ``shard_map`` the estimates are those of a device's share: average them over
    devices. A layer inside ``nn.scan`` counts as one, its noise summed over the scan. Call it under
    ``jax.jit``: outside it compiles anew at every call.

    Args:
        loss_fn: ``(params, *args) -> loss``, or ``-> (loss, aux)``, in which linen modules are
            applied.
        has_aux: whether ``loss_fn`` gives a pair.

    Returns:
        ``(params, *args) -> (value, gradients, noise)``, where ``noise`` holds the estimates of
        this one update by the path of the layer. Average each over updates before dividing, with
        :func:`gapjax.growth.average_noise_scale`.

    Raises:
        ValueError: when called, if no such layer is called, one is called several times, or they
            disagree on the number of examples.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from gapjax.growth.linen import value_grad_and_noise
        >>> model = nn.Sequential([nn.Dense(8), nn.LayerNorm(), nn.Dense(1)])
        >>> x = jax.random.normal(jax.random.key(0), (16, 4))
        >>> variables = model.init(jax.random.key(1), x)
        >>> loss_fn = lambda variables: jnp.mean(model.apply(variables, x) ** 2)
        >>> loss, grads, noise = value_grad_and_noise(loss_fn)(variables)
        >>> sorted(noise), bool(noise["layers_1"].trace > 0)
        (['layers_1'], True)

    References:
        Gray, Tiwari, Bergsma, Hestness, `Normalization Layer Per-Example Gradients are Sufficient
        to Predict Gradient Noise Scale in Transformers <https://arxiv.org/abs/2411.00999>`_, 2024;
        Merrill, Arora, Groeneveld, Hajishirzi, `Critical Batch Size Revisited
        <https://arxiv.org/abs/2505.23971>`_, 2025 (the caveat).
    """
    return _layer_noise.value_grad_and_noise(loss_fn, has_aux=has_aux, around=_intercepted)


def layer_noise(
    value_and_grad: Any, params: Any, model_state: Any, batch: Any, key: jax.Array
) -> tuple[Any, Any, dict[str, Any]]:
    """The ``gradient=`` of ``training.make_train_step`` that also measures the gradient noise.

    It follows the gradient of the loss. Its metrics hold ``"noise_trace"`` and
    ``"noise_squared_norm"``, the two estimates of :func:`value_grad_and_noise` summed over layers,
    and by layer as ``"noise_trace/<path>"``. Over microbatches and devices the step averages them
    like other metrics, which leaves them unbiased. They are NaN where but one example counts. Of a
    history,
    ``average_noise_scale(history.metrics["noise_trace"], history.metrics["noise_squared_norm"])``
    is the noise scale.

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
        >>> from flax import linen as nn
        >>> from gapjax import training
        >>> from gapjax.growth.linen import layer_noise
        >>> model = nn.Sequential([nn.Dense(8), nn.LayerNorm(), nn.Dense(1)])
        >>> x = jax.random.normal(jax.random.key(0), (16, 4))
        >>> tx = optax.sgd(0.1)
        >>> loss_fn = lambda params, batch: jnp.mean(model.apply(params, batch) ** 2)
        >>> step = training.make_train_step(loss_fn, tx, gradient=layer_noise)
        >>> state = training.init_state(model.init(jax.random.key(1), x), tx, key=jax.random.key(2))
        >>> sorted(jax.jit(step)(state, x)[1])
        ['loss', 'noise_squared_norm', 'noise_squared_norm/layers_1',
         'noise_trace', 'noise_trace/layers_1']
    """
    return _layer_noise.follow_with_noise(
        value_and_grad, params, model_state, batch, key, around=_intercepted
    )


def _intercepted() -> contextlib.AbstractContextManager[Any]:
    return nn.intercept_methods(_intercept)


def _intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    known = any(type(layer).__call__ is kind.__call__ for kind in _LAYERS)
    if context.method_name != "__call__" or not (known and _layer_noise.asked()):
        return next_fun(*args, **kwargs)
    parameters = dict(meta.unbox(layer.variables.get("params", {})))
    if layer.is_initializing() or not parameters:
        return next_fun(*args, **kwargs)
    free = {"parent": None, "name": None}
    # The same layer without gain and bias: the compiler computes what they share once.
    bare = {use: False for use in ("use_scale", "use_bias") if hasattr(layer, use)}
    features = getattr(layer, "feature_axes", -1)
    return _layer_noise.report(
        "/".join(layer.path),
        args[0] if args else kwargs["x"],
        parameters,
        features=(features,) if isinstance(features, int) else tuple(features),
        layer=lambda own: layer.clone(**free).apply({"params": own}, *args, **kwargs),
        normalized=lambda dtype: layer.clone(**free, **bare, dtype=dtype).apply(
            {}, *args, **kwargs
        ),
    )
