"""What a regime under way needs to go on, kept between its segments."""

import pathlib
import shutil
import time
from typing import Any, NamedTuple

import numpy as np

from gapjax import training
from gapjax.study import _folder

_SECONDS = 30.0  # between checkpoints


class Position(NamedTuple):
    """Where the training of a regime stands.

    Attributes:
        update: updates made.
        states: the ``TrainState`` of every member.
        diverged: the update at which a member was first not finite, else 0, ``[P]``.
        fault: what of it, see ``training.fault_path``, ``[P]``.
        rows: what was measured, a row per mark.
    """

    update: int
    states: training.TrainState
    diverged: np.ndarray
    fault: np.ndarray
    rows: list[dict[str, Any]]


class Keeper:
    """The checkpoints of one population under way.

    Args:
        folder: where to; removed when the regime is done.
        config: what the population is, so that no other one goes on from it.
    """

    def __init__(self, folder: pathlib.Path, config: Any):
        self._checkpoints = training.Checkpoints(
            folder, every=1, keep=2, config=config, overlap=True
        )
        self._last = time.monotonic()

    def restore(self, start: Position) -> Position:
        """Where an earlier run stopped, or the start."""
        if not self._checkpoints.updates:
            return start
        update, (states, diverged, fault), (steps, measured) = self._checkpoints.restore(
            (start.states, start.diverged, start.fault)
        )
        rows = [
            {"update": int(step)}
            | {name: of[t] for name, of in measured.items() if not np.isnan(of[t]).all()}
            for t, step in enumerate(steps)
        ]
        return Position(update, states, diverged, fault, rows)

    def save(self, at: Position, *, told_to_leave: bool) -> None:
        """Save if it is time to, or if this is the end.

        Args:
            at: where the regime stands.
            told_to_leave: whether the process has to leave now.

        Raises:
            Preempted: it is saved, and the process has to leave.
        """
        if not (
            told_to_leave or training.from_first(int(time.monotonic() - self._last > _SECONDS))
        ):
            return
        steps = np.array([row["update"] for row in at.rows], np.int64)
        history = training.History(steps, columns(at.rows, len(at.diverged))) if at.rows else None
        self._checkpoints.save(at.update, (at.states, at.diverged, at.fault), history=history)
        self._last = time.monotonic()
        if told_to_leave:
            self._checkpoints.close()
            raise training.Preempted(
                f"gapjax: told to leave; saved at update {at.update} of this regime. The same "
                "command goes on from here."
            )

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait until everything is written."""
        self._checkpoints.__exit__(*error)


def remove(folder: pathlib.Path) -> None:
    """Remove the checkpoints of a regime that is done."""
    if training.is_first():
        shutil.rmtree(folder, ignore_errors=True)


def columns(rows: list[dict[str, Any]], members: int) -> dict[str, np.ndarray]:
    """What was measured as columns, ``[T, P]``; NaN at marks where it was not."""
    blank = np.full(members, np.nan)
    return {
        name: np.array([row.get(name, blank) for row in rows]).reshape(len(rows), members)
        for name in _folder.HISTORY_COLUMNS[3:]
    }
