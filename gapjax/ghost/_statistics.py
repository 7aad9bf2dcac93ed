"""The statistics of batch norms inside the state of any model: told apart, measured, put back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def batch_statistics(apply: Callable[[Any], Any], model_state: Any) -> dict[str, Any]:
    r"""The statistics of one batch alone, in every batch norm of any network.

    For networks known only as a function, whose batch norms cannot be told to keep no memory (see
    ``gapjax.ghost.linen.batch_statistics`` and ``gapjax.ghost.nnx.batch_statistics``). A pass in
    training mode moves running statistics by :math:`r \leftarrow k r + (1 - k) s`, with the kept
    share :math:`k` unknown here. From :math:`r = 0` and :math:`r = 1` it gives
    :math:`(1 - k) s` and :math:`k + (1 - k) s`, hence both. Under ``jax.jit`` the two passes are
    mostly the same program, and cost little more than one.

    Args:
        apply: ``model_state -> model_state``, a pass over the batch in training mode, such as
            ``lambda s: network.apply(params, s, x, train=True)[1]``.
        model_state: A tree; what is called ``mean`` and ``var`` in it are statistics.

    Returns:
        ``{"mean": s, "var": s}`` by the path to each batch norm; what the pass does not move comes
        back as it was. Nothing for a network without batch norm. A norm that cuts the batch into
        ghosts gives the average over them that it moves its running statistics by.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import ghost, models
        >>> network = models.as_network(models.MLP((2,), 3))
        >>> x = jax.random.normal(jax.random.key(0), (8, 4))
        >>> params, state = network.init(jax.random.key(1), x)
        >>> found = ghost.batch_statistics(
        ...     lambda s: network.apply(params, s, x, train=True)[1], state
        ... )
        >>> hidden = x @ params["Dense_0"]["kernel"]
        >>> bool(jnp.allclose(found["batch_stats/BatchNorm_0"]["mean"], hidden.mean(0), atol=1e-6))
        True
    """
    start = {path: leaf for path, leaf in _named(model_state).items() if _kind(path)}

    def after(value: float) -> dict[str, Any]:
        filled = {path: jnp.full_like(leaf, value) for path, leaf in start.items()}
        moved = _named(apply(_with(model_state, filled)))
        return {path: moved[path] for path in start}

    found: dict[str, Any] = {}
    at_zero, at_one = after(0), after(1)
    for path, old in start.items():
        given = 1 - (at_one[path] - at_zero[path])
        moved = at_zero[path] / jnp.where(given > 0, given, 1)
        place, _, kind = path.rpartition("/")
        found.setdefault(place, {})[kind] = jnp.where(given > 0, moved, old)
    return found


def replace_statistics(model_state: Any, statistics: Any) -> Any:
    """The state of a model with other statistics in its batch norms.

    Args:
        model_state: A tree, such as the variables of linen besides the parameters, a state of nnx,
            or the state of a ``models.Network``.
        statistics: As from ``precise_statistics`` or ``batch_statistics``: a ``mean`` and a ``var``
            at the path of every batch norm, nested or under paths with slashes. The name of
            linen's collection, ``batch_stats``, may be left out at the front.

    Returns:
        A tree like ``model_state``, in its dtypes; what ``statistics`` does not name stays.

    Raises:
        ValueError: A statistic has no place in the state, or another shape there.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import ghost
        >>> state = {"batch_stats": {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}}
        >>> state = ghost.replace_statistics(state, {"norm": {"mean": jnp.full(1, 3.0)}})
        >>> state["batch_stats"]["norm"]["mean"].tolist()
        [3.0]
    """
    places = {_short(path): (path, leaf) for path, leaf in _named(model_state).items()}
    given = {}
    for name, leaf in named_statistics(statistics).items():
        if _short(name) not in places:
            kept = ", ".join(sorted(path for path in places if _kind(path))) or "none"
            raise ValueError(
                f"the statistic {name!r} has no place in the model state, which keeps {kept}. "
                "Take the statistics of the same model."
            )
        path, old = places[_short(name)]
        if jnp.shape(leaf) != jnp.shape(old):
            raise ValueError(
                f"the statistic {name!r} has shape {jnp.shape(leaf)}, and the model state keeps "
                f"{jnp.shape(old)} there. Take the statistics of the same model."
            )
        given[path] = jnp.asarray(leaf).astype(jnp.result_type(old))
    return _with(model_state, given)


def named_statistics(statistics: Any) -> dict[str, Any]:
    """The leaves of a tree of statistics by their paths, each of which ends in its kind."""
    named = _named(statistics)
    for name in named:
        if not _kind(name):
            raise ValueError(
                f"{name or 'a bare array'!r} is neither the mean nor the var of a batch norm: "
                "give a tree of those, such as linen's batch_stats."
            )
    return named


def _name(path: Any) -> str:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removesuffix("/value")  # of an nnx variable


def _named(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _with(tree: Any, leaves: dict[str, Any]) -> Any:
    return jax.tree.map_with_path(lambda path, old: leaves.get(_name(path), old), tree)


def _kind(name: str) -> str | None:
    kind = name.rpartition("/")[2]
    return kind if kind in ("mean", "var") else None


def _short(name: str) -> str:
    return name.removeprefix("batch_stats/")
