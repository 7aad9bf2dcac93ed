"""What a sweep says, in words and as tables: the same in the terminal and in the report."""

import math
from collections.abc import Iterator
from typing import Any

from gapjax import growth
from gapjax.study._axes import as_axis
from gapjax.study._findings._intervals import Interval
from gapjax.study._report._numbers import NOTHING, bounds, plus_minus, short
from gapjax.study._report._table import Column, others
from gapjax.study._sweep._findings import SizePoint, SweepLine, SweepResult

BUDGETS = ("same examples", "same updates", "unlimited")
FEWER = 5  # times the critical batch, from which on less than 20% of the updates are left to save


def sweep_finding(result: SweepResult) -> str:
    """The sentences that answer the question.

    Args:
        result: the sweep's result.

    Returns:
        The sentences.
    """
    config = result.config
    seeds = config.sweep["seeds"]
    said = [
        f"How large may the batch be? To a {result.goal.text}, with {seeds} "
        f"seed{'s' * (seeds != 1)} and the best of {_tried(config.sweep)} at each size:"
    ]
    for i, line in enumerate(result.lines.values()):
        said.append(_line(line, alone=len(result.lines) == 1, first=i == 0))
        if edge := _at_edge(line):
            said.append(_sentence(f"{edge}."))
    for name, ratio in result.shifts.items():
        said.append(_shift(name, next(iter(result.lines)), ratio))
    return " ".join(said)


def _at_edge(line: SweepLine) -> str:
    """At which sizes another rate might do better; nothing where none."""
    sizes = ", ".join(f"{point.batch_size}" for point in line.points if point.at_edge)
    return sizes and (
        f"at batch {sizes} the best rate is at the edge of those tried, so fewer updates may do"
    )


def _line(line: SweepLine, *, alone: bool, first: bool) -> str:
    under = "" if alone else f"under {line.remedy}, " if line.remedy != "none" else "as it is, "
    fit = line.fit
    if fit is None:
        reached = len(line.reached)
        sizes = (
            "no size" if not reached else "only 1 size" if reached == 1 else f"only {reached} sizes"
        )
        return _sentence(f"{under}{sizes} reached it, and a fit needs 3.")
    if fit.critical_batch == 0:
        return _sentence(
            f"{under}larger batches save no updates: every size lies above the critical batch size."
        )
    if math.isinf(fit.critical_batch):
        return _sentence(
            f"{under}every doubling of the batch halves the updates up to {fit.batch_sizes[-1]:.0f}"
            ": the critical batch size lies beyond."
        )
    text = (
        f"{under}the critical batch size is {short(fit.critical_batch)} "
        f"{_ends(fit.critical_batch_interval)}"
    )
    if not first:
        return _sentence(text + ".")
    (low, high), most_parallel = fit.critical_batch_interval, FEWER * fit.critical_batch
    return _sentence(
        f"{text}, where updates and examples are both twice what is least. Up to "
        f"{short(fit.twenty_percent_batch)} {_ends(fit.twenty_percent_interval)} a larger batch "
        f"costs at most 20% more examples (than at {short(fit.reference_batch)}); from "
        f"{short(most_parallel)} {_ends((FEWER * low, FEWER * high))} on no larger one saves more "
        "than a sixth of the updates."
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _shift(name: str, first: str, ratio: Interval) -> str:
    if ratio.mean is None:
        return f"How {name} moves the critical batch size cannot be told."
    if ratio.low is None or ratio.high is None:
        return f"That of {name} is {short(ratio.mean)} times that of {first}, without an interval."
    verdict = "moves it up" if ratio.low > 1 else "moves it down" if ratio.high < 1 else None
    told = f"{bounds(ratio)} times that of {first}"
    if verdict is None:
        return f"That of {name} is {told}: no clear move."
    return f"{name} {verdict}: {told}."


def _ends(ends: tuple[float, float]) -> str:
    return f"[{', '.join(map(_batch, ends))}]"


def _batch(size: float) -> str:
    return "no bound" if math.isinf(size) else short(size)


def sweep_columns(result: SweepResult) -> list[Column]:
    """The columns of the table of sizes.

    Args:
        result: the sweep's result.

    Returns:
        The columns, as many as a row of :func:`sweep_rows` has cells.
    """
    unit = _unit(result)
    return [
        Column("remedy", numeric=False),
        Column("batch"),
        Column("best rate"),
        Column("reached"),
        Column("updates to target [95%]"),
        Column("examples to target [95%]"),
        Column("FLOPs"),
        Column("seconds"),
        Column(f"test {unit}, {BUDGETS[0]}"),
        *map(Column, BUDGETS[1:]),
    ]


def _unit(result: SweepResult) -> str:
    task = result.config.task
    return task.headline.replace("_", " ") + task.unit(task.headline)


def sweep_rows(result: SweepResult) -> Iterator[list[str]]:
    """A row for every size under every remedy.

    Args:
        result: the sweep's result.

    Returns:
        The cells of every row, in the order of :func:`sweep_columns`.
    """
    task = result.config.task
    scale = task.scale(task.headline)
    for line in result.lines.values():
        for point in line.points:
            trial = point.trial
            rate = NOTHING if trial is None else short(trial.learning_rate) + others(trial.hyper)
            count = 0 if trial is None else trial.reached
            yield [
                line.remedy,
                f"{point.batch_size}",
                rate + ("†" if point.at_edge else ""),
                f"{count}/{len(point.trials[0].steps)}",
                _told(point.steps),
                _told(point.examples),
                NOTHING if point.flops is None else _short(point.flops.mean),
                _short(point.seconds.mean),
                *(_budget(point, name, scale) for name in BUDGETS),
            ]


def _axes(sweep: dict[str, Any]) -> list[str]:
    """What is tuned beside the rate."""
    return [
        as_axis("tune_also", text).name.replace("_", " ") for text in sweep.get("tune_also", ())
    ]


def _tried(sweep: dict[str, Any]) -> str:
    if axes := _axes(sweep):
        return f"{sweep['rates']} settings of {', '.join(['learning rate', *axes])}"
    return f"{sweep['rates']} learning rate{'s' * (sweep['rates'] != 1)}"


def _grid(sweep: dict[str, Any]) -> str:
    """Where the settings lie."""
    count, factor = sweep["rates"], sweep["rate_factor"]
    if sweep.get("tune_also"):
        return (
            "at every size the rule of the square root is tried and the same "
            f"{count - 1} random draws about it: the rate within a factor of "
            f"{factor ** max(count // 2, 1):g}, {', '.join(sweep['tune_also'])}"
        )
    return f"rates lie by a factor of {factor:g} around the rule of the square root"


def _told(value: Interval) -> str:
    return NOTHING if value.mean is None else bounds(value)


def _short(value: float | None) -> str:
    return NOTHING if value is None else short(value)


def _budget(point: SizePoint, name: str, scale: float) -> str:
    budget = point.budgets.get(name)
    if budget is None:
        return NOTHING
    return plus_minus(budget.test, 2 if scale != 1 else 4, scale)


def fit_columns() -> list[Column]:
    """The columns of the table of fits.

    Returns:
        The columns, as many as a row of :func:`fit_rows` has cells.
    """
    return [
        Column("remedy", numeric=False),
        Column("critical batch [95%]"),
        Column("bootstrap [95%]"),
        Column("20% batch [95%]"),
        Column("least updates"),
        Column("least examples"),
        Column("noise scale"),
        Column("times the first [95%]"),
    ]


def fit_rows(result: SweepResult) -> Iterator[list[str]]:
    """A row for every curve that was fitted.

    Args:
        result: the sweep's result.

    Returns:
        The cells of every row, in the order of :func:`fit_columns`.
    """
    for name, line in result.lines.items():
        fit = line.fit
        if fit is None:
            continue
        noise = [point.noise_scale for point in line.points if point.noise_scale is not None]
        yield [
            name,
            f"{_batch(fit.critical_batch)} {_ends(fit.critical_batch_interval)}",
            _ends(fit.critical_batch_bootstrap),
            f"{_batch(fit.twenty_percent_batch)} {_ends(fit.twenty_percent_interval)}",
            short(fit.min_steps),
            short(fit.min_examples),
            NOTHING if not noise else f"{short(min(noise))} to {short(max(noise))}",
            _told(result.shifts[name]) if name in result.shifts else NOTHING,
        ]


def sweep_notes(result: SweepResult) -> list[str]:
    """What a reader of the tables must know.

    Args:
        result: the sweep's result.

    Returns:
        A sentence or two each.
    """
    config = result.config
    notes = [
        f"The target is a {result.goal.text}, first reached, between evaluations in a line. "
        f"{config.num_examples} examples to train on; {_grid(config.sweep)}, and rates are "
        "constant after any warm-up. The setting that counts is the best of the trials, so all "
        "figures are a little better than it would be on new seeds, by the same number of trials "
        "at every size.",
        f"The best test figure within budgets: as many examples ({config.examples}), as many "
        f"updates ({config.updates}), all that was trained ({config.most_updates} updates); none "
        "of a size that was not trained so long. Rate and time are chosen on the validation split; "
        "the figure is of the test set.",
        "Critical batch: where updates and examples are both twice what is least (McCandlish et "
        "al. 2018). 20% batch: where a larger batch costs 20% more examples than the largest size "
        "that still scaled perfectly (Zhang et al. 2024), interpolated between the sizes; on the "
        "curve itself, a fifth of the critical batch above 1.2 times that size.",
        "FLOPs: as compiled, of one network. Seconds: of one network, with all trained at once.",
    ]
    for name, line in result.lines.items():
        if line.fit is not None and line.fit.note:
            notes.append(f"{name}: {line.fit.note}.")
        if edge := _at_edge(line):
            notes.append(f"{name}: † {edge}; try more with --rates, or another --learning-rate.")
        part = [
            f"{p.batch_size} ({p.trial.reached} of {len(p.trial.steps)} seeds)"
            for p in line.points
            if p.trial is not None and p.trial.reached < len(p.trial.steps)
        ]
        if part:
            notes.append(
                f"{name}: at batch {', '.join(part)} some seeds never reached the target; the "
                "figures are of those that did, and too good."
            )
        if line.unknown:
            notes.append(
                f"{name}: batch {', '.join(map(str, line.unknown))} stopped at another target, "
                "before it was known what this one takes: left out. Run the sweep with this target "
                "and these sizes, and they are trained again."
            )
        never = [f"{point.batch_size}" for point in line.points if point.best is None]
        if never:
            notes.append(f"{name}: batch {', '.join(never)} never reached the target.")
    noise = any(p.noise_scale for line in result.lines.values() for p in line.points)
    if noise:
        notes.append(
            "Noise scale: tr(Sigma) / |G|^2 on the way to the target, the range over sizes; it has "
            "been found wrong by orders of magnitude on language models (Merrill et al. 2025)."
        )
    if config.sweep["rates"] == 1:
        notes.append("One rate at each size: at untuned rates the curve is no hyperbola.")
    return notes


def regimes_of(fit: growth.BatchFit) -> tuple[float, float]:
    """Where perfect scaling ends and where the most parallelism begins (Shallue et al. 2018)."""
    return fit.twenty_percent_batch, FEWER * fit.critical_batch
