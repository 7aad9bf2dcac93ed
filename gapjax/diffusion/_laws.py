"""Laws fitted to curves whose residuals are correlated along the logarithm of the step."""

import dataclasses

import numpy as np

from gapjax._student import t_quantile

_LENGTHS = 48  # correlation lengths that are averaged over
_LONGEST = 100  # ranges of log t: a random walk for all that the points can tell
_KNOTS = np.linspace(-4.0, 4.0, 161)  # exponents that are tried first
_FARTHER = np.linspace(4.0, 16.0, 61)[1:]  # tried, of either sign, where an end of those is best
_SQUARE = 300.0  # the largest exponent of e, whose square is a number in float64
_CHUNK = 2**21  # numbers of tried curves at a time
_POLISH = 6  # steps of Gauss and Newton from the best of them


@dataclasses.dataclass(frozen=True)
class Law:
    """A law with two parameters, fitted to S curves for each of L correlation lengths.

    Attributes:
        parameters: of each curve, [L, S, 2].
        covariances: of those, [L, S, 2, 2].
        weights: of the correlation lengths, by their restricted likelihood, [L].
        lengths: the correlation lengths themselves, in log t, [L].
        freedom: degrees of freedom of the residuals.
        log_likelihood: at the most likely correlation length, of the parameters and the residuals.
    """

    parameters: np.ndarray
    covariances: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray
    freedom: int
    log_likelihood: float

    def of_curves(self) -> np.ndarray:
        """The parameters of each curve, averaged over correlation lengths, [S, 2]."""
        return np.tensordot(self.weights, self.parameters, axes=1)

    def summary(self) -> tuple[np.ndarray, np.ndarray, float, list[tuple[float, float]]]:
        """Parameters [2], their covariance [2, 2], degrees of freedom, and 95% intervals.

        The covariance goes with Student's t of those degrees of freedom.
        """
        curves = self.of_curves()
        count = len(curves)
        if count >= 2:  # the spread over seeds asks for no model of the residuals
            mean, covariance = curves.mean(axis=0), np.cov(curves.T) / count
            reach = t_quantile(count - 1) * np.sqrt(np.diag(covariance))
            ends = [(float(m - r), float(m + r)) for m, r in zip(mean, reach, strict=True)]
            return mean, covariance, count - 1, ends
        means, variances = self.parameters[:, 0], self.covariances[:, 0]
        mean = self.weights @ means
        intervals = [self._mixture(means[:, k], np.sqrt(variances[:, k, k])) for k in (0, 1)]
        apart = means - mean
        shape = np.tensordot(self.weights, variances, axes=1) + (self.weights * apart.T) @ apart
        # Scaled so that half an interval of the slope is the quantile times its standard error.
        half = (intervals[1][1] - intervals[1][0]) / 2
        scale = (half / t_quantile(self.freedom)) ** 2 / max(shape[1, 1], np.finfo(float).tiny)
        return mean, shape * scale, self.freedom, intervals

    def _mixture(self, centres: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
        """The central 95% of Student's t about each centre, weighted."""
        from scipy.optimize import brentq
        from scipy.special import stdtr

        errors = np.maximum(errors, 1e-12 * np.abs(centres).max() + 1e-30)
        reach = t_quantile(self.freedom) * 10 * errors
        low, high = np.min(centres - reach), np.max(centres + reach)

        def below(at: float, share: float) -> float:
            return float(self.weights @ stdtr(self.freedom, (at - centres) / errors)) - share

        while below(low, 0.025) > 0:
            low -= high - low
        while below(high, 0.975) < 0:
            high += high - low
        return brentq(below, low, high, args=(0.025,)), brentq(below, low, high, args=(0.975,))


def fit_log(x: np.ndarray, curves: np.ndarray) -> Law:
    """D = a + b x for every curve."""
    noise = _Noise(x)
    design = noise.whiten(np.stack([np.ones_like(x), x])[None])  # [L, 2, n]
    target = noise.whiten(curves[None])  # [L, S, n]
    information = design @ np.swapaxes(design, 1, 2)
    slopes = design @ np.swapaxes(target, 1, 2)
    parameters = np.swapaxes(np.linalg.solve(information, slopes), 1, 2)
    count = len(curves)
    return noise.law(
        curves, parameters, target - parameters @ design, information[:, None].repeat(count, axis=1)
    )


def fit_power(x: np.ndarray, curves: np.ndarray) -> Law:
    """D = c exp(p x) for every curve, a distance, so that c is above 0; the parameters are (c, p).

    Noise like a random walk says little of the level, so that of c below 0 must be kept out.
    """
    noise = _Noise(x)
    target = noise.whiten(curves[None])  # [L, S, n]
    p, c, explained = _search(noise, x, target, _KNOTS)
    ends = np.abs(p) >= _KNOTS[-1]
    if ends.any():
        farther = np.concatenate([-_FARTHER[::-1], _FARTHER])
        found, factor, better = _search(
            noise, x, target, farther[np.abs(farther) <= largest_exponent(x)]
        )
        moved = ends & (better > explained)
        p, c = np.where(moved, found, p), np.where(moved, factor, c)
    # That the largest value of the law is no less than rounding of the largest distance; its factor
    # is that at x = 0, which of a steep one may be far less.
    floor = np.finfo(np.float32).eps * curves.max(axis=1, keepdims=True)
    least = floor * np.exp(-np.maximum(p * x[0], p * x[-1]))
    c = np.maximum(c, least)
    for _ in range(_POLISH):
        shape = np.exp(p * x)
        design = np.stack([noise.whiten(shape), noise.whiten(c * x * shape)], axis=2)
        information = design @ np.swapaxes(design, 2, 3)
        left = target - c * design[:, :, 0]
        move = _inverse(information) @ (design @ left[..., None])
        p = p + np.clip(move[:, :, 1], -0.1, 0.1)
        least = floor * np.exp(-np.maximum(p * x[0], p * x[-1]))
        c = np.maximum(c + move[:, :, 0], least)
    left = target - noise.whiten(c * np.exp(p * x))
    return noise.law(curves, np.concatenate([c, p], axis=2), left, information)


def largest_exponent(x: np.ndarray) -> float:
    """How far an exponent of the power law is looked for; one beyond is not found."""
    return float(min(_FARTHER[-1], max(_KNOTS[-1], _SQUARE / np.abs(x).max())))


def _search(
    noise: "_Noise", x: np.ndarray, target: np.ndarray, knots: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best exponent among some, its factor and what it explains, each [L, S, 1].

    For each exponent the best factor is a projection. Many are tried: there may be several valleys.
    """
    shape = (*target.shape[:2], 1)
    p, c, explained = np.zeros(shape), np.zeros(shape), np.full(shape, -1.0)
    at_once = max(1, _CHUNK // (len(noise.lengths) * len(x)))
    for first in range(0, len(knots), at_once):
        some = knots[first : first + at_once]
        tried = noise.whiten(np.exp(some[:, None] * x)[None])  # [L, K, n]
        along, own = target @ np.swapaxes(tried, 1, 2), np.sum(tried**2, axis=2)[:, None]
        share = np.maximum(along, 0.0) ** 2 / own
        best = np.argmax(share, axis=2)[..., None]
        here = np.take_along_axis(share, best, axis=2)
        better = here > explained
        p = np.where(better, some[best], p)
        c = np.where(better, np.take_along_axis(along / own, best, axis=2), c)
        explained = np.maximum(here, explained)
    return p, c, explained


class _Noise:
    """Ornstein-Uhlenbeck noise along x, of L correlation lengths at once.

    The correlation of two points is exp(-|dx| / length): none for a short length, that of a random
    walk for a long one.
    """

    def __init__(self, x: np.ndarray):
        spacing = np.diff(x)
        self.lengths = np.geomspace(spacing.min() / 3, _LONGEST * np.ptp(x), _LENGTHS)
        ratio = spacing / self.lengths[:, None]
        self._kept, self._fresh = np.exp(-ratio)[:, None], -np.expm1(-2 * ratio)[:, None]
        self._log_determinants = np.sum(np.log(self._fresh), axis=(1, 2))

    def whiten(self, values: np.ndarray) -> np.ndarray:
        """Values [L or 1, K, n] with white noise for theirs: each less what the last foretells."""
        new = (values[..., 1:] - self._kept * values[..., :-1]) / np.sqrt(self._fresh)
        first = np.broadcast_to(values[..., :1], (*new.shape[:-1], 1))
        return np.concatenate([first, new], axis=-1)

    def law(
        self,
        curves: np.ndarray,
        parameters: np.ndarray,
        left: np.ndarray,
        information: np.ndarray,
    ) -> Law:
        """The law of parameters [L, S, 2] that leave white residuals [L, S, n]."""
        count, points = curves.shape
        total, freedom = count * points, count * (points - 2)
        # A law that fits to rounding is not infinitely better than one that nearly does.
        spread = np.sum((curves - curves.mean(axis=1, keepdims=True)) ** 2)
        floor = float(spread) * float(np.finfo(np.float32).eps) ** 2
        squares = np.maximum(np.sum(left**2, axis=(1, 2)), floor)
        noise = count * self._log_determinants
        given = np.sum(np.linalg.slogdet(information)[1], axis=1)
        restricted = -(freedom * np.log(squares) + noise + given) / 2
        full = -(total * np.log(squares / total) + noise) / 2
        weights = np.exp(restricted - restricted.max())
        variances = (squares / freedom)[:, None, None, None]
        return Law(
            parameters,
            variances * _inverse(information),
            weights / weights.sum(),
            self.lengths,
            freedom,
            float(full.max()),
        )


def _inverse(information: np.ndarray) -> np.ndarray:
    """The inverse of matrices [..., 2, 2] whose parameters may be of very different size."""
    roots = np.sqrt(np.maximum(np.diagonal(information, axis1=-2, axis2=-1), np.finfo(float).tiny))
    scale = roots[..., :, None] * roots[..., None, :]
    return np.linalg.pinv(information / scale) / scale
