"""A function of one member, for all members of a population, each where it lies."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from gapjax import training


def for_each_member(
    function: Callable[..., Any], *, jit: Callable[..., Any] = jax.jit
) -> Callable[..., Any]:
    """A function of a member and of what all share, for all members; compiled once per mesh.

    Members with convolutions take turns where their updates do (see ``training.make_advance``).
    """
    alone = jit(function)

    @functools.cache
    def compiled(mesh: Mesh | None, shared: int) -> Callable[..., Any]:
        axes = (0, *[None] * shared)
        return jit(training.over_members(function, axes, mesh=mesh))

    def call(members: Any, *shared: Any) -> Any:
        leaves = jax.tree.leaves(members)
        at = getattr(leaves[0], "sharding", None)
        # What is only traced lies on no devices.
        mesh = at.mesh if isinstance(at, NamedSharding) and isinstance(at.mesh, Mesh) else None
        if _take_turns(members, mesh):
            turns = range(len(leaves[0]))
            return training.stack_members(
                [alone(training.member_of(members, number), *shared) for number in turns]
            )
        return compiled(mesh, len(shared))(members, *shared)

    return call


def _take_turns(members: Any, mesh: Mesh | None) -> bool:
    # Asked for every batch that is measured, so nothing is traced to know the shapes of a member.
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), members)
    return (
        (mesh is None or mesh.size == 1)
        and training.loop_for(one, jax.default_backend()) == "host"
        and not isinstance(jax.tree.leaves(members)[0], jax.core.Tracer)
    )
