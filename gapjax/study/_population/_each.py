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
    """A function of a member and of what all share, for all members; compiled once per mesh."""

    @functools.cache
    def compiled(mesh: Mesh | None, shared: int) -> Callable[..., Any]:
        axes = (0, *[None] * shared)
        return jit(training.over_members(function, axes, mesh=mesh))

    def call(members: Any, *shared: Any) -> Any:
        at = getattr(jax.tree.leaves(members)[0], "sharding", None)
        mesh = at.mesh if isinstance(at, NamedSharding) else None
        # What is only traced lies on no devices.
        return compiled(mesh if isinstance(mesh, Mesh) else None, len(shared))(members, *shared)

    return call
