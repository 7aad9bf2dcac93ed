"""What a study finds, as typed records: the one schema of its files, written and read."""

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from gapjax import _checks

FORMAT = 2  # of a study's files; 0.1 wrote none


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """A number of every seed; one that diverged is None and counts in neither mean nor deviation.

    Attributes:
        mean: over seeds, None where every one diverged.
        std: the sample's deviation (n - 1), 0 of a single seed.
        values: of every seed.
    """

    mean: float | None
    std: float | None
    values: list[float | None]

    @property
    def array(self) -> np.ndarray:
        """The values as float64, NaN where a seed diverged, ``[S]``."""
        return np.array(self.values, np.float64)

    @property
    def count(self) -> int:
        """How many seeds count."""
        return sum(value is not None for value in self.values)


def over_seeds(values: np.ndarray) -> OverSeeds:
    """The record of one number per seed, NaN or infinite where the seed diverged.

    Example:
        >>> over_seeds(np.array([1.0, 3.0, np.nan]))
        OverSeeds(mean=2.0, std=1.4142135623730951, values=[1.0, 3.0, None])
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    mean = float(finite.mean()) if finite.size else None
    std = float(finite.std(ddof=1)) if finite.size > 1 else (0.0 if finite.size else None)
    return OverSeeds(mean, std, [float(v) if math.isfinite(v) else None for v in values])


@dataclasses.dataclass(frozen=True)
class Diverged:
    """A seed whose loss or gradient was no longer finite.

    Attributes:
        seed: which.
        update: at which update it was found.
        where: ``"loss"``, the path of the first parameter whose gradient was not, or None where
            only the weights show it.
    """

    seed: int
    update: int
    where: str | None


@dataclasses.dataclass(frozen=True)
class Run:
    """What training all seeds of a regime at one learning rate gave.

    Attributes:
        learning_rate: before any decay.
        hyper: other hyperparameters that were tuned, by name.
        values: per name (``train_loss``, ``test_accuracy``, ``distance``) a number of every seed,
            after the last update.
        gap: of the headline metric, between training and test, of every seed: positive where
            training is better.
        diverged: the seeds that did not go through.
    """

    learning_rate: float
    hyper: dict[str, float]
    values: dict[str, OverSeeds]
    gap: OverSeeds
    diverged: list[Diverged]

    @property
    def lost(self) -> set[int]:
        """The seeds that diverged."""
        return {one.seed for one in self.diverged}


@dataclasses.dataclass(frozen=True)
class Trial:
    """Hyperparameters that were tried, and what they gave on the validation split.

    Attributes:
        learning_rate: before any decay.
        hyper: others by name.
        validation: the headline metric, over a few seeds.
    """

    learning_rate: float
    hyper: dict[str, float]
    validation: OverSeeds


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How the hyperparameters of a regime were chosen.

    Attributes:
        trials: what was tried, in order of the rate.
        best: which of them was.
        at_edge: whether it lies at the edge of what was tried; random draws have no edge.
        extended: how often the grid was extended there.
    """

    trials: list[Trial]
    best: int
    at_edge: bool
    extended: int = 0


@dataclasses.dataclass(frozen=True)
class Curves:
    """What was measured of every seed on the way.

    Attributes:
        update: the updates after which it was measured, ``[T]``.
        examples: how many examples had been seen, ``[T]``.
        seconds: of training until then, ``[T]``.
        values: by name, ``[T][S]``, None where not measured.
        flops: floating-point operations of one seed until then, ``[T]``, None where the compiler
            does not tell.
    """

    update: list[int]
    examples: list[int]
    seconds: list[float | None]
    values: dict[str, list[list[float | None]]]
    flops: list[float | None] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        columns: dict[str, list[Any]] = {
            "examples": self.examples,
            "seconds": self.seconds,
            **({"flops": self.flops} if self.flops else {}),
            **self.values,
        }
        for name, column in columns.items():
            if len(column) != len(self.update):
                raise ValueError(f"{name} has {len(column)} points, update {len(self.update)}")
        if not self.update:
            raise ValueError("update has no points")

    def array(self, name: str) -> np.ndarray:
        """A curve as float64, ``[T, S]``, NaN where not measured.

        Raises:
            ValueError: there is no such curve.
        """
        _checks.one_of("name", name, tuple(self.values))
        return np.array(self.values[name], np.float64).reshape(len(self.update), -1)

    def measured(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The rows in which something was measured: which they are, and the values."""
        values = self.array(name)
        rows = np.flatnonzero(np.isfinite(values).any(axis=1))
        return rows, values[rows]


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a controller said of the batch at a look.

    Attributes:
        update: updates made by then; the next one is the first of the new size.
        examples: seen by then.
        before: the batch size until then.
        after: the batch size from then on.
        reason: in the controller's words.
    """

    update: int
    examples: int
    before: int
    after: int
    reason: str

    @property
    def grows(self) -> bool:
        """Whether the batch grows here."""
        return self.after > self.before


@dataclasses.dataclass(frozen=True)
class RegimeRecord:
    """What is kept of a regime when it is done.

    Attributes:
        name: of the regime.
        remedies: the names of its remedies.
        batch_size: the largest.
        batch_sizes: ``[update, size]`` from which on a size holds.
        ghost_size: or None.
        updates: made by every seed.
        epochs: passes over the data.
        examples: seen by every seed.
        seconds: it took, all seeds, with compiling and measuring.
        budget: what was held fixed.
        boundaries: the updates at which the rate dropped or began to fall.
        seeds: which.
        run: at the learning rate that counts: the tuned one where rates were tuned, else the
            rule's.
        rule: at the rate of the rule, where another one was tuned.
        tuning: how it was tuned.
        curves: of ``run``.
        stopped: where the loss decided, the update at which each seed was done, None of one that
            never got there.
        rule_curves: those of ``rule``.
        rule_stopped: likewise.
        same_as: the regime that it is one with once both are tuned, for they differ only in the
            rule of their rate; its tuned run is that one's.
        study: the fingerprint of the study that it is a regime of.
        network: a hash of the networks at the end, all seeds.
        decisions: what the controller said at every look, where one drove the batch.
        sources: of remedies of the study's own, by name, where they name one.
        files: the checksum of all else that is kept of it, by its place in the study's folder: the
            results of every test example, the networks.
    """

    name: str
    remedies: list[str]
    batch_size: int
    batch_sizes: list[tuple[int, int]]
    ghost_size: int | None
    updates: int
    epochs: float
    examples: int
    seconds: float
    budget: str
    boundaries: list[int]
    seeds: list[int]
    run: Run
    rule: Run | None
    tuning: Tuning | None
    curves: Curves
    stopped: list[int | None] | None = None
    rule_curves: Curves | None = None
    rule_stopped: list[int | None] | None = None
    same_as: str | None = None
    study: str = ""
    network: str = ""
    decisions: list[Decision] = dataclasses.field(default_factory=list)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def at(self, which: str) -> "RegimeRecord":
        """What it is at one rate alone: ``"run"``, the one that counts, or ``"rule"``, its rule's.

        Where the loss decides, the two also end at updates of their own.
        """
        if which == "run" or self.rule is None:
            return self
        own = dataclasses.replace(
            self, run=self.rule, rule=None, tuning=None, rule_curves=None, rule_stopped=None
        )
        if self.rule_curves is None:  # kept by an older version, which kept the ends alone
            return own
        updates, examples = self.rule_curves.update[-1], self.rule_curves.examples[-1]
        return dataclasses.replace(
            own,
            curves=self.rule_curves,
            stopped=self.rule_stopped,
            updates=updates,
            examples=examples,
            epochs=self.epochs * examples / self.examples,
            batch_sizes=[(start, size) for start, size in self.batch_sizes if start < updates],
            boundaries=[boundary for boundary in self.boundaries if boundary < updates],
        )

    def __post_init__(self) -> None:
        if not self.seeds or not self.batch_sizes:
            raise ValueError("seeds and batch_sizes must not be empty")
        if "distance" not in self.curves.values:
            raise ValueError("curves: there is no distance")
        for what, stopped in (("stopped", self.stopped), ("rule_stopped", self.rule_stopped)):
            if stopped is not None and len(stopped) != len(self.seeds):
                raise ValueError(f"{what} has {len(stopped)} values for {len(self.seeds)} seeds")
        runs = [run for run in (self.run, self.rule) if run is not None]
        for name, found in [pair for run in runs for pair in run.values.items()]:
            if len(found.values) != len(self.seeds):
                raise ValueError(
                    f"{name} has {len(found.values)} values for {len(self.seeds)} seeds"
                )
        curves = [curves for curves in (self.curves, self.rule_curves) if curves is not None]
        for name, rows in [pair for one in curves for pair in one.values.items()]:
            if {*map(len, rows)} != {len(self.seeds)}:
                raise ValueError(f"{name} has rows of other lengths than {len(self.seeds)} seeds")
        if self.tuning is not None and not 0 <= self.tuning.best < len(self.tuning.trials):
            raise ValueError(f"tuning.best is {self.tuning.best}, which is none of its trials")

    @property
    def is_tuned(self) -> bool:
        """Whether its hyperparameters were tuned."""
        return self.tuning is not None


@dataclasses.dataclass(frozen=True)
class Convex:
    """The curves of distance of a convex network: a linear one, by all its examples at once.

    Attributes:
        examples: it was trained on, all of them in every update.
        learning_rate: constant.
        momentum: of gradient descent.
        update: the updates after which it was measured, ``[T]``.
        distance: from the start, ``[T][S]``, None where it diverged.
    """

    examples: int
    learning_rate: float
    momentum: float
    update: list[int]
    distance: list[list[float | None]]

    def __post_init__(self) -> None:
        if len(self.distance) != len(self.update) or len({*map(len, self.distance)}) > 1:
            raise ValueError(f"distance has other points than the {len(self.update)} of update")


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What a reader of results has to know of a task.

    Attributes:
        name: of the task.
        headline: the metric that decides.
        maximize: whether more of it is better.
        measures: the loss, and the metrics.
        percent: those that are fractions, shown in per cent.
        weighted: whether examples count differently.
    """

    name: str
    headline: str
    maximize: bool
    measures: list[str]
    percent: list[str]
    weighted: bool

    def __post_init__(self) -> None:
        if self.headline not in self.measures:
            raise ValueError(f"headline is {self.headline!r}, which is none of its measures")

    def scale(self, measure: str) -> float:
        """What a measure is multiplied by where it is shown."""
        return 100.0 if measure in self.percent else 1.0

    def unit(self, measure: str) -> str:
        """What follows a measure's name."""
        return " %" if measure in self.percent else ""


def task_facts(task: Any) -> TaskFacts:
    """The facts of a ``Task``."""
    return TaskFacts(
        name=task.name,
        headline=task.headline,
        maximize=task.maximize,
        measures=list(task.measures),
        percent=list(task.percent),
        weighted=task.weight is not None,
    )


class _Named(typing.TypedDict):
    name: str


class _Dataset(_Named):
    normalize: str | None


class StudyFields(typing.TypedDict):
    """What is read of the fields of a study again."""

    dataset: _Dataset
    model: str
    regimes: list[_Named]
    baseline: tuple[str, str]
    validation: float
    optimizer: str
    momentum: typing.NotRequired[float | None]
    b1: typing.NotRequired[float | None]


@dataclasses.dataclass(frozen=True)
class Config:
    """What a study is, and how it was run.

    Attributes:
        study: its fields, as JSON; a folder belongs to one.
        task: what its numbers mean.
        environment: command, versions, device.
    """

    study: dict[str, Any]
    task: TaskFacts
    environment: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """A hash of the study, which all that it keeps carries."""
        return hash_of(self.study)

    @property
    def regimes(self) -> list[str]:
        """The names of the regimes."""
        return [regime["name"] for regime in self.study["regimes"]]

    @property
    def baseline(self) -> tuple[str, str]:
        """The two regimes between which the gap lies."""
        small, large = self.study["baseline"]
        return small, large


def hash_of(described: Any) -> str:
    """A hash of a description, JSON."""
    plain = json.dumps(to_plain(described), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def to_plain(value: Any) -> Any:
    """A record as what JSON holds; numbers that are not finite become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


R = typing.TypeVar("R")


def from_plain(value: Any, kind: type[R], place: str = "") -> R:
    """A record from what JSON held.

    Args:
        value: what was read.
        kind: the record.
        place: of the value in what it is a part of, for messages.

    Raises:
        ValueError: a key that is missing or a value of another type, naming the field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, inside = str(error).partition(" - at ")
        where = inside.strip("`").replace("$", place, 1).lstrip(".") or place or "its top level"
        raise ValueError(f"{where}: {text[0].lower()}{text[1:]}") from None


def dumps(value: Any) -> str:
    """JSON as it is written."""
    return json.dumps(to_plain(value), indent=1, allow_nan=False) + "\n"
