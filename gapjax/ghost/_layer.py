"""One call of a batch norm with ghosts, as a function: what both Flax modules do."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gapjax._checks import boolean, one_of, positive_int
from gapjax.ghost._devices import Layout, layout
from gapjax.ghost._moments import ghost_moments, normalize, per_feature
from gapjax.ghost._partition import REMAINDERS
from gapjax.ghost._running import UPDATES, VARIANCES, Running, check_momentum, update_running


@dataclasses.dataclass(frozen=True)
class Ghosts:
    """How a batch norm cuts its batch, and how it moves its running statistics."""

    ghost_size: int | None
    update: str = "sequential"
    variance: str = "within"
    remainder: str = "error"
    rescale_momentum: bool = False
    momentum: float = 0.99

    def __post_init__(self) -> None:
        if self.ghost_size is not None:
            positive_int("ghost_size", self.ghost_size)
        one_of("update", self.update, UPDATES)
        one_of("variance", self.variance, VARIANCES)
        one_of("remainder", self.remainder, REMAINDERS)
        boolean("rescale_momentum", self.rescale_momentum)
        check_momentum(self.momentum)


# Running statistics after a call are those of the batch alone.
BATCH_ALONE: dict[str, Any] = {"update": "mean", "variance": "total", "momentum": 0.0}


def own_ghosts(layer: Any) -> Ghosts:
    """What a GhostBatchNorm of either kind asks for itself."""
    return Ghosts(
        layer.ghost_size,
        layer.update,
        layer.variance,
        layer.remainder,
        layer.rescale_momentum,
        layer.momentum,
    )


def check_layer(layer: Any, ghosts: Ghosts) -> None:
    """Refuse the mistakes that show in a layer's own arguments."""
    if layer.axis_index_groups is not None and layer.axis_name is None:
        raise ValueError(
            "axis_index_groups says which devices along axis_name belong together, but axis_name "
            "is None. Name the axis of jax.shard_map or jax.pmap, or leave the groups out."
        )
    axes = layer.axis if isinstance(layer.axis, Iterable) else (layer.axis,)
    if ghosts.ghost_size is not None and 0 in axes:
        raise ValueError(
            f"axis={layer.axis} makes the examples (axis 0) a feature, so there is nothing to cut "
            "into ghosts. Move the examples to the front, or use ghost_size=None."
        )


def _shift(running: Running) -> jax.Array:
    """Where the moments are counted from: the running mean, where that saves them from rounding.

    It does where the mean is far from zero in units of the standard deviation. Elsewhere nothing
    is lost without it; and a batch with an infinity or an outlier, which leaves a deviation above
    its mean, is kept from rounding away the batches that follow.
    """
    mean, var = running
    return jnp.where(jnp.square(mean) > var, mean, 0)


def batch_norm(
    layer: Any,
    ghosts: Ghosts,
    x: jax.Array,
    running: Running,
    scale: ArrayLike | None,
    bias: ArrayLike | None,
    *,
    evaluate: bool,
    mask: ArrayLike | None,
    dtype: DTypeLike,
    axis_name: Any,
) -> tuple[jax.Array, Running]:
    """The output in the dtype of the arithmetic, and the new running statistics.

    Args:
        layer: A Flax batch norm, of either kind; its settings are read.
        ghosts: How to cut the batch.
        x: ``[B, ...]``.
        running: The running statistics before the call.
        scale: ``[*features]`` or None.
        bias: ``[*features]`` or None.
        evaluate: Normalize with the running statistics and leave them alone.
        mask: As in ``ghost_moments``.
        dtype: The least precise dtype of the moments.
        axis_name: The device axes, where they exist.
    """
    if not x.size:
        return x, running
    if evaluate:
        shift = running.mean
        place = Layout(None)
        mean, var = (r[None] for r in running)
    else:
        shift = _shift(running)
        place = layout(x.shape[0], ghosts.ghost_size, axis_name, layer.axis_index_groups)
        moments = ghost_moments(
            x,
            place.ghost_size,
            axis=layer.axis,
            mask=mask,
            shift=shift,
            remainder=ghosts.remainder,
            axis_name=place.join,
            axis_index_groups=place.groups,
            use_fast_variance=layer.use_fast_variance,
            dtype=dtype,
        )
        mean, var, count = moments
        if mask is not None:
            # A ghost without any element has no moments of its own.
            some = per_feature(count, mean) > 0
            mean, var = (
                jnp.where(some, own, r.astype(own.dtype))
                for own, r in zip((mean, var), running, strict=True)
            )
        momentum = ghosts.momentum
        if ghosts.rescale_momentum and ghosts.update == "sequential":
            momentum = momentum ** (place.copies / (place.devices * count.shape[0]))
        running = update_running(
            running,
            lax.stop_gradient(moments),
            momentum=momentum,
            update=ghosts.update,
            variance=ghosts.variance,
            axis_name=place.share,
            copies=place.copies,
        )
    y = normalize(
        x,
        mean,
        var,
        place.ghost_size,
        axis=layer.axis,
        remainder=ghosts.remainder,
        scale=scale,
        bias=bias,
        shift=shift,
        epsilon=layer.epsilon,
        one_pass=not evaluate,
    )
    return y, running
