"""How fast the weights travel in each regime, by which law, and whether as fast as the small batch.

All of it is about the early phase: from where the ballistic start is forgotten, a few memories of
the momentum, to the first drop of the learning rate (or the first growth of the batch in its
place). Where that leaves fewer than 5 points the phase starts at the first update, ballistic or
not.

The points of one curve follow each other and are no independent evidence: laws are compared with
correlated residuals, and intervals are over seeds, the replicates.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gapjax import diffusion
from gapjax.study._findings._intervals import Interval, clipped, jackknife, ratio_of_means
from gapjax.study._optimizers import OPTIMIZERS
from gapjax.study._results._records import Convex, RegimeRecord

FEWEST = 5  # points of a fit
_MOMENTUM = 0.9  # of an optimizer that names none


@dataclasses.dataclass(frozen=True)
class Shared:
    """A curve beside the small batch's, over what both went through in the early phase.

    Attributes:
        first: where that begins, in updates or examples per the axis.
        last: where it ends.
        points: log-spaced marks between.
        ratio: of the slopes over that range.
        difference: the root-mean-square of d / d_small - 1 of the mean curves.
    """

    first: float
    last: float
    points: int
    ratio: Interval
    difference: Interval


@dataclasses.dataclass(frozen=True)
class Beside:
    """A regime's curve beside the small batch's.

    Attributes:
        slopes: the ratio of slopes, each over its own early phase.
        updates: update by update.
        epochs: epoch by epoch.
    """

    slopes: Interval
    updates: Shared | None
    epochs: Shared | None


@dataclasses.dataclass(frozen=True)
class Travel:
    """How the weights of a regime travel in the early phase; see ``diffusion.fit_diffusion``.

    Attributes:
        updates: the first and last update fitted.
        points: the log-spaced marks between them.
        seeds: how many seeds went through.
        log_slope: b of d = a + b log t, with its interval over seeds.
        log_intercept: a.
        log_r2: what of the variance of the curves the law explains.
        power_exponent: p of d = c t^p on the same points.
        power_factor: c.
        power_r2: likewise.
        delta_aic: the AIC of the power law less that of log t, residuals correlated.
        better: ``"log"`` or ``"power"``, or ``"neither"`` where the data do not tell.
        slopes: b of each seed that went through.
        effective_points: what the points of a curve are worth as independent ones.
        note: what a reader should be told.
        from_first_update: which law is better with the ballistic start; None where it is in the
            fit anyway.
        beside: beside the small batch; None for it itself, and without it.

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, figure 2: the distance against updates, of all
        batch sizes, at the high initial rate.
    """

    updates: tuple[int, int]
    points: int
    seeds: int
    log_slope: Interval
    log_intercept: float
    log_r2: float
    power_exponent: Interval
    power_factor: float
    power_r2: float
    delta_aic: float
    better: str
    slopes: list[float]
    effective_points: float
    note: str
    from_first_update: str | None
    beside: Beside | None

    @property
    def is_ballistic(self) -> bool:
        """Whether the ballistic start is in the fit, for want of points."""
        return self.from_first_update is None


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


def find_travel(
    records: Mapping[str, RegimeRecord], small: str, study: Mapping[str, Any]
) -> dict[str, Travel | None]:
    """How the weights of every regime travel; None where no law can be fitted.

    Args:
        records: the regimes that are done.
        small: the name of the small batch.
        study: the fields of the study, for the memory of its optimizer.
    """
    curves = {name: _curves(record) for name, record in records.items()}
    found = {name: _travel(one, _memory(study, records[name])) for name, one in curves.items()}
    base = found.get(small)
    if base is None:
        return found
    per_example = records[small].epochs / records[small].examples
    for name, travel in found.items():
        own, other = _same_seeds(curves[name], curves[small])
        if name == small or travel is None or not own.seeds:
            continue
        first = travel.updates[0]
        beside = Beside(
            ratio_of_means(_of(own, curves[name], travel), _of(other, curves[small], base)),
            _compare(own, other, 1.0, 1.0, first),
            _compare(own, other, own.batch * per_example, other.batch * per_example, first),
        )
        found[name] = dataclasses.replace(travel, beside=beside)
    return found


def convex_travel(found: Convex) -> Travel | None:
    """How the weights of the convex control travel."""
    distance = np.array(found.distance, np.float64).reshape(len(found.update), -1)
    seeds = tuple(range(distance.shape[1]))
    curves = _Curves(np.array(found.update), distance, seeds, found.update[-1], found.examples)
    return _travel(curves, found.momentum)


def _memory(study: Mapping[str, Any], record: RegimeRecord) -> float:
    """The momentum of the optimizer, or b1 of Adam."""
    own = OPTIMIZERS.get(study.get("optimizer", ""))
    tuned = record.run.hyper
    for name in ("momentum", "b1"):
        if name in tuned:
            return tuned[name]
        if study.get(name) is not None:
            return study[name]
        if own is not None and name in own.defaults:
            return own.defaults[name]
    return _MOMENTUM


def _curves(record: RegimeRecord) -> _Curves:
    update = np.array(record.curves.update)
    # The learning curve's own points are evenly spaced; with them slopes would depend on how many
    # evaluations were asked for.
    marks = np.isin(update, diffusion.log_spaced(record.updates))
    distance = record.curves.array("distance")[marks]
    lost = record.run.lost
    kept = [i for i, seed in enumerate(record.seeds) if seed not in lost]
    last = min([record.updates, *record.boundaries[:1], *filter(None, record.stopped or [])])
    return _Curves(
        update=update[marks],
        distance=distance[:, kept],
        seeds=tuple(record.seeds[i] for i in kept),
        last=last,
        batch=[size for update, size in record.batch_sizes if update < last][-1],
    )


def _travel(curves: _Curves, momentum: float) -> Travel | None:
    """Both laws over the early phase, the seeds as replicates."""
    early = curves.update <= curves.last
    t, distance = curves.update[early], curves.distance[early].T
    if not curves.seeds or len(t) < FEWEST or np.any(np.ptp(distance, axis=1) == 0):
        return None
    fit = diffusion.fit_diffusion(t, distance, momentum=momentum)
    ballistic = fit.step_range[0] == t[0]
    whole = None if ballistic else diffusion.fit_diffusion(t, distance, first=1)
    return Travel(
        updates=fit.step_range,
        points=fit.num_points,
        seeds=fit.num_seeds,
        log_slope=Interval(fit.log_slope, *fit.log_interval),
        log_intercept=fit.log_intercept,
        log_r2=fit.log_r2,
        power_exponent=Interval(fit.power_exponent, *fit.power_interval),
        power_factor=fit.power_factor,
        power_r2=fit.power_r2,
        delta_aic=fit.delta_aic,
        better=fit.better,
        slopes=fit.slopes.tolist(),
        effective_points=fit.effective_points,
        note=fit.note,
        from_first_update=None if whole is None else whole.better,
        beside=None,
    )


def _of(some: _Curves, every: _Curves, found: Travel) -> np.ndarray:
    """The slopes of some of a regime's seeds."""
    return np.array([found.slopes[every.seeds.index(seed)] for seed in some.seeds])


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
    own: _Curves, small: _Curves, own_pace: float, small_pace: float, first: int
) -> Shared | None:
    """Slopes and curves beside the small batch's where both are in the early phase."""
    end = min(own.last * own_pace, small.last * small_pace)
    start = first * max(own_pace, small_pace)
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

    return Shared(
        first=float(t[inside][0]),
        last=float(t[inside][-1]),
        points=len(x),
        ratio=ratio_of_means(_slopes(x, distance), _slopes(x, base)),
        difference=clipped(jackknife(difference, distance, base), low=0.0),
    )
