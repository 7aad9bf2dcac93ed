"""How a pure step is laid out over devices and compiled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gapjax import _checks
from gapjax.training._steps import TrainStep

_AXIS = "data"


def compile_step(
    step: Callable[..., Any], *, mesh: Mesh | None = None, strategy: str = "jit"
) -> "CompiledStep":
    """Compile ``step(state, batch) -> (state, metrics)`` for the devices of a mesh.

    The state is replicated, the leading axis of the batch is split over the mesh's first axis. The
    state handed in is donated: its memory becomes the new state's, so do not use it again.

    Both strategies give the same numbers for a loss that is a mean over examples. Their batch norms
    differ: under ``"jit"`` a batch norm sees the whole batch; under ``"pmap"`` one without an
    ``axis_name`` sees the batch of its device, an accidental ghost batch norm.

    Args:
        step: a pure step, from ``make_train_step`` for ``strategy="pmap"``.
        mesh: the devices; all of them in one axis where left out. Make it with Auto axes.
        strategy: ``"jit"`` (the default: one global program, laid out by ``NamedSharding``) or
            ``"pmap"`` (a program per device, ``axis_name="data"``).

    Returns:
        The compiled step, with ``lower`` for ``growth.compile_ahead``. Batches may be NumPy arrays
        on the host or arrays already laid out.

    Raises:
        ValueError: an unknown strategy; or, when called, a batch that does not divide over the
            devices.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state, make_train_step
        >>> def loss_fn(params, batch):
        ...     return jax.numpy.mean((batch["x"] @ params - batch["y"]) ** 2)
        >>> tx = optax.sgd(0.1)
        >>> step = compile_step(make_train_step(loss_fn, tx))
        >>> state = init_state(jax.numpy.zeros(2), tx, key=jax.random.key(0))
        >>> batch = {"x": jax.numpy.ones((8, 2)), "y": jax.numpy.ones(8)}
        >>> state, metrics = step(state, batch)
        >>> float(metrics["loss"])
        1.0
    """
    _checks.one_of("strategy", strategy, ("jit", "pmap"))
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(_AUTO,))
    return _compile_jit(step, mesh) if strategy == "jit" else _compile_pmap(step, mesh)


_AUTO = jax.sharding.AxisType.Auto


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What ``compile_step`` gives: call it with a state and a batch, or ``lower`` it.

    Attributes:
        compiled: the jitted or pmapped step.
        devices: over how many devices a batch is split.
        axis: which axis of a batch is split: 1 where batches come in microbatches.
        arrange: how a batch is laid out before the call; None where it stays as it is.
    """

    compiled: Any
    devices: int
    axis: int
    arrange: Callable[[Any], Any] | None = None

    def __call__(self, state: Any, batch: Any) -> Any:
        """One update; the state handed in is donated."""
        self._check(batch)
        return self.compiled(state, self.arrange(batch) if self.arrange else batch)

    def lower(self, state: Any, batch: Any) -> Any:
        """The lowered program for arrays or ``jax.ShapeDtypeStruct`` of these shapes."""
        self._check(batch)
        # eval_shape forgets shardings, by which a compiled program is found again.
        return self.compiled.lower(
            state, jax.eval_shape(self.arrange, batch) if self.arrange else batch
        )

    def _check(self, batch: Any) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            size = leaf.shape[self.axis]
            if size % self.devices:
                below = size - size % self.devices
                raise ValueError(
                    f"a batch of {size} does not divide over {self.devices} devices "
                    f"(batch{jax.tree_util.keystr(path)}): use {below or self.devices} or "
                    f"{below + self.devices} examples, or a mesh of fewer devices."
                )


def _compile_jit(step: Callable[..., Any], mesh: Mesh) -> CompiledStep:
    axis = _split_axis(step)
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names[0]))
    compiled = jax.jit(
        step,
        in_shardings=(replicated, split),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )
    return CompiledStep(compiled, mesh.shape[mesh.axis_names[0]], axis)


def _compile_pmap(step: Callable[..., Any], mesh: Mesh) -> CompiledStep:
    if not isinstance(step, TrainStep):
        raise ValueError(
            'strategy="pmap" averages gradients over devices inside the step, so it needs a step '
            'from make_train_step; use strategy="jit" for any other.'
        )
    axis, devices = _split_axis(step), list(mesh.devices.flat)
    mapped = jax.pmap(
        dataclasses.replace(step, axis_name=_AXIS),
        axis_name=_AXIS,
        in_axes=(None, axis),
        out_axes=(None, None),
        devices=devices,
    )

    def per_device(x: Any) -> Any:
        count = len(devices)
        return x.reshape(*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])

    return CompiledStep(mapped, len(devices), axis, lambda b: jax.tree.map(per_device, b))


def _split_axis(step: Callable[..., Any]) -> int:
    """The axis of examples: behind that of microbatches, where there are any."""
    return int(isinstance(step, TrainStep) and step.microbatched)
