"""What a regime under way needs to go on, kept between its segments."""

import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gapjax import training
from gapjax.study._results._files import Damaged

_SECONDS = 30.0  # between checkpoints


class Snapshot(NamedTuple):
    """Where the training of a regime stands, between two segments.

    Attributes:
        update: updates made.
        marks: how many marks of its plan were measured.
        states: the ``TrainState`` of every member.
        diverged: the update at which a member was first not finite, else 0, ``[P]``.
        fault: what of it, see ``training.fault_path``, ``[P]``.
    """

    update: int
    marks: int
    states: training.TrainState
    diverged: np.ndarray
    fault: np.ndarray


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

    def restore(self, start: Snapshot, curves: Any) -> Snapshot:
        """Where an earlier run stopped, or the start; the curves are filled up to there."""
        if not self._checkpoints.updates:
            return start
        try:
            update, (states, diverged, fault), (steps, measured) = self._checkpoints.restore(
                (start.states, start.diverged, start.fault)
            )
        except ValueError as error:
            why, _, _ = str(error).partition(" Start anew")
            raise Damaged(
                self._checkpoints.folder,
                why.removesuffix(", or start anew in another folder.").rstrip("."),
                cost="this regime is trained from its start, the others are kept",
            ) from error
        marks = len(steps)
        if marks:
            curves.update[:marks] = steps
            curves.seconds[:marks] = measured.pop("seconds")
            for name, column in measured.items():
                curves.values[name][:marks] = column
        return Snapshot(update, marks, states, diverged, fault)

    def save(self, at: Snapshot, curves: Any, *, told_to_leave: bool) -> None:
        """Save if it is time to, or if this is the end.

        Args:
            at: where the regime stands.
            curves: what was measured so far.
            told_to_leave: whether the process has to leave now.

        Raises:
            Preempted: it is saved, and the process has to leave.
        """
        due = training.from_first(int(time.monotonic() - self._last > _SECONDS))
        if not (told_to_leave or due):
            return
        columns = {name: column[: at.marks] for name, column in curves.values.items()}
        history = training.History(
            curves.update[: at.marks], {"seconds": curves.seconds[: at.marks], **columns}
        )
        kept = history if at.marks else None
        self._checkpoints.save(at.update, (at.states, at.diverged, at.fault), history=kept)
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


def config_of(study: str, regime: str, members: Sequence[Any]) -> Any:
    """Who a population is, as JSON.

    Args:
        study: the fingerprint of the study.
        regime: the name of the regime.
        members: of the population.
    """
    own = [[member.seed, member.learning_rate, dict(member.hyper)] for member in members]
    return {"study": study, "regime": regime, "members": own}
