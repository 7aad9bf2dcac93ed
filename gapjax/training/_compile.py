"""How a pure step is laid out over devices and compiled."""

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gapjax import _checks
from gapjax.training._checkpoints import checksum
from gapjax.training._hosts import check_agreement
from gapjax.training._optimizers import strong, without_aliases
from gapjax.training._sharding import (
    AXIS,
    Axis,
    check_mesh,
    gathering,
    is_spread,
    put,
    state_shardings,
)
from gapjax.training._state import refuse_deleted
from gapjax.training._steps import TrainStep


def compile_step(
    step: Callable[..., Any],
    *,
    mesh: Mesh | None = None,
    strategy: str = "jit",
    parameters: Any = "replicated",
    axis: Axis = AXIS,
    donate: bool = True,
) -> "CompiledStep":
    """Compile ``step(state, batch) -> (state, metrics)`` for the devices of a mesh.

    The leading axis of the batch is split over the devices, the state is laid out as ``parameters``
    says and stays so from call to call. The state handed in is donated: its memory becomes the new
    state's, so do not use it again, or say ``donate=False``.

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
        mesh: the devices; all of them in one axis where left out. Its axes may be Auto or Explicit
            (the default of ``jax.make_mesh``), it may be set with ``jax.set_mesh`` or not: inside
            the step the compiler lays things out, and what comes out lies on this mesh.
        strategy: ``"jit"`` (the default: one global program, laid out by ``NamedSharding``) or
            ``"pmap"`` (a program per device, the mapped axis named ``axis``), for programs that are
            written for it: JAX's own documentation calls ``jax.pmap`` the old way to map over
            devices, by now made of ``jit`` and ``shard_map``, and advises to use those.
        parameters: ``"replicated"``, or ``"sharded"``: fully sharded data parallel, every large
            leaf of parameters and optimizer state split over the devices as ``state_shardings``
            says. A step from ``make_train_step`` then gathers parameters before the loss and
            scatters gradients after it, never activations; in any other step that is left to the
            compiler. Or ``"annotated"``, as the parameters say of themselves; or a tree of
            ``PartitionSpec`` or ``NamedSharding`` that begins as ``state.params`` does. Ask
            ``inspect_program`` what a program communicates.
        axis: the mesh axis over which batches, and sharded parameters, are split; or a tuple of
            several, over all of which together they are.
        donate: False to leave the state that is handed in as it is, for one more in memory: in a
            notebook, say, where a cell runs twice.

    Returns:
        The compiled step, with ``lower`` for ``compile_ahead``. States and batches may lie
        anywhere, batches on the host as NumPy arrays too; on a mesh of several processes a batch
        has to lie over all of them, as those of ``GrowingBatches`` do.

    Raises:
        ValueError: an unknown word, a mesh that does not fit; or, when called, a batch that does
            not divide over the devices, or a state whose memory an earlier call took.

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
        if not isinstance(axis, str):
            raise ValueError(f"axis={axis!r} names several axes, and there is no mesh: give one.")
        mesh = jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))
    devices = check_mesh(mesh, axis)
    where = _split_axis(step)
    if strategy == "jit":
        layout = functools.partial(state_shardings, mesh=mesh, parameters=parameters, axis=axis)
        if isinstance(parameters, str):
            layout({})  # a wrong word is wrong now
        if isinstance(step, TrainStep):
            step = dataclasses.replace(step, split=devices > 1)
            if isinstance(parameters, str) and parameters == "sharded":
                step = dataclasses.replace(step, loss_fn=gathering(step.loss_fn, mesh, axis))
        batch = NamedSharding(mesh, PartitionSpec(*[None] * where, axis))
        jitted = functools.partial(_jit, step, batch, donate)
        return CompiledStep(
            _Program(layout, jitted, mesh, donate), devices, where, lambda b: _on_mesh(b, batch)
        )
    if not isinstance(parameters, str) or parameters != "replicated":
        raise ValueError(
            'strategy="pmap" keeps all parameters on every device: use strategy="jit" with '
            f"parameters={parameters!r}."
        )
    return _compile_pmap(step, mesh, axis, where, donate)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What ``compile_step`` gives: call it with a state and a batch, or ``lower`` it.

    Attributes:
        compiled: the jitted or pmapped step.
        devices: over how many devices a batch is split.
        axis: which axis of a batch is split: 1 where batches come in microbatches.
        arrange: how a batch is laid out before the call.
    """

    compiled: Any
    devices: int
    axis: int
    arrange: Callable[[Any], Any]

    def __call__(self, state: Any, batch: Any) -> Any:
        """One update."""
        self._check(batch)
        return self.compiled(state, self.arrange(batch))

    def lower(self, state: Any, batch: Any) -> Any:
        """The lowered program for arrays or ``jax.ShapeDtypeStruct`` of these shapes."""
        self._check(batch)
        return self.compiled.lower(state, self.arrange(batch))

    def _check(self, batch: Any) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            shape = np.shape(leaf)
            if len(shape) <= self.axis:
                raise ValueError(
                    f"batch{jax.tree_util.keystr(path)} has shape {shape}, and axis "
                    f"{self.axis} of a batch is split over the devices: "
                    + (
                        "microbatched=True asks for batches that come in microbatches, as those "
                        "of GrowingBatches(microbatch=...)."
                        if self.axis
                        else "bind what is no example to the step, or repeat it for each."
                    )
                )
            size = shape[self.axis]
            if size % self.devices:
                below = size - size % self.devices
                fitting = [n for n in (below, below + self.devices) if n]
                raise ValueError(
                    f"a batch of {size} does not divide over {self.devices} devices "
                    f"(batch{jax.tree_util.keystr(path)}): use {' or '.join(map(str, fitting))} "
                    "examples, or a mesh of fewer devices."
                )


class _Program:
    """A step compiled for each structure of state that it meets, which it lays out and donates.

    Args:
        layout: from a state to the sharding of each of its leaves.
        compile: from these shardings to the jitted or mapped step.
        mesh: the devices.
        donate: whether the step takes the memory of the state.
    """

    def __init__(
        self,
        layout: Callable[[Any], Any],
        compile: Callable[[Any], Any],
        mesh: Mesh,
        donate: bool,
    ):
        self._layout, self._compile, self._mesh, self._donate = layout, compile, mesh, donate
        self._known: dict[Any, tuple[list[NamedSharding], Any, Any]] = {}
        self._own: list[weakref.ref[Any]] = []  # the leaves of the last state that it gave

    def __call__(self, state: Any, batch: Any) -> Any:
        leaves, shardings, layout, program = self._for(state)
        refuse_deleted("this state", leaves)
        # jit refuses arrays that lie elsewhere; to lay them out costs as much as a call.
        if any(getattr(x, "sharding", None) != s for x, s in zip(leaves, shardings, strict=True)):
            _check_alike(state)
            state = strong(jax.tree.map(put, state, layout))
        if self._donate and not self._is_own(leaves):
            state = without_aliases(state)
        with self._context():
            given = program(state, batch)
        self._own = [weakref.ref(leaf) for leaf in jax.tree.leaves(given[0])]
        return given

    def lower(self, state: Any, batch: Any) -> Any:
        _, _, layout, program = self._for(state)
        with self._context():
            return program.lower(jax.tree.map(_spec, state, layout), batch)

    def _for(self, state: Any) -> tuple[list[Any], list[NamedSharding], Any, Any]:
        leaves, structure = jax.tree.flatten(state)
        key = structure, tuple(map(np.shape, leaves))
        if key not in self._known:
            layout = self._layout(state)
            self._known[key] = jax.tree.leaves(layout), layout, self._compile(layout)
        return leaves, *self._known[key]

    def _is_own(self, leaves: list[Any]) -> bool:
        """Whether this is the state that the last call gave, in which no array is there twice."""
        same = len(leaves) == len(self._own)
        return same and all(x is own() for x, own in zip(leaves, self._own, strict=True))

    def _context(self) -> Any:
        """Where another mesh was set, ours; the compiler would not have both."""
        here = jax.sharding.get_abstract_mesh()
        if here.empty or here == self._mesh.abstract_mesh:
            return contextlib.nullcontext()
        return jax.set_mesh(self._mesh)


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


def _jit(step: Callable[..., Any], batch: NamedSharding, donate: bool, layout: Any) -> Any:
    """One global program, for a batch and a state that lie so."""
    replicated = NamedSharding(batch.mesh, PartitionSpec())
    if any(kind is AxisType.Explicit for kind in batch.mesh.axis_types):
        # Inside, the compiler lays things out, as a step that knows of no mesh needs it.
        step = jax.sharding.auto_axes(step, out_sharding=(layout, replicated))
    return jax.jit(
        step,
        in_shardings=(layout, batch),
        out_shardings=(layout, replicated),
        donate_argnums=(0,) if donate else (),
    )


def _on_mesh(batch: Any, sharding: NamedSharding) -> Any:
    """A batch as it is, but for arrays bound to another place, if only a mesh of another kind.

    Raises:
        ValueError: a leaf that lies in one of several processes alone; the others' may differ.
    """
    alone = sharding.is_fully_addressable

    def one(path: Any, leaf: Any) -> Any:
        at = getattr(leaf, "sharding", None)
        if not (alone or is_spread(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)):
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} lies in this process alone, and the mesh is of "
                f"{jax.process_count()} processes: growth.GrowingBatches(mesh=mesh) lays batches "
                "over all of them. Of a loader that gives each process its part, "
                "jax.make_array_from_process_local_data(NamedSharding(mesh, "
                f"{sharding.spec}), part) makes whole batches."
            )
        if at is None or not getattr(leaf, "committed", True):
            return leaf
        same = getattr(at, "mesh", None) == sharding.mesh
        if same and at.is_equivalent_to(sharding, len(leaf.shape)):
            return leaf
        if isinstance(leaf, jax.Array):
            return jax.device_put(leaf, sharding)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(one, batch)


def _compile_pmap(
    step: Callable[..., Any], mesh: Mesh, axis: Axis, where: int, donate: bool
) -> "CompiledStep":
    if not isinstance(step, TrainStep):
        raise ValueError(
            'strategy="pmap" averages gradients over devices inside the step, so it needs a step '
            'from make_train_step; use strategy="jit" for any other.'
        )
    if len(mesh.shape) > 1 or not isinstance(axis, str):
        raise ValueError(
            f'strategy="pmap" has one axis, and the mesh has {mesh.axis_names}: use a mesh of '
            f'{axis!r} alone, or strategy="jit".'
        )
    devices = list(mesh.devices.flat)
    mapped = jax.pmap(
        dataclasses.replace(step, axis_name=axis),
        axis_name=axis,
        in_axes=(None, where),
        out_axes=(None, None),
        devices=devices,
        donate_argnums=(0,) if donate else (),
    )
    # Where it leaves a state: one that lies elsewhere at first would be compiled for twice.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    layout = functools.partial(state_shardings, mesh=mesh, axis=axis)

    batch_sharding = NamedSharding(mesh, PartitionSpec(*[None] * where, axis))

    def per_device(x: Any) -> Any:
        count = len(devices)
        shape = *x.shape[:where], count, x.shape[where] // count, *x.shape[where + 1 :]
        if isinstance(x, jax.Array):
            return _reshaped(x, shape)
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x.reshape(shape)
        if x.sharding is not None:
            _reshaped.lower(x, shape).compile()  # it is as new to a larger batch as the step is
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)

    program = _Program(layout, lambda _: mapped, mesh, donate)
    return CompiledStep(
        program,
        len(devices),
        where,
        lambda batch: jax.tree.map(per_device, _on_mesh(batch, batch_sharding)),
    )


@functools.partial(jax.jit, static_argnums=1)
def _reshaped(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return x.reshape(shape)


def _split_axis(step: Callable[..., Any]) -> int:
    """The axis of examples: behind that of microbatches, where there are any."""
    return int(isinstance(step, TrainStep) and step.microbatched)
