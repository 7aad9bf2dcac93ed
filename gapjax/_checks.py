"""Checks of static arguments, so that one mistake reads the same everywhere.

Each check returns the value it was given, or raises a ValueError that names the
value, what would fit, and the remedy.
"""

import contextlib
import difflib
import math
import numbers
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


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
    return number(name, value, above=0)


def nonnegative_float(name: str, value: float) -> float:
    """A finite number of at least 0."""
    return number(name, value, least=0)


def whole(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """A whole number within bounds (NumPy integers pass, booleans do not)."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or value < least or (most is not None and value > most):
        upto = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be a whole number of at least {least}{upto}, not {value!r}.")
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """A finite number within bounds, of which at most one on each side is given."""
    found = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # there are whole numbers that no float holds
            found = float(value)
    if (
        math.isfinite(found)
        and (above is None or found > above)
        and (least is None or found >= least)
        and (below is None or found < below)
        and (most is None or found <= most)
    ):
        return found
    pairs = (("above", above), ("at least", least), ("below", below), ("at most", most))
    said = " and ".join(f"{word} {bound:g}" for word, bound in pairs if bound is not None)
    said = f"of {said}" if said.startswith("at") else said
    raise ValueError(f"{name} must be a finite number{said and ' ' + said}, not {value!r}.")


def boolean(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}.")
    return value


def random_key(name: str, value: Any) -> Any:
    """A single key of ``jax.random``, of either kind."""
    import jax  # late: the command checks its arguments before anything heavy

    try:
        jax.eval_shape(jax.random.bits, value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a key of jax.random, such as jax.random.key(0), not {value!r}."
        ) from error
    return value


def several(name: str, values: Any) -> list[Any]:
    """A list, a tuple, a range or an array of one axis, as a list."""
    if isinstance(values, list | tuple | range) or (
        hasattr(values, "tolist") and len(values.shape) == 1
    ):
        return list(values)
    raise ValueError(f"{name} must be a list, not {values!r}.")


def numbers_array(name: str, values: Any) -> "np.ndarray":
    """An array of numbers, in float64."""
    import numpy as np  # late: the command checks its arguments before anything heavy

    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, not {str(values)[:60]}.") from error


def function(name: str, value: Any) -> Any:
    """Something to call."""
    if not callable(value):
        raise ValueError(f"{name} must be a function, not {value!r}.")
    return value


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """One of a few words; a near miss is suggested."""
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(
        f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}."
        + near_matches(value, choices)
    )


def near_matches(value: object, choices: Iterable[str]) -> str:
    """A closing sentence that suggests the nearest choices, or nothing."""
    names = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(value).lower(), names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(names[name]) for name in close)}?" if close else ""
