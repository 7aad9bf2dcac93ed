"""Numbers with their uncertainty: over seeds, and for the share of the gap that was closed."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "distance")


def over_seeds(values: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation over seeds; a seed that diverged is None and counts in neither.

    Args:
        values: one number per seed, NaN or infinite where the seed diverged.

    Returns:
        ``{"mean", "std", "values"}``; the deviation is the sample's (n - 1), 0 for one seed, and
        both are None where every seed diverged.

    Example:
        >>> over_seeds(np.array([1.0, 3.0, np.nan]))
        {'mean': 2.0, 'std': 1.4142135623730951, 'values': [1.0, 3.0, None]}
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    mean = float(finite.mean()) if finite.size else None
    std = float(finite.std(ddof=1)) if finite.size > 1 else (0.0 if finite.size else None)
    return {
        "mean": mean,
        "std": std,
        "values": [float(v) if math.isfinite(v) else None for v in values],
    }


def gap_closed(
    accuracy: np.ndarray,
    small: np.ndarray,
    large: np.ndarray,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, float | None]:
    """The share of the generalization gap that a regime closes, with a 95% interval.

    ``(acc - acc_LB) / (acc_SB - acc_LB)``, each the mean over seeds. The interval is the 2.5 and
    97.5 percentile of a bootstrap over seeds; a seed is drawn together in all three regimes, since
    it starts alike in each.

    Args:
        accuracy: test accuracy of the regime, one per seed; NaN where the seed diverged.
        small: of the small batch.
        large: of the large batch.
        resamples: how many bootstrap samples are drawn.
        seed: of the bootstrap.

    Returns:
        ``{"mean", "low", "high"}``; all None where small and large do not differ, or fewer than
        two seeds went through in all three.

    Example:
        >>> sb, lb = np.array([0.98, 0.99, 0.985]), np.array([0.94, 0.95, 0.945])
        >>> closed = gap_closed(np.array([0.96, 0.97, 0.965]), sb, lb)
        >>> round(closed["mean"], 3)
        0.5
    """
    nothing: dict[str, float | None] = {"mean": None, "low": None, "high": None}
    together = np.stack([accuracy, small, large]).astype(np.float64)
    together = together[:, np.isfinite(together).all(axis=0)]
    seeds = together.shape[1]
    if seeds < 2:
        return nothing

    def share(mean: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (mean[0] - mean[2]) / (mean[1] - mean[2])

    value = share(together.mean(axis=1))
    if not np.isfinite(value):
        return nothing
    draws = np.random.default_rng(seed).integers(seeds, size=(resamples, seeds))
    shares = share(together[:, draws].mean(axis=2))
    low, high = np.percentile(shares[np.isfinite(shares)], [2.5, 97.5])
    return {"mean": float(value), "low": float(low), "high": float(high)}


def with_interval(values: np.ndarray) -> dict[str, Any]:
    """What ``over_seeds`` gives, with the 95% interval of the mean by Student's t over seeds.

    Args:
        values: one number per seed, NaN where the seed diverged.

    Returns:
        ``{"mean", "std", "values", "low", "high"}``; one seed has no interval (None).

    Example:
        >>> mean = with_interval(np.array([1.0, 2.0, 3.0]))
        >>> round(mean["low"], 3), round(mean["high"], 3)  # 2 - 4.303 / sqrt(3), and + it
        (-0.484, 4.484)
    """
    summary = over_seeds(values)
    count = int(np.isfinite(values).sum())
    low = high = None
    if count > 1:
        half = _student(count) * summary["std"] / math.sqrt(count)
        low, high = summary["mean"] - half, summary["mean"] + half
    return {**summary, "low": low, "high": high}


def ratio_of_means(top: np.ndarray, bottom: np.ndarray) -> dict[str, float | None]:
    r"""The ratio of two means over the same seeds, with Fieller's 95% interval.

    The interval holds every :math:`\rho` for which the mean of ``top - rho * bottom`` is within
    Student's t of zero: exact for normal values, also for few seeds, and the two may be correlated
    through their seeds.

    Args:
        top: one finite number per seed, shape [S].
        bottom: of the same seeds, shape [S].

    Returns:
        ``{"mean", "low", "high"}``; low and high are None for one seed, or where the mean of
        ``bottom`` is not told from zero, so that the ratio has no bound. All None without a ratio.

    Example:
        >>> ratio = ratio_of_means(np.array([1.0, 1.1, 0.9]), np.array([2.0, 2.1, 1.9]))
        >>> round(ratio["mean"], 3), round(ratio["low"], 3), round(ratio["high"], 3)
        (0.5, 0.429, 0.555)

    References:
        Fieller, Some problems in interval estimation, J. R. Stat. Soc. B 16, 1954.
    """
    count = len(top)
    if not count or bottom.mean() == 0:
        return {"mean": None, "low": None, "high": None}
    x, y = float(top.mean()), float(bottom.mean())
    if count == 1:
        return {"mean": x / y, "low": None, "high": None}
    (xx, xy), (_, yy) = (_student(count) ** 2 / count * np.cov(top, bottom)).tolist()
    # (x - rho y)^2 <= xx - 2 rho xy + rho^2 yy, a parabola in rho.
    leading, middle, last = y**2 - yy, x * y - xy, x**2 - xx
    if leading <= 0:
        return {"mean": x / y, "low": None, "high": None}
    root = math.sqrt(max(middle**2 - leading * last, 0.0))
    return {"mean": x / y, "low": (middle - root) / leading, "high": (middle + root) / leading}


def jackknife(
    statistic: Callable[..., float], *columns: np.ndarray, least: float = -math.inf
) -> dict[str, float | None]:
    """Any statistic of curves over the same seeds, with a 95% interval from leaving out each seed.

    The interval is Student's t over the seeds' pseudo-values ``n s - (n - 1) s_without``, about
    the statistic itself.

    Args:
        statistic: of the columns, to a number.
        columns: arrays with the same seeds on the last axis.
        least: what the statistic cannot fall below; the interval ends there.

    Returns:
        ``{"mean", "low", "high"}``; one seed has no interval (None).

    Example:
        >>> jackknife(lambda x: x.mean(), np.array([1.0, 2.0, 3.0]))["mean"]
        2.0

    References:
        Tukey, Bias and confidence in not-quite large samples, Ann. Math. Stat. 29, 1958.
    """
    count = columns[0].shape[-1]
    value = float(statistic(*columns))
    if count == 1:
        return {"mean": value, "low": None, "high": None}
    without = np.array(
        [statistic(*(np.delete(c, seed, axis=-1) for c in columns)) for seed in range(count)]
    )
    half = _student(count) * (count - 1) * without.std(ddof=1) / math.sqrt(count)
    return {"mean": value, "low": max(value - half, least), "high": value + half}


def _student(count: int) -> float:
    """The 97.5% quantile of Student's t for the mean of so many values."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975))
