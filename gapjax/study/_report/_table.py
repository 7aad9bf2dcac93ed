"""The table of a study, the same rows in the terminal, in the report and as plain text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gapjax.study._findings._gap import GapFindings
from gapjax.study._findings._result import StudyResult
from gapjax.study._optimizers import HYPERPARAMETERS, OPTIMIZERS, in_words
from gapjax.study._remedies import REMEDIES
from gapjax.study._report._numbers import NOTHING, count_of, plus_minus, share, short, spread
from gapjax.study._results._records import Diverged, RegimeRecord, Run, TaskFacts


class Column(NamedTuple):
    """A column: its heading, and whether its cells are numbers (set to the right)."""

    title: str
    numeric: bool = True


NOT_WORSE, NO_GAP, TOO_FEW = "no gap", "no clear gap", "too few seeds"

SMALL = 1e-4  # below, a number is told as 1.03e-05

BUDGETS = {
    "same epochs": "as many examples seen, so a larger batch makes fewer updates",
    "same updates": "as many updates, so a larger batch sees more examples",
    "most examples": "as many as the regime that sees most",
}


def columns(result: StudyResult) -> list[Column]:
    """The columns of the table: what matters most first.

    Args:
        result: the study's result.

    Returns:
        The columns, as many as a row of :func:`rows` has cells.
    """
    task = result.config.task
    headline = task.headline
    rest = [
        Column(f"{split} {_title(task, measure)}")
        for measure in task.measures
        if measure != headline
        for split in ("train", "test")
    ]
    return [
        Column("regime", numeric=False),
        Column(f"test {_title(task, headline)}"),
        Column("gap closed % [95%]"),
        Column("held fixed", numeric=False),
        Column("batch"),
        Column("updates"),
        Column("examples"),
        Column("seconds"),
        Column("FLOPs"),
        Column("rate"),
        Column(f"train {_title(task, headline)}"),
        Column("gap"),
        *rest,
        Column("distance"),
    ]


def rows(result: StudyResult, which: str = "run") -> list[list[str]]:
    """A row of text per regime.

    Args:
        result: the study's result.
        which: ``"run"``, or ``"rule"`` for the rates of the rules where others were tuned.

    Returns:
        The cells of every row, in the order of :func:`columns`.
    """
    task = result.config.task
    headline = task.headline
    shares = closed(result, which)
    table = []
    for name, kept in result.regimes.items():
        record = kept.at(which)
        run = record.run
        ghost = f" / {record.ghost_size}" if record.ghost_size else ""
        rest = [
            measured(task, run, split, measure)
            for measure in task.measures
            if measure != headline
            for split in ("train", "test")
        ]
        table.append(
            [
                name + ("*" if run.diverged else ""),
                measured(task, run, "test", headline),
                shares.get(name, ""),
                record.budget.removeprefix("same ") + _unmet(record),
                batch(record) + ghost,
                count_of(record.updates),
                count_of(record.examples),
                cost(record.curves.seconds),
                cost(record.curves.flops),
                setting(run) + _edge(record),
                measured(task, run, "train", headline),
                plus_minus(
                    run.gap,
                    digits(task, headline, run.values[f"test_{headline}"].mean),
                    task.scale(headline),
                ),
                *rest,
                plus_minus(run.values["distance"], 2),
            ]
        )
    return table


def batch(record: RegimeRecord) -> str:
    """The batch size, of one that grows each that it has."""
    return "→".join(dict.fromkeys(str(size) for _, size in record.batch_sizes))


def setting(run: Run) -> str:
    """The rate of a run, and what else was tuned."""
    others = [f"{name} {short(value)}" for name, value in run.hyper.items()]
    return ", ".join([f"{run.learning_rate:.3g}", *others])


def others(hyper: dict[str, float]) -> str:
    """What else was tuned, behind a rate."""
    if not hyper:
        return ""
    return f" ({', '.join(f'{name} {value:.3g}' for name, value in hyper.items())})"


def unmet(record: RegimeRecord) -> int:
    """How many seeds never got to where the loss would have stopped them."""
    if record.stopped is None:
        return 0
    lost = record.run.lost
    pairs = zip(record.seeds, record.stopped, strict=True)
    return sum(stop is None and seed not in lost for seed, stop in pairs)


def _unmet(record: RegimeRecord) -> str:
    count = unmet(record)
    return f" (never in {count} of {len(record.seeds)})" if count else ""


def cost(spent: Sequence[float | None]) -> str:
    """What was spent at the end of a curve, in three digits."""
    last = spent[-1] if spent else None
    return NOTHING if last is None else short(last)


def _edge(record: RegimeRecord) -> str:
    return "†" if record.tuning is not None and record.tuning.at_edge else ""


def gap_of(result: StudyResult, which: str = "run") -> GapFindings:
    """The findings at the rates that count, or at the rules'."""
    return result.rule_gap if which == "rule" and result.rule_gap is not None else result.gap


def _title(task: TaskFacts, measure: str) -> str:
    return measure.replace("accuracy", "acc").replace("_", " ") + task.unit(measure)


def digits(task: TaskFacts, measure: str, size: float | None = None) -> int:
    """How many digits behind the point a measure is shown with: three that count, of small ones.

    Args:
        task: of the study.
        measure: which.
        size: what is shown, or what it is to be seen beside.
    """
    if measure in task.percent:
        return 2
    if not size or not math.isfinite(size):
        return 3
    return min(max(3, 2 - math.floor(math.log10(abs(size)))), 12)


def measured(task: TaskFacts, run: Run, split: str, measure: str) -> str:
    """A measure over seeds, as a table shows it."""
    value = run.values[f"{split}_{measure}"]
    if value.mean and abs(value.mean) < SMALL and measure not in task.percent:
        return spread(value)
    return plus_minus(value, digits(task, measure, value.mean), task.scale(measure))


def closed(result: StudyResult, which: str = "run") -> dict[str, str]:
    """Remedy -> the share of the gap it closes, in per cent, or why there is none to tell."""
    found = gap_of(result, which)
    if found.gap is None:
        return {}
    maximize = result.config.task.maximize
    if found.is_clear(maximize) or not found.gap.is_bounded:
        why = TOO_FEW
    else:
        why = NOT_WORSE if found.is_clear(not maximize) else NO_GAP
    told = {name: share(value) if value.is_bounded else why for name, value in found.shares.items()}
    twins = {
        name: f"as {record.same_as}"
        for name, record in result.regimes.items()
        if which == "run" and record.same_as is not None and name not in told
    }
    return {**told, **{k: v for k, v in twins.items() if k not in result.config.baseline}}


def notes(result: StudyResult) -> list[str]:
    """What a reader of the table must know.

    Args:
        result: the study's result.

    Returns:
        A sentence or two each.
    """
    config = result.config
    small, large = config.baseline
    alone = max(len(record.seeds) for record in result.regimes.values()) == 1
    over = (
        "One seed: nothing has an error bar." if alone else "Mean ± standard deviation over seeds."
    )
    points = ", in points" if config.task.headline in config.task.percent else ""
    lines = [
        f"{over} gap: train against test {config.task.headline.replace('_', ' ')}{points}. "
        "distance: ‖w − w₀‖ over all parameters. batch: examples per update / ghost size.",
    ]
    budgets = dict.fromkeys(record.budget for record in result.regimes.values())
    fixed = [
        f"{name.removeprefix('same ')} ({BUDGETS[name]})" for name in budgets if name in BUDGETS
    ]
    if fixed:
        lines.append(f"held fixed against the small batch: {'; '.join(fixed)}.")
    lines.append(
        "seconds: of training, all seeds of a regime at once, compiling and measuring left out"
        f"{'' if result.rule_gap is None else '; of those at another rate beside them, a share'}. "
        "FLOPs: floating-point operations of one seed, by the compiled program of its update."
    )
    cells = {
        text
        for which in ("run", "rule")
        if which == "run" or result.rule_gap is not None
        for text in closed(result, which).values()
    }
    if cells:
        told = (
            f"gap closed: (m − m_{large}) / (m_{small} − m_{large}), with a 95% interval over "
            "seeds and test examples (Fieller)."
        )
        why = {
            NOT_WORSE: f"{large} ends better than {small}: there is no gap to close.",
            NO_GAP: f"{small} and {large} do not differ significantly (Student's t), and a share "
            "of nothing means nothing.",
            TOO_FEW: "an interval takes two seeds that went through in both and in the regime.",
        }
        lines.insert(1, " ".join([told, *(f"{k}: {v}" for k, v in why.items() if k in cells)]))
    lines += [_stops(record) for record in result.regimes.values() if record.stopped is not None]
    lines += [
        _driven(record, config.study) for record in result.regimes.values() if record.decisions
    ]
    averaged = [
        name
        for name, record in result.regimes.items()
        if any(REMEDIES[own].weights for own in record.remedies if own in REMEDIES)
    ]
    if averaged:
        lines.append(
            f"{', '.join(averaged)}: evaluated at other weights than the last, with statistics of "
            "batch norms taken anew there. After few updates that alone can help, since running "
            "statistics lag behind the weights."
        )
    for name, record in result.regimes.items():
        if record.same_as is not None:
            lines.append(
                f"{name} and {record.same_as} differ only in the rule of their rate: tuned, over "
                "the union of their grids, they are one."
            )
    normalize = config.study["dataset"]["normalize"]
    lines.append(
        f"Inputs: normalized per {normalize}, over the whole training split."
        if normalize
        else "Inputs: as they are, not normalized."
    )
    asked = config.study
    if asked.get("optimizer") in OPTIMIZERS:  # of a function nothing is known
        given = {name: asked[name] for name in HYPERPARAMETERS if asked[name] is not None}
        named = in_words(asked["optimizer"], given, asked["clip_norm"])
        lines.append(f"Optimizer, where a regime or its rate says nothing else: {named}.")
    if "start" in config.study:
        lines.append(
            "The network was built beforehand, and its weights are the start of every seed: seeds "
            "differ only in the order of the examples (and in noise and dropout, where there are "
            "any), not in the start."
        )
    if result.is_tuned:
        lines.append(
            f"rate: tuned; the best of what was tried, judged by the {config.task.headline} on a "
            f"validation split ({round(100 * config.study['validation'])}% of the training set). "
            "The test set chose nothing."
        )
    if any("†" in cell for row in rows(result) for cell in row):
        lines.append(
            "† the best rate lies at the edge of what was tried, also of a grid that was extended "
            "there: a wider search might find a better one."
        )
    for name, record in result.regimes.items():
        for which in ("run", "rule"):
            run = record.run if which == "run" else record.rule
            if run is not None and run.diverged:
                where = ", ".join(map(_fault, run.diverged))
                rate = f" at rate {run.learning_rate:.3g}" if record.rule is not None else ""
                lines.append(
                    f"* {name}{rate}: loss or gradient was no longer finite in {where}; these "
                    "seeds count in no mean."
                )
    return lines


def _stops(record: RegimeRecord) -> str:
    """When the loss stopped the seeds of a regime."""
    there = [update for update in record.stopped or [] if update is not None]
    text = f"{record.name}, {record.budget}: "
    if there:
        few, most = count_of(min(there)), count_of(max(there))
        when = f"at update {few}" if few == most else f"at updates {few} to {most}"
        text += f"{len(there)} of {len(record.seeds)} seeds stopped {when}"
    if unmet(record):
        text += "; " if there else ""
        text += (
            f"{unmet(record)} never got there within the maximum of {count_of(record.updates)} "
            "updates, and are shown as they were then"
        )
    return f"{text}."


def _driven(record: RegimeRecord, study: Mapping[str, Any]) -> str:
    """What drove the batch of a regime, where it grew, and why."""
    named = study.get("controller") or ""
    what = "a controller of its own" if "[" in named else f"controller {named}"
    grown = [
        f"to {one.after} at update {count_of(one.update)} ({count_of(one.examples)} examples): "
        f"{one.reason}"
        for one in record.decisions
        if one.grows
    ]
    last = f"It never did; at the last look: {record.decisions[-1].reason}"
    told = f"It grew {'; '.join(grown)}" if grown else last
    return (
        f"{record.name}: {what} was asked at {len(record.decisions)} looks whether the batch is to "
        f"grow, one for all seeds. {told}. The updates that this makes were not known ahead."
    )


def _fault(one: Diverged) -> str:
    """Where and when a seed diverged, in words."""
    where = one.where or "weights"  # damage of the last update shows in them alone
    what = where if where in ("loss", "weights") else f"gradient of {where}"
    return f"seed {one.seed} at update {one.update} ({what})"
