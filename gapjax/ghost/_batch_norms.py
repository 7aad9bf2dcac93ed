"""The batch norms in the state of a network, whichever library made it."""

from collections.abc import Mapping
from typing import Any

import jax

_KINDS = ("mean", "var")


def batch_norms(model_state: Any) -> dict[str, dict[str, jax.Array]]:
    """The running mean and variance of every batch norm, by the path to it.

    Args:
        model_state: what a network keeps but does not train, such as linen's ``batch_stats``.

    Returns:
        ``{path: {"mean", "var"}}``; empty for a network without batch norm.

    Example:
        >>> batch_norms({"batch_stats": {"BatchNorm_0": {"mean": 0.0, "var": 1.0}}, "n": 3})
        {'batch_stats/BatchNorm_0': {'mean': 0.0, 'var': 1.0}}
    """
    found: dict[str, dict[str, jax.Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(model_state):
        *place, kind = _names(path)
        if kind in _KINDS:
            found.setdefault("/".join(place), {})[kind] = leaf
    return {place: pair for place, pair in found.items() if set(pair) == set(_KINDS)}


def with_statistics(model_state: Any, statistics: Mapping[str, Mapping[str, Any]]) -> Any:
    """The state with other statistics in its batch norms.

    Args:
        model_state: what a network keeps but does not train.
        statistics: as :func:`batch_norms` and ``precise_statistics`` give them.

    Returns:
        A tree like ``model_state``.

    Example:
        >>> state = {"BatchNorm_0": {"mean": 0.0, "var": 1.0}, "n": 3}
        >>> with_statistics(state, {"BatchNorm_0": {"mean": 5.0, "var": 2.0}})
        {'BatchNorm_0': {'mean': 5.0, 'var': 2.0}, 'n': 3}
    """

    def leaf(path: Any, old: Any) -> Any:
        *place, kind = _names(path)
        return statistics.get("/".join(place), {}).get(kind, old)

    return jax.tree.map_with_path(leaf, model_state)


def _names(path: Any) -> list[str]:
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    return names[:-1] if names[-1:] == ["value"] else names  # of an nnx variable
