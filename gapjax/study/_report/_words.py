"""What a study found, in sentences."""

from gapjax.study._controls import MORE
from gapjax.study._findings._gap import GapFindings
from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._numbers import count_of, interval, share
from gapjax.study._report._table import gap_of, unmet
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
    small, large = result.ends
    names = config.baseline
    if small is None or large is None:
        missing = " and ".join(n for n, r in zip(names, result.ends, strict=True) if r is None)
        return f"{missing} was not trained, so there is no gap between {' and '.join(names)}."
    if found.gap is None or found.gap.mean is None:
        return f"{' or '.join(names)} diverged in every seed: there is no gap to speak of."
    task = config.task
    percent = task.headline in task.percent
    amount = f"{task.scale(task.headline) * abs(found.gap.mean):.{2 if percent else 3}f}"
    better = found.gap.mean > 0 if task.maximize else found.gap.mean < 0
    verb = "falls" if found.gap.mean > 0 else "rises"
    text = (
        f"From {_batch(small)} to {_batch(large)}, {large.budget} ({_budgets(small, large)}), test "
        f"{task.headline.replace('_', ' ')} {verb if float(amount) else 'changes'} by {amount}"
        f"{' points' if percent else ''} "
    )
    unmet = _unmet(result)
    if found.gap.low is None or found.gap.high is None:
        return " ".join([f"{text}(one seed: nothing tells how much of that is chance).", *unmet])
    scale = task.scale(task.headline)
    low, high = sorted(abs(scale * end) for end in (found.gap.low, found.gap.high))
    digits = 2 if percent else 3
    if not found.is_clear(task.maximize):
        why = "There is no gap to close." if not better else "That is not told from chance."
        ends = sorted((-scale * found.gap.low, -scale * found.gap.high))
        text += (
            f"(95% interval of the change {ends[0]:+.{digits}f} to {ends[1]:+.{digits}f}, over "
            f"{_seeds(small)} and the test examples). {why}"
        )
        return " ".join([text, *unmet])
    text += (
        f"(95% interval {low:.{digits}f} to {high:.{digits}f}, over {_seeds(small)} and the test "
        "examples)."
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
    digits, scale = (2, 100.0) if percent else (3, 1.0)
    unit = " points" if percent else ""
    beside = [
        f"{_signed(one.difference, digits, -scale)}{unit} from {one.regime}"
        + ("" if one.resolved else " (not resolved)")
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


def _batch(record: RegimeRecord) -> str:
    return f"batch {count_of(record.batch_size)}"


def _seeds(record: RegimeRecord) -> str:
    return f"{len(record.seeds)} seed{'s' if len(record.seeds) != 1 else ''}"
