"""The batch that costs a fifth more examples, and what its error is."""

import functools
import itertools
import math

import numpy as np

_EXCESS = 1.2
_BETWEEN = 64  # places between two sizes at which the examples are looked at
_SHARES = 17  # of the fit in the error, for which quantiles are found; others lie between
_ANGLES = 200  # over which a probability is averaged


class Excess:
    r"""By how much examples at a batch exceed those at the reference, and with what error.

    .. math:: g(B) = \log \frac{B\, S(B)}{B_\mathrm{ref}\, S(B_\mathrm{ref})} - \log 1.2

    where log S is the hyperbola and, between sizes, what it leaves of the measured means. Its
    error is to first order that of the means: directly, and through the critical batch.

    Args:
        log_sizes: of the sizes, rising, shape [K].
        means: of log S at each, shape [K].
        best: log of the critical batch.
        pull: the derivative of ``best`` by each of the means, shape [K].
        variances: of the means, estimated, shape [K].
        freedom: the degrees of freedom of that estimate.
        reference: one of the sizes.
    """

    def __init__(
        self,
        log_sizes: np.ndarray,
        means: np.ndarray,
        best: float,
        pull: np.ndarray,
        variances: np.ndarray,
        freedom: int,
        reference: float,
    ):
        self.log_sizes, self.start = log_sizes, math.log(reference)
        self._means, self._best, self._pull, self._variances = means, best, pull, variances
        self._at = self._weights(np.array([self.start]))
        # The directions of the means, in units of their errors, that the hyperbola fits.
        told = np.stack([np.ones_like(means), self._share(log_sizes)])
        left, spread, _ = np.linalg.svd((told / np.sqrt(variances)).T, full_matrices=False)
        self._fitted = left[:, spread > 1e-9 * spread.max()]
        self._freedom = freedom

    def value(self, places: np.ndarray) -> np.ndarray:
        """The excess g at logarithms of B."""
        return self._log_examples(places) - self._log_examples(self.start) - math.log(_EXCESS)

    def margin(self, places: np.ndarray) -> np.ndarray:
        """How far g may be from its truth there: in 95 of 100 cases, no farther."""
        nodes = self._weights(places) - self._at
        # The hyperbola enters by how far it bends away from the chords between sizes.
        share = self._share(places) - self._share(np.array([self.start]))
        bend = share - nodes @ self._share(self.log_sizes)
        parts = (nodes + bend[:, None] * self._pull) * np.sqrt(self._variances)
        whole = np.sum(parts**2, axis=1)
        fitted = np.sum((parts @ self._fitted) ** 2, axis=1)
        share_of_fit = fitted / np.maximum(whole, np.finfo(np.float64).tiny)
        return np.interp(share_of_fit, *_reaches(self._freedom)) * np.sqrt(whole)

    def _log_examples(self, places: np.ndarray | float) -> np.ndarray:
        left = self._means - np.logaddexp(0.0, self._best - self.log_sizes)
        rise = np.logaddexp(0.0, self._best - places)
        return places + rise + np.interp(places, self.log_sizes, left)

    def _share(self, places: np.ndarray) -> np.ndarray:
        """The derivative of log(1 + B_c / B) by log B_c."""
        return 1 / (1 + np.exp(np.minimum(places - self._best, 700.0)))

    def _weights(self, places: np.ndarray) -> np.ndarray:
        """Those of the means in their interpolation, [places, K]."""
        hats = np.eye(len(self.log_sizes))
        return np.stack([np.interp(places, self.log_sizes, hat) for hat in hats], axis=1)


def crossing(excess: Excess, end: float) -> float:
    """The batch where the excess first reaches 0, looked for up to the logarithm of another."""
    from scipy.optimize import brentq

    beyond = [end] if end > excess.log_sizes[-1] else []
    places = [excess.start, *excess.log_sizes[excess.log_sizes > excess.start], *beyond]
    for one, other in itertools.pairwise(places):
        if excess.value(other) >= 0:
            return math.exp(brentq(excess.value, one, other))
    return math.inf


def crossing_interval(
    excess: Excess, found: float, hyperbola: tuple[float, float]
) -> tuple[float, float]:
    """All batches where the excess may be 0, from low to high.

    Among the sizes: where it is within its margin. Beyond the last one nothing is measured, and the
    interval is that of the hyperbola.
    """
    from scipy.optimize import brentq

    nodes = excess.log_sizes[excess.log_sizes >= excess.start]
    steps = np.arange(_BETWEEN) / _BETWEEN
    places = np.append((nodes[:-1, None] + np.diff(nodes)[:, None] * steps).ravel(), nodes[-1])
    if found < math.exp(nodes[-1]):
        places = np.sort(np.append(places, math.log(found)))

    def outside(place: float) -> float:
        at = np.array([place])
        return float(np.abs(excess.value(at))[0] - excess.margin(at)[0])

    inside = np.abs(excess.value(places)) <= excess.margin(places)
    ends = [found]
    for index in np.flatnonzero(inside[:-1] != inside[1:]):
        ends.append(math.exp(brentq(outside, places[index], places[index + 1])))
    last = math.exp(nodes[-1])
    if inside[-1]:
        ends.append(last)
    if hyperbola[1] > last:
        ends += [max(hyperbola[0], last), hyperbola[1]]
    return min(ends), max(ends)


@functools.lru_cache(maxsize=64)
def _reaches(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the fit from 0 to 1, and the quantile at each."""
    shares = np.linspace(0, 1, _SHARES)
    return shares, np.array([_reach(share, freedom) for share in shares])


def _reach(share: float, freedom: int) -> float:
    """The 95% quantile of an error over its estimate, of which a share of variance is of the fit.

    That share is independent of the estimate, and over it Student's. The rest is one of the
    residuals that the estimate is made of: the cosine of its angle to them all, times the root of
    their number.
    """
    from scipy.optimize import brentq
    from scipy.special import betaincinv, stdtr

    chances = (np.arange(_ANGLES) + 0.5) / _ANGLES
    cosines = np.sqrt(betaincinv(0.5, (freedom - 1) / 2, chances)) if freedom > 1 else chances**0
    rest = math.sqrt((1 - share) * freedom) * cosines
    unit = math.sqrt(max(share, 1e-6))

    def beyond(reach: float) -> float:
        ends = stdtr(freedom, (reach - rest) / unit) - stdtr(freedom, (-reach - rest) / unit)
        return float(np.mean(ends)) - 0.95

    return brentq(beyond, 0.0, 1e3)
