"""Which law a diffusion curve follows, and what the law says of longer runs."""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from gapjax._checks import number, numbers_array, positive_float, positive_int
from gapjax._student import t_quantile
from gapjax.diffusion._laws import Law, fit_log, fit_power, largest_exponent

FEWEST = 5  # points, below which neither law can be told from anything
FEW = 10  # points, below which the fit carries a note
CLEAR = 2 * math.log(20)  # a difference of AICs that the wrong law has in at most 1 of 20 cases
LARGEST = 1e150  # with squares in float64
BALLISTIC = 5  # memories of the momentum, after which a walk has forgotten its start


@dataclasses.dataclass(frozen=True)
class DiffusionFit:
    r"""Two laws fitted to the same points of one diffusion curve, or of one for each of S seeds.

    Attributes:
        log_slope: b of the log-t law :math:`d = a + b \log t` (natural logarithm); the mean over
            seeds.
        log_intercept: a, likewise.
        log_r2: the fraction of the variance of d, within each curve, that the law explains, with
            its slope at the level that suits the curve best: residuals that wander leave the level
            open.
        log_interval: 95% interval of b.
        log_intercept_interval: 95% interval of a.
        log_covariance: covariance matrix of (a, b), shape [2, 2]; it goes with Student's t of
            ``degrees_of_freedom``.
        power_exponent: p of the power law :math:`d = c\, t^p`; the mean over seeds.
        power_factor: c, likewise.
        power_r2: likewise, with its exponent at the factor that suits the curve best.
        power_interval: 95% interval of p; NaN where p is beyond what is looked for, up to 16 of
            either sign, as the note then says.
        delta_aic: AIC of the power law less that of the log-t law, both with correlated residuals;
            positive favours log t.
        better: "log" or "power", or "neither" where the two AICs are within 6 of each other: the
            law that is wrong is 20 times likelier than the true one in at most 1 of 20 cases.
        step_range: the first and last step used.
        num_points: points used, of each curve.
        num_seeds: curves used, S.
        degrees_of_freedom: of the intervals: S - 1 for two seeds or more, n - 2 for one.
        effective_points: what the points of a curve are worth as independent ones for the slope.
        correlation_length: of the residuals of the log-t law, in log t; the median over what is
            likely.
        slopes: b of each curve, shape [S].
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
    num_seeds: int
    degrees_of_freedom: float
    effective_points: float
    correlation_length: float
    slopes: np.ndarray
    note: str


def fit_diffusion(
    step: ArrayLike,
    distance: ArrayLike,
    *,
    first: int | None = None,
    last: int | None = None,
    momentum: float = 0.9,
) -> DiffusionFit:
    r"""Fits the log-t law and a power law to diffusion curves.

    .. math:: d = a + b \log t \qquad\text{and}\qquad d = c\, t^p

    Points of one curve are not independent: what a curve is off by at one step it is still off by a
    little later. The residuals of both laws are taken to be an Ornstein-Uhlenbeck process in
    :math:`\log t`, whose correlation falls as :math:`\exp(-|\Delta \log t| / \ell)`: white noise
    for a short :math:`\ell`, a random walk for a long one. For each :math:`\ell` the laws are
    fitted by generalized least squares, and the results averaged over :math:`\ell` by its
    restricted likelihood (uniform in :math:`\log \ell` a priori), so that not knowing it widens
    the intervals.

    With two seeds or more, intervals are Student's over the seeds' own fits, and rest on no model
    of the residuals; two seeds tell so little of their spread that theirs are wide. Of one, they
    are those of the average over :math:`\ell`: how seeds differ it cannot tell, and hardly its own
    correlation, so where its residuals are a random walk its interval covers somewhat less than it
    says, where they are white more.

    Akaike's criterion compares the laws under the same model of the residuals, each at its most
    likely :math:`\ell`. That log t fits better is no evidence for a random walk on a random
    potential by itself: gradient descent on a separable problem also moves like log t.

    Args:
        step: updates made, shape [n], each once.
        distance: distance from the start, shape [n], or [S, n] for S seeds. Points at step 0 are
            not used (log t), nor are points that are not finite in every seed.
        first: the first step used. By default the start is left out as long as the walk is
            ballistic: :math:`5 / (1 - \mathrm{momentum})` updates. Where that leaves too few
            points, all are used, and the note says so.
        last: the last step used, or None for all. For training runs, the last update before the
            first drop of the learning rate.
        momentum: of the optimizer (b1 of Adam), whose memory is 1 / (1 - momentum) updates.

    Returns:
        Both fits and which is better.

    Raises:
        ValueError: for arrays that do not match, steps that repeat, fewer than 5 of them in the
            range, a distance that is negative or does not change, or a momentum outside [0, 1).

    Example:
        >>> step = 2 ** np.arange(12)
        >>> fit = fit_diffusion(step, 1.0 + 0.5 * np.log(step))
        >>> round(fit.log_slope, 6), round(fit.log_intercept, 6), fit.better, fit.step_range
        (0.5, 1.0, 'log', (64, 2048))

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017 (log t); Soudry et al, `The Implicit Bias of
        Gradient Descent on Separable Data <https://arxiv.org/abs/1710.10345>`_, 2018 (log t without
        any noise); Patterson, Thompson, Recovery of inter-block information when block sizes are
        unequal, Biometrika 58, 1971 (restricted likelihood); Burnham and Anderson, Model Selection
        and Multimodel Inference, 2002 (AIC); Royall, On the probability of observing misleading
        statistical evidence, J. Am. Stat. Assoc. 95, 2000 (the margin).
    """
    t, curves, notes = _points(step, distance, first, last, momentum)
    # Fitted as numbers about 1: the tolerances of solvers know no unit. A power of 2 is exact.
    unit = math.ldexp(0.5, math.frexp(float(np.abs(curves).max()))[1])
    curves = curves / unit
    x = np.log(t)
    middle = x.mean()
    log_law, power_law = fit_log(x, curves), fit_power(x - middle, curves)
    coefficients, covariance, freedom, intervals = log_law.summary()
    a, b = unit * coefficients
    a_interval, b_interval = ((unit * low, unit * high) for low, high in intervals)
    _, _, _, (_, p_interval) = power_law.summary()
    of_curves, powers = log_law.of_curves(), power_law.of_curves()
    limit = largest_exponent(x - middle)
    if np.abs(powers[:, 1]).max() >= limit - 1e-6:
        p_interval = (math.nan, math.nan)
        notes.append(f"the exponent of the power law lies beyond {limit:.3g}, and is not found")
    spread = float(np.sum((curves - curves.mean(axis=1, keepdims=True)) ** 2))
    log_left = curves - of_curves @ np.stack([np.ones_like(x), x])
    log_away = log_left - log_left.mean(axis=1, keepdims=True)
    shape = np.exp(powers[:, 1:] * (x - middle))
    power_away = curves - shape * (curves * shape).sum(1, keepdims=True) / (shape**2).sum(
        1, keepdims=True
    )
    delta_aic = 2 * (log_law.log_likelihood - power_law.log_likelihood)
    return DiffusionFit(
        log_slope=float(b),
        log_intercept=float(a),
        log_r2=1 - float(np.sum(log_away**2)) / spread,
        log_interval=b_interval,
        log_intercept_interval=a_interval,
        log_covariance=unit**2 * covariance,
        power_exponent=float(powers[:, 1].mean()),
        power_factor=unit * float(np.mean(powers[:, 0] * np.exp(-powers[:, 1] * middle))),
        power_r2=1 - float(np.sum(power_away**2)) / spread,
        power_interval=p_interval,
        delta_aic=delta_aic,
        better="neither" if abs(delta_aic) < CLEAR else "log" if delta_aic > 0 else "power",
        step_range=(int(t.min()), int(t.max())),
        num_points=len(t),
        num_seeds=len(curves),
        degrees_of_freedom=float(freedom),
        effective_points=_effective_points(x, log_left, log_law),
        correlation_length=float(log_law.lengths[np.searchsorted(np.cumsum(log_law.weights), 0.5)]),
        slopes=unit * of_curves[:, 1],
        note="; ".join(notes),
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
    positive_float("distance", distance)
    if fit.log_slope <= 0:
        raise ValueError(
            f"The fit does not rise (log_slope = {fit.log_slope:.3g}), so by it no number of "
            f"updates reaches {distance}. Fit an earlier range of steps, see first and last."
        )
    b = fit.log_slope  # the unit of what follows, in which squares are about 1
    reach = t_quantile(fit.degrees_of_freedom) ** 2
    (var_a, cov), (_, var_b) = (reach * (fit.log_covariance / b / b)).tolist()
    log_updates = (distance - fit.log_intercept) / b
    # |log_updates - x| <= q sd(a + b x) / b, squared: leading x^2 - 2 middle x + last <= 0.
    leading = 1 - var_b
    middle = log_updates + cov
    last = log_updates**2 - var_a
    root = math.sqrt(max(middle**2 - leading * last, 0.0))
    if leading > 0:
        low, high = (middle - root) / leading, (middle + root) / leading
    else:
        # The slope may be zero: no upper end. The lower end is the nearer root, if there is one.
        low, high = (last / (middle + root) if middle + root > 0 else -math.inf), math.inf
    return _exp(log_updates), _exp(low), _exp(high)


def _points(
    step: ArrayLike, distance: ArrayLike, first: int | None, last: int | None, momentum: float
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The steps [n], rising, and curves [S, n] to fit, and what is to be said of them."""
    t, d = numbers_array("step", step), numbers_array("distance", distance)
    if t.ndim != 1 or d.ndim not in (1, 2) or d.shape[-1:] != t.shape:
        raise ValueError(
            "step must have shape [n] and distance [n], or [S, n] for S seeds, not "
            f"{t.shape} and {d.shape}."
        )
    momentum = number("momentum", momentum, least=0, below=1)
    start = (
        math.ceil(BALLISTIC / (1 - momentum) - 1e-6)
        if first is None
        else positive_int("first", first)
    )
    end = math.inf if last is None else number("last", last, least=1)
    curves, notes = np.atleast_2d(d), []
    broken = ~np.isfinite(curves).any(axis=1)
    if broken.any() and not broken.all():
        curves = curves[~broken]
        notes.append(f"{np.sum(broken)} seeds without a finite distance were left out")
    finite = np.isfinite(curves).all(axis=0)
    inside = (t >= 1) & (t <= end)
    used = inside & finite & (t >= start)
    if first is None and np.sum(used) < FEWEST:
        notes.append(f"too few steps past the ballistic start ({start}): all were used")
        start, used = 1, inside & finite
    if np.sum(used) < FEWEST:
        raise ValueError(
            f"A fit needs at least {FEWEST} distinct steps; there are {np.sum(used)} from step "
            f"{start} to {'the end' if last is None else last} (of {t.size} in all). "
            "Record more steps, or widen the range with first and last."
        )
    dropped = int(np.sum(inside & (t >= start) & ~finite))
    order = np.flatnonzero(used)[np.argsort(t[used], kind="stable")]
    t, curves = t[order], curves[:, order]
    twice = t[1:][np.diff(t) == 0]
    if twice.size:
        raise ValueError(
            f"Step {twice[0]:g} comes more than once. Several seeds go in as a distance of shape "
            "[S, n]."
        )
    if curves.min() < 0:
        raise ValueError(
            f"A distance is at least 0, not {curves.min():.6g}: pass how far the weights are from "
            "their start, not its logarithm, nor a difference of distances."
        )
    if np.any(np.ptp(curves, axis=1) == 0):
        still = curves[np.ptp(curves, axis=1) == 0][0]
        raise ValueError(
            f"The distance is {still[0]} at every step: there is no law to fit. Do the weights "
            "move at all?"
        )
    if np.abs(curves).max() > LARGEST:
        raise ValueError(
            f"The distances go up to {np.abs(curves).max():.3g}, whose square is no number in "
            "float64: give them in a larger unit."
        )
    if len(t) < FEW:
        notes.append(f"only {len(t)} points: read the intervals, not the values")
    if t.max() / t.min() < 10:
        notes.append("less than a decade of steps: the two laws hardly differ there")
    if dropped:
        notes.append(f"{dropped} points that are not finite were left out")
    if len(curves) < 3:
        rests = "a model of the residuals" if len(curves) == 1 else "two seeds, and is wide"
        notes.append(f"fewer than 3 seeds: the interval rests on {rests}")
    return t, curves, notes


def _effective_points(x: np.ndarray, left: np.ndarray, law: Law) -> float:
    """How many independent points, spread alike, would give a slope as exact as these."""
    slopes = law.parameters[:, :, 1]
    variance = law.weights @ (law.covariances[:, :, 1, 1] + (slopes - law.of_curves()[:, 1]) ** 2)
    independent = np.mean(left**2) / np.mean((x - x.mean()) ** 2)
    points = independent / max(float(variance.mean()), np.finfo(float).tiny)
    return float(np.clip(points, 1.0, len(x)))


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf
