"""Intervals over seeds and test examples, by the variance of ``_crossed``."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from gapjax._student import t_quantile
from gapjax.study._findings._crossed import Covariance, Variance, combine, covariance, variance

LEVEL = 0.95
POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number with its interval.

    Attributes:
        mean: the estimate; None where there is none.
        low: the lower end, None where there is no bound (or a single seed, which has no interval).
        high: the upper end, likewise.
        p_value: two-sided, that a difference this large comes by chance; None where nothing was
            tested.
        stderr_seeds: its standard error over seeds alone.
        stderr_examples: over test examples alone.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    stderr_seeds: float | None = None
    stderr_examples: float | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether it has both ends."""
        return self.low is not None and self.high is not None

    def side_of(self, value: float) -> int:
        """On which side of a value it lies: 1 above, -1 below; 0 where it does not tell."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > value) - int(self.high < value)

    @property
    def rules(self) -> str | None:
        """Which source of error is the larger, ``"seeds"`` or ``"examples"``."""
        if self.stderr_seeds is None or self.stderr_examples is None:
            return None
        return "seeds" if self.stderr_seeds >= self.stderr_examples else "examples"


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, weight: ArrayLike | None = None, level: float = LEVEL
) -> Interval:
    """The mean of ``a - b`` over seeds and test examples, with its interval.

    Args:
        a: results of one regime: metric or loss of every example, ``[S, n]``; rows that are not
            finite (a seed that diverged) are left out of both.
        b: of another, ``[S, n]``: rows paired by seed, columns by example.
        weight: what every example counts, ``[n]``; alike by default.
        level: of the interval.

    Returns:
        An ``Interval`` with the p value that there is no difference; without both for a single
        seed.

    Raises:
        ValueError: arrays that are not two tables of one shape.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> b = rng.normal(size=(8, 500))
        >>> found = paired_difference(b + 1.0 + 0.1 * rng.normal(size=(8, 1)), b)
        >>> found.low < 1.0 < found.high, found.rules
        (True, 'seeds')

    References:
        Cameron, Gelbach, Miller, Robust inference with multiway clustering, J. Bus. Econ. Stat. 29,
        2011; Cochran, Approximate significance levels of the Behrens-Fisher test, Biometrics 20,
        1964.
    """
    first, second = _tables(a=a, b=b)
    d = _linear(first - second, weight)
    if not len(d):
        return Interval(None)
    mean = float(d.mean())
    return Interval(mean) if len(d) == 1 else student(mean, variance(d), level)


def share_of_gap(
    metric: ArrayLike,
    small: ArrayLike,
    large: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    level: float = LEVEL,
) -> Interval:
    r"""The share of the generalization gap that a regime closes, with its interval.

    .. math:: \rho = \frac{m - m_L}{m_S - m_L}

    of means over seeds and test examples. The interval is Fieller's: every :math:`\rho` for which
    the mean of :math:`(m - m_L) - \rho\,(m_S - m_L)` does not differ significantly from zero, by
    the variance of that table over seeds and examples.

    Args:
        metric: of the regime, every example, ``[S, n]``.
        small: of the small batch, the same seeds and examples.
        large: of the large batch, likewise.
        weight: what every example counts, ``[n]``.
        level: of the interval.

    Returns:
        An ``Interval``; low and high are None where the gap itself is not significant (then
        no share can be excluded), or of a single seed. All None without a gap at all.

    Raises:
        ValueError: arrays that are not three tables of one shape.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> small, large = rng.normal(0.9, 0.1, (8, 500)), rng.normal(0.8, 0.1, (8, 500))
        >>> found = share_of_gap(rng.normal(0.85, 0.1, (8, 500)), small, large)
        >>> round(found.mean, 1), found.low < 0.5 < found.high
        (0.5, True)

    References:
        Fieller, Some problems in interval estimation, J. R. Stat. Soc. B 16, 1954.
    """
    m, s, b = _tables(metric=metric, small=small, large=large)
    return _ratio(_linear(m - b, weight), _linear(s - b, weight), level)


def ratio_of_means(top: np.ndarray, bottom: np.ndarray, *, level: float = LEVEL) -> Interval:
    """The ratio of two means over the same seeds, with Fieller's interval.

    Args:
        top: one number per seed, ``[S]``.
        bottom: of the same seeds, ``[S]``.
        level: of the interval.

    Returns:
        An ``Interval``, as of :func:`share_of_gap`.

    Example:
        >>> found = ratio_of_means(np.array([1.0, 1.1, 0.9]), np.array([2.0, 2.1, 1.9]))
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        (0.5, 0.429, 0.555)
    """
    first, second = _tables(top=np.reshape(top, (-1, 1)), bottom=np.reshape(bottom, (-1, 1)))
    return _ratio(first, second, level)


def mean_interval(values: np.ndarray | Sequence[float], *, level: float = LEVEL) -> Interval:
    """The mean of one number per seed with the interval of Student's t; not finite: left out.

    Example:
        >>> found = mean_interval([1.0, 2.0, 3.0])  # 2 -+ 4.303 / sqrt(3)
        >>> round(found.low, 3), round(found.high, 3)
        (-0.484, 4.484)
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Interval(None)
    mean = float(finite.mean())
    if finite.size < 2:
        return Interval(mean)
    spread = variance(finite[:, None])
    half = spread.quantile(level) * math.sqrt(spread.total)
    return Interval(mean, mean - half, mean + half, spread.p_value(mean), math.sqrt(spread.seeds))


def geometric_ratio(over: np.ndarray, under: np.ndarray) -> Interval:
    """The ratio of two quantities over seeds: its geometric mean, and the interval of that.

    Seeds in which either is not above 0 are left out.

    Example:
        >>> found = geometric_ratio(np.array([2.0, 8.0, 4.0]), np.array([1.0, 1.0, 1.0]))
        >>> round(found.mean, 2), round(found.low, 2), round(found.high, 2)
        (4.0, 0.71, 22.38)
    """
    found = mean_interval(log_ratio(over, under))
    mean, low, high = (
        None if v is None else math.exp(v) for v in (found.mean, found.low, found.high)
    )
    return Interval(mean, low, high, found.p_value)


def log_ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """The logarithm of a ratio of two quantities, NaN where either is not above 0."""
    over, under = np.asarray(over, np.float64), np.asarray(under, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((over > 0) & (under > 0), np.log(over / under), np.nan)


def widened(ratio: Interval, half: float) -> Interval:
    """A ratio whose logarithm leaves so much more open, by an error of its own.

    Example:
        >>> found = widened(Interval(1.0, math.exp(-3), math.exp(3)), 4.0)
        >>> round(math.log(found.low), 3), round(math.log(found.high), 3)
        (-5.0, 5.0)
    """
    if ratio.mean is None or ratio.low is None or ratio.high is None:
        return ratio
    below, above = (math.hypot(math.log(end / ratio.mean), half) for end in (ratio.low, ratio.high))
    return Interval(ratio.mean, ratio.mean * math.exp(-below), ratio.mean * math.exp(above))


def clipped(found: Interval, low: float = -math.inf, high: float = math.inf) -> Interval:
    """An interval without what the number cannot be.

    Example:
        >>> clipped(Interval(0.5, -0.1, 1.1), low=0.0)
        Interval(mean=0.5, low=0.0, high=1.1, p_value=None, stderr_seeds=None, stderr_examples=None)
    """
    if found.low is None or found.high is None:
        return found
    return dataclasses.replace(found, low=max(found.low, low), high=min(found.high, high))


def jackknife(statistic: Callable[..., float], *columns: np.ndarray) -> Interval:
    """Any statistic of curves over the same seeds, with an interval from leaving out each seed.

    The interval is Student's t over :func:`pseudo_values`.

    Args:
        statistic: of the columns, to a number.
        columns: arrays with the same seeds on the last axis.

    Returns:
        An ``Interval``; one seed has none.

    Example:
        >>> jackknife(lambda x: x.mean(), np.array([1.0, 2.0, 3.0])).mean
        2.0

    References:
        Tukey, Bias and confidence in not-quite large samples, Ann. Math. Stat. 29, 1958.
    """
    values = pseudo_values(statistic, *columns)
    value = float(statistic(*columns))
    if len(values) == 1:
        return Interval(value)
    stderr = values.std(ddof=1) / math.sqrt(len(values))
    half = t_quantile(len(values) - 1, (1 - LEVEL) / 2) * stderr
    return Interval(value, value - half, value + half)


def pseudo_values(statistic: Callable[..., float], *columns: np.ndarray) -> np.ndarray:
    """What each seed makes of a statistic, ``n s - (n - 1) s_without``, about the statistic itself.

    Args:
        statistic: of the columns, to a number.
        columns: arrays with the same seeds on the last axis.

    Example:
        >>> pseudo_values(lambda x: x.mean(), np.array([1.0, 2.0, 6.0])).tolist()
        [1.0, 2.0, 6.0]
    """
    count, value = columns[0].shape[-1], float(statistic(*columns))
    if count == 1:
        return np.array([value])
    without = np.array(
        [statistic(*(np.delete(c, seed, axis=-1) for c in columns)) for seed in range(count)]
    )
    return value - (count - 1) * (without - without.mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of several p values: that any of them is wrong stays below the level.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6, 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def seeds_to_resolve(
    a: np.ndarray, b: np.ndarray, *, weight: np.ndarray | None = None, most: int = 10_000
) -> int | None:
    """How many seeds would tell the difference seen from none, with a power of 80%.

    The examples stay as they are, so where they alone leave too much open there is no such number.

    Args:
        a: results of one regime, ``[S, n]``.
        b: of another, ``[S, n]``.
        weight: what every example counts, ``[n]``.
        most: beyond which it is none.

    Returns:
        The number of seeds, at least 2; None where none would do, or a single seed was trained.
    """
    first, second = _tables(a=a, b=b)
    d = _linear(first - second, weight)
    if len(d) < 2 or not d.mean():
        return None
    found, count = variance(d), len(d)
    of_seed = max(found.seeds - found.rest, 0.0) * count  # the variance of a seed's own effect
    of_example = max(found.examples - found.rest, 0.0)
    cell = found.rest * count

    def resolves(seeds: int) -> bool:
        left = cell / seeds
        spread = combine(of_seed / seeds + left, of_example + left, left, seeds, d.shape[1])
        # The quantile of a power of 80% is that of an interval of 60%.
        needed = spread.quantile(LEVEL) + spread.quantile(2 * POWER - 1)
        return bool(d.mean() ** 2 >= needed**2 * spread.total)

    if not resolves(most):
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if resolves(middle) else (middle, high)
    return high


def _tables(**tables: ArrayLike) -> list[np.ndarray]:
    """Tables of seeds and examples as float64, without the seeds that diverged in any."""
    arrays = {name: np.asarray(table, np.float64) for name, table in tables.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or any(array.ndim != 2 for array in arrays.values()):
        said = ", ".join(f"{name} has {array.shape}" for name, array in arrays.items())
        raise ValueError(
            f"results must be tables [seeds, examples] of one shape, and {said}: pair rows by "
            "seed and columns by example."
        )
    if not next(iter(shapes))[1]:
        raise ValueError("results must hold at least one test example.")
    finite = np.all([np.isfinite(array).all(axis=1) for array in arrays.values()], axis=0)
    return [array[finite] for array in arrays.values()]


def _linear(d: np.ndarray, weight: ArrayLike | None) -> np.ndarray:
    """A table whose plain mean is the weighted one, and whose spread is that of the weighted one.

    A weighted mean is a ratio of two sums over examples: this is its linearization, per seed.
    """
    if weight is None or not len(d):
        return d
    weight = np.asarray(weight, np.float64)
    if weight.shape != d.shape[1:] or not weight.sum() > 0 or (weight < 0).any():
        raise ValueError(
            f"weight must be one number per example, [{d.shape[1]}], none negative, not all 0; "
            f"its shape is {weight.shape}."
        )
    relative = weight / weight.mean()
    own = (d * relative).mean(axis=1, keepdims=True)
    return own + relative * (d - own)


def student(mean: float, spread: Variance, level: float = LEVEL) -> Interval:
    """The interval of a mean by its variance over seeds and examples."""
    half = spread.quantile(level) * math.sqrt(spread.total)
    return Interval(
        mean,
        mean - half,
        mean + half,
        spread.p_value(mean),
        math.sqrt(spread.seeds),
        math.sqrt(spread.examples),
    )


def _ratio(top: np.ndarray, bottom: np.ndarray, level: float) -> Interval:
    if not len(top) or bottom.mean() == 0:
        return Interval(None)
    x, y = float(top.mean()), float(bottom.mean())
    return Interval(x / y) if len(top) == 1 else fieller(x, y, covariance(top, bottom), level)


def fieller(top: float, bottom: float, both: Covariance, level: float = LEVEL) -> Interval:
    """The ratio of two means with their covariance, by inverting the test that it is some number.

    Args:
        top: the mean above.
        bottom: the mean below, not 0.
        both: of the two.
        level: of the interval.
    """
    from scipy.optimize import brentq

    value = top / bottom

    def excess(angle: float) -> float:
        """Above 0 where the ratio tan(angle) is excluded; at +-pi/2 it is that of no gap."""
        over, under = math.cos(angle), -math.sin(angle)
        spread = both.of(over, under)
        return (over * top + under * bottom) ** 2 - spread.quantile(level) ** 2 * spread.total

    # An angle instead of a ratio: the whole line is then one turn, also where bounds are far off.
    start = math.atan(value)
    if excess(math.pi / 2) <= 0:  # the gap itself is not significant
        return Interval(value)
    ends = []
    for edge in (-math.pi / 2, math.pi / 2):
        grid = start + (edge - start) * np.linspace(0, 1, 65)[1:] ** 2
        low = start
        if excess(low) >= 0:  # no spread at all
            ends.append(value)
            continue
        for high in grid:
            if excess(float(high)) > 0:
                ends.append(math.tan(brentq(excess, low, float(high), xtol=1e-14)))
                break
            low = float(high)
    if len(ends) < 2:
        return Interval(value)
    spread = both.of(1.0, -value)
    seeds, examples = (math.sqrt(v) / abs(bottom) for v in (spread.seeds, spread.examples))
    return Interval(value, ends[0], ends[1], None, seeds, examples)
