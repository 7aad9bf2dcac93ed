"""What a run leaves behind: the metrics of its updates, on the host."""

from typing import Any, NamedTuple

import jax
import numpy as np


class History(NamedTuple):
    """The metrics of a run, on the host.

    Attributes:
        step: the updates recorded, counted from 1, shape ``[T]``.
        metrics: ``{name: values, [T, ...]}``.
    """

    step: np.ndarray
    metrics: dict[str, np.ndarray]


class Recorder:
    """Collects the metrics of updates, on the device until a history is asked for."""

    def __init__(self, past: History | None = None):
        self._past = [] if past is None or not len(past.step) else [past]
        self._new: list[tuple[int, Any]] = []

    def add(self, update: int, metrics: Any) -> None:
        """Record the metrics of an update."""
        self._new.append((update, metrics))

    def history(self) -> History:
        """All that was recorded; waits for what is still on its way."""
        if self._new:
            values = jax.device_get([metrics for _, metrics in self._new])
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *values)
            self._past.append(History(np.array([update for update, _ in self._new]), stacked))
            self._new = []
        if not self._past:
            return History(np.zeros(0, np.int64), {})
        if len(self._past) > 1:
            self._past = [jax.tree.map(lambda *parts: np.concatenate(parts), *self._past)]
        return self._past[0]
