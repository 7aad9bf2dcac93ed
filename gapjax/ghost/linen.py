"""Ghost batch normalization for ``flax.linen``."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype

from gapjax._checks import positive_int
from gapjax.ghost._layer import BATCH_ALONE, Ghosts, batch_norm, check_layer, own_ghosts
from gapjax.ghost._moments import promote
from gapjax.ghost._partition import at_layer, feature_axes
from gapjax.ghost._running import Running

__all__ = ["GhostBatchNorm", "batch_statistics", "ghostify"]


class GhostBatchNorm(nn.BatchNorm):
    """Batch normalization over ghosts: contiguous runs of ``ghost_size`` examples.

    A drop-in for ``flax.linen.BatchNorm``: the same arguments in the same order with the same
    defaults, the same variables (``params``: ``scale``, ``bias``; ``batch_stats``: ``mean``,
    ``var``), and the same automatic names (``BatchNorm_0``, ...), so checkpoints move both ways.

    Attributes:
        use_running_average: Normalize with the running statistics (evaluation).
        axis: The feature axis or axes.
        momentum: The fraction of the running statistics kept, per ghost (``update="sequential"``)
            or per call (``"mean"``). With ``"sequential"`` use 0.99 or more.
        epsilon: Added to the variance.
        dtype: Of the result (default: the widest of input and parameters).
        param_dtype: Of the parameters.
        use_bias: Add a learned bias.
        use_scale: Multiply by a learned scale.
        bias_init: Initializer of the bias.
        scale_init: Initializer of the scale.
        axis_name: Inside ``jax.shard_map`` and ``jax.pmap``: the axis (or axes) over which the
            batch is split.
        axis_index_groups: Groups of devices along that axis.
        use_fast_variance: Moments in one pass, shifted by the running mean where that is far from
            zero. False: two passes.
        force_float32_reductions: Moments in at least float32.
        ghost_size: Examples per ghost, counted over all devices; ``None`` is one ghost: Flax's own
            BatchNorm.
        update: How ghosts move the running statistics, ``"sequential"`` or ``"mean"``: see
            ``gapjax.ghost.update_running``.
        variance: Which variance the running statistics hold: ``"within"``, ``"unbiased"`` or
            ``"total"``.
        remainder: What to do with a batch that is no multiple of ``ghost_size``: ``"error"``,
            ``"short"`` or ``"merge"``.
        rescale_momentum: ``momentum`` is per call after all: with G ghosts, each keeps
            ``momentum ** (1 / G)``. For a momentum tuned with plain batch norm.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax.ghost.linen import GhostBatchNorm
        >>> norm = GhostBatchNorm(use_running_average=False, ghost_size=4)
        >>> x = jax.random.normal(jax.random.key(0), (16, 3))
        >>> variables = norm.init(jax.random.key(1), x)
        >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])
        >>> bool(jnp.allclose(y.reshape(4, 4, 3).mean(1), 0, atol=1e-6))
        True
    """

    ghost_size: int | None = None
    update: str = "sequential"
    variance: str = "within"
    remainder: str = "error"
    rescale_momentum: bool = False

    def __post_init__(self) -> None:
        with at_layer("GhostBatchNorm"):
            check_layer(self, own_ghosts(self))
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Any,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalize the input.

        Args:
            x: ``[B, ...]``.
            use_running_average: Given here or at construction, as in Flax.
            mask: True where an element counts for the statistics; broadcastable to ``x``.

        Returns:
            An array of the shape of ``x``.

        Raises:
            ValueError: B does not fit ``ghost_size``; the message says what would.
        """
        return _apply(self, own_ghosts(self), x, use_running_average, mask=mask)


# Flax names layers and their variables by this: the paths stay those of a plain batch norm.
GhostBatchNorm.__name__ = "BatchNorm"


def _apply(
    layer: nn.BatchNorm,
    ghosts: Ghosts,
    x: Any,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
) -> jax.Array:
    """One call of a batch norm, on its own variables."""
    evaluate = nn.merge_param("use_running_average", layer.use_running_average, use_running_average)
    x = jnp.asarray(x)
    path = "/".join(layer.path)
    with at_layer(f"GhostBatchNorm {path!r}" if path else "GhostBatchNorm"):
        features = tuple(x.shape[i] for i in feature_axes(x.ndim, layer.axis))
        stats_dtype = jnp.float32 if layer.force_float32_reductions else layer.param_dtype
        mean = layer.variable("batch_stats", "mean", jnp.zeros, features, stats_dtype)
        var = layer.variable("batch_stats", "var", jnp.ones, features, stats_dtype)
        scale, bias = (
            layer.param(name, init, features, layer.param_dtype) if used else None
            for name, init, used in (
                ("scale", layer.scale_init, layer.use_scale),
                ("bias", layer.bias_init, layer.use_bias),
            )
        )
        # The batch that initializes may be a dummy of any size, outside of any device axis.
        starting = layer.is_initializing()
        least = x.dtype if layer.dtype is None else layer.dtype
        y, running = batch_norm(
            layer,
            Ghosts(None) if starting else ghosts,
            x,
            Running(mean.value, var.value),
            scale,
            bias,
            evaluate=evaluate,
            mask=mask,
            dtype=promote(least, jnp.float32) if layer.force_float32_reductions else least,
            axis_name=None if starting else layer.axis_name,
        )
        if not (starting or evaluate):
            mean.value, var.value = running
    with jax.numpy_dtype_promotion("standard"):
        return y.astype(canonicalize_dtype(x, scale, bias, dtype=layer.dtype))


# What the contexts below ask for, outermost first: the ghosts of ghostify, None for
# batch_statistics. jax.jit keeps a program per value, so they work around it as well as inside.
_asked = jax.make_user_context(())


def _ghosts_here(layer: nn.BatchNorm) -> Ghosts:
    """The ghosts of a layer within the contexts of the moment."""
    own = isinstance(layer, GhostBatchNorm)
    ghosts = own_ghosts(layer) if own else Ghosts(None, momentum=layer.momentum)
    for asked in reversed(_asked.value):
        if asked is not None and ghosts.ghost_size is None:
            ghosts = dataclasses.replace(asked, momentum=layer.momentum)
    return dataclasses.replace(ghosts, **BATCH_ALONE) if None in _asked.value else ghosts


@contextlib.contextmanager
def _ask(ghosts: Ghosts | None) -> Iterator[None]:
    """Run every batch norm that is called inside as ``_ghosts_here`` says."""
    outermost = not _asked.value
    seen: dict[str, str] = {}  # the kind of every module that was called, by its path
    kept: set[str] = set()  # paths of the batch statistics that were moved, or that cannot be
    found = False

    def intercept(next_fun, args, kwargs, context):
        nonlocal found
        layer = context.module
        # A subclass with a __call__ of its own is not the batch norm that we know.
        calls = (nn.BatchNorm.__call__, GhostBatchNorm.__call__)
        if context.method_name == "__call__" and type(layer).__call__ in calls:
            found = True
            return _apply(layer, _ghosts_here(layer), *args, **kwargs)
        if layer.scope is None:
            return next_fun(*args, **kwargs)
        seen["/".join(layer.path)] = type(layer).__qualname__
        before = _statistics(layer) if layer.is_mutable_collection("batch_stats") else {}
        result = next_fun(*args, **kwargs)
        kept.update(
            path for path, leaf in _statistics(layer).items() if leaf is not before.get(path)
        )
        return result

    with contextlib.ExitStack() as stack:
        stack.enter_context(_asked((*_asked.value, ghosts)))
        if outermost:
            stack.enter_context(nn.intercept_methods(intercept))
        yield
    # Statistics that no module called here keeps belong to one that jax.jit inside of it had traced
    # before, under the same settings.
    if seen and not found and kept <= set(seen):
        raise ValueError(
            "no flax.linen.BatchNorm was called inside, so nothing was turned into ghost batch "
            f"norm. The modules called were {', '.join(sorted(set(seen.values())))}."
        )


def _statistics(layer: nn.Module) -> dict[str, Any]:
    """A leaf of the statistics of every batch norm of a whole model, by its path."""
    if layer.path != ():
        return {}
    statistics = layer.variables.get("batch_stats", {})
    return {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(statistics)
    }


@contextlib.contextmanager
def ghostify(
    ghost_size: int,
    *,
    update: str = "sequential",
    variance: str = "within",
    remainder: str = "error",
    rescale_momentum: bool = False,
) -> Iterator[None]:
    """Inside, every ``flax.linen.BatchNorm`` of any model is a ghost batch norm.

    The model is not edited; parameters, statistics and their paths stay as they are. A
    ``GhostBatchNorm`` with a ghost size of its own keeps it, and a subclass of ``BatchNorm``
    with a ``__call__`` of its own is left alone. Inside or around ``jax.jit`` is the same.

    A context in which linen modules run and no batch norm does is a mistake, and refused. What
    ``jax.jit`` takes from its cache does not run again and cannot be seen: around jitted functions,
    leave models without batch norm outside, or jit them together with those that have one.

    Args:
        ghost_size: Examples per ghost, counted over all devices.
        update: As in ``GhostBatchNorm``.
        variance: As in ``GhostBatchNorm``.
        remainder: As in ``GhostBatchNorm``.
        rescale_momentum: Take the momentum of each layer as per call, not per ghost: what keeps a
            tuned batch norm as slow as it was.

    Raises:
        ValueError: Linen modules were called inside, and none was a batch norm.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from gapjax.ghost.linen import ghostify
        >>> model = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=False)])
        >>> x = jax.random.normal(jax.random.key(0), (16, 3))
        >>> variables = model.init(jax.random.key(1), x)
        >>> with ghostify(8):
        ...     y, updates = model.apply(variables, x, mutable=["batch_stats"])
        >>> bool(jnp.allclose(y.reshape(2, 8, 4).mean(1), 0, atol=1e-6))
        True
    """
    positive_int("ghost_size", ghost_size)
    with _ask(Ghosts(ghost_size, update, variance, remainder, rescale_momentum)):
        yield


@contextlib.contextmanager
def batch_statistics() -> Iterator[None]:
    """Inside, running statistics come out as those of the batch of the last call alone.

    For ``gapjax.ghost.precise_statistics``: every batch norm updates its statistics as with a
    momentum of 0, to the mean and the total variance of the batch, over all ghosts. Outputs are
    those of training. Goes together with ``ghostify``.

    Raises:
        ValueError: Linen modules were called inside, and none was a batch norm.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax.ghost.linen import GhostBatchNorm, batch_statistics
        >>> model = GhostBatchNorm(use_running_average=False, ghost_size=2)
        >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> with batch_statistics():
        ...     _, updates = model.apply(variables, x, mutable=["batch_stats"])
        >>> jax.tree.map(lambda s: s.tolist(), updates["batch_stats"])
        {'mean': [11.0], 'var': [131.5]}
    """
    with _ask(None):
        yield
