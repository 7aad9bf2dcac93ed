"""The report's section on diffusion: how the weights travel, in words and in rows of text."""

import dataclasses
from typing import Any

from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._findings._travel import FEWEST, FIRST_UPDATE, Beside, Shared, Travel, Verdict
from gapjax.study._report._numbers import NOTHING, interval, plus_minus
from gapjax.study._results._records import OverSeeds

_LAWS = {"log": "log t", "power": "power law", "neither": "neither"}
_WHY_NOT = f"fewer than {FEWEST} points before the rate first drops, or every seed diverged"
_POOR = 0.9  # R², below which a law does not describe the curve


def section(result: StudyResult) -> dict[str, Any]:
    """What the template shows."""
    found = result.travel
    there = {name: one for name, one in found.items() if one is not None}
    beside = {name: one.beside for name, one in there.items() if one.beside is not None}
    return {
        "findings": findings(result),
        "fitted": bool(there),
        "small": result.config.baseline[0],
        "fits": [_fit_row(name, one) for name, one in found.items()],
        "beside": [_beside_row(name, one) for name, one in beside.items()],
        "poor": any(map(_poor, there.values())),
        "nothing": len(there) < len(found),
        "ballistic": any(map(_ballistic, there.values())),
        "nothing_shared": any(None in (one.updates, one.epochs) for one in beside.values()),
        "fewest": FEWEST,
        "first": FIRST_UPDATE,
    }


def findings(result: StudyResult) -> list[str]:
    """In sentences: which law holds, and which regimes travel like the small batch."""
    found = result.travel
    if all(one is None for one in found.values()):
        return [f"No law was fitted to the distance in any regime: {_WHY_NOT}."]
    small, large = result.config.baseline
    sentences = [_law(name, found[name]) for name in (small, large) if name in found]
    beside = {
        name: one.beside
        for name, one in found.items()
        if one is not None and one.beside is not None and name != small
    }
    if large in beside:
        for name, one in beside.items():
            if name != large and result.regimes[name].remedies:
                sentences += _closer(name, one, large, beside[large], small)
    return sentences


def _law(name: str, found: Travel | None) -> str:
    """Whether log t beats the power law in the early phase of a regime."""
    if found is None:
        return f"For {name} no law was fitted: {_WHY_NOT}."
    first, last = found.updates
    verdict = found.verdict
    where = f"before the rate first drops (updates {first} to {last}"
    if verdict.better == "neither":
        text = (
            f"For {name} the log-t law does not beat the power law {where}): they cannot be told "
            f"apart (difference in AIC {interval(verdict.delta_aic.interval, 0)})."
        )
    else:
        verb = "beats" if verdict.better == "log" else "does not beat"
        seeds = "in the one seed"
        if found.seeds > 1:
            agree = f"{verdict.favours[verdict.better]} of {found.seeds} seeds agree"
            seeds = f"on average over seeds, and {agree}"
        delta = verdict.delta_aic.mean or 0.0
        text = (
            f"For {name} the log-t law {verb} the power law {where}; its AIC is "
            f"{abs(delta):.0f} {'lower' if delta > 0 else 'higher'} {seeds})."
        )
    from_first = found.from_first_update.better
    doubts = []
    if last < 10 * first:
        doubts.append(f"a factor of {last / first:.2g} in updates is little to tell laws by")
    if from_first != verdict.better:
        winner = {"neither": "neither", "log": "log t", "power": "the power law"}[from_first]
        doubts.append(f"from the first update on, ballistic start and all, {winner} is better")
    if _poor(found):
        doubts.append("neither law fits well")
    if doubts:
        text += f" But {'; and '.join(doubts)}."
    return text


def _closer(name: str, own: Beside, large: str, other: Beside, small: str) -> list[str]:
    """Whether a regime comes closer to the small batch's curve than the large batch alone."""
    sentences = []
    for axis, words in (("updates", "Update by update"), ("epochs", "Epoch by epoch")):
        pair: tuple[Shared | None, Shared | None] = getattr(own, axis), getattr(other, axis)
        if pair[0] is None or pair[1] is None:
            continue
        verdict = _verdict(pair[0].difference, pair[1].difference)
        sentences.append(
            f"{words}, {name} {verdict} {small} than {large} does: its distance differs from "
            f"{small}'s by {interval(pair[0].difference, 0, 100)}%, {large}'s by "
            f"{interval(pair[1].difference, 0, 100)}% (root mean square); its slope there is "
            f"{interval(pair[0].ratio, 2)} times {small}'s, {large}'s "
            f"{interval(pair[1].ratio, 2)} times."
        )
    return sentences


def _verdict(own: Interval, other: Interval) -> str:
    """Whether one number is nearer zero than another: told apart only if intervals do not meet."""
    if None in (own.low, own.high, other.low, other.high):
        return "cannot be said to come closer to"
    if own.high < other.low:  # type: ignore[operator]
        return "comes closer to"
    if own.low > other.high:  # type: ignore[operator]
        return "comes no closer to"
    return "cannot be said to come closer to"


def _fit_row(name: str, found: Travel | None) -> dict[str, str]:
    if found is None:
        keys = ("updates", "slope", "r2", "exponent", "power_r2", "delta", "mean", "better", "all")
        return {"name": name, **dict.fromkeys(keys, NOTHING)}
    first, last = found.updates
    delta = found.verdict.delta_aic
    return {
        "name": name,
        "updates": f"{first} to {last} ({found.points})" + ("†" if _ballistic(found) else ""),
        "slope": interval(found.log_slope.interval, 3),
        "r2": f"{found.log_r2.mean:.4f}",
        "exponent": interval(found.power_exponent.interval, 3),
        "power_r2": f"{found.power_r2.mean:.4f}",
        "delta": plus_minus(OverSeeds(delta.mean, delta.std, delta.values), 0),
        "mean": f"{found.mean_curve.delta_aic:.0f}",
        "better": _better(found.verdict) + ("‡" if _poor(found) else ""),
        "all": _better(found.from_first_update),
    }


def _better(verdict: Verdict) -> str:
    """The better law, and in how many seeds: of "neither", those that favour log t."""
    law = verdict.better
    count = verdict.favours["log" if law == "neither" else law]
    seeds = sum(verdict.favours.values())
    return f"{_LAWS[law]} ({count}/{seeds}{' log t' if law == 'neither' else ''})"


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
    return max(found.log_r2.mean or 0.0, found.power_r2.mean or 0.0) < _POOR


def _ballistic(found: Travel) -> bool:
    return found.updates[0] < FIRST_UPDATE
