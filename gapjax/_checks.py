"""Checks of static arguments, so that one mistake reads the same everywhere.

Each check returns the value it was given, or raises a ValueError that names the
value, what would fit, and the remedy.
"""

import difflib
import math
import numbers
from collections.abc import Iterable


def positive_int(name: str, value: int) -> int:
    """A whole number of at least 1 (NumPy integers pass, booleans do not)."""
    whole = isinstance(value, int | numbers.Integral)  # int first: the fast way for most
    if isinstance(value, bool) or not whole or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    return int(value)


def whole_number(name: str, value: int) -> int:
    """A whole number of at least 0 (NumPy integers pass, booleans do not)."""
    whole = isinstance(value, int | numbers.Integral)
    if isinstance(value, bool) or not whole or value < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, not {value!r}.")
    return int(value)


def positive_float(name: str, value: float) -> float:
    """A finite number above 0."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}.")
    return float(value)


def nonnegative_float(name: str, value: float) -> float:
    """A finite number of at least 0."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, not {value!r}.")
    return float(value)


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """One of a few words; a near miss is suggested."""
    choices = list(choices)
    if value in choices:
        return value
    raise ValueError(
        f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}."
        + near_matches(value, choices)
    )


def near_matches(value: object, choices: Iterable[str]) -> str:
    """A closing sentence that suggests the nearest choices, or nothing."""
    close = difflib.get_close_matches(str(value), list(choices), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
