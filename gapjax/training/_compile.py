"""How a pure step is laid out over devices and compiled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gapjax import _checks
from gapjax.training._contents import checksum
from gapjax.training._hosts import check_agreement
from gapjax.training._sharding import (
    AXIS,
    PARAMETERS,
    check_mesh,
    gathering,
    is_spread,
    put,
    state_shardings,
)
from gapjax.training._steps import TrainStep


def compile_step(
    step: Callable[..., Any],
    *,
    mesh: Mesh | None = None,
    strategy: str = "jit",
    parameters: str = "replicated",
    axis: str = AXIS,
) -> "CompiledStep":
    """Compile ``step(state, batch) -> (state, metrics)`` for the devices of a mesh.

    The leading axis of the batch is split over the devices, the state is laid out as ``parameters``
    says and stays so from call to call. The state handed in is donated: its memory becomes the new
    state's, so do not use it again.

    Both strategies give the same numbers for a loss that is a mean over examples. Which examples a
    batch norm sees differs:

    * Under ``"jit"`` a batch norm sees the whole batch, and ghosts are ``ghost_size`` examples
      counted globally, whatever the devices.
    * Under ``"pmap"`` a norm with ``axis_name="data"`` sees the same.
    * Under ``"pmap"`` without it, a batch norm sees the batch of its device: an accidental ghost
      batch norm of ``B / devices`` examples. Ghosts that fit on a device stay what they are, but
      running statistics go through the ghosts of one device only, averaged over devices.

    Args:
        step: a pure step, from ``make_train_step`` for ``strategy="pmap"``.
        mesh: the devices; all of them in one axis where left out. Make it with Auto axes.
        strategy: ``"jit"`` (the default: one global program, laid out by ``NamedSharding``) or
            ``"pmap"`` (a program per device, the mapped axis named ``axis``).
        parameters: ``"replicated"``, or ``"sharded"``: fully sharded data parallel, every large
            leaf of parameters and optimizer state split over the devices as ``state_shardings``
            says. A step from ``make_train_step`` then gathers parameters before the loss and
            scatters gradients after it, never activations; in any other step that is left to the
            compiler. Ask ``inspect_program`` what a program communicates.
        axis: the mesh axis over which batches, and sharded parameters, are split.

    Returns:
        The compiled step, with ``lower`` for ``growth.compile_ahead``. Batches may be NumPy arrays
        on the host or arrays already laid out, states may lie anywhere.

    Raises:
        ValueError: an unknown word, a mesh that does not fit; or, when called, a batch that does
            not divide over the devices.

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
    _checks.one_of("parameters", parameters, PARAMETERS)
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))
    devices = check_mesh(mesh, axis)
    if strategy == "jit":
        return CompiledStep(_Jitted(step, mesh, parameters, axis), devices, _split_axis(step))
    if parameters == "sharded":
        raise ValueError(
            'strategy="pmap" keeps all parameters on every device: use strategy="jit" with '
            'parameters="sharded".'
        )
    return _compile_pmap(step, mesh, axis)


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


class _Jitted:
    """A step jitted for each structure of state it meets: the layout follows from the shapes."""

    def __init__(self, step: Callable[..., Any], mesh: Mesh, parameters: str, axis: str):
        self._batch = NamedSharding(mesh, PartitionSpec(*[None] * _split_axis(step), axis))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._layout = lambda state: state_shardings(state, mesh, parameters=parameters, axis=axis)
        if parameters == "sharded" and isinstance(step, TrainStep):
            step = dataclasses.replace(step, loss_fn=gathering(step.loss_fn, mesh, axis))
        self._step = step
        self._known: dict[Any, tuple[list[NamedSharding], Any, Any]] = {}

    def __call__(self, state: Any, batch: Any) -> Any:
        leaves, shardings, layout, program = self._for(state)
        # jit refuses arrays that lie elsewhere; to lay them out costs as much as a call.
        if any(getattr(x, "sharding", None) != s for x, s in zip(leaves, shardings, strict=True)):
            _check_alike(state)
            state = jax.tree.map(put, state, layout)
        return program(state, batch)

    def lower(self, state: Any, batch: Any) -> Any:
        _, _, layout, program = self._for(state)
        return program.lower(jax.tree.map(_spec, state, layout), batch)

    def _for(self, state: Any) -> tuple[list[Any], list[NamedSharding], Any, Any]:
        leaves, structure = jax.tree.flatten(state)
        key = structure, tuple(map(np.shape, leaves))
        if key not in self._known:
            layout = self._layout(state)
            program = jax.jit(
                self._step,
                in_shardings=(layout, self._batch),
                out_shardings=(layout, self._replicated),
                donate_argnums=0,
            )
            self._known[key] = jax.tree.leaves(layout), layout, program
        return leaves, *self._known[key]


def _check_alike(state: Any) -> None:
    """Refuse a state of which processes hold different numbers, each by itself."""
    if jax.process_count() == 1:
        return
    own = {
        f"state{jax.tree_util.keystr(path)} (checksum)": checksum([leaf])
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if not is_spread(leaf)
    }
    check_agreement(own)


def _spec(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)


def _compile_pmap(step: Callable[..., Any], mesh: Mesh, axis: str) -> CompiledStep:
    if not isinstance(step, TrainStep):
        raise ValueError(
            'strategy="pmap" averages gradients over devices inside the step, so it needs a step '
            'from make_train_step; use strategy="jit" for any other.'
        )
    if len(mesh.shape) > 1:
        raise ValueError(
            f'strategy="pmap" has one axis, and the mesh has {mesh.axis_names}: use a mesh of '
            f'{axis!r} alone, or strategy="jit".'
        )
    where, devices = _split_axis(step), list(mesh.devices.flat)
    mapped = jax.pmap(
        dataclasses.replace(step, axis_name=axis),
        axis_name=axis,
        in_axes=(None, where),
        out_axes=(None, None),
        devices=devices,
    )

    def per_device(x: Any) -> Any:
        count = len(devices)
        return x.reshape(*x.shape[:where], count, x.shape[where] // count, *x.shape[where + 1 :])

    return CompiledStep(mapped, len(devices), where, lambda b: jax.tree.map(per_device, b))


def _split_axis(step: Callable[..., Any]) -> int:
    """The axis of examples: behind that of microbatches, where there are any."""
    return int(isinstance(step, TrainStep) and step.microbatched)
