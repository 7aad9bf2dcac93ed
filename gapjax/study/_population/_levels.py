"""Weights on the way down: kept where the training loss first falls to given levels.

Minima of unequal loss say little about each other. At a level the regimes have the same loss, give
or take what it falls between two evaluations.
"""

import functools
import operator
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gapjax import training
from gapjax.study._results._names import file_name


def keep_levels(
    folder: pathlib.Path, name: str, levels: Sequence[float], seeds: Sequence[int]
) -> Callable[[Any, Callable[[], Any]], None]:
    """The function that keeps the weights of a regime's first members at every level.

    It has no memory but the curves it is shown, so a regime that goes on after an interruption
    keeps the same.
    """

    def keep(curves: Any, weights: Callable[[], Any]) -> None:
        losses = curves.values["train_loss"]
        looks = np.isfinite(losses).any(axis=1)
        if not looks[-1]:  # none goes on, and the last that did is no news
            return
        losses = losses[looks]
        reached = {
            level: np.flatnonzero(crossed(losses, level)[: len(seeds)] == len(losses) - 1)
            for level in levels
        }
        if not any(map(len, reached.values())):
            return
        held = training.to_host(weights()._asdict())
        for level, members in reached.items():
            for member in members.tolist():
                own = jax.tree.map(operator.itemgetter(member), held)
                path = weights_path(folder, name, seeds[member], level)
                training.on_first(functools.partial(training.save_tree, path, own))

    return keep


def crossed(losses: np.ndarray, level: float) -> np.ndarray:
    """The first evaluation at which each member's loss is at most the level; -1 for none.

    Args:
        losses: one row per evaluation, ``[T, P]``.
        level: the loss.

    Example:
        >>> crossed(np.array([[2.0, 2.0], [0.9, 1.5], [0.5, 1.2]]), 1.0).tolist()
        [1, -1]
    """
    below = losses <= level
    return np.where(below.any(axis=0), below.argmax(axis=0), -1)


def weights_path(folder: pathlib.Path, name: str, seed: int, level: float) -> pathlib.Path:
    """Where the weights of one seed at one level are kept."""
    return folder / "checkpoints" / f"{file_name(name)} at loss {level:g}" / str(seed)


def kept_weights(
    folder: pathlib.Path, name: str, levels: Sequence[float], seeds: Sequence[int]
) -> list[pathlib.Path]:
    """Where weights of a regime are kept, of those levels that were reached."""
    paths = (weights_path(folder, name, seed, level) for level in levels for seed in seeds)
    return [path for path in paths if path.exists()]
