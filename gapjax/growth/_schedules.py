"""Batch-size schedules: from the count of updates to a global batch size, on the host."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Protocol

import optax

from gapjax import _checks


class BatchSchedule(Protocol):
    """Any function from the number of the update, from 0, to its global batch size, on the host.

    It must be pure, and never give a smaller size for a later update. One that also has
    ``sizes() -> tuple[int, ...]``, as all schedules here do, has its sizes checked at once and
    compiled before they are due.
    """

    def __call__(self, update: int, /) -> int:
        """The global batch size of this update."""
        ...


@dataclasses.dataclass(frozen=True)
class StepwiseBatch:
    """A batch size that is constant between updates; what every schedule here returns.

    ``schedule(update)`` is the size of the batch that update number ``update`` (from 0, as optax
    counts) is made with; ``schedule.sizes()`` lists every size it can return, rising, so that each
    can be compiled before it is due.

    Attributes:
        boundaries: the updates from which a new size holds, rising.
        values: the sizes, one more than there are boundaries.
    """

    boundaries: tuple[int, ...]
    values: tuple[int, ...]

    def __call__(self, update: int) -> int:
        """The global batch size of this update."""
        return self.values[bisect.bisect_right(self.boundaries, update)]

    def sizes(self) -> tuple[int, ...]:
        """Every size this schedule can return, rising."""
        return tuple(dict.fromkeys(self.values))


def constant_batch(size: int) -> StepwiseBatch:
    """One batch size for the whole run.

    Args:
        size: the global batch size, in examples.

    Example:
        >>> constant_batch(128)(10_000)
        128
    """
    return StepwiseBatch((), (_checks.positive_int("size", size),))


def geometric_batch(initial: int, *, factor: float, every: int, maximum: int) -> StepwiseBatch:
    """A batch that grows by a factor every so many updates, up to a maximum.

    ``B(u) = min(maximum, round(initial * factor ** (u // every)))``.

    Args:
        initial: the first global batch size.
        factor: the growth at each boundary, above 1.
        every: the number of updates between two growths.
        maximum: the largest size; the last growth stops at it.

    Raises:
        ValueError: if a size or ``every`` is below 1, the factor does not grow the batch, or the
            maximum is below the first size.

    Example:
        >>> sizes = geometric_batch(128, factor=2, every=5_000, maximum=1024)
        >>> sizes(4_999), sizes(5_000), sizes(90_000), sizes.sizes()
        (128, 256, 1024, (128, 256, 512, 1024))
    """
    initial = _checks.positive_int("initial", initial)
    every = _checks.positive_int("every", every)
    _at_least_initial(maximum, initial)
    if not math.isfinite(factor) or round(initial * factor) <= initial:
        raise ValueError(
            f"factor must grow the batch, but {factor!r} times {initial} rounds to no more than "
            f"{initial}; use a factor of 2, say, or constant_batch({initial})."
        )
    rungs = (round(initial * factor**rung) for rung in itertools.count())
    values = [*itertools.takewhile(lambda size: size < maximum, rungs), int(maximum)]
    return StepwiseBatch(tuple(every * k for k in range(1, len(values))), tuple(values))


def piecewise_batch(initial: int, boundaries_and_sizes: Mapping[int, int]) -> StepwiseBatch:
    """A batch that takes the given sizes from the given updates on.

    Args:
        initial: the first global batch size.
        boundaries_and_sizes: from an update to the size that holds from it on.

    Raises:
        ValueError: if a size is smaller than the one before it.

    Example:
        >>> sizes = piecewise_batch(64, {100: 128, 300: 1024})
        >>> sizes(99), sizes(100), sizes(300)
        (64, 128, 1024)
    """
    boundaries = sorted(
        _checks.positive_int("A boundary", boundary) for boundary in boundaries_and_sizes
    )
    values = [_checks.positive_int("initial", initial)]
    for boundary in boundaries:
        size = _checks.positive_int(
            f"The size at update {boundary}", boundaries_and_sizes[boundary]
        )
        if size < values[-1]:
            raise ValueError(
                f"The batch would shrink from {values[-1]} to {size} at update {boundary}; a "
                f"growing batch needs at least {values[-1]} there."
            )
        values.append(size)
    return StepwiseBatch(tuple(boundaries), tuple(values))


def grow_instead_of_decay(
    lr: float,
    boundaries_and_scales: Mapping[int, float],
    *,
    batch_size: int,
    maximum: int,
    keep: str = "updates",
) -> tuple[optax.Schedule, StepwiseBatch]:
    """Turn each drop of the learning rate into growth of the batch by the inverse factor.

    The noise of SGD is set by ``lr / B``, so ``B -> B / scale`` does what ``lr -> scale * lr``
    does. With ``s`` the product of the scales so far,

        ``B = min(maximum, batch_size / s)`` and ``learning rate = lr * s * B / batch_size``,

    so ``lr / B`` is at every point what it was in the schedule given, and past the maximum the
    learning rate decays again. ``B`` is rounded down to a multiple of ``batch_size``, so that it
    splits over the devices wherever ``batch_size`` does; the learning rate makes up for it.

    Args:
        lr: the learning rate at the start.
        boundaries_and_scales: from an update to the factor, at most 1, that the learning rate takes
            there; as in ``optax.piecewise_constant_schedule``.
        batch_size: the global batch size at the start, for which the schedule was written.
        maximum: the largest batch size.
        keep: ``"updates"``: the boundaries stay where they are, counted in updates of the run that
            grows. ``"epochs"``: a boundary falls after as many *examples* as in the run that
            decays, that is ``boundary * batch_size``, and so after fewer updates (the experiment of
            the paper: the same epochs, several times fewer updates).

    Returns:
        The learning-rate schedule (optax) and the batch schedule, both over updates.

    Raises:
        ValueError: if a scale is not in (0, 1], or the maximum is below ``batch_size``.

    Example:
        >>> lr, size = grow_instead_of_decay(0.1, {100: 0.2, 200: 0.2}, batch_size=128, maximum=640)
        >>> size(99), size(100), size(200)
        (128, 640, 640)
        >>> [round(float(lr(update)), 3) for update in (99, 100, 200)]
        [0.1, 0.1, 0.02]
        >>> _, size = grow_instead_of_decay(
        ...     0.1, {100: 0.2, 200: 0.2}, batch_size=128, maximum=5120, keep="epochs"
        ... )
        >>> size.boundaries, size.sizes()
        ((100, 120), (128, 640, 3200))

    References:
        Smith, Kindermans, Ying, Le, `Don't Decay the Learning Rate, Increase the Batch Size
        <https://arxiv.org/abs/1711.00489>`_, ICLR 2018, sections 3 to 5.
    """
    lr = _checks.positive_float("lr", lr)
    batch_size = _checks.positive_int("batch_size", batch_size)
    _at_least_initial(maximum, batch_size)
    _checks.one_of("keep", keep, ("updates", "epochs"))
    values, rates, product = [batch_size], [lr], 1.0
    boundaries: list[int] = []
    examples = 0
    for boundary in sorted(boundaries_and_scales):
        scale = boundaries_and_scales[boundary]
        if not 0 < scale <= 1:
            raise ValueError(
                f"The scale at update {boundary} must be above 0 and at most 1, not {scale!r}; to "
                "raise the learning rate, join a warm-up to the schedule returned."
            )
        _checks.positive_int("A boundary", boundary)
        start = boundaries[-1] if boundaries else 0
        length = boundary - start
        if keep == "epochs":
            length = max(1, -(-(boundary * batch_size - examples) // values[-1]))
        boundaries.append(start + length)
        examples += length * values[-1]
        product *= scale
        values.append(min(batch_size * int(1 / product + 1e-6), int(maximum)))
        rates.append(lr * product * values[-1] / batch_size)
    # Not piecewise_constant_schedule, which mixes types where promotion is strict.
    constants = [optax.constant_schedule(rate) for rate in rates]
    return (
        optax.join_schedules(constants, boundaries),
        StepwiseBatch(tuple(boundaries), tuple(values)),
    )


def _at_least_initial(maximum: int, initial: int) -> None:
    if _checks.positive_int("maximum", maximum) < initial:
        raise ValueError(f"maximum is {maximum}, below the first batch size {initial}.")
