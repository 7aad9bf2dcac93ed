"""Ghost batch normalization for ``flax.nnx``."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.typing import Dtype, Initializer, PromoteDtypeFn
from jax.nn import initializers

from gapjax._checks import positive_int
from gapjax.ghost._layer import BATCH_ALONE, Ghosts, batch_norm, check_layer, own_ghosts
from gapjax.ghost._moments import promote
from gapjax.ghost._partition import at_layer
from gapjax.ghost._running import Running

__all__ = ["GhostBatchNorm", "batch_statistics", "ghostify"]

Model = TypeVar("Model", bound=nnx.Module)


class GhostBatchNorm(nnx.BatchNorm):
    """Batch normalization over ghosts: contiguous runs of ``ghost_size`` examples.

    A drop-in for ``flax.nnx.BatchNorm``: the same arguments with the same defaults, and the same
    variables (``scale``, ``bias``: ``Param``; ``mean``, ``var``: ``BatchStat``), so checkpoints
    move both ways. One thing differs: the running statistics and the input are never rounded to
    ``dtype``; only the output is, as in ``flax.linen``.

    Args:
        num_features: The number of features.
        use_running_average: Normalize with the running statistics (evaluation).
        axis: The feature axis.
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
        promote_dtype: As in ``flax.nnx.BatchNorm``, but asked for at least float32.
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
        rngs: Keys for the initializers.
        bias_metadata: Metadata of the bias variable.
        scale_metadata: Metadata of the scale variable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from gapjax.ghost.nnx import GhostBatchNorm
        >>> norm = GhostBatchNorm(3, ghost_size=4, rngs=nnx.Rngs(0))
        >>> y = norm(jax.random.normal(jax.random.key(0), (16, 3)))
        >>> bool(jnp.allclose(y.reshape(4, 4, 3).mean(1), 0, atol=1e-6))
        True
    """

    def __init__(
        self,
        num_features: int,
        *,
        use_running_average: bool | None = False,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = initializers.zeros,
        scale_init: Initializer = initializers.ones,
        axis_name: Any = None,
        axis_index_groups: Any = None,
        use_fast_variance: bool = True,
        promote_dtype: PromoteDtypeFn = dtypes.promote_dtype,
        ghost_size: int | None = None,
        update: str = "sequential",
        variance: str = "within",
        remainder: str = "error",
        rescale_momentum: bool = False,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        scale_metadata: Mapping[str, Any] = MappingProxyType({}),
    ):
        super().__init__(
            num_features,
            use_running_average=use_running_average,
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            use_bias=use_bias,
            use_scale=use_scale,
            bias_init=bias_init,
            scale_init=scale_init,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            use_fast_variance=use_fast_variance,
            promote_dtype=promote_dtype,
            rngs=rngs,
            bias_metadata=bias_metadata,
            scale_metadata=scale_metadata,
        )
        self.ghost_size = ghost_size
        self.update = update
        self.variance = variance
        self.remainder = remainder
        self.rescale_momentum = rescale_momentum
        self.label = "GhostBatchNorm"
        with at_layer(self.label):
            check_layer(self, own_ghosts(self))

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
            use_running_average: Takes precedence over that of the constructor.
            mask: True where an element counts for the statistics; broadcastable to ``x``.

        Returns:
            An array of the shape of ``x``.

        Raises:
            ValueError: B does not fit ``ghost_size``; the message says what would.
        """
        evaluate = nnx.module.first_from(
            use_running_average,
            self.use_running_average,
            error_msg="Pass use_running_average to GhostBatchNorm or its call (True: evaluation).",
        )
        x = jnp.asarray(x)
        scale, bias = (None if p is None else p[...] for p in (self.scale, self.bias))
        with jax.numpy_dtype_promotion("standard"):
            out_dtype = dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
            dtype = promote(x.dtype if self.dtype is None else self.dtype, jnp.float32)
            # A dtype below float32 is one of outputs; mean and variance are never rounded to it.
            wide, *_, scale, bias = self.promote_dtype(
                (x, self.mean[...], self.var[...], scale, bias), dtype=dtype
            )
        with at_layer(self.label):
            y, running = batch_norm(
                self,
                own_ghosts(self),
                wide,
                Running(self.mean[...], self.var[...]),
                scale,
                bias,
                evaluate=evaluate,
                mask=mask,
                dtype=dtype,
                axis_name=self.axis_name,
            )
        if not evaluate:
            self.mean[...], self.var[...] = running
        return y.astype(out_dtype)


def ghostify(
    model: Model,
    ghost_size: int,
    *,
    update: str = "sequential",
    variance: str = "within",
    remainder: str = "error",
    rescale_momentum: bool = False,
    filter: nnx.filterlib.Filter | None = None,
) -> Model:
    """A copy of a model in which every ``flax.nnx.BatchNorm`` is a ``GhostBatchNorm``.

    The copy shares no variable with the model; the paths, types and values of its state are the
    same. A ``GhostBatchNorm`` with a ghost size of its own keeps it, so that doing it twice
    changes nothing; a subclass of ``BatchNorm`` with a ``__call__`` of its own is left alone.

    Args:
        model: Any nnx module, or a batch norm itself.
        ghost_size: Examples per ghost, counted over all devices.
        update: As in ``GhostBatchNorm``.
        variance: As in ``GhostBatchNorm``.
        remainder: As in ``GhostBatchNorm``.
        rescale_momentum: Take the momentum of each layer as per call, not per ghost: what keeps a
            tuned batch norm as slow as it was.
        filter: Which layers: an nnx filter over paths and layers, such as
            ``nnx.PathContains("stem")`` or ``lambda path, layer: layer.num_features > 8``.
            Default: all.

    Returns:
        The new model.

    Raises:
        ValueError: No batch norm was found, or none that the filter lets pass.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from gapjax.ghost.nnx import ghostify
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs))
        >>> ghostify(model, 8).layers[1].ghost_size, type(model.layers[1]).__name__
        (8, 'BatchNorm')
    """
    ghosts = Ghosts(
        positive_int("ghost_size", ghost_size), update, variance, remainder, rescale_momentum
    )

    def settings(layer: nnx.BatchNorm) -> Mapping[str, Any]:
        own = isinstance(layer, GhostBatchNorm) and layer.ghost_size is not None
        return {} if own else dataclasses.asdict(ghosts) | {"momentum": layer.momentum}

    return _convert(model, settings, filter)


def batch_statistics(model: Model) -> Model:
    """A copy of a model whose running statistics come out as those of the last batch alone.

    For ``gapjax.ghost.precise_statistics``: every batch norm updates its statistics as with a
    momentum of 0, to the mean and the total variance of the batch, over all ghosts. Outputs are
    those of training.

    Args:
        model: Any nnx module.

    Returns:
        The new model.

    Raises:
        ValueError: The model has no batch norm.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from gapjax.ghost.nnx import batch_statistics
        >>> norm = batch_statistics(nnx.BatchNorm(1, rngs=nnx.Rngs(0)))
        >>> _ = norm(jnp.array([[1.0], [3.0]]))
        >>> norm.mean[...].tolist(), norm.var[...].tolist()
        ([2.0], [1.0])
    """

    def settings(layer: nnx.BatchNorm) -> Mapping[str, Any]:
        ghosts = own_ghosts(layer) if isinstance(layer, GhostBatchNorm) else Ghosts(None)
        return dataclasses.asdict(ghosts) | BATCH_ALONE

    return _convert(model, settings, None)


@functools.cache
def _with_ghosts(cls):
    """A class of batch norms, also one of the user's own, with our call."""
    if issubclass(GhostBatchNorm, cls):
        return GhostBatchNorm
    if issubclass(cls, GhostBatchNorm):
        return cls
    return type(cls.__name__, (GhostBatchNorm, cls), {"__module__": cls.__module__})


def _convert(model, settings, filter):
    """A copy in which batch norms are of our kind, with some attributes set."""
    model = nnx.clone(model)
    passes = nnx.filterlib.to_predicate(... if filter is None else filter)
    # A subclass with a __call__ of its own is not the batch norm that we know.
    calls = (nnx.BatchNorm.__call__, GhostBatchNorm.__call__)
    layers = [
        ("/".join(map(str, path)), path, layer)
        for path, layer in nnx.iter_modules(model)
        if type(layer).__call__ in calls
    ]
    chosen = [(name, layer) for name, path, layer in layers if passes(path, layer)]
    if not chosen:
        names = ", ".join(repr(name) for name, _, _ in layers)
        raise ValueError(
            f"the filter lets none of the model's batch norms pass: {names}."
            if layers
            else f"no flax.nnx.BatchNorm was found in {type(model).__name__}."
        )
    for name, layer in chosen:
        changes = dict(settings(layer))
        layer.__class__ = _with_ghosts(type(layer))
        assert isinstance(layer, GhostBatchNorm)
        layer.label = f"GhostBatchNorm {name!r}" if name else "GhostBatchNorm"
        for attribute, value in changes.items():
            setattr(layer, attribute, value)
    return model
