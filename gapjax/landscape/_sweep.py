"""Figures of merit at many points of parameter space, resumable point by point."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gapjax import _checks
from gapjax.landscape._progress import Progress, Tracker

Evaluate = Callable[..., Any] | Mapping[str, Callable[..., Any]]

GIVEN = "batch statistics: as the evaluation functions have them, none rebuilt"
REBUILT = "batch statistics: rebuilt at every point"


def axis(name: str, coords: Any) -> np.ndarray:
    """Coordinates as a vector of finite numbers."""
    row = _checks.numbers_array(name, coords)
    if row.ndim != 1 or not row.size or not np.isfinite(row).all():
        raise ValueError(f"{name} must be a non-empty row of finite numbers, not {coords!r:.80}.")
    return row


def sweep(
    evaluate: Evaluate,
    points: Sequence[Callable[[], Any]],
    task: str,
    rebuild: Callable[[Any], Any] | None,
    progress: bool | Callable[[Progress], None],
    resume: Any,
    result: Callable[[dict[str, np.ndarray]], Any],
) -> Any:
    """Evaluates every point that `resume` lacks (not a number there), and wraps up the result."""
    for one in evaluate.values() if isinstance(evaluate, Mapping) else (evaluate,):
        _checks.function("evaluate", one)
    done = {} if resume is None else _done(resume, result({}))
    values = {name: np.array(v, np.float64).ravel() for name, v in done.items()}
    missing = [
        i for i in range(len(points)) if not values or any(np.isnan(v[i]) for v in values.values())
    ]

    def partial() -> Any:
        return result({name: v.copy() for name, v in values.items()})

    with Tracker(progress, task, len(missing), partial) as tracker:
        for index in missing:
            params = points[index]()
            state = () if rebuild is None else (rebuild(params),)
            for name, value in _figures(evaluate, params, state).items():
                values.setdefault(name, np.full(len(points), np.nan))[index] = value
            tracker.step()
    return partial()


def _number(name: str, value: Any) -> float:
    """One figure as a float."""
    try:
        return float(np.reshape(value, ()))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"evaluate must give numbers, and {name!r} is {value!r:.80}: return a number, or one "
            "dictionary of numbers, not nested."
        ) from error


def _done(resume: Any, asked: Any) -> Mapping[str, np.ndarray]:
    """The figures of an earlier result; refused where it is not of what is asked."""
    if type(resume) is not type(asked):
        raise ValueError(
            f"the result to resume is a {type(resume).__name__}, asked is a "
            f"{type(asked).__name__}: resume with what the same function returned."
        )
    for name in (field.name for field in dataclasses.fields(asked) if field.name != "values"):
        then, now = getattr(resume, name), getattr(asked, name)
        if not np.array_equal(then, now):
            raise ValueError(
                f"the result to resume was made with other {name}: {_told(then)}, asked are "
                f"{_told(now)}; resume with the same points, and rebuild= as it was."
            )
    return resume.values


def _told(part: Any) -> str:
    """In a few words."""
    if isinstance(part, str):
        return repr(part)
    return f"{len(part)} points from {part[0]} to {part[-1]}"


def _figures(evaluate: Evaluate, params: Any, state: tuple[Any, ...]) -> dict[str, float]:
    """All figures at one point under flat names: ``train/loss``, ``loss`` or ``value``."""
    if not isinstance(evaluate, Mapping):
        evaluate = {"": evaluate}
    figures = {}
    for name, function in evaluate.items():
        found = function(params, *state)
        for key, value in (found if isinstance(found, Mapping) else {"": found}).items():
            flat = "/".join(filter(None, map(str, (name, key)))) or "value"
            figures[flat] = _number(flat, value)
    return figures
