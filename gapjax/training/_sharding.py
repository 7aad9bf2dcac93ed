"""Where the leaves of a training state lie on the devices of a mesh."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gapjax import _checks
from gapjax.training._annotations import annotated_shardings, refuse_annotations

AXIS = "data"
PARAMETERS = ("replicated", "sharded", "annotated")
Axis = str | tuple[str, ...]
# Below this many elements the latency of a collective costs more than the memory is worth.
_SMALL = 1024


def state_shardings(
    state: Any, mesh: Mesh, *, parameters: Any = "replicated", axis: Axis = AXIS
) -> Any:
    """The sharding of every leaf of a training state, as ``compile_step`` lays it out.

    ``"sharded"`` is fully sharded data parallel (ZeRO stage 3): each leaf is split along its
    largest axis that the devices divide (of two alike, the later one), so parameters, optimizer
    state and all else take 1/D of their memory on each of D devices. Leaves of fewer than 1024
    elements, and those that the devices divide along no axis, are replicated.

    ``"annotated"`` follows what the parameters say of themselves, the boxes of linen's
    ``with_partitioning`` and the variables of an nnx module. A tree says it instead: what
    ``flax.linen.get_partition_spec`` or ``flax.nnx.get_partition_spec`` give, say. What the
    optimizer keeps of a parameter (its momentum, its average) lies as the parameter does.

    ``compile_step`` places a state by itself. This is for all else that has to know the layout:
    ``jax.device_put(state, state_shardings(...))``, or restoring a checkpoint straight into it.

    Args:
        state: any tree of arrays or ``jax.ShapeDtypeStruct``.
        mesh: the devices.
        parameters: ``"replicated"`` (every device holds everything), ``"sharded"``,
            ``"annotated"``, or a tree of ``PartitionSpec`` or ``NamedSharding`` that begins as
            ``state.params`` does (as the state does, where it has none).
        axis: the mesh axis to split over for ``"sharded"``, or several.

    Returns:
        A tree of ``NamedSharding`` like ``state``.

    Raises:
        ValueError: an unknown word, a mesh without the axis, specs that do not fit the parameters
            or the mesh, or annotations that contradict the word.

    Example:
        >>> import jax
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> state = {"w": jax.ShapeDtypeStruct((8, 512), "float32"), "step": jax.numpy.zeros(())}
        >>> layout = state_shardings(state, mesh, parameters="sharded")
        >>> layout["w"].spec, layout["step"].spec
        (P(None, 'data'), P())
        >>> state_shardings(state, mesh, parameters={"w": P("data"), "step": P()})["w"].spec
        P('data',)

    References:
        Rajbhandari, Rasley, Ruwase, He, `ZeRO <https://arxiv.org/abs/1910.02054>`_, 2020.
    """
    devices = check_mesh(mesh, axis)
    if not isinstance(parameters, str):
        return annotated_shardings(state, mesh, parameters)
    _checks.one_of("parameters", parameters, PARAMETERS)
    if parameters == "annotated":
        return annotated_shardings(state, mesh, parameters)
    refuse_annotations(state, mesh, parameters)

    def sharding(leaf: Any) -> NamedSharding:
        place = _axis_to_split(np.shape(leaf), devices) if parameters == "sharded" else None
        spec = () if place is None else (*[None] * place, axis)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding, state)


def _axis_to_split(shape: tuple[int, ...], devices: int) -> int | None:
    size = 1
    for length in shape:
        size *= length
    fitting = [(length, i) for i, length in enumerate(shape) if length % devices == 0]
    return max(fitting)[1] if fitting and size >= _SMALL else None


def put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array laid out over devices, also over those of other processes.

    What one process holds by itself every process has to hand in, with the same values; each takes
    what its own devices need, and none waits for another.
    """
    if jnp.issubdtype(jax.dtypes.result_type(leaf), jax.dtypes.prng_key):
        numbers = put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    if not (sharding.is_fully_addressable or is_spread(leaf)):
        held = np.asarray(leaf)
        return jax.make_array_from_callback(held.shape, sharding, lambda at: held[at])
    return jax.device_put(leaf, sharding)


def outside_meshes() -> Any:
    """While inside, no mesh is set, of which arrays on other meshes would have to be."""
    if jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.set_mesh(Mesh(np.empty((), dtype=object), ()))


def is_spread(leaf: Any) -> bool:
    """Whether an array lies on devices of several processes."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def check_mesh(mesh: Mesh, axis: Axis) -> int:
    """The number of devices along an axis of a mesh, or along several together."""
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh must be a jax.sharding.Mesh, not {mesh!r}: make one with "
            'jax.make_mesh((jax.device_count(),), ("data",)), or leave it out to use every device.'
        )
    names = (axis,) if isinstance(axis, str) else axis
    if not isinstance(names, tuple) or not names or len(set(names)) < len(names):
        raise ValueError(f"axis must be the name of a mesh axis, or a tuple of some, not {axis!r}.")
    if unknown := [name for name in names if name not in mesh.shape]:
        raise ValueError(
            f"the mesh has the axes {mesh.axis_names}, none of them {unknown[0]!r}: say with axis= "
            "which one batches are split over."
        )
    return math.prod(mesh.shape[name] for name in names)


def gathering(loss_fn: Callable[..., Any], mesh: Mesh, axis: Axis) -> Callable[..., Any]:
    """``loss_fn`` on parameters that are gathered before use, their gradients scattered again.

    Left to itself the compiler may split the contraction instead, and gather activations.
    """
    # The step runs where the compiler lays things out, also on a mesh with Explicit axes.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    replicated = NamedSharding(mesh, PartitionSpec())
    constrain = jax.lax.with_sharding_constraint

    def gathered(params: Any, *rest: Any) -> Any:
        layout = state_shardings(params, mesh, parameters="sharded", axis=axis)

        @jax.custom_vjp
        def gather(params: Any) -> Any:
            return constrain(params, replicated)

        # The transpose of a constraint is that constraint; the gradient's is another. The forward
        # pass calls no gather, so that the gradient itself may be differentiated in either mode.
        gather.defvjp(
            lambda params: (constrain(params, replicated), None),
            lambda _, grads: (constrain(grads, layout),),
        )
        return loss_fn(gather(params), *rest)

    return gathered
