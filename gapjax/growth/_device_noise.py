"""Gradient noise from devices: each has the gradient of its own share of the batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gapjax import _checks
from gapjax._examples import effective_examples, example_weights, noise_sizes
from gapjax._means import mean_of_devices
from gapjax.growth._noise_scale import NoiseScale, gradient_noise_scale, squared_norm

AxisName = str | tuple[str, ...]


def mean_over_devices(grads: Any, axis_name: AxisName) -> tuple[Any, jax.Array]:
    """The mean gradient over devices, and the mean squared norm of their own, inside a mapped axis.

    For ``pmap`` and ``shard_map``, where all shares count alike: the sum over devices that data
    parallelism makes anyway, and one number more. With :func:`gradient_noise_scale` (or as the
    extra arguments of :func:`noise_scale_tracker`) the second is the ``part_squared_norm`` of parts
    of B / devices examples.

    Args:
        grads: on each device the gradient of the mean loss of its share of the batch. Under
            ``shard_map`` the parameters have to be cast to varying first (``jax.lax.pcast``), else
            what JAX gives is the sum already.
        axis_name: the mapped axis, or several.

    Returns:
        The mean gradient, and the mean over devices of ``|g_b|^2``, float32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> grads = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # of two devices
        >>> mean, norm = jax.vmap(lambda g: mean_over_devices(g, "data"), axis_name="data")(grads)
        >>> mean[0].tolist(), float(norm[0])
        ([0.5, 0.5], 1.0)

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1.
    """
    mean = jax.tree.map(lambda g: jax.lax.pmean(g, axis_name), grads)
    return mean, jax.lax.pmean(squared_norm(grads), axis_name)


def value_grad_and_device_noise(
    loss_fn: Callable[..., Any],
    mesh: Mesh,
    *,
    axis: str = "data",
    has_aux: bool = False,
    num_examples: int | None = None,
) -> Callable[..., tuple[Any, Any, NoiseScale]]:
    """Like ``jax.value_and_grad`` over a mesh, with the gradient noise that its devices see.

    Under ``jit`` the gradient of a batch that is split over a mesh is the whole one at once; here
    each device takes that of its share (in ``shard_map``) before they are averaged. The loss is a
    mean over examples that do not see each other, weighted by the mask of the batch where it has
    one (an entry or field ``mask``, as in :class:`Batch`): each share then counts as much as it
    holds. What the loss gives besides is averaged over devices where it is a floating-point number.

    Args:
        loss_fn: ``(params, batch, *args) -> loss``, or ``-> (loss, aux)``, of a share of the batch.
        mesh: the devices, at least 2 along the axis.
        axis: the mesh axis that batches are split over. Parameters and ``args`` are replicated, but
            for random keys (of ``jax.random.key``): the number of the device is folded into each,
            so that shares draw numbers of their own. Of keys in the old form, bare numbers, fold in
            ``jax.lax.axis_index(axis)`` in the loss.
        has_aux: whether ``loss_fn`` gives a pair.
        num_examples: of the training set, as in :func:`gradient_noise_scale`.

    Returns:
        ``(params, batch, *args) -> (value, gradients, noise)``: the mean over the batch, and both
        estimates of this one update, NaN where a single device has all examples that count. Average
        each over updates before dividing.

    Raises:
        ValueError: for a mesh without the axis, or with one device along it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
        >>> loss_fn = lambda w, x: jnp.mean((x - w) ** 2) / 2
        >>> x = jnp.array([1.0, 3.0])
        >>> _, grad, noise = jax.jit(value_grad_and_device_noise(loss_fn, mesh))(jnp.zeros(()), x)
        >>> float(grad), float(noise.trace), float(noise.squared_norm)
        (-2.0, 2.0, 3.0)

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, appendix A.1.
    """
    if axis not in mesh.shape or mesh.shape[axis] < 2:
        raise ValueError(
            f"Noise shows between devices: the mesh {dict(mesh.shape)} needs at least 2 along "
            f"{axis!r}."
        )
    if num_examples is not None:
        _checks.positive_int("num_examples", num_examples)

    def share(params: Any, batch: Any, args: Any) -> tuple[Any, Any, NoiseScale]:
        local = jax.tree.map(lambda x: jax.lax.pcast(x, axis, to="varying"), params)
        args = jax.tree.map(lambda x: _own_key(x, axis), args)
        value, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(local, batch, *args)
        weights, size = example_weights(batch), effective_examples(batch)
        weight = None if weights is None else jnp.sum(weights)
        mean = mean_of_devices(weight, axis)
        whole = jax.tree.map(lambda g, w: mean(g, jnp.zeros_like(w)), grads, params)
        if weight is None:
            sizes = (size, size * mesh.shape[axis])
        else:
            sizes = noise_sizes(weight, size, lambda x: jax.lax.psum(x, axis))
        noise = gradient_noise_scale(
            mean(squared_norm(grads), jnp.zeros(())),
            squared_norm(whole),
            part_size=sizes[0],
            batch_size=sizes[1],
            num_examples=num_examples,
        )
        return jax.tree.map(lambda x: _mean(x, axis, mean), value), whole, noise

    split = PartitionSpec(axis)
    explicit = AxisType.Explicit in mesh.axis_types
    mapped = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(PartitionSpec(), split, PartitionSpec()),
        out_specs=PartitionSpec(),
    )

    def call(params: Any, batch: Any, *args: Any) -> tuple[Any, Any, NoiseScale]:
        if explicit:  # where shardings are part of types, they have to be what is said
            params, args = jax.reshard((params, args), NamedSharding(mesh, PartitionSpec()))
            batch = jax.reshard(batch, NamedSharding(mesh, split))
        return mapped(params, batch, args)

    return call


def _own_key(x: Any, axis: str) -> Any:
    """A random key of this device alone; what is no key, as it is."""
    if not jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        return x
    fold = functools.partial(jax.random.fold_in, data=jax.lax.axis_index(axis))
    for _ in x.shape:
        fold = jax.vmap(fold)
    return fold(x)


def _mean(x: Any, axis: str, mean: Callable[..., jax.Array]) -> jax.Array:
    """The mean over devices; of whole numbers, the largest."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return jax.lax.pmax(x, axis)
    return mean(x, jnp.zeros((), x.dtype))
