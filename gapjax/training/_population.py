"""Populations: many runs of one network as one compiled program.

Seeds and learning rates are a vmapped axis, so error bars cost little; where that is slower, they
take turns. A segment is a stretch of updates with one batch size; its length is a number the
program is given, not a constant of it, so one compilation serves every segment. The axis may lie
over devices: members share nothing, so a population over devices communicates nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gapjax import _checks
from gapjax.training._loops import convolves
from gapjax.training._sharding import put

MEMBERS, BATCH = "member", "data"  # the axes of a population's mesh
_LARGE = 1 << 18  # parameters; in float32 they and their gradient fill a core's cache of 2 MiB

MemberStep = Callable[[Any, Any, Any], tuple[Any, dict[str, jax.Array]]]
Axes = Any  # 0 or None, or a tree of them that begins as an argument's does, as of jax.vmap


class Segment(NamedTuple):
    """What a segment of updates leaves behind, for each of P members.

    Attributes:
        loss: the mean training loss over the segment, ``[P]``.
        diverged: the first update of the run (from 1) whose loss, or whose gradient if the step
            looks for faults, was not finite, else 0, ``[P]``.
        fault: what was first not finite then, for ``fault_path``; -1 if nothing, or if the step
            does not look, ``[P]``.
    """

    loss: jax.Array
    diverged: jax.Array
    fault: jax.Array


def _rows_of(data: Any, rows: Any) -> Any:
    return jax.tree.map(lambda x: x[rows], data)


def make_advance(
    member_step: MemberStep,
    *,
    loop: str,
    mesh: Mesh | None = None,
    take: Callable[[Any, Any], Any] = _rows_of,
    rows_axes: Axes = 0,
) -> Callable[..., tuple[Any, Segment]]:
    """Compile ``advance(states, hyper, data, rows, count) -> (states, Segment)``.

    Args:
        member_step: one update of one member, ``(state, hyper, batch) -> (state, metrics)``, with
            ``"loss"`` among the metrics and ``step`` in the state. A step that looks for faults
            (``make_train_step`` with ``on_fault="stop"``) does not stop here: the others go on.
        loop: ``"scan"``, the whole segment as one program; ``"turns"``, on one device a program of
            one member's segment, which members take in turn (over devices as ``"scan"``): what a
            member works on stays in cache; or ``"host"``, a program per update, for networks with
            convolutions on CPU, which are many times slower there inside a compiled loop (jax issue
            12868), and vmapped over their kernels, too: on one device members take turns here too.
            ``loop_for`` says which is the fastest.
        mesh: where the population lies, from ``population_mesh``; one device where left out.
        take: ``(data, rows) -> batch``, of one update of one member; by default these rows of every
            array of the data. One of your own may be handed more than row numbers: epochs, say, to
            augment by.
        rows_axes: which leaves of the rows of one update have an axis of members, as ``in_axes`` of
            ``jax.vmap`` has it: 0, or None for what all members share, or a tree of these, such as
            ``{"example": 0, "epoch": None}``.

    Returns:
        ``advance``, whose arguments are the states (leading axis P, donated); what a member has for
        its own (a learning rate ``[P]``, or any pytree of leading axis P); the examples (a pytree
        with leading axis N, shared); their rows for every update and member, a pytree of ``[L, P,
        ...]``, or ``[L, ...]`` where ``rows_axes`` says None; and how many of the L updates to
        make. It has ``trace`` and ``lower`` with the same arguments, as what ``jax.jit`` gives: of
        the whole segment, or of one update with ``loop="host"``; and of one member where they take
        turns (its ``by_turns`` says so).

    Raises:
        ValueError: an unknown ``loop``; when called, a loss that is not one number.

    Example:
        >>> import jax, numpy as np
        >>> from typing import NamedTuple
        >>> class State(NamedTuple):
        ...     step: jax.Array
        ...     w: jax.Array
        >>> def step(state, rate, batch):
        ...     return State(state.step + 1, state.w - rate * batch.mean()), {"loss": state.w}
        >>> advance = make_advance(step, loop="scan")
        >>> states = State(jax.numpy.zeros(2, int), jax.numpy.ones(2))
        >>> rates, data = jax.numpy.array([0.1, 0.2]), jax.numpy.ones(6)
        >>> states, segment = advance(states, rates, data, np.zeros((3, 2, 4), np.int32), 3)
        >>> [round(float(w), 2) for w in states.w], segment.diverged.tolist()
        ([0.7, 0.4], [0, 0])
    """
    _checks.one_of("loop", loop, ("scan", "turns", "host"))

    def update(state: Any, hyper: Any, data: Any, rows: Any, sums: Segment) -> tuple[Any, Segment]:
        state, metrics = member_step(state, hyper, take(data, rows))
        loss, fault = metrics["loss"], metrics.get("fault", jnp.int32(-1))
        if jnp.shape(loss):
            raise ValueError(
                'metrics["loss"] of a member step must be one number, not of shape '
                f"{jnp.shape(loss)}: take the mean."
            )
        first_bad = (sums.diverged == 0) & (~jnp.isfinite(loss) | (fault >= 0))
        diverged = jnp.where(first_bad, state.step.astype(jnp.int32), sums.diverged)
        fault = jnp.where(first_bad, fault, sums.fault)
        return state, Segment(sums.loss + loss.astype(jnp.float32), diverged, fault)

    axes = (0, 0, None, rows_axes, 0)
    alone = mesh is None or mesh.size == 1
    if loop == "host":
        once = update if alone else over_members(update, axes, mesh=mesh)
        each = _EachUpdate(jax.jit(once, donate_argnums=(0, 4)))
        return _Turns(each, rows_axes) if alone else each

    def segment(update: Callable[..., Any]) -> Callable[..., Any]:
        def advance(state: Any, hyper: Any, data: Any, rows: Any, count: Any) -> Any:
            def body(i: Any, carry: Any) -> Any:
                return update(carry[0], hyper, data, jax.tree.map(lambda x: x[i], rows), carry[1])

            start = (state, _nothing(jnp.shape(state.step)))
            state, sums = jax.lax.fori_loop(0, count, body, start)
            return state, sums._replace(loss=sums.loss / count)

        return advance

    if loop == "turns" and alone:
        return _Turns(jax.jit(segment(update), donate_argnums=0), rows_axes)
    later = jax.tree.map(lambda axis: axis + 1, rows_axes)  # behind that of updates
    # A loop of vmapped updates: a vmapped loop is the same program, and takes twice as long to
    # trace, as its body is traced again until it is known what in it has an axis of members.
    together = _on_devices(
        segment(update), segment(jax.vmap(update, axes)), (0, 0, None, later, None), mesh
    )
    return jax.jit(together, donate_argnums=0)


def over_members(
    function: Callable[..., Any], in_axes: Sequence[Axes], *, mesh: Mesh | None = None
) -> Callable[..., Any]:
    """``jax.vmap`` over the members of a population, on each device over those that lie there.

    A plain ``vmap`` over members on many devices leaves it to the compiler to see that they share
    nothing. With convolutions it does not: vmapped over their kernels they become one grouped
    convolution, for which activations and kernels of all members are gathered.

    Args:
        function: of one member.
        in_axes: as of ``jax.vmap``, one for each argument: which axis is that of members (0 for
            one of them), None for an argument that all share, or a tree of these.
        mesh: where the population lies, from ``population_mesh``; one device where left out.

    Returns:
        A function of all members, whose outputs have a leading axis of members.

    Example:
        >>> import jax.numpy as jnp
        >>> over_members(lambda x, y: x + y, (0, None))(jnp.arange(2), 10).tolist()
        [10, 11]
    """
    axes = tuple(in_axes)
    return _on_devices(function, jax.vmap(function, axes), axes, mesh)


def _on_devices(
    of_one: Callable[..., Any],
    of_many: Callable[..., Any],
    axes: tuple[Axes, ...],
    mesh: Mesh | None,
) -> Callable[..., Any]:
    """``of_many`` on each device over the members there, or ``of_one`` where there is but one."""

    def here(*arguments: Any) -> Any:
        lengths = _by_axis(lambda axis, x: None if axis is None else x.shape[axis], axes, arguments)
        if set(jax.tree.leaves(lengths)) != {1}:
            return of_many(*arguments)
        # An axis of 1 is not free: XLA's CPU reductions and products over it run up to 1.8 times
        # slower than without it, so a member alone goes without.
        alone = _by_axis(
            lambda axis, x: x if axis is None else jax.lax.index_in_dim(x, 0, axis, False),
            axes,
            arguments,
        )
        return jax.tree.map(lambda x: x[None], of_one(*alone))

    if mesh is None or mesh.shape[MEMBERS] == 1:
        return here

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, MEMBERS)

    return jax.shard_map(
        here,
        mesh=mesh,
        in_specs=jax.tree.map(spec, axes, is_leaf=_is_none),
        out_specs=PartitionSpec(MEMBERS),
        axis_names={MEMBERS},  # the batch of a member stays the compiler's to split
        check_vma=False,
    )


def _by_axis(function: Callable[[int | None, Any], Any], axes: Axes, tree: Any) -> Any:
    """``function(axis, leaf)`` for each leaf of a tree that begins as the tree of axes does."""

    def below(axis: int | None, subtree: Any) -> Any:
        return jax.tree.map(lambda leaf: function(axis, leaf), subtree)

    return jax.tree.map(below, axes, tree, is_leaf=_is_none)


def _is_none(x: Any) -> bool:
    return x is None


@dataclasses.dataclass(frozen=True)
class _EachUpdate:
    """A segment as a call for every update, of one member or of all."""

    once: Any

    def __call__(
        self, states: Any, hyper: Any, data: Any, rows: Any, count: int
    ) -> tuple[Any, Segment]:
        # Where the sums of the updates to come lie, or the second one is compiled anew.
        at = getattr(states.step, "sharding", None)
        sums = jax.device_put(_nothing(jnp.shape(states.step)), at)
        for i in range(count):
            now = jax.tree.map(lambda x: x[i], rows)  # noqa: B023
            states, sums = self.once(states, hyper, data, now, sums)
        return states, sums._replace(loss=sums.loss / count)

    def trace(self, states: Any, hyper: Any, data: Any, rows: Any, count: int) -> Any:
        del count
        at = getattr(states.step, "sharding", None)
        sums = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            jax.eval_shape(lambda: _nothing(states.step.shape)),
        )
        now = jax.tree.map(lambda x: _without_axis(x, 0), rows)
        return self.once.trace(states, hyper, data, now, sums)

    def lower(self, *arguments: Any) -> Any:
        return self.trace(*arguments).lower()


@dataclasses.dataclass(frozen=True)
class _Turns:
    """A segment as one of each member, one after the other."""

    of_one: Any
    rows_axes: Axes
    by_turns = True

    def __call__(
        self, states: Any, hyper: Any, data: Any, rows: Any, count: int
    ) -> tuple[Any, Segment]:
        members = [
            (member_of(states, number), member_of(hyper, number), self._rows(rows, number))
            for number in range(len(states.step))
        ]
        for x in jax.tree.leaves(states):
            if isinstance(x, jax.Array):
                x.delete()  # given away, as to a program of all
        return stack_members(
            [self.of_one(state, own, data, some, count) for state, own, some in members]
        )

    def _rows(self, rows: Any, number: int) -> Any:
        def of_one(axis: int | None, x: Any) -> Any:
            return x if axis is None else member_of(x, number, axis=1)  # behind that of updates

        return _by_axis(of_one, self.rows_axes, rows)

    def trace(self, states: Any, hyper: Any, data: Any, rows: Any, count: int) -> Any:
        def of_one(axis: int | None, x: Any) -> Any:
            return x if axis is None else _without_axis(x, 1)

        state, own = jax.tree.map(lambda x: _without_axis(x, 0), (states, hyper))
        return self.of_one.trace(state, own, data, _by_axis(of_one, self.rows_axes, rows), count)

    def lower(self, *arguments: Any) -> Any:
        return self.trace(*arguments).lower()


def _without_axis(x: Any, axis: int) -> jax.ShapeDtypeStruct:
    """What an array is told by without one of its axes."""
    at = _without(getattr(x, "sharding", None), axis)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return jax.ShapeDtypeStruct(
        shape, x.dtype, sharding=at, weak_type=getattr(x, "weak_type", False)
    )


def member_of(tree: Any, number: int, *, axis: int = 0) -> Any:
    """One member of a population, or of what it has for each, where that lies.

    Args:
        tree: a pytree of arrays that have an axis of members.
        number: which of them.
        axis: where that axis is.

    Returns:
        The tree without that axis.

    Example:
        >>> member_of({"w": jnp.arange(6).reshape(2, 3)}, 1)["w"].tolist()
        [3, 4, 5]
    """
    leaves, shape = jax.tree.flatten(tree)
    on_device = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    at = [_without(x.sharding, axis) for x in on_device]
    own = iter(jax.device_put(_index(on_device, number, axis), at))
    found = [next(own) if isinstance(x, jax.Array) else np.take(x, number, axis) for x in leaves]
    return jax.tree.unflatten(shape, found)


@functools.partial(jax.jit, static_argnums=2)
def _index(leaves: list[Any], number: Any, axis: int) -> list[Any]:
    # One call for all: a call for each of a network's leaves costs more than what it does.
    return [jax.lax.dynamic_index_in_dim(x, number, axis, keepdims=False) for x in leaves]


def stack_members(members: Sequence[Any]) -> Any:
    """A population of members: what ``member_of`` undoes.

    Args:
        members: a pytree of ``jax.Array`` for each, all alike.

    Returns:
        One such tree, with a leading axis of members that lies as a population's does.

    Example:
        >>> stack_members([jnp.zeros(3), jnp.ones(3)]).shape
        (2, 3)
    """

    def place(x: Any) -> Any:
        at = x.sharding
        return (
            NamedSharding(at.mesh, PartitionSpec(MEMBERS, *at.spec))
            if isinstance(at, NamedSharding)
            else at
        )

    return jax.device_put(_stack(members), jax.tree.map(place, members[0]))


@jax.jit
def _stack(members: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def _without(at: Any, axis: int) -> Any:
    """A sharding without one of its axes."""
    if not isinstance(at, NamedSharding):
        return at
    return NamedSharding(at.mesh, PartitionSpec(*at.spec[:axis], *at.spec[axis + 1 :]))


def _nothing(shape: tuple[int, ...]) -> Segment:
    """The sums before the first update."""
    none = jnp.zeros(shape, jnp.int32)
    return Segment(jnp.zeros(shape, jnp.float32), none, none - 1)


def loop_for(params: Any, platform: str) -> str:
    """The fastest loop of ``make_advance``.

    On CPU ``"host"`` for convolution kernels, and ``"turns"`` for all else from 262,144 parameters
    on: several members, vmapped, go past its caches with every update (three layers of 512, 8
    members, batch 32: 1.4 times slower), while of small networks a program of all has fewer calls
    (layers of 64: 1.5 times faster). ``"scan"`` everywhere else.

    Args:
        params: the parameters of one member; a leaf with 3 axes or more is taken for a kernel.
        platform: ``jax.default_backend()``.

    Returns:
        ``"scan"``, ``"turns"`` or ``"host"``.

    Example:
        >>> import jax.numpy as jnp
        >>> loop_for({"kernel": jnp.zeros((3, 3, 1, 8))}, "cpu")
        'host'
        >>> loop_for({"kernel": jnp.zeros((784, 512))}, "cpu")
        'turns'
    """
    if platform != "cpu":
        return "scan"
    if convolves(params):
        return "host"
    shapes = map(jnp.shape, jax.tree.leaves(params))
    return "turns" if sum(map(math.prod, shapes)) >= _LARGE else "scan"


def population_mesh(
    members: int, *, devices_per_member: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The devices that a population lies on, as a mesh with the axes "member" and "data".

    As many groups of ``devices_per_member`` devices as there are, and as divide the members; every
    group trains the same number of members. Devices left over stay idle.

    Args:
        members: how many members there are.
        devices_per_member: over how many devices each member's batch is split.
        devices: the devices; all of them where left out.

    Returns:
        The mesh.

    Raises:
        ValueError: fewer devices than one member asks for; or, where several processes take part,
            members that leave devices idle.

    Example:
        >>> import jax
        >>> dict(population_mesh(6, devices=jax.devices()[:4]).shape)
        {'member': 3, 'data': 1}
    """
    _checks.positive_int("members", members)
    width = _checks.positive_int("devices_per_member", devices_per_member)
    devices = jax.devices() if devices is None else list(devices)
    if width > len(devices):
        raise ValueError(
            f"{width} devices for each member are more than the {len(devices)} there are: use at "
            f"most {len(devices)}."
        )
    room = len(devices) // width
    groups = max(n for n in range(1, room + 1) if members % n == 0)
    if jax.process_count() > 1 and groups * width < len(devices):
        raise ValueError(
            f"{members} members do not lie evenly on the {len(devices)} devices of "
            f"{jax.process_count()} processes, {width} for each member: take a multiple of {room} "
            f"members (seeds times rates), or another number of devices for each."
        )
    grid = np.array(devices[: groups * width], object).reshape(groups, width)
    return Mesh(grid, (MEMBERS, BATCH), axis_types=(AxisType.Auto, AxisType.Auto))


def lay_out(mesh: Mesh, tree: Any, *axes: str | None) -> Any:
    """Host arrays as device arrays whose leading axes lie along these mesh axes.

    Every process hands in the same arrays; each copies only what its own devices hold.

    Args:
        mesh: the devices.
        tree: a pytree of host arrays.
        axes: a mesh axis, or None, for every leading axis that is split; without any, every device
            gets everything.

    Returns:
        A tree of ``jax.Array`` like it.

    Example:
        >>> import numpy as np
        >>> lay_out(population_mesh(1), {"x": np.arange(3)})["x"].tolist()
        [0, 1, 2]
    """
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda leaf: put(leaf, sharding), tree)


def to_host(tree: Any) -> Any:
    """Device arrays as NumPy arrays, also those that lie on the devices of several processes.

    Every process has to call it, in the same order.

    Args:
        tree: a pytree of arrays.

    Returns:
        The same tree of NumPy arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> to_host({"x": jnp.ones(2)})
        {'x': array([1., 1.], dtype=float32)}
    """
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
