"""The report's section on diffusion: how the weights travel, in words and in rows of text."""

import dataclasses
from typing import Any

from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._findings._travel import FEWEST, Beside, Shared, Travel
from gapjax.study._report._numbers import NOTHING, interval

_LAWS = {"log": "log t", "power": "power law", "neither": "neither"}
_WHY_NOT = f"fewer than {FEWEST} points before the rate first drops, or every seed diverged"
_POOR = 0.9  # R², below which a law does not describe the curve
CONVEX = "convex control"
LIMITS = (
    "What this can show: by which law the weights move, and whether a regime moves like the small "
    "batch. What it cannot: why. Gradient descent on a separable convex problem also moves like "
    "log t, without noise and without a random potential (Soudry et al. 2018), and how far the "
    "weights went does not tell how much of the gap was closed: see the figure."
)


def section(result: StudyResult) -> dict[str, Any]:
    """What the template shows."""
    found = result.travel
    there = {name: one for name, one in found.items() if one is not None}
    beside = {name: one.beside for name, one in there.items() if one.beside is not None}
    shown = found if result.convex is None else {**found, CONVEX: result.convex}
    return {
        "findings": findings(result),
        "limits": LIMITS,
        "fitted": bool(there),
        "small": result.config.baseline[0],
        "fits": [_fit_row(name, one) for name, one in shown.items()],
        "notes": _notes(shown),
        "convex": CONVEX if result.convex is not None else None,
        "beside": [_beside_row(name, one) for name, one in beside.items()],
        "poor": any(map(_poor, there.values())),
        "nothing": len(there) < len(found),
        "ballistic": any(one.is_ballistic for one in there.values()),
        "nothing_shared": any(None in (one.updates, one.epochs) for one in beside.values()),
        "fewest": FEWEST,
    }


def findings(result: StudyResult) -> list[str]:
    """In sentences: which law holds, and which regimes travel like the small batch."""
    found = result.travel
    if all(one is None for one in found.values()):
        return [f"No law was fitted to the distance in any regime: {_WHY_NOT}."]
    small, large = result.config.baseline
    sentences = [_law(f"For {name}", found[name]) for name in (small, large) if name in found]
    if result.convex is not None:
        who = "For a linear network, trained on all its examples at once (convex, without noise),"
        sentences.append(_law(who, result.convex))
    beside = {
        name: one.beside
        for name, one in found.items()
        if one is not None and one.beside is not None and name != small
    }
    if large in beside:
        own = {name: one for name, one in beside.items() if result.regimes[name].remedies}
        own.pop(large, None)
        sentences += _closer(own, large, beside[large], small)
    return sentences


def _law(who: str, found: Travel | None) -> str:
    """Whether log t beats the power law in the early phase."""
    if found is None:
        return f"{who} no law was fitted: {_WHY_NOT}."
    first, last = found.updates
    over = "one seed" if found.seeds == 1 else f"{found.seeds} seeds"
    where = f"updates {first} to {last}, {over}"
    if found.better == "neither":
        text = (
            f"{who} log t and the power law cannot be told apart ({where}; difference in AIC "
            f"{found.delta_aic:+.0f}, residuals correlated)."
        )
    else:
        verb = "beats" if found.better == "log" else "does not beat"
        lower = "lower" if found.delta_aic > 0 else "higher"
        text = (
            f"{who} the log-t law {verb} the power law ({where}; its AIC is "
            f"{abs(found.delta_aic):.0f} {lower}, residuals correlated)."
        )
    doubts = []
    if last < 10 * first:
        doubts.append(f"a factor of {last / first:.2g} in updates is little to tell laws by")
    if found.is_ballistic:
        doubts.append("the ballistic start is in the fit")
    elif found.from_first_update not in (None, found.better):
        winner = {"neither": "neither", "log": "log t", "power": "the power law"}
        doubts.append(
            "from the first update on, ballistic start and all, "
            f"{winner[found.from_first_update or 'neither']} is better"
        )
    if _poor(found):
        doubts.append("neither law fits well")
    if doubts:
        text += f" But {'; and '.join(doubts)}."
    return text


def _closer(own: dict[str, Beside], large: str, other: Beside, small: str) -> list[str]:
    """Which regimes come closer to the small batch's curve than the large batch alone."""
    sentences = []
    for axis, words in (("updates", "Update by update"), ("epochs", "Epoch by epoch")):
        alone: Shared | None = getattr(other, axis)
        shared: dict[str, Shared | None] = {name: getattr(one, axis) for name, one in own.items()}
        told: dict[str, list[str]] = {"Closer": [], "Farther": [], "Neither for sure": []}
        for name, one in shared.items():
            if one is not None and alone is not None:
                verdict = _verdict(one.difference, alone.difference)
                told[verdict].append(f"{name} {interval(one.difference, 0, 100)}%")
        if alone is not None and any(told.values()):
            by = interval(alone.difference, 0, 100)
            text = (
                f"{words}, {large}'s distance differs from {small}'s by {by}% (root mean square)."
            )
            lists = [f"{verdict}: {', '.join(ones)}." for verdict, ones in told.items() if ones]
            sentences.append(" ".join([text, *lists]))
    return sentences


def _verdict(own: Interval, other: Interval) -> str:
    """Whether one number is nearer zero than another: told apart only if intervals do not meet."""
    if own.is_bounded and other.is_bounded:
        if own.high < other.low:  # type: ignore[operator]
            return "Closer"
        if own.low > other.high:  # type: ignore[operator]
            return "Farther"
    return "Neither for sure"


_FIT = ("updates", "points", "slope", "r2", "exponent", "power_r2", "delta", "better", "all")


def _fit_row(name: str, found: Travel | None) -> dict[str, str]:
    if found is None:
        return {"name": name, **dict.fromkeys(_FIT, NOTHING)}
    first, last = found.updates
    return {
        "name": name,
        "updates": f"{first} to {last} ({found.points})" + "†" * found.is_ballistic,
        "slope": interval(found.log_slope, 3),
        "r2": f"{found.log_r2:.4f}",
        "exponent": interval(found.power_exponent, 3),
        "power_r2": f"{found.power_r2:.4f}",
        "delta": f"{found.delta_aic:+.0f}",
        "points": f"{found.effective_points:.1f}",
        "better": _LAWS[found.better] + "‡" * _poor(found),
        "all": NOTHING if found.from_first_update is None else _LAWS[found.from_first_update],
    }


def _notes(found: dict[str, Travel | None]) -> list[str]:
    """What the fits say of themselves, and of which regimes."""
    said: dict[str, list[str]] = {}
    for name, one in found.items():
        for note in one.note.split("; ") if one is not None and one.note else ():
            if not note.startswith("too few steps past"):  # the mark † says so
                said.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}." for note, names in said.items()]


def _beside_row(name: str, beside: Beside) -> dict[str, str]:
    row = {"name": name, "slopes": interval(beside.slopes, 2)}
    for field in dataclasses.fields(beside):
        axis, one = field.name, getattr(beside, field.name)
        if axis == "slopes":
            continue
        if one is None:
            row |= dict.fromkeys((axis, f"{axis}_ratio", f"{axis}_difference"), NOTHING)
            continue
        row |= {
            axis: f"{one.first:.3g} to {one.last:.3g}",
            f"{axis}_ratio": interval(one.ratio, 2),
            f"{axis}_difference": interval(one.difference, 0, 100),
        }
    return row


def _poor(found: Travel) -> bool:
    """Whether even the better of the two laws leaves much unexplained."""
    return max(found.log_r2, found.power_r2) < _POOR
