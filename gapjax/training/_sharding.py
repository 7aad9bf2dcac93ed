"""Where the leaves of a training state lie on the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gapjax import _checks

AXIS = "data"
PARAMETERS = ("replicated", "sharded")
# Below this many elements the latency of a collective costs more than the memory is worth.
_SMALL = 1024


def state_shardings(
    state: Any, mesh: Mesh, *, parameters: str = "replicated", axis: str = AXIS
) -> Any:
    """The sharding of every leaf of a training state, as ``compile_step`` lays it out.

    ``"sharded"`` is fully sharded data parallel (ZeRO stage 3, Rajbhandari et al. 2020): each leaf
    is split along its largest axis that the devices divide (of two alike, the later one), so
    parameters, optimizer state and all else take 1/D of their memory on each of D devices. Leaves
    of fewer than 1024 elements, and those that the devices divide along no axis, are replicated.

    ``compile_step`` places a state by itself. This is for all else that has to know the layout:
    ``jax.device_put(state, state_shardings(...))``, or restoring a checkpoint straight into it.

    Args:
        state: any tree of arrays or ``jax.ShapeDtypeStruct``.
        mesh: the devices.
        parameters: ``"replicated"`` (every device holds everything) or ``"sharded"``.
        axis: the mesh axis to split over.

    Returns:
        A tree of ``NamedSharding`` like ``state``.

    Raises:
        ValueError: an unknown word, or a mesh without the axis.

    Example:
        >>> import jax
        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> state = {"w": jax.ShapeDtypeStruct((8, 512), "float32"), "step": jax.numpy.zeros(())}
        >>> layout = state_shardings(state, mesh, parameters="sharded")
        >>> layout["w"].spec, layout["step"].spec
        (P(None, 'data'), P())
    """
    _checks.one_of("parameters", parameters, PARAMETERS)
    devices = check_mesh(mesh, axis)

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


def is_spread(leaf: Any) -> bool:
    """Whether an array lies on devices of several processes."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def check_mesh(mesh: Mesh, axis: str) -> int:
    """The number of devices along an axis of a mesh that a step can be compiled for."""
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh must be a jax.sharding.Mesh, not {mesh!r}: make one with {_make_mesh(axis)}, or "
            "leave it out to use every device."
        )
    if axis not in mesh.shape:
        raise ValueError(
            f"the mesh has the axes {mesh.axis_names}, none of them {axis!r}: say with axis= which "
            "one batches are split over."
        )
    return mesh.shape[axis]


def _make_mesh(axis: str) -> str:
    return f'jax.make_mesh((jax.device_count(),), ("{axis}",))'


def gathering(loss_fn: Callable[..., Any], mesh: Mesh, axis: str) -> Callable[..., Any]:
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
