"""What was measured at the minima, over seeds: means, ratios with intervals, the observations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gapjax.study._measure import over_seeds

Kept = Mapping[str, Mapping[int, Mapping[str, Any]]]
Regimes = Mapping[str, Mapping[str, Any]]


def mean_interval(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """The mean with its 95% interval by Student's t; numbers that are not finite are left out.

    Args:
        values: one number per seed.

    Returns:
        ``{"mean", "low", "high"}``; without an interval where there are fewer than two, and all
        None where there are none.

    Example:
        >>> {k: round(v, 2) for k, v in mean_interval([1.0, 2.0, 3.0]).items()}
        {'mean': 2.0, 'low': -0.48, 'high': 4.48}
    """
    from scipy.special import stdtrit

    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return {"mean": None, "low": None, "high": None}
    mean = float(finite.mean())
    if finite.size < 2:
        return {"mean": mean, "low": None, "high": None}
    half = stdtrit(finite.size - 1, 0.975) * finite.std(ddof=1) / math.sqrt(finite.size)
    return {"mean": mean, "low": float(mean - half), "high": float(mean + half)}


def ratio_interval(over: Any, under: Any) -> dict[str, float | None]:
    """The ratio of two quantities over seeds: its geometric mean, and the interval of that.

    Args:
        over: one number per seed.
        under: the same seeds.

    Returns:
        As `mean_interval`; seeds in which either is not above 0 are left out.

    Example:
        >>> {k: round(v, 2) for k, v in ratio_interval([2.0, 8.0, 4.0], [1.0, 1.0, 1.0]).items()}
        {'mean': 4.0, 'low': 0.71, 'high': 22.38}
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.asarray(over, np.float64) / np.asarray(under, np.float64))
    return {k: v if v is None else math.exp(v) for k, v in mean_interval(logs).items()}


def summarize(
    kept: Kept, paths: Mapping[int, Mapping[str, Any]], regimes: Regimes, history: Regimes
) -> dict[str, Any]:
    """Numbers over seeds.

    Args:
        kept: what was measured, by regime and member.
        paths: the path from SB to LB, by member.
        regimes: the study's results.
        history: the study's learning curves.

    Returns:
        ``regimes``, ``paths``, ``ratios`` of LB to SB, and ``observations``.
    """
    each = {
        name: _regime(list(found.values()), regimes[name], list(found), history[name])
        for name, found in kept.items()
        if found
    }
    result: dict[str, Any] = {"regimes": each}
    if {"SB", "LB"} <= set(each):
        both = [m for m in kept["SB"] if m in kept["LB"]]
        small, large = ([kept[name][m] for m in both] for name in ("SB", "LB"))
        result["paths"] = _paths(list(paths.values()))
        result["ratios"] = {
            name: ratio_interval(_each(large, get), _each(small, get))
            for name, get in _COMPARED.items()
        }
        result["observations"] = _observations(small, large, paths, regimes, history, both)
    return result


_COMPARED: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "train_loss": lambda m: _at_minimum(m, "train/loss"),
    "keskar": lambda m: m["keskar"]["values"][0],
    "keskar_half": lambda m: m["keskar"]["values"][1],
    "top": lambda m: m["top"]["values"][0],
    "trace": lambda m: m["trace"]["mean"],
    "sam": lambda m: m["sam"]["value"],
}


def _each(found: Sequence[Mapping[str, Any]], get: Callable[[Any], Any]) -> np.ndarray:
    """One number per seed; None, which JSON has for what is not finite, as NaN."""
    return np.array([get(one) for one in found], np.float64)


def _at_minimum(found: Mapping[str, Any], name: str) -> float:
    """A figure at the minimum itself: where its line passes 0."""
    return found["line"][name][int(np.argmin(np.abs(found["line"]["t"])))]


def _regime(
    found: Sequence[Mapping[str, Any]],
    regime: Mapping[str, Any],
    members: Sequence[int],
    history: Mapping[str, Any],
) -> dict[str, Any]:
    def seeds(get: Callable[[Any], Any]) -> dict[str, Any]:
        return over_seeds(_each(found, get))

    def several(get: Callable[[Any], Any]) -> list[dict[str, Any]]:
        return [over_seeds(column) for column in _each(found, get).T]

    shifts = [_shift(one["line"]) for one in found]
    return {
        "seeds": [regime["seeds"][member] for member in members],
        "train_loss": seeds(lambda m: _at_minimum(m, "train/loss")),
        "test_loss": seeds(lambda m: _at_minimum(m, "test/loss")),
        "still_falling": over_seeds(_last_quarter(history)[list(members)]),
        "top": several(lambda m: m["top"]["values"]),
        "top_residual": float(np.max(_each(found, lambda m: m["top"]["residuals"]))),
        "top_converged": bool(np.all([m["top"]["converged"] for m in found])),
        "smallest": seeds(lambda m: m["bottom"]["value"]),
        "smallest_residual": float(np.max(_each(found, lambda m: m["bottom"]["residual"]))),
        "negative_mass": seeds(lambda m: m["density"]["negative_mass"]["mean"]),
        "negative_mass_stderr": _each(found, lambda m: m["density"]["negative_mass"]["stderr"]),
        "trace": seeds(lambda m: m["trace"]["mean"]),
        "trace_stderr": _each(found, lambda m: m["trace"]["stderr"]),
        "counts": several(lambda m: m["counts"]["mean"]),
        "counts_stderr": _each(found, lambda m: m["counts"]["stderr"]),
        "counts_bias": _each(found, lambda m: m["counts"]["bias"]),
        "keskar": several(lambda m: m["keskar"]["values"]),
        "sam": seeds(lambda m: m["sam"]["value"]),
        "shift": over_seeds(np.array([s for s, _ in shifts])),
        "shift_cost": over_seeds(np.array([c for _, c in shifts])),
        "density": {k: found[0]["density"][k] for k in ("grid", "density", "stderr")},
        "line": _curves([m["line"] for m in found], "t"),
    }


def _curves(found: Sequence[Mapping[str, Any]], axis: str) -> dict[str, Any]:
    """Curves over seeds: the axis, and the mean and deviation of each figure on it."""
    curves: dict[str, Any] = {axis: found[0][axis]}
    for name in ("train/loss", "test/loss", "train/accuracy", "test/accuracy"):
        values = _each(found, lambda one, name=name: one[name])  # type: ignore[misc]
        deviation = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
        curves[name] = {"mean": values.mean(axis=0), "std": deviation}
    return curves


def _shift(line: Mapping[str, Any]) -> tuple[float, float]:
    """How far the test curve is shifted against the training curve, and what that costs.

    The distance between their lowest points on the line, in units of the filters' lengths; and
    the test loss at the minimum of training less the lowest on the line.
    """
    t = np.array(line["t"], np.float64)
    (train, _), (test, lowest) = (
        _lowest(t, np.array(line[name], np.float64)) for name in ("train/loss", "test/loss")
    )
    return abs(test - train), _at_minimum({"line": line}, "test/loss") - lowest


def _lowest(t: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The lowest point of a curve, by a parabola through the lowest sample and its neighbours."""
    i = int(np.nanargmin(values))
    if not 0 < i < len(t) - 1:
        return float(t[i]), float(values[i])
    a, b, c = np.polyfit(t[i - 1 : i + 2] - t[i], values[i - 1 : i + 2], 2)
    if not (np.isfinite(a) and a > 0):
        return float(t[i]), float(values[i])
    return float(t[i] - b / (2 * a)), float(c - b**2 / (4 * a))


def evaluated(history: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Updates at which a metric was measured, and its values ``[T, S]``."""
    values = np.array(history[name], np.float64)
    keep = np.isfinite(values).any(axis=1)
    return np.array(history["update"])[keep], values[keep]


def summarize_levels(levels: Mapping[float, Kept]) -> list[dict[str, Any]]:
    """What the regimes have at equal training loss, over seeds.

    Args:
        levels: by level of the loss, what was measured by regime and member.

    Returns:
        For every level ``loss``, ``regimes``, and LB's ``ratios`` to SB over the seeds of both.
    """
    return [
        {
            "loss": level,
            "regimes": {
                name: {
                    key: over_seeds(_each(list(found.values()), get))
                    for key, get in _ON_THE_WAY.items()
                }
                for name, found in kept.items()
                if found
            },
            "ratios": _level_ratios(kept),
        }
        for level, kept in levels.items()
    ]


_ON_THE_WAY: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "update": lambda m: m["update"],
    "train_loss": lambda m: m["train_loss"],
    "keskar": lambda m: m["keskar"]["values"][0],
    "keskar_half": lambda m: m["keskar"]["values"][1],
    "top": lambda m: m["top"]["values"][0],
    "smallest": lambda m: m["bottom"]["value"],
    "negative_mass": lambda m: m["density"]["negative_mass"]["mean"],
}


def _level_ratios(kept: Kept) -> dict[str, Any]:
    both = [m for m in kept.get("SB", {}) if m in kept.get("LB", {})]
    return {
        name: ratio_interval(
            *([_ON_THE_WAY[name](kept[regime][m]) for m in both] for regime in ("LB", "SB"))
        )
        for name in ("train_loss", "keskar", "keskar_half", "top")
    }


def _last_quarter(history: Mapping[str, Any]) -> np.ndarray:
    """By how much the training loss of each seed fell over the last quarter of its updates."""
    update, loss = evaluated(history, "train_loss")
    before = loss[int(np.searchsorted(update, 0.75 * update[-1], side="right")) - 1]
    return before - loss[-1]


def _paths(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    curves = _curves(found, "alpha")
    return {
        **curves,
        "barrier": over_seeds(_each(found, lambda p: p["barrier"]["train/loss"])),
        "test_barrier": over_seeds(_each(found, lambda p: p["barrier"]["test/loss"])),
    }


def _observations(
    small: Sequence[Mapping[str, Any]],
    large: Sequence[Mapping[str, Any]],
    paths: Mapping[int, Mapping[str, Any]],
    regimes: Regimes,
    history: Regimes,
    members: list[int],
) -> dict[str, Any]:
    """Keskar's four observations (Keskar et al. 2017, section 2.1), over seeds."""

    def difference(metric: str) -> dict[str, float | None]:
        large, small = (np.array(regimes[n][metric]["values"], np.float64) for n in ("LB", "SB"))
        return mean_interval(large - small)

    _, curve = evaluated(history["LB"], "test_accuracy")
    return {
        "overfitting": {
            "train_accuracy": difference("train_accuracy"),
            "test_accuracy": difference("test_accuracy"),
            "below_own_peak": mean_interval(np.nanmax(curve, axis=0) - curve[-1]),
        },
        "saddle_points": {
            name: {
                "smallest_to_largest": mean_interval(
                    _each(found, lambda m: m["bottom"]["value"] / m["top"]["values"][0])
                ),
                "negative_mass": mean_interval(
                    _each(found, lambda m: m["density"]["negative_mass"]["mean"])
                ),
            }
            for name, found in (("SB", small), ("LB", large))
        },
        "nearest_minimum": {
            "distance_ratio": ratio_interval(
                *(np.array(regimes[n]["distance"]["values"], np.float64) for n in ("SB", "LB"))
            )
        },
        "different_minima": {
            "barrier": mean_interval([paths[m]["barrier"]["train/loss"] for m in members]),
            "higher_end": mean_interval([max(_end_losses(paths[m])) for m in members]),
        },
    }


def _end_losses(path: Mapping[str, Any]) -> list[float]:
    """The training losses at both ends of a path."""
    alpha = np.array(path["alpha"])
    return [path["train/loss"][int(np.argmin(np.abs(alpha - end)))] for end in (0.0, 1.0)]
