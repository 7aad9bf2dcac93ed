"""Which law a diffusion curve follows, and what the law says of longer runs."""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

FEWEST = 5  # points, below which neither law can be told from anything
FEW = 10  # points, below which the fit carries a note


@dataclasses.dataclass(frozen=True)
class DiffusionFit:
    r"""Two laws fitted to the same points of a diffusion curve.

    Attributes:
        log_slope: b of the log-t law :math:`d = a + b \log t` (natural logarithm).
        log_intercept: a.
        log_r2: the fraction of the variance of d that the law explains.
        log_interval: 95% interval of b.
        log_intercept_interval: 95% interval of a.
        log_covariance: covariance matrix of (a, b), shape [2, 2].
        power_exponent: p of the power law :math:`d = c\, t^p`.
        power_factor: c.
        power_r2: the fraction of the variance of d that the law explains.
        power_interval: 95% interval of p.
        delta_aic: AIC of the power law less that of the log-t law; positive favours log t.
        better: "log" or "power", or "neither" where the two AICs are within 2 of each other.
        step_range: the first and last step used.
        num_points: points used.
        effective_points: what they are worth as independent points; the intervals rest on it.
        note: what a reader of the figures should be told; empty when there is nothing.
    """

    log_slope: float
    log_intercept: float
    log_r2: float
    log_interval: tuple[float, float]
    log_intercept_interval: tuple[float, float]
    log_covariance: np.ndarray
    power_exponent: float
    power_factor: float
    power_r2: float
    power_interval: tuple[float, float]
    delta_aic: float
    better: str
    step_range: tuple[int, int]
    num_points: int
    effective_points: float
    note: str


def fit_diffusion(
    step: ArrayLike, distance: ArrayLike, *, first: int = 1, last: int | None = None
) -> DiffusionFit:
    r"""Fits the log-t law and a power law to a diffusion curve, by least squares of the distance.

    .. math:: d = a + b \log t \qquad\text{and}\qquad d = c\, t^p

    Both have two parameters and are fitted to the same points in the same units, so their Akaike
    criteria compare, :math:`\Delta\mathrm{AIC} = n \log(\mathrm{RSS}_p / \mathrm{RSS}_{\log})`.

    Points of one curve are not independent. With :math:`\rho` the lag-one correlation of the
    residuals (0 if negative), n points are worth :math:`n (1 - \rho) / (1 + \rho)`; variances grow
    by the inverse, and intervals use Student's t with that many points less two. This is a
    correction, not a cure: the spread over seeds is the better error bar where there are seeds.

    Args:
        step: updates made, shape [n].
        distance: distance from the start, shape [n]. Points at step 0 are not used (log t), nor
            are points that are not finite.
        first: the first step used. The law speaks of a walk that has forgotten its start: about 10
            is a good choice for training runs.
        last: the last step used, or None for all. For training runs, the last update before the
            first drop of the learning rate.

    Returns:
        Both fits and which is better.

    Raises:
        ValueError: for arrays that do not match, fewer than 5 distinct steps in the range, or a
            distance that does not change.

    Example:
        >>> step = 2 ** np.arange(12)
        >>> fit = fit_diffusion(step, 1.0 + 0.5 * np.log(step))
        >>> round(fit.log_slope, 6), round(fit.log_intercept, 6), fit.better
        (0.5, 1.0, 'log')

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017 (log t); Burnham and Anderson, Model Selection
        and Multimodel Inference, 2002 (AIC, and the margin of 2).
    """
    t, d, dropped = _points(step, distance, first, last)
    x = np.log(t)
    basis = np.stack([np.ones_like(x), x], axis=1)
    (a, b), log_rss, log_residuals = _least_squares(basis, d)
    c, p = _fit_power(x, d)
    power_residuals = d - c * np.exp(p * x)
    power_rss = float(power_residuals @ power_residuals)

    spread = float(np.sum((d - d.mean()) ** 2))
    # A law that fits to rounding is not infinitely better than one that nearly does.
    floor = spread * float(np.finfo(np.float32).eps) ** 2
    delta_aic = len(d) * math.log(max(power_rss, floor) / max(log_rss, floor))

    effective = _effective_points(log_residuals)
    log_covariance = _covariance(basis, log_rss, effective)
    # Linearized about the fit, in (log c, p).
    tangent = basis * (c * np.exp(p * x))[:, None]
    power_effective = _effective_points(power_residuals)
    power_covariance = _covariance(tangent, power_rss, power_effective)
    return DiffusionFit(
        log_slope=float(b),
        log_intercept=float(a),
        log_r2=1 - log_rss / spread,
        log_interval=_interval(b, log_covariance[1, 1], effective),
        log_intercept_interval=_interval(a, log_covariance[0, 0], effective),
        log_covariance=log_covariance,
        power_exponent=p,
        power_factor=c,
        power_r2=1 - power_rss / spread,
        power_interval=_interval(p, power_covariance[1, 1], power_effective),
        delta_aic=delta_aic,
        better="neither" if abs(delta_aic) < 2 else "log" if delta_aic > 0 else "power",
        step_range=(int(t.min()), int(t.max())),
        num_points=len(t),
        effective_points=effective,
        note=_note(t, dropped),
    )


def updates_to_travel(fit: DiffusionFit, distance: float) -> tuple[float, float, float]:
    r"""How many updates the log-t law takes to a distance: the :math:`e^d` of the theory.

    .. math:: t = \exp\bigl((d - a) / b\bigr)

    with Fieller's 95% interval: all t at which a law within the errors of the fit, its slope and
    intercept correlated as they are, could be at that distance.

    Args:
        fit: from :func:`fit_diffusion`.
        distance: from the start, in the units of the fit.

    Returns:
        Updates, and the low and high end of their interval. The high end is infinite where the
        slope may be zero, and the figure itself where it exceeds what a float holds.

    Raises:
        ValueError: when the fit does not rise, or for a distance that is not positive and finite.

    Example:
        >>> step = 2 ** np.arange(12)
        >>> fit = fit_diffusion(step, 1.0 + 0.5 * np.log(step))
        >>> updates, low, high = updates_to_travel(fit, 6.0)
        >>> round(updates)  # exp((6 - 1) / 0.5)
        22026

    References:
        Fieller, Some problems in interval estimation, J. R. Stat. Soc. B 16, 1954.
    """
    if not (math.isfinite(distance) and distance > 0):
        raise ValueError(f"distance must be finite and above 0, not {distance!r}.")
    if fit.log_slope <= 0:
        raise ValueError(
            f"The fit does not rise (log_slope = {fit.log_slope:.3g}), so by it no number of "
            f"updates reaches {distance}. Fit an earlier range of steps, see first and last."
        )
    quantile = _quantile(fit.effective_points)
    (var_a, cov), (_, var_b) = (quantile**2 * fit.log_covariance).tolist()
    a, b = fit.log_intercept, fit.log_slope
    # |d - a - b x| <= q sd(a + b x), squared: leading x^2 - 2 middle x + last <= 0.
    leading = b**2 - var_b
    middle = b * (distance - a) + cov
    last = (distance - a) ** 2 - var_a
    root = math.sqrt(max(middle**2 - leading * last, 0.0))
    if leading > 0:
        low, high = (middle - root) / leading, (middle + root) / leading
    else:
        # The slope may be zero: no upper end. The lower end is the nearer root, if there is one.
        low, high = (last / (middle + root) if middle + root > 0 else -math.inf), math.inf
    return _exp((distance - a) / b), _exp(low), _exp(high)


def _points(
    step: ArrayLike, distance: ArrayLike, first: int, last: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """The points to fit, in float64, and how many were dropped for not being finite."""
    t, d = np.asarray(step, np.float64), np.asarray(distance, np.float64)
    if t.ndim != 1 or t.shape != d.shape:
        raise ValueError(
            f"step and distance must be one curve, of one shape [n], not {t.shape} and {d.shape}. "
            "For several seeds fit each: [fit_diffusion(step, one) for one in distance]."
        )
    inside = (t >= max(first, 1)) & (t <= (np.inf if last is None else last))
    finite = np.isfinite(d)
    used = inside & finite
    found = np.unique(t[used]).size
    if found < FEWEST:
        raise ValueError(
            f"A fit needs at least {FEWEST} distinct steps; there are {found} from step "
            f"{max(first, 1)} to {'the end' if last is None else last} (of {t.size} in all). "
            "Record more steps, or widen the range with first and last."
        )
    if np.ptp(d[used]) == 0:
        raise ValueError(
            f"The distance is {d[used][0]} at every step: there is no law to fit. Do the weights "
            "move at all?"
        )
    order = np.argsort(t[used], kind="stable")
    return t[used][order], d[used][order], int(np.sum(inside & ~finite))


def _least_squares(basis: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    solution = np.linalg.lstsq(basis, d, rcond=None)[0]
    residuals = d - basis @ solution
    return solution, float(residuals @ residuals), residuals


def _fit_power(x: np.ndarray, d: np.ndarray) -> tuple[float, float]:
    """Least squares of d = c exp(p x). For each p the best c is a projection; p by search."""
    from scipy.optimize import minimize_scalar

    centre = x.mean()

    def projected(p: float) -> tuple[float, float]:
        shape = np.exp(p * (x - centre))
        c = float(shape @ d / (shape @ shape))
        return c, float(np.sum((d - c * shape) ** 2))

    # Several brackets, since the sum of squares may have more than one valley.
    knots = np.linspace(-4.0, 4.0, 161)
    best = int(np.argmin([projected(p)[1] for p in knots]))
    bounds = (knots[max(best - 1, 0)], knots[min(best + 1, len(knots) - 1)])
    found = minimize_scalar(
        lambda p: projected(p)[1], bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    p = float(found.x)
    return projected(p)[0] * math.exp(-p * centre), p


def _effective_points(residuals: np.ndarray) -> float:
    """What correlated points are worth as independent ones, at least 3 for an interval at all."""
    square = float(residuals @ residuals)
    rho = float(residuals[1:] @ residuals[:-1]) / square if square > 0 else 0.0
    rho = min(max(rho, 0.0), 0.99)
    return max(3.0, len(residuals) * (1 - rho) / (1 + rho))


def _covariance(basis: np.ndarray, rss: float, effective: float) -> np.ndarray:
    """Covariance of least-squares parameters, the residual variance spread over fewer points."""
    count = len(basis)
    # rss / (n - 2) * n / n_effective, with the degrees of freedom of the effective points.
    variance = rss / count * (effective / (effective - 2)) * (count / effective)
    return variance * np.linalg.inv(basis.T @ basis)


def _quantile(effective: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(effective - 2, 0.975))


def _interval(value: float, variance: float, effective: float) -> tuple[float, float]:
    half = _quantile(effective) * math.sqrt(max(variance, 0.0))
    return float(value - half), float(value + half)


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _note(t: np.ndarray, dropped: int) -> str:
    notes = []
    if len(t) < FEW:
        notes.append(f"only {len(t)} points: read the intervals, not the values")
    if t.max() / t.min() < 10:
        notes.append("less than a decade of steps: the two laws hardly differ there")
    if dropped:
        notes.append(f"{dropped} points that are not finite were left out")
    return "; ".join(notes)
