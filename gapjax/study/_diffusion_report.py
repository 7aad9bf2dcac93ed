"""The report's section on diffusion: what ``_diffusion`` found, in words and in rows of text."""

import math
from collections.abc import Mapping
from typing import Any

from gapjax.study._diffusion import FEWEST, FIRST_UPDATE
from gapjax.study._result import StudyResult
from gapjax.study._table import plus_minus

_LAWS = {"log": "log t", "power": "power law", "neither": "neither"}
_CURED = "LB+LR+GBN"  # the regime whose curve nearly coincides with SB's in the paper
_NOTHING = "–"
_WHY_NOT = f"fewer than {FEWEST} points before the rate first drops, or every seed diverged"
_POOR = 0.9  # R², below which a law does not describe the curve


def section(result: StudyResult) -> dict[str, Any]:
    """What the template ``diffusion.html.j2`` shows."""
    found = {name: regime["diffusion"] for name, regime in result.regimes.items()}
    return {
        "findings": findings(result),
        "fitted": any(one is not None for one in found.values()),
        "fits": [_fit_row(name, one) for name, one in found.items()],
        "beside": [
            _beside_row(name, one["beside_small"])
            for name, one in found.items()
            if one is not None and one["beside_small"] is not None
        ],
        "poor": any(one is not None and _poor(one) for one in found.values()),
        "nothing": any(one is None for one in found.values()),
        "ballistic": any(one is not None and _ballistic(one) for one in found.values()),
        "nothing_shared": any(
            one["beside_small"][axis] is None
            for one in found.values()
            if one is not None and one["beside_small"] is not None
            for axis in ("updates", "epochs")
        ),
        "fewest": FEWEST,
        "first": FIRST_UPDATE,
    }


def findings(result: StudyResult) -> list[str]:
    """In sentences: which law holds, and whether LB+LR+GBN travels more like SB than LB does."""
    found = {name: regime["diffusion"] for name, regime in result.regimes.items()}
    if all(one is None for one in found.values()):
        return [f"No law was fitted to the distance in any regime: {_WHY_NOT}."]
    sentences = [_law(name, found[name]) for name in ("SB", "LB") if name in found]
    beside = {
        name: found[name]["beside_small"]
        for name in ("LB", _CURED)
        if found.get(name) is not None and found[name]["beside_small"] is not None
    }
    if len(beside) == 2:
        sentences += _closer(beside["LB"], beside[_CURED])
    return sentences


def _law(name: str, found: Mapping[str, Any] | None) -> str:
    """Whether log t beats the power law in the early phase of a regime."""
    if found is None:
        return f"For {name} no law was fitted: {_WHY_NOT}."
    first, last = found["updates"]
    delta, favours = found["delta_aic"]["mean"], found["favours"]
    where = f"before the rate first drops (updates {first} to {last}"
    if found["better"] == "neither":
        text = (
            f"For {name} the log-t law does not beat the power law {where}): they cannot be told "
            f"apart (difference in AIC {_interval(found['delta_aic'], 0)})."
        )
    else:
        verb = "beats" if found["better"] == "log" else "does not beat"
        seeds = "in the one seed"
        if found["seeds"] > 1:
            agree = f"{favours[found['better']]} of {found['seeds']} seeds agree"
            seeds = f"on average over seeds, and {agree}"
        text = (
            f"For {name} the log-t law {verb} the power law {where}; its AIC is "
            f"{abs(delta):.0f} {'lower' if delta > 0 else 'higher'} {seeds})."
        )
    from_first = found["from_first_update"]["better"]
    doubts = []
    if last < 10 * first:
        doubts.append(f"a factor of {last / first:.2g} in updates is little to tell laws by")
    if from_first != found["better"]:
        winner = {"neither": "neither", "log": "log t", "power": "the power law"}[from_first]
        doubts.append(f"from the first update on, ballistic start and all, {winner} is better")
    if _poor(found):
        doubts.append("neither law fits well")
    if doubts:
        text += f" But {'; and '.join(doubts)}."
    return text


def _closer(large: Mapping[str, Any], cured: Mapping[str, Any]) -> list[str]:
    """Whether the cured large batch comes closer to SB than the large batch alone."""
    sentences = []
    for axis, words in (("updates", "Update by update"), ("epochs", "Epoch by epoch")):
        if large[axis] is None or cured[axis] is None:
            continue
        pair = cured[axis]["difference"], large[axis]["difference"]
        sentences.append(
            f"{words}, {_CURED} {_verdict(*pair)} SB than LB does: its distance differs from SB's "
            f"by {_interval(pair[0], 0, 100)}%, LB's by {_interval(pair[1], 0, 100)}% (root mean "
            f"square); its slope there is {_interval(cured[axis]['ratio'], 2)} times SB's, LB's "
            f"{_interval(large[axis]['ratio'], 2)} times."
        )
    ratios = [beside["slopes"] for beside in (cured, large)]
    if None not in (ratios[0]["mean"], ratios[1]["mean"]):
        sentences.append(
            f"In slope, each over its own early phase, {_CURED} "
            f"{_verdict(*map(_from_one, ratios))} SB than LB does: {_interval(ratios[0], 2)} times "
            f"SB's slope, LB's is {_interval(ratios[1], 2)} times."
        )
    return sentences


def _verdict(own: Mapping[str, float | None], other: Mapping[str, float | None]) -> str:
    """Whether one number is nearer zero than another: told apart only if intervals do not meet."""
    bounds = [own["low"], own["high"], other["low"], other["high"]]
    if None in bounds:
        return "cannot be said to come closer to"
    if own["high"] < other["low"]:  # type: ignore[operator]
        return "comes closer to"
    if own["low"] > other["high"]:  # type: ignore[operator]
        return "comes no closer to"
    return "cannot be said to come closer to"


def _from_one(ratio: Mapping[str, float | None]) -> dict[str, float | None]:
    """How far a ratio is from 1, with its interval."""
    low, mean, high = (ratio[k] for k in ("low", "mean", "high"))
    assert mean is not None
    if low is None or high is None:
        return {"mean": abs(mean - 1), "low": None, "high": None}
    ends = sorted((abs(low - 1), abs(high - 1)))
    return {"mean": abs(mean - 1), "low": 0.0 if low <= 1 <= high else ends[0], "high": ends[1]}


def _fit_row(name: str, found: Mapping[str, Any] | None) -> dict[str, str]:
    if found is None:
        keys = ("updates", "slope", "r2", "exponent", "power_r2", "delta", "mean", "better", "all")
        return {"name": name, **dict.fromkeys(keys, _NOTHING)}
    first, last = found["updates"]
    return {
        "name": name,
        "updates": f"{first} to {last} ({found['points']})" + ("†" if _ballistic(found) else ""),
        "slope": _interval(found["log"]["slope"], 3),
        "r2": f"{found['log']['r2']['mean']:.4f}",
        "exponent": _interval(found["power"]["exponent"], 3),
        "power_r2": f"{found['power']['r2']['mean']:.4f}",
        "delta": plus_minus(found["delta_aic"], 0),
        "mean": f"{found['mean_curve']['delta_aic']:.0f}",
        "better": _better(found) + ("‡" if _poor(found) else ""),
        "all": _better(found["from_first_update"]),
    }


def _better(found: Mapping[str, Any]) -> str:
    """The better law, and in how many seeds: of "neither", those that favour log t."""
    law = found["better"]
    count = found["favours"]["log" if law == "neither" else law]
    seeds = sum(found["favours"].values())
    return f"{_LAWS[law]} ({count}/{seeds}{' log t' if law == 'neither' else ''})"


def _beside_row(name: str, beside: Mapping[str, Any]) -> dict[str, str]:
    row = {"name": name, "slopes": _interval(beside["slopes"], 2)}
    for axis in ("updates", "epochs"):
        one = beside[axis]
        if one is None:
            row |= dict.fromkeys((axis, f"{axis}_ratio", f"{axis}_difference"), _NOTHING)
            continue
        low, high = (f"{end:.3g}" for end in one["range"])
        row |= {
            axis: f"{low} to {high}",
            f"{axis}_ratio": _interval(one["ratio"], 2),
            f"{axis}_difference": _interval(one["difference"], 0, 100),
        }
    return row


def _poor(found: Mapping[str, Any]) -> bool:
    """Whether even the better of the two laws leaves much unexplained."""
    return bool(max(found[law]["r2"]["mean"] for law in ("log", "power")) < _POOR)


def _ballistic(found: Mapping[str, Any]) -> bool:
    return bool(found["updates"][0] < FIRST_UPDATE)


def _interval(value: Mapping[str, Any], digits: int, scale: float = 1.0) -> str:
    """A number with its interval.

    Example:
        >>> _interval({"mean": 0.914, "low": 0.78, "high": 1.021}, 2)
        '0.91 [0.78, 1.02]'
    """
    mean, low, high = (value[k] for k in ("mean", "low", "high"))
    if mean is None:
        return _NOTHING
    text = f"{scale * mean:.{digits}f}"
    if low is None or high is None or not math.isfinite(high - low):
        return f"{text} [no bound]"
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
