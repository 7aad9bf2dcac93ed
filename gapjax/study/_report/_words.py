"""What a study found, in sentences."""

import dataclasses
from collections.abc import Callable, Iterable

from gapjax.study._controls import MORE
from gapjax.study._findings._gap import GapFindings
from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._numbers import count_of, interval, share
from gapjax.study._report._table import batch, digits, gap_of, unmet
from gapjax.study._results._records import RegimeRecord


def finding(result: StudyResult, which: str = "run") -> str:
    """What the study found, in a few sentences: the gap, and which remedies close what of it.

    Where there is no gap to close, what each adds to the large batch.

    Args:
        result: the study's result.
        which: ``"run"``, or ``"rule"`` for the rates of the rules where others were tuned.

    Returns:
        The sentences.
    """
    config, found = result.config, gap_of(result, which)
    at_rate = {name: record.at(which) for name, record in result.regimes.items()}
    result = dataclasses.replace(result, regimes=at_rate)
    small, large = result.ends
    names = config.baseline
    if small is None or large is None:
        missing = " and ".join(n for n, r in zip(names, result.ends, strict=True) if r is None)
        return f"{missing} was not trained, so there is no gap between {' and '.join(names)}."
    alive = [_alive(record) for record in (small, large)]
    if found.gap is None or found.gap.mean is None:
        lost = [name for name, own in zip(names, alive, strict=True) if not own]
        why = f"{' and '.join(lost)} diverged in every seed"
        if not lost:
            why = f"No seed went through in both {' and '.join(names)}"
        return f"{why}: there is no gap to speak of."
    seeds = _seeds(small, alive[0] & alive[1])
    task = config.task
    percent = task.headline in task.percent
    places = digits(task, task.headline, found.gap.mean)
    amount = f"{task.scale(task.headline) * abs(found.gap.mean):.{places}f}"
    verb = "falls" if found.gap.mean > 0 else "rises"
    what = task.headline.replace("_", " ")
    text = (
        f"From {_end(small, large)} to {_end(large, small)}{_shared(small, large)} "
        f"({_budgets(small, large)}), test {what} "
        f"{verb if float(amount) else 'changes'} by {amount}"
        f"{' points' if percent else ''} "
    )
    unmet = _unmet(result)
    if found.gap.low is None or found.gap.high is None:
        return " ".join([f"{text}({seeds}: no confidence interval).", *unmet])
    scale = task.scale(task.headline)
    low, high = sorted(abs(scale * end) for end in (found.gap.low, found.gap.high))
    clear, controlled = found.is_clear(task.maximize), _controlled(result, found)
    if not clear:
        why = "That is not statistically significant."
        if found.is_clear(not task.maximize):
            why = f"There is no gap to close: {names[1]} ends better than {names[0]}."
        ends = sorted((-scale * found.gap.low, -scale * found.gap.high))
        text += (
            f"(95% interval of the change {ends[0]:+.{places}f} to {ends[1]:+.{places}f}, over "
            f"{seeds} and the test examples). {why}"
        )
        return " ".join([text, *unmet, *_added(result, found), *controlled])
    text += (
        f"(95% interval {low:.{places}f} to {high:.{places}f}, over {seeds} and the test examples)."
    )
    return " ".join([text, *unmet, *_closed(result, found, small), *controlled])


def _unmet(result: StudyResult) -> list[str]:
    """Which regimes did not get to where the loss would have stopped them."""
    never = [name for name, record in result.regimes.items() if unmet(record)]
    if not never:
        return []
    return [f"Some seeds never got there within the stated maximum: {', '.join(never)}."]


def _closed(result: StudyResult, found: GapFindings, small: RegimeRecord) -> list[str]:
    """What share of the gap the remedies close, and for which that is not significant."""
    told = {
        name: value
        for name, value in found.shares.items()
        if value.is_bounded and name != found.control
    }
    if not told:
        return []
    parts = [
        f"{name} {share(value)}%{_cost(result.regimes[name], small)}"
        for name, value in sorted(told.items(), key=lambda item: -(item[1].mean or 0))
    ]
    rates = _rates(result, found)
    closed = f"Share of it closed, at {rates}, with 95% intervals: {'; '.join(parts)}."
    return [closed, *_open(result, found, told)]


def _added(result: StudyResult, found: GapFindings) -> list[str]:
    """What the remedies add to the large batch, and for which that is not significant."""
    task, (small, large) = result.config.task, result.config.baseline
    told = {
        one.regime: one.difference
        for one in found.comparisons
        if one.baseline == large
        and one.regime not in (small, found.control)
        and one.difference.is_bounded
    }
    if not told:
        return []
    sign = 1 if task.maximize else -1
    points = _points(result, found)
    parts = [
        f"{name} {points(value)}{_cost(result.regimes[name], result.regimes[large])}"
        for name, value in sorted(told.items(), key=lambda item: -sign * (item[1].mean or 0))
    ]
    rates = _rates(result, found)
    added = f"Beside {large}, at {rates}, with 95% intervals: {'; '.join(parts)}."
    return [added, *_open(result, found, told)]


def _open(result: StudyResult, found: GapFindings, names: Iterable[str]) -> list[str]:
    """Which regimes do not differ significantly from the large batch."""
    large = result.config.baseline[1]
    beside = {name: found.beside(name, large) for name in names}
    left = [name for name, one in beside.items() if one is None or not one.resolved]
    if not left:
        return []
    counted = f"Not significantly different from {large}, all comparisons counted"
    return [f"{counted}: {', '.join(left)}."]


def _rates(result: StudyResult, found: GapFindings) -> str:
    tuned = result.is_tuned and found is result.gap
    return "tuned rates" if tuned else "the rates of the rules"


def _points(result: StudyResult, found: GapFindings) -> Callable[..., str]:
    """How a difference of the headline metric is told, in as many digits as the gap."""
    task, name = result.config.task, result.config.task.headline
    places = digits(task, name, found.gap.mean if found.gap else None)
    unit = " points" if name in task.percent else ""
    return lambda value, sign=1: f"{_signed(value, places, sign * task.scale(name))}{unit}"


def _controlled(result: StudyResult, found: GapFindings) -> list[str]:
    """The regimes that saw more beside a small batch that saw as much."""
    control = found.control
    if control is None:
        return []
    points = _points(result, found)
    seen = result.regimes[control].examples
    beside = []
    for one in found.comparisons:
        if one.baseline != control or one.difference.mean is None:
            continue
        less = seen / result.regimes[one.regime].examples
        told = [
            *([f"which saw {less:.3g} times fewer"] if less > MORE else []),
            *([] if one.resolved else ["not resolved, all comparisons counted"]),
        ]
        behind = f" ({'; '.join(told)})" if told else ""
        beside.append(f"{points(one.difference, -1)} from {one.regime}{behind}")
    if not beside:
        return []
    return [
        f"{result.config.baseline[0]} with as many examples, {control} "
        f"({_budget(result.regimes[control])}), ends {' and '.join(beside)}."
    ]


def _signed(value: Interval, digits: int, scale: float) -> str:
    """A difference with its sign, the other way round where the scale is negative."""
    mean, *ends = (scale * v for v in (value.mean, value.low, value.high) if v is not None)
    text = interval(Interval(mean, *sorted(ends)), digits)
    return text if text.startswith("-") else f"+{text}"


def _shared(small: RegimeRecord, large: RegimeRecord) -> str:
    """The budget that both ends of the gap have in common, behind a comma.

    Nothing where each holds another one fixed against the small batch of the study.
    """
    if small.budget == large.budget:
        return f", {small.budget}"
    if small.updates == large.updates:
        return ", same updates"
    return ", same epochs" if small.examples == large.examples else ""


def _budgets(small: RegimeRecord, large: RegimeRecord) -> str:
    """What both ends of the gap take."""
    said = []
    for what in ("examples", "updates"):
        numbers = dict.fromkeys(count_of(getattr(record, what)) for record in (small, large))
        said.append(f"{' and '.join(numbers)} {what}")
    return ", ".join(said)


def _budget(record: RegimeRecord) -> str:
    return f"{count_of(record.examples)} examples, {count_of(record.updates)} updates"


def _cost(record: RegimeRecord, small: RegimeRecord) -> str:
    more = record.examples / small.examples
    return f" at {more:.3g} times the examples ({_budget(record)})" if more > MORE else ""


def _end(record: RegimeRecord, other: RegimeRecord) -> str:
    """An end of the gap by its batch, or by its name where that does not tell which it is."""
    if batch(record) == batch(other):
        return record.name
    if len(record.batch_sizes) > 1:
        return f"{record.name} (batch {batch(record)})"
    return f"batch {count_of(record.batch_size)}"


def _alive(record: RegimeRecord) -> set[int]:
    """The seeds of a regime that did not diverge."""
    return set(record.seeds) - record.run.lost


def _seeds(record: RegimeRecord, alive: set[int]) -> str:
    """How many seeds there are to tell from."""
    count, all_of_them = len(alive), len(record.seeds)
    if count == all_of_them:
        return "one seed" if count == 1 else f"{count} seeds"
    return f"the {count} of {all_of_them} seeds that went through in both"
