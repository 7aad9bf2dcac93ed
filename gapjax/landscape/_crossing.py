"""Where a function of a step first rises above its start, from values alone."""

import math
from collections.abc import Callable
from typing import NamedTuple

# How much longer or shorter than the last a step may be.
FASTEST = 16.0


class Crossing(NamedTuple):
    """What is known of a border.

    Attributes:
        low: the longest step before it that was tried, 0 where there is none.
        high: the shortest behind it, infinite where there is none.
        border: the best guess between them.
        falls: whether any step was seen to lower the function by more than its rounding.
    """

    low: float
    high: float
    border: float
    falls: bool


def find_crossing(
    rise: Callable[[float], float], start: float, noise: float, rtol: float, budget: int
) -> Crossing:
    """Closes in on the smallest step of positive rise.

    Steps grow while the function is lower and shrink while it is higher, until both were seen.
    Brent's method then finds the root of the slope ``rise(step) / step``, which is a straight line
    for a quadratic: its secants meet the border at once, and a step to each side proves it.

    Args:
        rise: of a step; infinite where the function overflows.
        start: the first step.
        noise: what rounding does to a rise.
        rtol: how close the steps on both sides are to be.
        budget: evaluations.

    Returns:
        A `Crossing`.
    """
    # Imported here: scipy.optimize takes a while to load.
    from scipy.optimize import brentq

    slopes: dict[float, float] = {}
    falls = False

    def slope(step: float) -> float:
        nonlocal falls
        if step not in slopes:
            change = min(rise(step), 1e30)
            falls |= change < -noise
            slopes[step] = change / step
        return slopes[step]

    def sides() -> tuple[float, float]:
        high = min((s for s, q in slopes.items() if q > 0), default=math.inf)
        return max((s for s, q in slopes.items() if q <= 0 and s < high), default=0.0), high

    step, border = start, math.nan
    while len(slopes) < budget and (not slopes or sides()[0] == 0 or sides()[1] == math.inf):
        slope(step)
        step = _extended(slopes, *sides())
    low, high = sides()
    left = budget - len(slopes)
    if low and high < math.inf:
        border = math.sqrt(low * high)
        if left:
            border = brentq(slope, low, high, xtol=1e-300, rtol=rtol, maxiter=left, disp=False)
        low, high = sides()
        if not falls and len(slopes) < budget:
            # Both sides within rounding of the border: farther from it the fall shows.
            slope(low / 2)
    elif high == math.inf:
        border = math.inf
    return Crossing(low, high, border, falls)


def _extended(slopes: dict[float, float], low: float, high: float) -> float:
    """The next step where all so far lie on one side: where a secant points to, if it does."""
    guess = _root(*sorted(slopes.items())[-2:]) if low else _root(*sorted(slopes.items())[:2])
    if low:
        return min(max(1.01 * guess, 2 * low), FASTEST * low) if guess > 0 else FASTEST * low
    return max(min(0.99 * guess, high / 2), high / FASTEST) if guess > 0 else high / FASTEST


def _root(*points: tuple[float, float]) -> float:
    """Where the line through two points is 0; not a number where it is not."""
    if len(points) < 2 or points[0][1] == points[1][1]:
        return math.nan
    (x, p), (y, q) = points
    return (x * q - y * p) / (q - p)
