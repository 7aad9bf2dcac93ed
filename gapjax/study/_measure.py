"""Numbers with their uncertainty: over seeds, and for the share of the gap that was closed."""

import math
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
