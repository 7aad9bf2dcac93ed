"""The report's table of comparisons: every regime beside both ends of the gap, and controls."""

from gapjax.study._findings._gap import Comparison
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._numbers import NOTHING, fixed, interval, p_value
from gapjax.study._report._table import digits


def rows(result: StudyResult) -> list[dict[str, str]]:
    """A row of text per comparison."""
    return [_row(result, one) for one in result.gap.comparisons]


def _row(result: StudyResult, one: Comparison) -> dict[str, str]:
    task, found = result.config.task, one.difference
    scale, places = task.scale(task.headline), _places(result)

    def error(value: float | None) -> str:
        return NOTHING if value is None else fixed(scale * value, places)

    return {
        "regime": one.regime,
        "beside": one.baseline,
        "difference": interval(found, places, scale),
        "p": p_value(found.p_value),
        "adjusted": p_value(one.p_adjusted),
        "resolved": "yes" if one.resolved else "no",
        "seeds": error(found.stderr_seeds),
        "examples": error(found.stderr_examples),
        "needed": NOTHING if one.seeds_needed is None else str(one.seeds_needed),
    }


def _places(result: StudyResult) -> int:
    """Digits behind the point, by the size of the gap."""
    gap = result.gap.gap
    return digits(result.config.task, result.config.task.headline, gap.mean if gap else None)


def effects(result: StudyResult) -> list[dict[str, str]]:
    """A row of text per main effect and interaction."""
    task = result.config.task
    scale, places = task.scale(task.headline), _places(result)
    return [
        {
            "name": " with ".join(one.remedies),
            "estimate": interval(one.estimate, places, scale),
            "p": p_value(one.estimate.p_value),
            "adjusted": p_value(one.p_adjusted),
            "resolved": "yes" if one.resolved else "no",
        }
        for one in result.effects
    ]
