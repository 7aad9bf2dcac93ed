"""Numbers for readers: means with deviations, intervals, shares; the same everywhere."""

import math
from typing import Any

import numpy as np

from gapjax.study._findings._intervals import Interval
from gapjax.study._results._records import OverSeeds

NOTHING = "–"
_HUGE = 1e6  # from where on a number is told by its power


def plus_minus(value: OverSeeds, digits: int, scale: float = 1.0) -> str:
    """Mean and standard deviation over seeds; of a single seed the number alone.

    Example:
        >>> plus_minus(OverSeeds(0.98765, 0.0012, [0.9868, 0.9885]), 2, 100)
        '98.77 ± 0.12'
    """
    if value.mean is None or value.std is None:
        return "diverged"
    if abs(scale * value.mean) >= _HUGE:  # of what all but diverged
        return spread(value, scale)
    mean, deviation = (fixed(scale * number, digits) for number in (value.mean, value.std))
    return f"{mean} ± {deviation}" if value.count > 1 else mean


def spread(value: OverSeeds, scale: float = 1.0) -> str:
    """Mean and deviation over seeds in three digits; of a single seed the number alone."""
    if value.mean is None or value.std is None:
        return "none"
    deviation = float(f"{scale * value.std:.2g}")
    behind = f" ± {short(deviation)}" if value.count > 1 else ""
    return short(scale * value.mean) + behind


def interval(value: Interval, digits: int, scale: float = 1.0) -> str:
    """A number with its interval.

    Example:
        >>> interval(Interval(0.914, 0.78, 1.021), 2)
        '0.91 [0.78, 1.02]'
    """
    if value.mean is None:
        return NOTHING
    text = fixed(scale * value.mean, digits)
    if value.low is None or value.high is None or not math.isfinite(value.high - value.low):
        return f"{text} [no bound]"
    return f"{text} [{fixed(scale * value.low, digits)}, {fixed(scale * value.high, digits)}]"


def fixed(value: float, digits: int) -> str:
    """A number with so many digits behind the point, never a negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def bounds(value: Interval, scale: float = 1.0) -> str:
    """A number with its interval, in three digits."""
    if value.mean is None:
        return "an unknown number"
    if value.low is None or value.high is None:
        return short(scale * value.mean)
    low, mean, high = (short(scale * v) for v in (value.low, value.mean, value.high))
    return f"{mean} [{low}, {high}]"


def times(value: Interval) -> str:
    """A ratio with its interval, in words."""
    return f"{bounds(value)} times"


def share(value: Interval) -> str:
    """A share with its interval, in per cent.

    Example:
        >>> share(Interval(0.914, 0.78, 1.021))
        '91 [78, 102]'
    """
    return interval(value, 0, 100)


def p_value(value: float | None) -> str:
    """A p value in two digits."""
    if value is None:
        return NOTHING
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def short(value: float) -> str:
    """Three digits, without an exponent where none is needed.

    Example:
        >>> short(0.01234), short(1234567.0), short(250.0)
        ('0.0123', '1.2e6', '250')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return np.format_float_positional(
            float(f"{value:.3g}"), trim="-" if abs(value) >= 100 else "k"
        ).rstrip(".")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def count_of(number: Any) -> str:
    """A whole number with its thousands set apart."""
    return f"{number:,}"
