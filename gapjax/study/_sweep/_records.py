"""What is kept of a sweep: its folder, and a record of each size under each remedy."""

import dataclasses
import os
import pathlib
from typing import Any

from gapjax._paths import local_path
from gapjax.study._results import _files
from gapjax.study._results._names import file_name
from gapjax.study._results._records import FORMAT, Curves, TaskFacts, dumps, to_plain
from gapjax.study._sweep._goal import Goal

CONFIG = "sweep.json"


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """What a sweep is, and how it was run.

    Attributes:
        sweep: what all its sizes share, as JSON; a folder belongs to one.
        task: what its numbers mean.
        environment: command, versions, device.
        num_examples: how many there are to train on.
        updates: the budget of equal updates.
        examples: the budget of equal examples.
        most_updates: the most that any size makes.
    """

    sweep: dict[str, Any]
    task: TaskFacts
    environment: dict[str, Any]
    num_examples: int
    updates: int
    examples: int
    most_updates: int


@dataclasses.dataclass(frozen=True)
class SizeRecord:
    """What was measured at one batch size under one remedy; P members are rates times seeds.

    Attributes:
        remedy: the name of the curve.
        parts: its remedies, those that do not ship with a hash.
        batch_size: examples per update.
        ghost_size: or None.
        rates: the learning rates, rising where nothing else is tuned, ``[R]``.
        seeds: which, ``[S]``.
        flops: floating-point operations of one update of one member, by the compiler's count; None
            where it does not tell.
        diverged: the update at which a member diverged, else 0, ``[R][S]`` in one row.
        seconds: it took, all members, with compiling and measuring.
        target: the target at which it stopped; None where it went on to the end.
        curves: what was measured, from before the first update on, ``[T][P]``.
        hyper: what else was tried with each rate, ``[R]``; nothing of records without it.
    """

    remedy: str
    parts: list[str]
    batch_size: int
    ghost_size: int | None
    rates: list[float]
    seeds: list[int]
    flops: float | None
    diverged: list[int]
    seconds: float
    target: float | None
    curves: Curves
    hyper: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @property
    def trials(self) -> list[tuple[float, dict[str, float]]]:
        """What was tried: rates, and other hyperparameters, ``[R]``."""
        return list(zip(self.rates, self.hyper or [{}] * len(self.rates), strict=True))

    def answers(self, goal: Goal, most: int) -> bool:
        """Whether it was trained for long enough to know what a target takes.

        One that stopped at a target of its own does not know what a harder one takes, nor of
        another which rate is the first at it.

        Args:
            goal: the target.
            most: the updates of a size that never stops.
        """
        update = self.curves.update
        if self.target in (None, goal.value) or update[-1] >= most or all(self.diverged):
            return True
        return goal.is_known(update, self.curves.array(goal.curve), len(self.rates))


def open_folder(out_dir: str | os.PathLike[str], config: SweepConfig) -> pathlib.Path:
    """Make the folder of a sweep, or go on in the one that is there.

    Raises:
        ValueError: the folder holds something else, or cannot be written.
    """
    folder = local_path("out_dir", out_dir)
    path = folder / CONFIG
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a study; give another folder (--out).")
    own = _json(config.sweep)
    if path.exists():
        there = read_config(folder).sweep
        changes = [
            f"{key} is {there.get(key)!r} there, and {own.get(key)!r} here"
            for key in {**own, **there}
            if own.get(key) != there.get(key)
        ]
        if changes:
            raise ValueError(
                f"{folder} holds another sweep, which is left as it is: {'; '.join(changes[:4])}. "
                "Give another folder (--out)."
            )
    try:
        for part in ("sizes", "checkpoints"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _files.keep(path, {"format": FORMAT, **to_plain(config)})
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror}. Give another folder (--out)."
        ) from None
    return folder


def read_config(folder: pathlib.Path) -> SweepConfig:
    """What the sweep of a folder is."""
    path = folder / CONFIG
    return _files.read(path, SweepConfig)


def is_sweep(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a sweep.

    Args:
        folder: any.

    Returns:
        Whether :func:`load_sweep` can read it.
    """
    return (local_path("folder", folder) / CONFIG).exists()


def record_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the record of a size under a remedy is kept, by the name of its regime."""
    return folder / "sizes" / f"{file_name(name)}.json"


def keep_record(path: pathlib.Path, record: SizeRecord) -> None:
    """Keep what was measured."""
    _files.keep(path, record)


def read_record(path: pathlib.Path) -> SizeRecord:
    """What was measured."""
    return _files.read(path, SizeRecord, cost="the size is trained again")


def read_records(folder: pathlib.Path) -> list[SizeRecord]:
    """All that was measured, by size."""
    found = [read_record(path) for path in sorted((folder / "sizes").glob("*.json"))]
    return sorted(found, key=lambda record: record.batch_size)


def _json(value: Any) -> dict[str, Any]:
    import json

    return json.loads(dumps(value))
