"""Gradient noise from normalization layers: what a backward pass knows of single examples.

The gradient of a gain or bias is a sum over examples and positions. Taken over positions first, it
passes through the gradient of every example, and its squared norm costs next to nothing.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from gapjax._examples import effective_examples, example_weights
from gapjax._precision import widen
from gapjax._varying import varies_over, varying_like
from gapjax.growth._noise_scale import NoiseScale, gradient_noise_scale, squared_norm

# What a layer reports to, within one pass. jax.jit keeps a program for each, so that none of
# another pass is called from its cache.
_pass = jax.make_user_context(None)


class Probes:
    """One pass through the layers: which there are, or the probes that their gradients go to."""

    def __init__(self, probes: dict[str, jax.Array] | None = None):
        self.probes = probes
        self.inputs: dict[str, Any] = {}  # their types
        self._traces: dict[str, list[Any]] = {}

    def meet(self, name: str, x: jax.Array) -> None:
        """Take down a layer and its leading axis."""
        trace, seen = get_opaque_trace_state(convention="flax"), self._traces.setdefault(name, [])
        if trace in seen:  # a scan that is traced once more has a trace of its own
            raise ValueError(
                f"The layer {name!r} is called more than once in a pass: the gradient of an "
                "example is then a sum over calls, which single calls do not show."
            )
        seen.append(trace)
        self.inputs[name] = jax.typeof(x)


@contextlib.contextmanager
def reporting(to: Probes | None) -> Iterator[None]:
    """Inside, layers report to this."""
    with _pass(to):
        yield


def asked() -> bool:
    """Whether layers are to report."""
    return _pass.value is not None


def report(
    name: str,
    x: jax.Array,
    parameters: dict[str, jax.Array],
    *,
    features: Sequence[int],
    layer: Callable[[dict[str, jax.Array]], jax.Array],
    normalized: Callable[[Any], jax.Array],
) -> jax.Array:
    """A layer's output as it is, whose gradient tells the norms of its examples' gradients.

    Args:
        name: of the layer.
        x: its input, ``[B, ...]``.
        parameters: its ``"scale"`` and ``"bias"``, as far as it has them.
        features: the axes that they run along.
        layer: gives the output, of the parameters.
        normalized: gives the input normalized, before gain and bias, in a type.
    """
    to = _pass.value
    kept = {axis % x.ndim for axis in features}
    if x.ndim < 2 or 0 in kept:
        raise ValueError(f"The layer {name!r} has no leading axis of examples: {x.shape}.")
    with reporting(None):
        if to.probes is None:
            to.meet(name, x)
            return layer(parameters)
        y = layer(jax.lax.stop_gradient(parameters))
        plain = jax.lax.stop_gradient(normalized(jax.eval_shape(widen, y).dtype))
    over = tuple(axis for axis in range(1, x.ndim) if axis not in kept)
    varying = {kind: varying_like(value, x) for kind, value in parameters.items()}
    return _tap(over, y, plain, varying, to.probes[name])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap(over: Any, y: Any, normalized: Any, parameters: Any, probe: Any) -> jax.Array:
    """`y`; the gradients of the parameters are summed over positions first, then over examples.

    That of the probe is (the sum over examples of squared norms, the squared norm of the sum).
    """
    del over, normalized, parameters, probe
    return y


def _tap_forward(over: Any, y: Any, normalized: Any, parameters: Any, probe: Any) -> Any:
    del over, probe
    return y, (normalized, parameters)


def _tap_backward(over: Any, saved: Any, upstream: jax.Array) -> Any:
    normalized, parameters = saved
    wide = widen(upstream)
    single = {  # of every example, [B, features]
        kind: jnp.sum(wide * normalized if kind == "scale" else wide, axis=over)
        for kind in parameters
    }
    whole = {kind: jnp.sum(gradient, axis=0) for kind, gradient in single.items()}
    gradients = {
        kind: gradient.reshape(parameters[kind].shape).astype(parameters[kind].dtype)
        for kind, gradient in whole.items()
    }
    norms = jnp.stack([squared_norm(single), squared_norm(whole)])
    return upstream, jnp.zeros_like(normalized), gradients, norms.astype(_norm_type())


def _norm_type() -> Any:
    """The widest real type that there is."""
    return jax.dtypes.canonicalize_dtype(float)


_tap.defvjp(_tap_forward, _tap_backward)


def value_grad_and_noise(
    loss_fn: Callable[..., Any],
    *,
    has_aux: bool,
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    batches: Sequence[Any] | None = None,
) -> Callable[..., tuple[Any, Any, dict[str, NoiseScale]]]:
    """What ``gapjax.growth.linen.value_grad_and_noise`` is, with a context to trace in.

    ``batches`` is where a mask of examples may be; the arguments of the loss, if left out.
    """

    def call(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, dict[str, NoiseScale]]:
        def loss(params: Any, to: Probes) -> Any:
            with around(), reporting(to):
                return loss_fn(params, *args, **kwargs)

        met = Probes()
        jax.eval_shape(lambda params: (loss(params, met), None)[1], params)
        size = _counting(
            (*args, *kwargs.values()) if batches is None else batches,
            _batch_size({name: x.shape[0] for name, x in met.inputs.items()}),
        )
        probes: dict[str, jax.Array] = {}
        for name, x in met.inputs.items():
            axes, zeros = tuple(varies_over(x)), jnp.zeros(2, _norm_type())
            probes[name] = jax.lax.pcast(zeros, axes, to="varying") if axes else zeros
        value, (grads, norms) = jax.value_and_grad(
            lambda params, probes: loss(params, Probes(probes)), argnums=(0, 1), has_aux=has_aux
        )(params, probes)
        noise = {
            # The loss is a mean: an example's own gradient is B times what it adds. Of weights w
            # it is sum(w) / w times, and the mean square of these comes out the same.
            name: gradient_noise_scale(
                jnp.asarray(size, single.dtype) * single, whole, part_size=1, batch_size=size
            )
            for name, (single, whole) in norms.items()
        }
        return value, grads, noise

    return call


def follow_with_noise(
    value_and_grad: Any,
    params: Any,
    model_state: Any,
    batch: Any,
    key: jax.Array,
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[Any, Any, dict[str, Any]]:
    """What ``gapjax.growth.linen.layer_noise`` is, with a context to trace in."""
    compute = value_grad_and_noise(
        value_and_grad.loss_fn, has_aux=True, around=around, batches=[batch]
    )
    (loss, (after, metrics)), grads, noise = compute(params, model_state, batch, key)
    told = {"loss": loss}
    for field in ("trace", "squared_norm"):
        layers = {name: getattr(found, field) for name, found in noise.items()}
        told[f"noise_{field}"] = sum(layers.values(), start=jnp.zeros(()))
        told |= {f"noise_{field}/{name}": value for name, value in layers.items()}
    return grads, after, {**metrics, **told}


def _batch_size(num_examples: dict[str, int]) -> int:
    """The one leading axis of all layers."""
    if not num_examples:
        raise ValueError(
            "No normalization layer with a gain or a bias was called, so there is nothing to "
            "measure: this needs LayerNorm, RMSNorm, GroupNorm or InstanceNorm."
        )
    sizes = set(num_examples.values())
    if len(sizes) > 1:
        told = ", ".join(f"{name}: {size}" for name, size in [*num_examples.items()][:4])
        raise ValueError(
            f"Normalization layers must see the examples on their leading axis; it is {told}."
        )
    return next(iter(sizes))


def _counting(batches: Sequence[Any], size: int) -> Any:
    """How many of the examples that layers see count, by the first mask that there is."""
    for batch in batches:
        weights = example_weights(batch)
        if weights is None:
            continue
        if len(weights) != size:
            raise ValueError(
                f"The mask is of {len(weights)} examples, and normalization layers see {size} on "
                "their leading axis: they must be the same."
            )
        return effective_examples(batch)
    return size
