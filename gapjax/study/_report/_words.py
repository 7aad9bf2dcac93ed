"""What a study found, in sentences."""

import dataclasses

from gapjax.study._controls import MORE
from gapjax.study._findings._gap import GapFindings
from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._numbers import count_of, interval, share
from gapjax.study._report._table import digits, gap_of, unmet
from gapjax.study._results._records import RegimeRecord


def finding(result: StudyResult, which: str = "run") -> str:
    """What the study found, in a few sentences: the gap, and which remedies close what of it.

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
    better = found.gap.mean > 0 if task.maximize else found.gap.mean < 0
    verb = "falls" if found.gap.mean > 0 else "rises"
    what = task.headline.replace("_", " ")
    text = (
        f"From {_end(small, large)} to {_end(large, small)}, {large.budget} "
        f"({_budgets(small, large)}), test {what} "
        f"{verb if float(amount) else 'changes'} by {amount}"
        f"{' points' if percent else ''} "
    )
    unmet = _unmet(result)
    if found.gap.low is None or found.gap.high is None:
        return " ".join([f"{text}({seeds}: nothing tells how much of that is chance).", *unmet])
    scale = task.scale(task.headline)
    low, high = sorted(abs(scale * end) for end in (found.gap.low, found.gap.high))
    if not found.is_clear(task.maximize):
        why = "There is no gap to close." if not better else "That is not told from chance."
        ends = sorted((-scale * found.gap.low, -scale * found.gap.high))
        text += (
            f"(95% interval of the change {ends[0]:+.{places}f} to {ends[1]:+.{places}f}, over "
            f"{seeds} and the test examples). {why}"
        )
        return " ".join([text, *unmet])
    text += (
        f"(95% interval {low:.{places}f} to {high:.{places}f}, over {seeds} and the test examples)."
    )
    closed = _closed(result, found, small)
    return " ".join([text, *unmet, *closed, *_controlled(result, found)])


def _unmet(result: StudyResult) -> list[str]:
    """Which regimes did not get to where the loss would have stopped them."""
    never = [name for name, record in result.regimes.items() if unmet(record)]
    if not never:
        return []
    return [f"Some seeds never got there within the stated maximum: {', '.join(never)}."]


def _closed(result: StudyResult, found: GapFindings, small: RegimeRecord) -> list[str]:
    """What the remedies close, and for which of them that is not told from nothing."""
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
    rates = "tuned rates" if result.is_tuned and found is result.gap else "the rates of the rules"
    sentences = [f"Share of it closed, at {rates}, with 95% intervals: {'; '.join(parts)}."]
    large = result.config.baseline[1]
    open_ones = [name for name in told if not _resolved(found, name, large)]
    if open_ones:
        sentences.append(f"Not told from {large}, all comparisons counted: {', '.join(open_ones)}.")
    return sentences


def _controlled(result: StudyResult, found: GapFindings) -> list[str]:
    """The regimes that saw more beside a small batch that saw as much."""
    control, task = found.control, result.config.task
    if control is None:
        return []
    record, percent = result.regimes[control], task.headline in task.percent
    scale = 100.0 if percent else 1.0
    places = digits(task, task.headline, found.gap.mean if found.gap else None)
    unit = " points" if percent else ""
    beside = [
        f"{_signed(one.difference, places, -scale)}{unit} from {one.regime}"
        + ("" if one.resolved else " (not resolved, all comparisons counted)")
        for one in found.comparisons
        if one.baseline == control and one.difference.mean is not None
    ]
    if not beside:
        return []
    return [
        f"The small batch with as many examples, {control} ({_budget(record)}), ends "
        f"{' and '.join(beside)}."
    ]


def _resolved(found: GapFindings, name: str, end: str) -> bool:
    one = found.beside(name, end)
    return one is not None and one.resolved


def _signed(value: Interval, digits: int, scale: float) -> str:
    """A difference with its sign, the other way round where the scale is negative."""
    mean, *ends = (scale * v for v in (value.mean, value.low, value.high) if v is not None)
    text = interval(Interval(mean, *sorted(ends)), digits)
    return text if text.startswith("-") else f"+{text}"


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
    """An end of the gap by its batch, or by its name where both have the same."""
    if record.batch_size == other.batch_size:
        return record.name
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
