r"""The variance of the mean of a table of seeds and test examples, both of them samples.

Every seed answers every example, so results are a table :math:`d_{si}`. Its mean has the variance
of seeds, of examples and of what is left (two-way, crossed):

.. math:: \mathrm{Var}(\bar d) = V_s + V_i - V_{si}, \quad
    V_s = \tfrac1S \mathrm{var}_s(\bar d_{s\cdot}), \;
    V_i = \tfrac1n \mathrm{var}_i(\bar d_{\cdot i}), \;
    V_{si} = \tfrac{1}{Sn} \mathrm{var}(d_{si} - \bar d_{s\cdot} - \bar d_{\cdot i} + \bar d)

never below the larger of the first two. Each source is known to its own degrees of freedom, and
few seeds make one of them uncertain: the square of the half width is the sum of the sources'
variances, each times the square of its own Student's quantile (after Cochran's approximation of
the problem of Behrens and Fisher, with the seeds' part a little lighter, see ``_POWER``). A single
number of degrees of freedom (Satterthwaite's) covers less than it says where the examples rule and
the seeds are few.
"""

import math
from typing import NamedTuple

import numpy as np

from gapjax._student import t_quantile

# What of the cells is taken off a source before its part is told, at the level of 95%, and less
# in proportion further out. Without any, intervals are too wide where seeds do not differ; with all
# of it too narrow where they do, and do not show it, which counts most in the tails.
_CELLS, _TAIL = 0.65, 0.025
# Cochran's quantile covers too much where sources of few and of many degrees of freedom weigh
# alike: the part of the seeds counts by this power of it, and all of it where it is all.
_POWER = 1.15
_SMALLEST = 1e-100  # p value: below, squares of quantiles overflow, and nobody minds


class Variance(NamedTuple):
    """The variance of the mean of a table, by source.

    Attributes:
        seeds: V_s.
        examples: V_i.
        rest: V_si.
        total: of the mean.
        num_seeds: S, at least 2.
        num_examples: n.
    """

    seeds: float
    examples: float
    rest: float
    total: float
    num_seeds: int
    num_examples: int

    def quantile(self, level: float) -> float:
        """How many standard errors a two-sided interval of this level is from its middle."""
        return self._of_tail((1 - level) / 2)

    def p_value(self, mean: float) -> float:
        """Two-sided, that a mean this far from 0 comes by chance."""
        from scipy.optimize import brentq

        if not self.total > 0:
            return 1.0 if mean == 0 else 0.0
        errors, least = abs(mean) / math.sqrt(self.total), math.log(_SMALLEST)
        if errors == 0 or self._of_tail(_SMALLEST / 2) <= errors:
            return float(errors == 0)
        found = brentq(lambda p: self._of_tail(math.exp(p) / 2) - errors, least, 0.0, xtol=1e-12)
        return math.exp(found)

    def _of_tail(self, tail: float) -> float:
        free = self.num_seeds - 1, self.num_examples - 1
        if self.num_examples == 1 or not self.total > 0:
            return t_quantile(free[0], tail)
        cells = _CELLS * min(tail / _TAIL, 1.0) * self.rest
        parts = [max(of - cells, 0.0) for of in (self.seeds, self.examples)]
        # Where little is taken off, both sources hold what is left of the cells: it counts once,
        # as that of the seeds, which are fewer.
        parts = [parts[0] / self.total, max(min(parts[1], self.total - parts[0]), 0.0) / self.total]
        parts.append(1 - sum(parts))
        of_seeds = parts[0] ** _POWER
        others = (1 - of_seeds) / (1 - parts[0]) if parts[0] < 1 else 0.0
        weights = of_seeds, parts[1] * others, parts[2] * others
        each = zip(weights, (*free, free[0] * free[1]), strict=True)
        return math.sqrt(sum(part * t_quantile(df, tail) ** 2 for part, df in each))


class Covariance(NamedTuple):
    """Covariances of the means of K tables, by source: ``[K, K]`` each.

    Attributes:
        seeds: as of ``Variance``.
        examples: likewise.
        rest: likewise.
        num_seeds: S.
        num_examples: n.
    """

    seeds: np.ndarray
    examples: np.ndarray
    rest: np.ndarray
    num_seeds: int
    num_examples: int

    def of(self, *factors: float) -> Variance:
        """The variance of the mean of the tables' sum, each times a factor."""
        by = np.array(factors)
        seeds, examples, rest = (
            float(by.dot(part).dot(by)) for part in (self.seeds, self.examples, self.rest)
        )
        return combine(seeds, examples, rest, self.num_seeds, self.num_examples)


def combine(
    seeds: float, examples: float, rest: float, num_seeds: int, num_examples: int
) -> Variance:
    """The variance of a mean from its sources."""
    # Of what does not vary at all the sums round to either side of 0.
    seeds, examples, rest = (max(v, 0.0) for v in (seeds, examples, rest))
    total = max(seeds + examples - rest, seeds, examples)
    return Variance(seeds, examples, rest, total, num_seeds, num_examples)


def covariance(*tables: np.ndarray) -> Covariance:
    """The covariances of the means of tables ``[S, n]`` of at least two seeds."""
    count, size = tables[0].shape
    rows = np.stack([t.mean(axis=1) for t in tables])
    columns = np.stack([t.mean(axis=0) for t in tables])
    seeds = np.atleast_2d(np.cov(rows)) / count
    if size == 1:
        none = np.zeros_like(seeds)
        return Covariance(seeds, none, none, count, size)
    left = np.stack(
        [
            (t - row[:, None] - column[None, :] + t.mean()).ravel()
            for t, row, column in zip(tables, rows, columns, strict=True)
        ]
    )
    rest = left @ left.T / ((count - 1) * (size - 1)) / (count * size)
    return Covariance(seeds, np.atleast_2d(np.cov(columns)) / size, rest, count, size)


def variance(table: np.ndarray) -> Variance:
    """The variance of the mean of a table of at least two seeds."""
    return covariance(table).of(1.0)
