"""The batch norms in the state of a network, whichever library made it."""

from typing import Any

import jax
import jax.numpy as jnp

_KINDS = ("mean", "var")


def batch_norms(model_state: Any) -> dict[str, dict[str, jax.Array]]:
    """The running mean and variance of every batch norm, by the path to it.

    Args:
        model_state: What a network keeps but does not train, such as linen's ``batch_stats``.

    Returns:
        ``{path: {"mean", "var"}}``; empty for a network without batch norm.

    Example:
        >>> batch_norms({"batch_stats": {"BatchNorm_0": {"mean": 0.0, "var": 1.0}}, "n": 3})
        {'batch_stats/BatchNorm_0': {'mean': 0.0, 'var': 1.0}}
    """
    found: dict[str, dict[str, jax.Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(model_state):
        place, _, kind = _name(path).rpartition("/")
        if kind in _KINDS:
            found.setdefault(place, {})[kind] = leaf
    return {place: pair for place, pair in found.items() if set(pair) == set(_KINDS)}


def with_statistics(model_state: Any, statistics: Any) -> Any:
    """The state with other statistics in its batch norms.

    Args:
        model_state: What a network keeps but does not train: the variables of linen besides the
            parameters, a state of nnx, or the state of a ``models.Network``.
        statistics: A mean and a variance at the path of every batch norm, as from
            ``precise_statistics``, ``batch_norms`` or linen's ``updates["batch_stats"]``: nested,
            or under paths with slashes. The name of linen's collection, ``batch_stats``, may be
            left out at the front.

    Returns:
        A tree like ``model_state``, in its dtypes; what ``statistics`` does not name stays.

    Raises:
        ValueError: A statistic is neither a mean nor a variance, has no place in the state, or
            another shape there.

    Example:
        >>> state = {"BatchNorm_0": {"mean": 0.0, "var": 1.0}, "n": 3}
        >>> with_statistics(state, {"BatchNorm_0": {"mean": 5.0, "var": 2.0}})
        {'BatchNorm_0': {'mean': 5.0, 'var': 2.0}, 'n': 3}
    """
    kept = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(model_state)}
    places = {_short(name): name for name in kept}
    given = {}
    for name, leaf in named_statistics(statistics).items():
        if _short(name) not in places:
            norms = ", ".join(map(_short, batch_norms(model_state))) or "none"
            raise ValueError(
                f"the statistic {name!r} has no place in the model state, whose batch norms are "
                f"{norms}. Take the statistics of the same model."
            )
        old = kept[places[_short(name)]]
        if jnp.shape(leaf) != jnp.shape(old):
            raise ValueError(
                f"the statistic {name!r} has shape {jnp.shape(leaf)}, and the model state has "
                f"{jnp.shape(old)} there. Take the statistics of the same model."
            )
        given[places[_short(name)]] = leaf.astype(old.dtype) if hasattr(old, "dtype") else leaf
    return jax.tree.map_with_path(lambda path, old: given.get(_name(path), old), model_state)


def named_statistics(statistics: Any) -> dict[str, Any]:
    """The leaves of a tree of statistics by their paths, each of which ends in its kind.

    Raises:
        ValueError: A leaf is neither a mean nor a variance.
    """
    named = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(statistics)}
    for name in named:
        if name.rpartition("/")[2] not in _KINDS:
            raise ValueError(
                f"{name or 'a bare array'!r} is neither the mean nor the var of a batch norm: "
                "give a tree of those, such as linen's batch_stats."
            )
    return named


def _name(path: Any) -> str:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value")  # of an nnx variable


def _short(name: str) -> str:
    return name.removeprefix("batch_stats/")
