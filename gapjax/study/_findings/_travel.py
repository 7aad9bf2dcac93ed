"""How fast the weights travel in each regime, by which law, and whether as fast as the small batch.

All of it is about the early phase: from the tenth update, where the first ballistic steps are
forgotten, to the first drop of the learning rate (or the first growth of the batch in its place).
Where that leaves fewer than 5 points the phase starts at the first update, ballistic or not.

Every number is taken per seed, and its interval is over seeds: the points of one curve follow each
other and are no independent evidence.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gapjax import diffusion
from gapjax.study._findings._intervals import (
    Interval,
    jackknife,
    mean_interval,
    ratio_of_means,
)
from gapjax.study._results._records import RegimeRecord, over_seeds

FIRST_UPDATE = 10
FEWEST = 5  # points of a fit
_MARGIN = 2.0  # of AIC, within which two laws are not told apart


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number over seeds: its mean, deviation and interval."""

    mean: float | None
    std: float | None
    values: list[float | None]
    low: float | None
    high: float | None

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return Interval(self.mean, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Which law describes a curve better.

    Attributes:
        delta_aic: the AIC of the power law less that of log t, over seeds.
        better: ``"log"`` or ``"power"`` where the interval of that leaves out zero, else
            ``"neither"``.
        favours: how many seeds favour each by an AIC lower by 2.
    """

    delta_aic: Spread
    better: str
    favours: dict[str, int]


@dataclasses.dataclass(frozen=True)
class MeanCurve:
    """Both laws fitted to the mean distance over seeds, which is what figures show."""

    log_slope: float
    log_intercept: float
    log_r2: float
    power_exponent: float
    power_factor: float
    power_r2: float
    delta_aic: float
    better: str


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
    """How the weights of a regime travel in the early phase.

    Attributes:
        updates: the first and last update fitted.
        points: the log-spaced marks between them.
        seeds: how many seeds went through.
        log_slope: b of d = a + b log t, over seeds.
        log_r2: what of the variance the law explains.
        power_exponent: p of d = c t^p on the same points.
        power_r2: likewise.
        verdict: which law is better.
        from_first_update: likewise for the phase with its ballistic start.
        mean_curve: both fits to the mean over seeds.
        beside: beside the small batch; None for it itself, and without it.

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, figure 2: the distance against updates, of all
        batch sizes, at the high initial rate.
    """

    updates: tuple[int, int]
    points: int
    seeds: int
    log_slope: Spread
    log_r2: Spread
    power_exponent: Spread
    power_r2: Spread
    verdict: Verdict
    from_first_update: Verdict
    mean_curve: MeanCurve
    beside: Beside | None


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


def find_travel(records: Mapping[str, RegimeRecord], small: str) -> dict[str, Travel | None]:
    """How the weights of every regime travel; None where no law can be fitted.

    Args:
        records: the regimes that are done.
        small: the name of the small batch.
    """
    curves = {name: _curves(record) for name, record in records.items()}
    found = {name: _travel(one) for name, one in curves.items()}
    if found.get(small) is None:
        return found
    per_example = records[small].epochs / records[small].examples
    for name, travel in found.items():
        own, base = _same_seeds(curves[name], curves[small])
        if name == small or travel is None or not own.seeds:
            continue
        beside = Beside(
            ratio_of_means(
                *(_slopes(np.log(c.update), c.distance) for c in map(_early, (own, base)))
            ),
            _compare(own, base, 1.0, 1.0),
            _compare(own, base, own.batch * per_example, base.batch * per_example),
        )
        found[name] = dataclasses.replace(travel, beside=beside)
    return found


def spread(values: np.ndarray) -> Spread:
    """A number over seeds."""
    seeds, interval = over_seeds(values), mean_interval(values)
    return Spread(seeds.mean, seeds.std, seeds.values, interval.low, interval.high)


def _curves(record: RegimeRecord) -> _Curves:
    update = np.array(record.curves.update)
    # The learning curve's own points are evenly spaced; with them slopes would depend on how many
    # evaluations were asked for.
    marks = np.isin(update, diffusion.log_spaced(record.updates))
    distance = record.curves.array("distance")[marks]
    lost = {one.seed for one in record.run.diverged}
    kept = [i for i, seed in enumerate(record.seeds) if seed not in lost]
    return _Curves(
        update=update[marks],
        distance=distance[:, kept],
        seeds=tuple(record.seeds[i] for i in kept),
        last=record.boundaries[0] if record.boundaries else record.updates,
        batch=record.batch_sizes[0][1],
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


def _travel(curves: _Curves) -> Travel | None:
    """Both laws over the early phase, for each seed and for the mean over seeds."""
    early = _early(curves)
    if not early.seeds or len(early.update) < FEWEST or np.any(np.ptp(early.distance, axis=0) == 0):
        return None
    fits = _fits(early)
    mean = diffusion.fit_diffusion(early.update, early.distance.mean(axis=1), first=1)
    return Travel(
        updates=(int(early.update[0]), int(early.update[-1])),
        points=len(early.update),
        seeds=len(early.seeds),
        log_slope=_over(fits, "log_slope"),
        log_r2=_over(fits, "log_r2"),
        power_exponent=_over(fits, "power_exponent"),
        power_r2=_over(fits, "power_r2"),
        verdict=_which(fits),
        from_first_update=_which(_fits(_early(curves, first=1))),
        mean_curve=MeanCurve(
            **{field.name: getattr(mean, field.name) for field in dataclasses.fields(MeanCurve)}
        ),
        beside=None,
    )


def _fits(curves: _Curves) -> list[diffusion.DiffusionFit]:
    return [diffusion.fit_diffusion(curves.update, one, first=1) for one in curves.distance.T]


def _over(fits: list[diffusion.DiffusionFit], name: str) -> Spread:
    return spread(np.array([getattr(fit, name) for fit in fits]))


def _which(fits: list[diffusion.DiffusionFit]) -> Verdict:
    """Which law is better over seeds, and in how many of them."""
    delta = _over(fits, "delta_aic")
    # One seed has no interval; then the usual margin has to do.
    low, high = (
        (delta.mean, delta.mean)
        if delta.low is None or delta.high is None
        else (delta.low, delta.high)
    )
    better = "neither"
    if low is not None and high is not None and delta.mean is not None:
        if low > 0 and delta.mean >= _MARGIN:
            better = "log"
        elif high < 0 and delta.mean <= -_MARGIN:
            better = "power"
    found = [fit.better for fit in fits]
    return Verdict(delta, better, {law: found.count(law) for law in ("log", "power", "neither")})


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


def _compare(own: _Curves, small: _Curves, own_pace: float, small_pace: float) -> Shared | None:
    """Slopes and curves beside the small batch's where both are in the early phase."""
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

    return Shared(
        first=float(t[inside][0]),
        last=float(t[inside][-1]),
        points=len(x),
        ratio=ratio_of_means(_slopes(x, distance), _slopes(x, base)),
        difference=jackknife(difference, distance, base, least=0.0),
    )
