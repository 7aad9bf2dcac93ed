"""How fast the weights travel in each regime, by which law, and whether as fast as in SB.

All of it is about the early phase: from the tenth update, where the first ballistic steps are
forgotten, to the first drop of the learning rate (or the first growth of the batch in its place).
Where that leaves fewer than 5 points the phase starts at the first update, ballistic or not.

Every number is taken per seed, and its interval is over seeds: the points of one curve follow each
other and are no independent evidence.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gapjax import diffusion
from gapjax.study import _measure

FIRST_UPDATE = 10
FEWEST = 5  # points of a fit
_MARGIN = 2.0  # of AIC, within which two laws are not told apart


class _Curves(NamedTuple):
    """The distance of a regime's seeds, those that diverged left out.

    Attributes:
        update: the log-spaced marks, [T].
        distance: from the start, [T, S].
        seeds: which seeds, [S].
        last: the last update of the early phase.
        batch: examples per update in that phase.
    """

    update: np.ndarray
    distance: np.ndarray
    seeds: tuple[int, ...]
    last: int
    batch: int


def add_diffusion(
    regimes: Mapping[str, dict[str, Any]], history: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add to each regime how its weights travel in the early phase, under ``"diffusion"``.

    It is None where there are fewer than 5 points, or every seed diverged; else a dictionary:

    * ``updates``, ``points``, ``seeds``: the first and last update fitted, the log-spaced marks
      between them, and how many seeds went through.
    * ``log``: ``slope`` and ``r2`` of d = a + b log t, over seeds. ``power``: ``exponent`` and
      ``r2`` of d = c t^p on the same points.
    * ``delta_aic``: AIC of the power law less that of log t, over seeds; ``better``: "log" or
      "power" where the interval of that mean leaves out zero, else "neither"; ``favours``: how
      many seeds favour each by an AIC lower by 2.
    * ``from_first_update``: the same three for the phase with its ballistic start.
    * ``mean_curve``: both fits to the mean distance over seeds, which is what figures show.
    * ``beside_small``: None without SB to compare with; else ``slopes``, the ratio to SB's slope,
      each over its own early phase; and on the axes ``updates`` and ``epochs``, over what both
      went through in the early phase: ``range``, ``points``, ``ratio`` of the slopes over that
      range, and ``difference``, the root-mean-square of d / d_SB - 1 of the mean curves.

    Args:
        regimes: per regime what ``results.json`` holds; changed.
        history: per regime the curves.

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, figure 2: the distance against updates, of all
        batch sizes, at the high initial rate.
    """
    curves = {name: _curves(result, history[name]) for name, result in regimes.items()}
    for name, result in regimes.items():
        result["diffusion"] = _laws(curves[name])
        if result["diffusion"] is not None:
            result["diffusion"]["beside_small"] = None
    if "SB" not in regimes or regimes["SB"]["diffusion"] is None:
        return
    small = regimes["SB"]
    per_example = small["epochs"] / (small["updates"] * small["batch_size"])
    for name, result in regimes.items():
        own, base = _same_seeds(curves[name], curves["SB"])
        if name == "SB" or result["diffusion"] is None or not own.seeds:
            continue
        result["diffusion"]["beside_small"] = {
            "slopes": _measure.ratio_of_means(
                *(_slopes(np.log(c.update), c.distance) for c in map(_early, (own, base)))
            ),
            "updates": _compare(own, base, 1.0, 1.0),
            "epochs": _compare(own, base, own.batch * per_example, base.batch * per_example),
        }


def _curves(result: Mapping[str, Any], history: Mapping[str, Any]) -> _Curves:
    update = np.array(history["update"])
    # The learning curve's own points are evenly spaced; with them slopes would depend on how many
    # evaluations were asked for.
    marks = np.isin(update, diffusion.log_spaced(result["updates"]))
    distance = np.array(history["distance"], np.float64)[marks]
    lost = {entry["seed"] for entry in result["diverged"]}
    kept = [i for i, seed in enumerate(result["seeds"]) if seed not in lost]
    return _Curves(
        update=update[marks],
        distance=distance[:, kept],
        seeds=tuple(result["seeds"][i] for i in kept),
        last=result["boundaries"][0] if result["boundaries"] else result["updates"],
        batch=result.get("batch_sizes", [[0, result["batch_size"]]])[0][1],
    )


def _first(update: np.ndarray, last: float) -> int:
    """Where fits start: past the ballistic start if that leaves enough points."""
    left = np.count_nonzero((update >= FIRST_UPDATE) & (update <= last))
    return FIRST_UPDATE if left >= FEWEST else 1


def _early(curves: _Curves, first: int | None = None) -> _Curves:
    """The early phase of the curves, by default past the ballistic start."""
    first = _first(curves.update, curves.last) if first is None else first
    inside = (curves.update >= first) & (curves.update <= curves.last)
    return curves._replace(update=curves.update[inside], distance=curves.distance[inside])


def _laws(curves: _Curves) -> dict[str, Any] | None:
    """Both laws over the early phase, for each seed and for the mean over seeds."""
    early = _early(curves)
    if not early.seeds or len(early.update) < FEWEST or np.any(np.ptp(early.distance, axis=0) == 0):
        return None
    fits = _fits(early)
    mean = diffusion.fit_diffusion(early.update, early.distance.mean(axis=1), first=1)
    names = ("log_slope", "log_intercept", "log_r2", "power_exponent", "power_factor", "power_r2")
    return {
        "updates": [int(early.update[0]), int(early.update[-1])],
        "points": len(early.update),
        "seeds": len(early.seeds),
        "log": {
            "slope": _over_seeds(fits, "log_slope"),
            "r2": _over_seeds(fits, "log_r2"),
        },
        "power": {
            "exponent": _over_seeds(fits, "power_exponent"),
            "r2": _over_seeds(fits, "power_r2"),
        },
        **_which(fits),
        "from_first_update": _which(_fits(_early(curves, first=1))),
        "mean_curve": {name: getattr(mean, name) for name in (*names, "delta_aic", "better")},
    }


def _fits(curves: _Curves) -> list[diffusion.DiffusionFit]:
    return [diffusion.fit_diffusion(curves.update, one, first=1) for one in curves.distance.T]


def _over_seeds(fits: list[diffusion.DiffusionFit], name: str) -> dict[str, Any]:
    return _measure.with_interval(np.array([getattr(fit, name) for fit in fits]))


def _which(fits: list[diffusion.DiffusionFit]) -> dict[str, Any]:
    """Which law is better over seeds, and in how many of them."""
    delta = _over_seeds(fits, "delta_aic")
    # One seed has no interval; then the usual margin has to do.
    low, high = (delta[k] if len(fits) > 1 else delta["mean"] for k in ("low", "high"))
    better = "neither"
    if low > 0 and delta["mean"] >= _MARGIN:
        better = "log"
    elif high < 0 and delta["mean"] <= -_MARGIN:
        better = "power"
    found = [fit.better for fit in fits]
    favours = {law: found.count(law) for law in ("log", "power", "neither")}
    return {"delta_aic": delta, "better": better, "favours": favours}


def _same_seeds(own: _Curves, small: _Curves) -> tuple[_Curves, _Curves]:
    """Both regimes for the seeds that went through in both, in one order."""
    seeds = tuple(seed for seed in own.seeds if seed in small.seeds)
    first, second = (
        c._replace(distance=c.distance[:, [c.seeds.index(seed) for seed in seeds]], seeds=seeds)
        for c in (own, small)
    )
    return first, second


def _slopes(x: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The least-squares slope of each seed's distance, [S]."""
    x = x - x.mean()
    return x @ distance / (x @ x)


def _compare(
    own: _Curves, small: _Curves, own_pace: float, small_pace: float
) -> dict[str, Any] | None:
    """Slopes and curves beside SB's where both are in the early phase, t = pace * update."""
    end = min(own.last * own_pace, small.last * small_pace)
    start = _first(own.update, end / own_pace) * max(own_pace, small_pace)
    t = own.update * own_pace
    # The ends are products of the same numbers in another order.
    inside = (t >= start * (1 - 1e-9)) & (t <= end * (1 + 1e-9))
    if np.count_nonzero(inside) < FEWEST:
        return None
    x, distance = np.log(t[inside]), own.distance[inside]
    there = np.log(small.update * small_pace)
    base = np.stack([np.interp(x, there, one) for one in small.distance.T], axis=1)

    def difference(distance: np.ndarray, base: np.ndarray) -> float:
        return float(np.sqrt(np.mean((distance.mean(axis=1) / base.mean(axis=1) - 1) ** 2)))

    return {
        "range": [float(t[inside][0]), float(t[inside][-1])],
        "points": len(x),
        "ratio": _measure.ratio_of_means(_slopes(x, distance), _slopes(x, base)),
        "difference": _measure.jackknife(difference, distance, base, least=0.0),
    }
