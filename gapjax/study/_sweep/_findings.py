"""What a sweep found: updates and examples to the target by size, critical batch sizes, budgets."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from gapjax import growth
from gapjax._paths import local_path
from gapjax.study._findings._intervals import Interval, geometric_ratio, jackknife
from gapjax.study._results._records import OverSeeds, over_seeds
from gapjax.study._sweep._goal import Goal, make_goal, reached
from gapjax.study._sweep._records import SizeRecord, SweepConfig, read_config, read_records

_FEWEST = 3  # sizes to fit


@dataclasses.dataclass(frozen=True)
class Budget:
    """The best that a size reached within a budget, over rates and over time.

    Rate and time are chosen by the headline metric on the validation split.

    Attributes:
        updates: of the budget.
        examples: of the budget.
        learning_rate: the best.
        hyper: what else was tuned, as it was best.
        update: after how many updates.
        validation: the headline metric there.
        test: the headline metric on the test set.
    """

    updates: int
    examples: int
    learning_rate: float
    hyper: dict[str, float]
    update: int
    validation: OverSeeds
    test: OverSeeds


@dataclasses.dataclass(frozen=True)
class Trial:
    """A learning rate that was tried, with what was tuned beside it.

    Attributes:
        learning_rate: of it.
        hyper: what else was tuned, by name.
        steps: the updates to the target of every seed, None where one never reached it.
        mean: their geometric mean, of the seeds that did.
    """

    learning_rate: float
    hyper: dict[str, float]
    steps: list[float | None]
    mean: float | None

    @property
    def reached(self) -> int:
        """How many seeds reached the target."""
        return sum(step is not None for step in self.steps)


@dataclasses.dataclass(frozen=True)
class SizePoint:
    """What a batch size took to the target, at its best rate; intervals are over seeds.

    Attributes:
        batch_size: examples per update.
        trials: what was tried, by rate.
        best: which of them reached the target in the fewest updates; None where none did.
        at_edge: whether the best is the smallest or the largest that was tried; random draws have
            no edge.
        steps: updates to the target, the geometric mean over seeds.
        examples: examples to the target.
        flops: floating-point operations to the target, as compiled; None where unknown.
        seconds: of one member, with all members trained at once on the devices there were.
        budgets: the best metric by budget; those that were not trained to their end are left out.
        noise_scale: the gradient noise scale on the way to the target; None where not measured.
    """

    batch_size: int
    trials: list[Trial]
    best: int | None
    at_edge: bool
    steps: Interval
    examples: Interval
    flops: Interval | None
    seconds: Interval
    budgets: dict[str, Budget]
    noise_scale: float | None

    @property
    def trial(self) -> Trial | None:
        """The best of the trials."""
        return None if self.best is None else self.trials[self.best]

    @property
    def learning_rate(self) -> float | None:
        """The best rate."""
        return None if self.trial is None else self.trial.learning_rate


@dataclasses.dataclass(frozen=True)
class SweepLine:
    """A curve of updates against batch size.

    Attributes:
        remedy: its name.
        points: by size.
        fit: the hyperbola; None where fewer than 3 sizes reached the target.
        unknown: sizes that are left out: they stopped at another target, before it was known what
            this one takes.
    """

    remedy: str
    points: list[SizePoint]
    fit: growth.BatchFit | None
    unknown: tuple[int, ...] = ()

    @property
    def reached(self) -> list[SizePoint]:
        """The sizes that reached the target, in at least one seed."""
        return [point for point in self.points if point.best is not None]


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        config: what the sweep is, what its numbers mean, how it was run.
        goal: the target.
        lines: a curve for each remedy, by name.
        shifts: by remedy, how many times the critical batch size of the first curve its own is,
            paired by seed.
    """

    config: SweepConfig
    goal: Goal
    lines: dict[str, SweepLine]
    shifts: dict[str, Interval]

    def check_reached(self) -> None:
        """Refuse a target that no size reached.

        Raises:
            ValueError: no size did, with the best that was reached.
        """
        if any(line.reached for line in self.lines.values()):
            return
        if any(line.unknown for line in self.lines.values()):
            raise ValueError(
                f"the sizes here stopped at another target, before it was known what a "
                f"{self.goal.text} takes: run the sweep with it, and they are trained again."
            )
        task, best = self.config.task, None
        for line in self.lines.values():
            for point in line.points:
                for budget in point.budgets.values():
                    value = budget.validation.mean
                    if value is None:
                        continue
                    cost = float(self.goal.cost(value))
                    if best is None or cost < best[0]:
                        best = cost, point.batch_size
        known = ""
        if best is not None and self.goal.curve == f"validation_{task.headline}":
            known = f"; the best was {self.goal.shown(best[0]):.4g}, at batch {best[1]}"
        raise ValueError(
            f"no size reached the target, a {self.goal.text}, within {self.config.most_updates} "
            f"updates{known}. Give an easier --target (what was trained is kept), or train longer "
            "with --epochs or --limit in another folder."
        )


def find_all(config: SweepConfig, folder: pathlib.Path, goal: Goal) -> SweepResult:
    """The result of all that lies in the folder of a sweep."""
    return find(config, read_records(folder), goal)


def load_sweep(folder: str | os.PathLike[str], *, target: float | None = None) -> SweepResult:
    """The result of a sweep, read from its folder; of one under way, the sizes that are done.

    Args:
        folder: of the sweep.
        target: another target than the one that it was last asked for. Nothing is trained.

    Returns:
        The ``SweepResult``.

    Raises:
        ValueError: no sweep is there, or a file is not as it was written.
    """
    folder = local_path("folder", folder)
    config = read_config(folder)
    if target is None:
        target = read_target(folder)
    return find_all(config, folder, make_goal(config.task, target, config.sweep["watch"]))


def read_target(folder: pathlib.Path) -> float:
    """The target that a sweep was last asked for."""
    import json

    path = folder / "results.json"
    try:
        return float(json.loads(path.read_text("utf-8"))["target"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} does not tell the target of the sweep: run the sweep again, which trains "
            "nothing anew."
        ) from None


def find(config: SweepConfig, records: Sequence[SizeRecord], goal: Goal) -> SweepResult:
    """The result of what was measured."""
    lines = {}
    for remedy in dict.fromkeys(record.remedy for record in sorted(records, key=_order)):
        own = sorted((r for r in records if r.remedy == remedy), key=lambda r: r.batch_size)
        known = [record for record in own if record.answers(goal, config.most_updates)]
        points = [find_point(config, record, goal) for record in known]
        unknown = tuple(record.batch_size for record in own if record not in known)
        lines[remedy] = SweepLine(remedy, points, fit_line(points), unknown)
    first = next(iter(lines.values()), None)
    shifts = {
        name: shift(line, first)
        for name, line in lines.items()
        if first is not None and line is not first
    }
    return SweepResult(config, goal, lines, shifts)


def _order(record: SizeRecord) -> tuple[int, str]:
    """No remedy first, then by name."""
    return len(record.parts), record.remedy


def find_point(config: SweepConfig, record: SizeRecord, goal: Goal) -> SizePoint:
    """What a batch size took to the target."""
    curves = record.curves
    update = np.array(curves.update, np.float64)
    shape = len(record.rates), len(record.seeds)
    cost = goal.cost(curves.array(goal.curve))
    goal.check_not_met(cost[0])
    steps = reached(update, cost, goal.value).reshape(shape)
    trials = []
    for (rate, hyper), row in zip(record.trials, steps, strict=True):
        there = row[np.isfinite(row)]
        mean = float(np.exp(np.log(there).mean())) if there.size else None
        seen = [x if math.isfinite(x) else None for x in row.tolist()]
        trials.append(Trial(rate, hyper, seen, mean))
    ranked = sorted(
        (-trial.reached, trial.mean, at)
        for at, trial in enumerate(trials)
        if trial.mean is not None
    )
    best = ranked[0][2] if ranked else None
    own = steps[best] if best is not None else np.full(shape[1], np.inf)
    finite = np.where(np.isfinite(own), own, np.nan)
    size = record.batch_size
    took = (curves.seconds[-1] or 0.0) / curves.update[-1] / steps.size

    def times(factor: float) -> Interval:
        # That an amount is 1 is no question: it depends on the unit.
        found = geometric_ratio(factor * finite, np.ones_like(finite))
        return dataclasses.replace(found, p_value=None)

    return SizePoint(
        batch_size=size,
        trials=trials,
        best=best,
        at_edge=not trials[0].hyper and len(trials) > 1 and best in (0, len(trials) - 1),
        steps=times(1.0),
        examples=times(float(size)),
        flops=None if record.flops is None else times(record.flops),
        seconds=times(took),
        budgets=_budgets(config, record),
        noise_scale=None if best is None else _noise_scale(record, best, finite),
    )


def _budgets(config: SweepConfig, record: SizeRecord) -> dict[str, Budget]:
    size = record.batch_size
    ends = {
        "same examples": max(1, round(config.examples / size)),
        "same updates": config.updates,
        "unlimited": config.most_updates,
    }
    found = {name: _best(config, record, end) for name, end in ends.items()}
    return {name: budget for name, budget in found.items() if budget is not None}


def _best(config: SweepConfig, record: SizeRecord, end: int) -> Budget | None:
    """The best that was reached in so many updates; None where it was not trained so far."""
    curves, headline = record.curves, config.task.headline
    update = np.array(curves.update)
    if update[-1] < end:
        return None
    shape = len(update), len(record.rates), len(record.seeds)
    validation, test, loss = (
        curves.array(name).reshape(shape)
        for name in (f"validation_{headline}", f"test_{headline}", "validation_loss")
    )
    # A network that diverged may have an accuracy, but no loss.
    sound = np.isfinite(validation) & np.isfinite(test) & np.isfinite(loss)
    usable = sound.all(axis=2) & (update <= end)[:, None] & (update > 0)[:, None]
    if not usable.any():
        return None
    sign = 1.0 if config.task.maximize else -1.0
    score = np.where(usable, sign * np.where(sound, validation, 0.0).mean(axis=2), -np.inf)
    t, r = np.unravel_index(int(score.argmax()), score.shape)
    return Budget(
        updates=end,
        examples=end * record.batch_size,
        learning_rate=record.trials[r][0],
        hyper=record.trials[r][1],
        update=int(update[t]),
        validation=over_seeds(validation[t, r]),
        test=over_seeds(test[t, r]),
    )


def _noise_scale(record: SizeRecord, best: int, steps: np.ndarray) -> float | None:
    """tr(Sigma) / |G|^2 on the way to the target, each the mean over seeds and evaluations."""
    if "gradient_noise" not in record.curves.values:
        return None
    shape = len(record.curves.update), len(record.rates), len(record.seeds)
    noise, norm = (
        record.curves.array(name).reshape(shape)[:, best]
        for name in ("gradient_noise", "gradient_norm")
    )
    before = np.array(record.curves.update)[:, None] <= steps  # NaN: never there
    trace, square = (float(np.nanmean(np.where(before, x, np.nan))) for x in (noise, norm))
    return trace / square if square > 0 else None


def steps_of(points: Sequence[SizePoint]) -> np.ndarray:
    """The updates to the target of every seed at its size's best rate, infinite: never; [K, S]."""
    rows = [[math.inf if x is None else x for x in p.trial.steps] for p in points if p.trial]
    return np.array(rows, np.float64)


def fit_line(points: Sequence[SizePoint]) -> growth.BatchFit | None:
    """The hyperbola through the sizes that reached the target; None of fewer than 3."""
    there = [point for point in points if point.best is not None]
    if len(there) < _FEWEST:
        return None
    return growth.fit_critical_batch([point.batch_size for point in there], steps_of(there))


def shift(line: SweepLine, first: SweepLine) -> Interval:
    """How many times the critical batch size of one curve that of another is, paired by seed."""
    common = {p.batch_size for p in line.reached} & {p.batch_size for p in first.reached}
    if len(common) < _FEWEST:
        return Interval(None)
    sizes = sorted(common)
    tables = [steps_of([p for p in one.reached if p.batch_size in common]) for one in (line, first)]
    if any(table.shape != tables[0].shape for table in tables):
        return Interval(None)

    def log_ratio(own: np.ndarray, other: np.ndarray) -> float:
        found = []
        for table in (own, other):
            try:
                fit = growth.fit_critical_batch(sizes, table, num_resamples=1)
            except ValueError:  # without this seed too few sizes reached the target
                return math.nan
            found.append(fit.critical_batch)
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.log(found[0]) - np.log(found[1]))

    found = jackknife(log_ratio, *tables)
    if found.mean is None or not math.isfinite(found.mean):
        return Interval(None)
    ends = [
        None if x is None or not math.isfinite(x) else math.exp(x) for x in (found.low, found.high)
    ]
    return Interval(math.exp(found.mean), *ends)
