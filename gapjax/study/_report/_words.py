"""What a study found, in sentences."""

from gapjax.study._findings._result import StudyResult
from gapjax.study._report._numbers import count_of, share
from gapjax.study._report._table import gap_of
from gapjax.study._results._records import RegimeRecord


def finding(result: StudyResult, which: str = "run") -> str:
    """What the study found, in a few sentences: the gap, and which remedies close what of it."""
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
        f"From {_batch(small)} to {_batch(large)}, {large.budget}, test "
        f"{task.headline.replace('_', ' ')} {verb if float(amount) else 'changes'} by {amount}"
        f"{' points' if percent else ''} "
    )
    if found.gap.low is None or found.gap.high is None:
        return f"{text}(one seed: nothing tells how much of that is chance)."
    scale = task.scale(task.headline)
    low, high = sorted(abs(scale * end) for end in (found.gap.low, found.gap.high))
    digits = 2 if percent else 3
    if not found.is_clear(task.maximize):
        why = "There is no gap to close." if not better else "That is not told from chance."
        ends = sorted((-scale * found.gap.low, -scale * found.gap.high))
        return (
            f"{text}(95% interval of the change {ends[0]:+.{digits}f} to {ends[1]:+.{digits}f}, "
            f"over {_seeds(small)} and the test examples). {why}"
        )
    text += (
        f"(95% interval {low:.{digits}f} to {high:.{digits}f}, over {_seeds(small)} and the test "
        "examples)."
    )
    told = {name: value for name, value in found.shares.items() if value.is_bounded}
    if not told:
        return text
    parts = []
    for name, value in sorted(told.items(), key=lambda item: -(item[1].mean or 0)):
        record = result.regimes[name]
        more = record.examples / small.examples
        cost = f" at {more:.3g} times the examples" if more > 1.05 else ""
        parts.append(f"{name} {share(value)}%{cost}")
    return f"{text} Share of it closed, with 95% intervals: {'; '.join(parts)}."


def _batch(record: RegimeRecord) -> str:
    return f"batch {count_of(record.batch_size)}"


def _seeds(record: RegimeRecord) -> str:
    return f"{len(record.seeds)} seed{'s' if len(record.seeds) != 1 else ''}"
