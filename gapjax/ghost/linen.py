"""Ghost batch normalization for ``flax.linen``."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype
from jax import lax

from gapjax._checks import one_of, positive_int
from gapjax.ghost._moments import ghost_moments, normalize, per_feature, promote
from gapjax.ghost._partition import REMAINDERS, at_layer, feature_axes
from gapjax.ghost._running import UPDATES, VARIANCES, update_running

__all__ = ["GhostBatchNorm"]


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
        use_fast_variance: Moments in one pass, shifted by the running mean. False: two passes.
        force_float32_reductions: Moments in at least float32.
        ghost_size: Examples per ghost, counted over all devices; ``None`` is one ghost: Flax's own
            BatchNorm.
        update: How ghosts move the running statistics, ``"sequential"`` or ``"mean"``: see
            ``gapjax.ghost.update_running``.
        variance: Which variance the running statistics hold: ``"within"``, ``"unbiased"`` or
            ``"total"``.
        remainder: What to do with a batch that is no multiple of ``ghost_size``: ``"error"``,
            ``"short"`` or ``"merge"``.

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

    def __post_init__(self) -> None:
        with at_layer("GhostBatchNorm"):
            _Ghosts(self.ghost_size, self.update, self.variance, self.remainder).check()
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
            use_running_average: Overrides nothing; give it here or at construction, as in Flax.
            mask: True where an element counts for the statistics; broadcastable to ``x``.

        Returns:
            An array of the shape of ``x``.

        Raises:
            ValueError: B does not fit ``ghost_size``; the message says what would.
        """
        ghosts = _Ghosts(self.ghost_size, self.update, self.variance, self.remainder)
        return _apply(self, ghosts, x, use_running_average, mask)


# Flax names layers and their variables by this: the paths stay those of a plain batch norm.
GhostBatchNorm.__name__ = "BatchNorm"


class _Ghosts(NamedTuple):
    ghost_size: int | None
    update: str
    variance: str
    remainder: str

    def check(self) -> None:
        if self.ghost_size is not None:
            positive_int("ghost_size", self.ghost_size)
        one_of("update", self.update, UPDATES)
        one_of("variance", self.variance, VARIANCES)
        one_of("remainder", self.remainder, REMAINDERS)


def _apply(
    layer: nn.BatchNorm, ghosts: _Ghosts, x: Any, use_running_average: Any, mask: Any
) -> Any:
    """One call of a batch norm, on its own variables."""
    evaluate = nn.merge_param("use_running_average", layer.use_running_average, use_running_average)
    x = jnp.asarray(x)
    path = "/".join(layer.path)
    with at_layer(f"GhostBatchNorm {path!r}" if path else "GhostBatchNorm"):
        features = tuple(x.shape[i] for i in feature_axes(x.ndim, layer.axis))
        stats_dtype = jnp.float32 if layer.force_float32_reductions else layer.param_dtype
        mean_of = layer.variable("batch_stats", "mean", jnp.zeros, features, stats_dtype)
        var_of = layer.variable("batch_stats", "var", jnp.ones, features, stats_dtype)
        running = (mean_of.value, var_of.value)
        # The batch that initializes may be a dummy of any size, outside of any device axis.
        starting = layer.is_initializing()
        ghost_size = None if evaluate or starting else ghosts.ghost_size
        if evaluate:
            mean, var = (r[None] for r in running)
        else:
            least = x.dtype if layer.dtype is None else layer.dtype
            moments = ghost_moments(
                x,
                ghost_size,
                axis=layer.axis,
                mask=mask,
                shift=running[0],
                remainder=ghosts.remainder,
                axis_name=None if starting else layer.axis_name,
                axis_index_groups=layer.axis_index_groups,
                use_fast_variance=layer.use_fast_variance,
                dtype=promote(least, jnp.float32) if layer.force_float32_reductions else least,
            )
            mean, var, count = moments
            if mask is not None:
                # A ghost without any element has no moments of its own.
                some = per_feature(count, mean) > 0
                mean, var = (
                    jnp.where(some, own, r.astype(own.dtype))
                    for own, r in zip((mean, var), running, strict=True)
                )
            if not starting:
                new = update_running(
                    running,
                    lax.stop_gradient(moments),
                    momentum=layer.momentum,
                    update=ghosts.update,
                    variance=ghosts.variance,
                )
                mean_of.value, var_of.value = new
        scale, bias = (
            layer.param(name, init, features, layer.param_dtype) if used else None
            for name, init, used in (
                ("scale", layer.scale_init, layer.use_scale),
                ("bias", layer.bias_init, layer.use_bias),
            )
        )
        y = normalize(
            x,
            mean,
            var,
            ghost_size,
            axis=layer.axis,
            remainder=ghosts.remainder,
            scale=scale,
            bias=bias,
            epsilon=layer.epsilon,
        )
    with jax.numpy_dtype_promotion("standard"):
        return y.astype(canonicalize_dtype(x, scale, bias, dtype=layer.dtype))
