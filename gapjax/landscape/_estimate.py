"""Numbers estimated at random, with what is known of their error."""

from typing import Any, NamedTuple

import numpy as np

from gapjax._student import t_quantile


class Estimate(NamedTuple):
    """A number estimated at random; arrays where several were asked for.

    Attributes:
        mean: the estimate.
        stderr: its standard error, from the spread of the samples.
        num_matvecs: products spent.
        bias: a bound on the systematic error, which the standard error does not show; 0 where the
            estimator is unbiased.
        num_samples: independent samples that the standard error comes from; 0 where there is no
            chance in the mean.
        unresolved: of a count, how many lie within rounding of the threshold; part of `bias`.
    """

    mean: Any
    stderr: Any
    num_matvecs: int
    bias: Any = 0.0
    num_samples: int = 0
    unresolved: Any = 0.0

    @property
    def interval(self) -> tuple[Any, Any]:
        r"""A 95% interval, (low, high).

        .. math:: \mathrm{mean} \pm t_{n-1} \sqrt{\mathrm{stderr}^2 + \mathrm{bias}^2 / 3}

        with Student's t, since few samples tell little of their own spread, and the bias taken as
        uniform within its bound (JCGM 100:2008, section 4.3.7). Not a number for one sample.
        """
        freedom = self.num_samples - 1 if self.num_samples else np.inf
        margin = t_quantile(freedom) * np.hypot(self.stderr, np.divide(self.bias, 3**0.5))
        if np.ndim(self.mean):
            return self.mean - margin, self.mean + margin
        return float(self.mean - margin), float(self.mean + margin)


def stderr_of_mean(samples: np.ndarray, axis: int = 0) -> Any:
    """Standard error of the mean; not a number for a single sample."""
    if samples.shape[axis] < 2:
        return np.full(samples.mean(axis).shape, np.nan)[()]
    return np.std(samples, axis=axis, ddof=1) / np.sqrt(samples.shape[axis])


def ratio_of_means(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """The ratio of two means of ``[n]`` pairs, and its standard error to first order."""
    scale = max(float(below.mean()), np.finfo(float).tiny)
    ratio = float(above.mean()) / scale
    return ratio, float(stderr_of_mean(above - ratio * below)) / scale
