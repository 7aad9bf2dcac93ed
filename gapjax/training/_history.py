"""What a run leaves behind: the metrics of its updates, on the host."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax.training._names import Path, names_along


class History(NamedTuple):
    """The metrics of a run, on the host.

    Attributes:
        step: the updates recorded, counted from 1, shape ``[T]``.
        metrics: ``{name: values, [T, ...]}``.
    """

    step: np.ndarray
    metrics: dict[str, np.ndarray]


_CHUNK, _IN_FLIGHT = 1024, 64  # updates: that are fetched at once, that may still be computed


class Recorder:
    """Collects the metrics of updates; the last ones stay on the device until they are asked for.

    They may be any tree of arrays, and others than those of a ``past``, which are known by their
    names alone: what one side lacks is filled, by -1 for faults and NaN for all else.
    """

    def __init__(self, past: History | None = None):
        self._past = past or History(np.zeros(0, np.int64), {})
        self._shapes = {path: x.shape[1:] for path, x in _columns(self._past.metrics).items()}
        self._like: Any = None
        self._new: list[tuple[int, Any]] = []
        self._chunks: list[tuple[np.ndarray, Any]] = []  # of many updates, on the host

    def add(self, update: int, metrics: Any) -> None:
        """Record the metrics of an update.

        Raises:
            ValueError: one history cannot hold them and those before.
        """
        leaves, structure = jax.tree.flatten(metrics)
        like = structure, [np.shape(x) for x in leaves]
        if like != self._like:
            self._check(update, metrics, structure)
            self._like = like
        self._new.append((update, metrics))
        if len(self._new) == _CHUNK + _IN_FLIGHT:  # small arrays on a device take much memory each
            self._fetch(_CHUNK)

    def _check(self, update: int, metrics: Any, structure: Any) -> None:
        if self._like is None:
            shaped = jax.tree.map(lambda x: np.zeros((0, *np.shape(x))), metrics)
            _with_those_of(self._past.metrics, shaped)
        elif structure != self._like[0]:
            raise ValueError(
                f"update {update} gives the metrics {structure}, and those before gave "
                f"{self._like[0]}: a step must give the same at every update."
            )
        for path, leaf in _columns(metrics).items():
            before, shape = self._shapes.setdefault(path, np.shape(leaf)), np.shape(leaf)
            if shape != before:
                raise ValueError(
                    f"the metric {'/'.join(path)!r} has the shape {shape} at update {update}, and "
                    f"{before} before: a history holds one shape. Let the step give what does not "
                    "depend on the size of a batch, such as a mean."
                )

    def history(self) -> History:
        """All that was recorded; waits for what is still on its way."""
        if self._new:
            self._fetch(len(self._new))
        if self._chunks:
            updates, stacked = zip(*self._chunks, strict=True)
            new = jax.tree.map(lambda *leaves: np.concatenate(leaves), *stacked)
            self._past = _joined(self._past, History(np.concatenate(updates), new))
            self._chunks = []
        return self._past

    def _fetch(self, count: int) -> None:
        first, self._new = self._new[:count], self._new[count:]
        values = jax.device_get([metrics for _, metrics in first])
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *values)
        self._chunks.append((np.array([update for update, _ in first]), stacked))


def put(tree: dict[str, Any], path: Path, leaf: Any) -> None:
    """Put a leaf into nested dictionaries."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def _columns(metrics: Any) -> dict[Path, Any]:
    return {names_along(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(metrics)}


def _with_those_of(past: Any, metrics: Any) -> Any:
    """Metrics, and beside them what only those of the past have."""
    metrics, own = jax.tree.map(lambda x: x, metrics), _columns(metrics)
    for path, leaf in _columns(past).items():
        if path not in own:
            try:
                put(metrics, path, leaf)
            except (AttributeError, IndexError, TypeError):  # none of dictionaries
                raise ValueError(
                    f"the run so far recorded the metric {'/'.join(path)!r}, and there is no place "
                    f"for it in the metrics of now, {jax.tree.structure(metrics)}: let the step "
                    "give a dict, or start anew in another folder."
                ) from None
    return metrics


def _joined(past: History, new: History) -> History:
    """One history after the other, in the structure of the second."""
    if not len(past.step):
        return new
    old, own = _columns(past.metrics), _columns(new.metrics)

    def column(path: Any, like: np.ndarray) -> np.ndarray:
        sides = ((old, past.step), (own, new.step))
        name = names_along(path)
        return np.concatenate(
            [side[name] if name in side else _unknown(name, like, len(at)) for side, at in sides]
        )

    whole = jax.tree_util.tree_map_with_path(column, _with_those_of(past.metrics, new.metrics))
    return History(np.concatenate([past.step, new.step]), whole)


def _unknown(path: Path, like: np.ndarray, count: int) -> np.ndarray:
    """A column of which nothing is known."""
    shape = (count, *like.shape[1:])
    if path in (("fault",), ("skipped",)):
        return np.full(shape, -1, like.dtype)
    floating = jnp.issubdtype(like.dtype, jnp.inexact)
    return np.full(shape, np.nan, like.dtype if floating else np.float64)
