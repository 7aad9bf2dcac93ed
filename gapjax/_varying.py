"""Which axes of ``shard_map`` a value varies over."""

from typing import Any

import jax


def varies_over(kind: Any) -> frozenset[str]:
    """The axes, of what ``jax.typeof`` gives."""
    return getattr(getattr(kind, "manual_axis_type", None), "varying", frozenset())


def varying_like(value: jax.Array, tree: Any) -> jax.Array:
    """Cast to vary over all axes that any array of a tree varies over."""
    wanted = frozenset[str]().union(*(varies_over(jax.typeof(x)) for x in jax.tree.leaves(tree)))
    axes = tuple(sorted(wanted - varies_over(jax.typeof(value))))
    return jax.lax.pcast(value, axes, to="varying") if axes else value
