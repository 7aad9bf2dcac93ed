"""The critical batch size, from the steps that it takes to a target at several batch sizes."""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from gapjax import _checks
from gapjax._student import t_quantile
from gapjax.growth._twenty_percent import Excess, crossing, crossing_interval

_FEWEST = 3  # distinct sizes: two parameters, and one degree of freedom for the error
_FEW = 5  # below which the fit carries a note
_FAR = 1e6  # how far beyond the sizes the critical batch is looked for
_GRID = 1001
_LINEAR = 1.05  # up to this many times the examples of the smallest size is linear scaling


@dataclasses.dataclass(frozen=True)
class BatchFit:
    r"""The hyperbola of steps against batch size, :math:`S = S_\mathrm{min} (1 + B_c / B)`.

    Intervals are of 95%, as (low, high); an end is 0 or infinite where the data give no bound.

    Attributes:
        min_steps: :math:`S_\mathrm{min}`, the steps that no batch can do without.
        min_examples: :math:`E_\mathrm{min} = S_\mathrm{min} B_c`, the examples likewise.
        critical_batch: :math:`B_c`; at it, steps and examples are both twice their minimum.
        critical_batch_interval: from the profile likelihood.
        critical_batch_bootstrap: the same, its threshold from resampled residuals in place of the F
            distribution: it does not ask for normal ones.
        twenty_percent_batch: the batch whose steps exceed perfect scaling by 20%; another quantity,
            on the curve a fifth of the critical batch above 1.2 times the reference batch.
        twenty_percent_interval: the batches whose steps exceed perfect scaling by 20% within the
            errors of the measured points; beyond the largest size, that of the hyperbola, at the
            interval of the critical batch. It holds ``twenty_percent_batch``.
        reference_batch: the largest measured batch still in linear scaling, from which those 20%
            are counted.
        residual_std: standard deviation of :math:`\log S` about the curve, of one measurement.
        batch_sizes: the sizes that were used, rising.
        steps: the geometric mean of the steps at each.
        num_points: measurements used.
        note: what a reader of the figures should be told; empty when there is nothing.
    """

    min_steps: float
    min_examples: float
    critical_batch: float
    critical_batch_interval: tuple[float, float]
    critical_batch_bootstrap: tuple[float, float]
    twenty_percent_batch: float
    twenty_percent_interval: tuple[float, float]
    reference_batch: float
    residual_std: float
    batch_sizes: np.ndarray
    steps: np.ndarray
    num_points: int
    note: str


def fit_critical_batch(
    batch_sizes: ArrayLike,
    steps: ArrayLike,
    *,
    reference_batch: float | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> BatchFit:
    r"""Fits the critical batch size to the steps that it takes to a target at several batch sizes.

    .. math:: \log S_i = \log S_\mathrm{min} + \log(1 + B_c / B_i) + \varepsilon_i

    by least squares in two parameters; the same hyperbola as
    :math:`(S / S_\mathrm{min} - 1)(E / E_\mathrm{min} - 1) = 1` with :math:`E = B S`. The learning
    rate has to be tuned at each size, by the same number of trials: at one rate for all sizes the
    curve is another.

    The interval of :math:`B_c` is the set where the residual sum of squares, at its best
    :math:`S_\mathrm{min}`, exceeds the least by no more than :math:`s^2 F_{1,\nu}(0.95)`;
    :math:`s^2` pools replicates and the misfit of their means. Where replicates show that the
    hyperbola does not fit (an F test at 5%), :math:`s^2` is that of the misfit alone, and the note
    says so. The bootstrap draws residuals, refits, and takes the threshold from the statistic
    itself.

    The 20% batch is where :math:`B S(B)` is 1.2 times what it is at the reference batch,
    :math:`0.2 B_c + 1.2 B_\mathrm{ref}` on the hyperbola; between sizes, what the curve leaves of
    :math:`\log S` is interpolated against :math:`\log B`. Its interval is the set of all B whose
    :math:`\log(B S(B))` may, by the errors of the points, be :math:`\log 1.2` above that of the
    reference. It rests on the points near it, not on all as that of :math:`B_c` does, and is wider.

    Args:
        batch_sizes: examples (or tokens) per update, shape [K], at least 3 different ones.
        steps: updates to the target, shape [K], or [K, seeds] for replicates. What is not finite
            (a target that was never reached) is left out, and the note counts it.
        reference_batch: from which the 20% are counted, one of the sizes; by default the largest
            whose examples, on the hyperbola, are within 5% of those of the smallest size.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The fit.

    Raises:
        ValueError: for shapes that do not match, sizes or steps that are not above 0, fewer than 3
            sizes, or a reference that is none of the sizes.

    Example:
        >>> sizes = 2.0 ** np.arange(3, 11)
        >>> fit = fit_critical_batch(sizes, 100 * (1 + 64 / sizes))
        >>> round(fit.min_steps, 6), round(fit.critical_batch, 6), round(fit.min_examples, 6)
        (100.0, 64.0, 6400.0)

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, section 2 (the hyperbola); Zhang et al, `How
        Does Critical Batch Size Scale in Pre-training? <https://arxiv.org/abs/2410.21676>`_, 2024
        (20%); Shallue et al, `Measuring the Effects of Data Parallelism on Neural Network Training
        <https://arxiv.org/abs/1811.03600>`_, 2018 (equal tuning at every size).
    """
    table, dropped = _table(batch_sizes, steps)
    num_resamples = _checks.positive_int("num_resamples", num_resamples)
    seed = _checks.whole_number("seed", seed)
    sizes = np.array(list(table))
    if reference_batch is not None and reference_batch not in list(table):
        raise ValueError(f"reference_batch={reference_batch!r} is none of the sizes {list(table)}.")
    counts = np.array([len(logs) for logs in table.values()])
    means = np.array([logs.mean() for logs in table.values()])
    within = sum(float(np.sum((logs - logs.mean()) ** 2)) for logs in table.values())
    curve = _Hyperbola(np.log(sizes), counts)
    best = curve.fit(means)
    misfit = curve.misfit(means, best)
    variance, freedom, fits = _error(misfit, within, counts)
    fitted = curve.log_min(means, best) + curve.rise(best)
    residuals = np.concatenate([logs - at for logs, at in zip(table.values(), fitted, strict=True)])
    drawn = _bootstrap(curve, best, residuals, counts, freedom, num_resamples, seed)
    interval = curve.interval(means, best, misfit + variance * t_quantile(freedom) ** 2)
    critical = curve.batch(best)
    reference = reference_batch or _largest_linear(sizes, critical)
    pull, variances = curve.pull(best), variance / counts
    excess = Excess(curve.log_sizes, means, best, pull, variances, freedom, reference)
    # The grid ends where a critical batch can no longer be told from an infinite one.
    twenty = crossing(excess, -math.inf if critical == math.inf else np.log(sizes[-1] * _FAR))
    low, high = (0.2 * end + 1.2 * reference for end in interval)
    return BatchFit(
        min_steps=0.0 if critical == math.inf else math.exp(curve.log_min(means, best)),
        min_examples=0.0 if critical == 0 else math.exp(curve.log_min(means, best) + best),
        critical_batch=critical,
        critical_batch_interval=interval,
        critical_batch_bootstrap=curve.interval(means, best, misfit + variance * drawn),
        twenty_percent_batch=twenty,
        twenty_percent_interval=crossing_interval(excess, twenty, (low, high)),
        reference_batch=float(reference),
        residual_std=math.sqrt(variance),
        batch_sizes=sizes,
        steps=np.exp(means),
        num_points=int(counts.sum()),
        note=_note(sizes, critical, twenty, fits, dropped),
    )


class _Hyperbola:
    """log S = log S_min + log(1 + B_c / B) at some sizes, weighted by their replicates."""

    def __init__(self, log_sizes: np.ndarray, counts: np.ndarray):
        self.log_sizes = log_sizes
        self._weights = counts.astype(np.float64)
        ends = log_sizes[0] - math.log(_FAR), log_sizes[-1] + math.log(_FAR)
        self._places = np.linspace(*ends, _GRID)  # of log B_c
        self._shapes = self._centred(self.rise(self._places[:, None]))

    def rise(self, place: float | np.ndarray) -> np.ndarray:
        """log(1 + B_c / B) at the sizes."""
        return np.logaddexp(0.0, place - self.log_sizes)

    def log_min(self, means: np.ndarray, place: float) -> float:
        """The best log S_min at a critical batch."""
        return float(np.average(means - self.rise(place), weights=self._weights))

    def misfit(self, means: np.ndarray, place: float) -> float:
        """The residual sum of squares at a critical batch, at its best S_min."""
        return float(self.sum_of_squares(means - self.rise(place)))

    def sum_of_squares(self, residuals: np.ndarray) -> np.ndarray:
        """About their mean, of one table or of many."""
        return self._centred(residuals) ** 2 @ self._weights

    def misfits(self, means: np.ndarray) -> np.ndarray:
        """The same for many tables at once, at all places that are looked at."""
        centred = self._centred(means)
        crossed = (self._weights * centred) @ self._shapes.T
        own, other = self.sum_of_squares(means), self.sum_of_squares(self._shapes)
        return own[..., None] - 2 * crossed + other

    def fit(self, means: np.ndarray) -> float:
        """The best log B_c; an end of the places where the data know none."""
        from scipy.optimize import minimize_scalar

        at = int(np.argmin(self.misfits(means)))
        if at in (0, _GRID - 1):
            return float(self._places[at])
        bounds = (self._places[at - 1], self._places[at + 1])
        found = minimize_scalar(
            lambda place: self.misfit(means, place), bounds=bounds, options={"xatol": 1e-9}
        )
        # A search stops at the root of the rounding error; a step of Gauss and Newton does not.
        place = float(found.x)
        step = float(self.pull(place) @ (means - self.rise(place)))
        better = self.misfit(means, place + step) <= self.misfit(means, place)
        return place + step if better else place

    def pull(self, place: float) -> np.ndarray:
        """The derivative of the best log B_c by each of the means; 0 where they do not tell it."""
        slope = self._centred(1 / (1 + np.exp(np.minimum(self.log_sizes - place, 700.0))))
        along = self._weights * slope
        known = self._places[0] < place < self._places[-1]
        return along / (along @ slope) if known else np.zeros_like(along)

    def batch(self, place: float) -> float:
        """The critical batch at a place: 0 or infinite at the ends."""
        if place <= self._places[0]:
            return 0.0
        return math.inf if place >= self._places[-1] else math.exp(place)

    def interval(self, means: np.ndarray, best: float, limit: float) -> tuple[float, float]:
        """The critical batches, from low to high, whose misfit is within the limit."""
        from scipy.optimize import brentq

        within = self._places[self.misfits(means) <= limit]
        inner = (min(within.min(initial=best), best), max(within.max(initial=best), best))
        spacing = self._places[1] - self._places[0]
        ends = []
        for start, direction in zip(inner, (-1, 1), strict=True):
            outer = start + direction * spacing
            if not self._places[0] < outer < self._places[-1]:
                ends.append(self.batch(outer))
                continue
            over = lambda place: self.misfit(means, place) - limit  # noqa: E731
            inside = over(start) < 0 < over(outer)
            ends.append(math.exp(brentq(over, start, outer) if inside else start))
        return ends[0], ends[1]

    def _centred(self, values: np.ndarray) -> np.ndarray:
        return values - (values @ self._weights / self._weights.sum())[..., None]


def _table(batch_sizes: ArrayLike, steps: ArrayLike) -> tuple[dict[float, np.ndarray], int]:
    """The logarithms of the steps by size, rising, and how many were left out."""
    sizes = _checks.numbers_array("batch_sizes", batch_sizes)
    table = _checks.numbers_array("steps", steps)
    if sizes.ndim != 1 or table.ndim not in (1, 2) or len(table) != len(sizes):
        raise ValueError(
            "batch_sizes must have shape [K] and steps [K] or [K, seeds], not "
            f"{sizes.shape} and {table.shape}."
        )
    rows = table.reshape(len(sizes), -1)
    finite = np.isfinite(rows)
    if not (np.all(np.isfinite(sizes)) and np.all(sizes > 0) and np.all(rows[finite] > 0)):
        raise ValueError("Batch sizes and steps must be above 0.")
    logs = {
        float(size): np.log(np.concatenate([rows[k][finite[k]] for k in np.flatnonzero(same)]))
        for size, same in ((size, sizes == size) for size in np.unique(sizes))
    }
    logs = {size: found for size, found in logs.items() if found.size}
    if len(logs) < _FEWEST:
        raise ValueError(
            f"A fit needs steps to the target at {_FEWEST} different batch sizes at least, not at "
            f"{len(logs)}; measure more, on both sides of the knee."
        )
    return logs, int(np.sum(~finite))


def _error(misfit: float, within: float, counts: np.ndarray) -> tuple[float, int, bool]:
    """The variance of one measurement, its degrees of freedom, and whether the hyperbola fits."""
    from scipy.special import fdtri

    between, inner = len(counts) - 2, int(counts.sum()) - len(counts)
    # At the ends of the places the curve is off by this much from that of 0 or of infinity.
    off = _FAR**-2
    if inner and misfit / between > max(within / inner, off) * fdtri(between, inner, 0.95):
        return misfit / between, between, False
    tiny = float(np.finfo(np.float64).eps) ** 2
    return max((misfit + within) / (between + inner), tiny), between + inner, True


def _bootstrap(
    curve: _Hyperbola,
    best: float,
    residuals: np.ndarray,
    counts: np.ndarray,
    freedom: int,
    num_resamples: int,
    seed: int,
) -> float:
    """The 95% quantile of the excess misfit at the truth over the variance, by resampling."""
    if not float(residuals @ residuals) > residuals.size * np.finfo(np.float64).eps ** 2:
        return t_quantile(freedom) ** 2
    rng = np.random.default_rng(seed)
    drawn = rng.choice(residuals - residuals.mean(), (num_resamples, residuals.size))
    ends = np.cumsum(counts)
    sums = np.add.reduceat(drawn, np.concatenate([[0], ends[:-1]]), axis=1)
    within = np.sum(drawn**2, axis=1) - np.sum(sums**2 / counts, axis=1)
    means = sums / counts + curve.rise(best)
    least = curve.misfits(means).min(axis=1)
    truth = curve.sum_of_squares(sums / counts)
    if freedom == len(counts) - 2:
        within = np.zeros_like(within)
    variances = np.maximum((least + within) / freedom, np.finfo(np.float64).tiny)
    return float(np.quantile(np.maximum(truth - least, 0.0) / variances, 0.95))


def _largest_linear(sizes: np.ndarray, critical: float) -> float:
    """The largest size whose examples are within 5% of those of the smallest, on the hyperbola."""
    if critical == math.inf:
        return float(sizes[-1])
    return float(sizes[(sizes + critical) <= _LINEAR * (sizes[0] + critical)][-1])


def _note(sizes: np.ndarray, critical: float, twenty: float, fits: bool, dropped: int) -> str:
    notes = []
    if critical > sizes[-1]:
        notes.append("every size lies below the critical batch, which is extrapolated")
    if critical < sizes[0]:
        notes.append("every size lies above the critical batch, which is extrapolated")
    if twenty > sizes[-1]:
        notes.append("the 20% batch lies beyond the largest size")
    if not fits:
        notes.append("the hyperbola does not fit: its misfit exceeds what replicates allow")
    if len(sizes) < _FEW:
        notes.append(f"only {len(sizes)} sizes: the bootstrap has little to draw from")
    if dropped:
        notes.append(f"{dropped} measurements never reached the target and were left out")
    return "; ".join(notes)
