"""Schedules of the learning rate, written for the small batch, by name or as functions."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import _checks
from gapjax.study._budget import round_up


class Course(NamedTuple):
    """How the learning rate runs over the updates of the small batch.

    Attributes:
        schedule: update -> rate.
        boundaries: the updates at which the rate starts to fall or drops, and by what factor where
            it drops; what comes before the first is the early phase.
    """

    schedule: optax.Schedule
    boundaries: dict[int, float | None]


def _step(study: Any, updates: int, peak: float) -> Course:
    drops: dict[int, float | None] = {}
    for at in study.decay_at:  # of few updates, some may fall on one
        update = max(1, round(at * updates))
        drops[update] = study.decay_factor * (drops.get(update) or 1.0)
    return Course(piecewise(peak, drops), drops)


def _cosine(study: Any, updates: int, peak: float) -> Course:
    del study
    return Course(optax.cosine_decay_schedule(peak, updates), {})


def _linear(study: Any, updates: int, peak: float) -> Course:
    del study
    return Course(optax.linear_schedule(peak, 0.0, updates), {})


def _wsd(study: Any, updates: int, peak: float) -> Course:
    start = min(updates - 1, round((1 - study.cooldown) * updates))
    falling = optax.linear_schedule(peak, 0.0, updates - start)
    if start < 1:
        return Course(falling, {})
    schedule = optax.join_schedules([optax.constant_schedule(peak), falling], [start])
    return Course(schedule, {start: None})


def _constant(study: Any, updates: int, peak: float) -> Course:
    del study, updates
    return Course(optax.constant_schedule(peak), {})


# What each does over the budget; `gapjax study --help` shows it.
SCHEDULES: dict[str, tuple[str, Callable[[Any, int, float], Course]]] = {
    "step": ("times decay_factor at each fraction in decay_at", _step),
    "cosine": ("half a cosine, down to 0", _cosine),
    "linear": ("a straight line, down to 0", _linear),
    "wsd": ("constant, then over the last `cooldown` of it down to 0", _wsd),
    "constant": ("always the same", _constant),
}


def course(study: Any, updates: int, peak: float) -> Course:
    """The course of a study's learning rate over so many updates of its small batch.

    Raises:
        ValueError: a schedule function of the user's that gives no schedule.
    """
    if isinstance(study.schedule, str):
        return SCHEDULES[study.schedule][1](study, updates, peak)
    return Course(_own(study.schedule, updates, peak), {})


def _own(function: Callable[[int, float], Any], updates: int, peak: float) -> optax.Schedule:
    name = getattr(function, "__name__", repr(function))
    wanted = "schedule must be a function (num_updates, peak) -> optax schedule"
    try:
        schedule = function(updates, peak)
    except TypeError as error:
        raise ValueError(f"{wanted}; {name} raised: {error}") from error
    if not callable(schedule):
        raise ValueError(f"{wanted}, and {name} gave {schedule!r}, which is no function of steps.")
    for step in (0, updates - 1):
        try:
            rate = np.asarray(schedule(step), np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{wanted}; at step {step} what {name} gave raised: {error}"
            ) from error
        if rate.shape != () or not np.isfinite(rate) or rate < 0:
            raise ValueError(
                f"{wanted}, and at step {step} what {name} gave is {schedule(step)!r}: a rate is "
                "one number, finite and not negative."
            )
    return schedule


def check_schedule(schedule: Any) -> None:
    """Refuse what is neither the name of a schedule nor a function."""
    if isinstance(schedule, str):
        _checks.one_of("schedule", schedule, SCHEDULES)
    elif not callable(schedule):
        raise ValueError(
            f"schedule must be one of {', '.join(SCHEDULES)}, or a function (num_updates, peak) -> "
            f"optax schedule, not {schedule!r}."
        )


def piecewise(rate: float, drops: Any) -> optax.Schedule:
    """The rate, multiplied by a factor at each drop."""
    # Not piecewise_constant_schedule, which mixes types where promotion is strict.
    rates = list(itertools.accumulate(drops.values(), lambda r, factor: r * factor, initial=rate))
    return optax.join_schedules([optax.constant_schedule(r) for r in rates], list(drops))


def warmed_up(schedule: optax.Schedule, updates: Any) -> optax.Schedule:
    """The schedule with a linear warm-up: times ``min(1, (step + 1) / updates)``.

    The schedule itself runs on underneath, so whatever it does it does where it did; the first
    update already moves the weights.

    Args:
        schedule: step -> rate.
        updates: how many updates the warm-up takes, a number or a traced array; 1 or less: none.
    """
    if not isinstance(updates, jax.Array) and updates <= 1:
        return schedule

    def warm(step: Any) -> jax.Array:
        ramp = (jnp.asarray(step, jnp.float32) + 1) / jnp.maximum(updates, 1.0)
        return schedule(step) * jnp.minimum(ramp, 1.0)

    return warm


def at_fractions(boundaries: Any, stretch: float) -> tuple[int, ...]:
    """Boundaries in updates of the small batch as updates of a run that makes other ones."""
    return tuple(round_up(update * stretch) for update in boundaries)
