"""Growth of the batch in place of decay of the learning rate."""

import bisect
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gapjax import _checks
from gapjax._batch_rules import rule_factor
from gapjax._whole import LARGEST
from gapjax.growth._by_examples import at_examples, leniently, pick, segments
from gapjax.growth._schedules import StepwiseBatch, at_least_initial, rising_boundaries

_GRID = 4097  # places at which a schedule is looked at before its peak and its cuts are found


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
        maximum: the largest batch size; growth stops at the largest multiple within it.
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
    at_least_initial(maximum, batch_size)
    _checks.one_of("keep", keep, ("updates", "epochs"))
    values, levels, product = [batch_size], [lr], 1.0
    boundaries: list[int] = []
    examples = 0
    for boundary in rising_boundaries("boundaries_and_scales", boundaries_and_scales):
        scale = boundaries_and_scales[boundary]
        if not (isinstance(scale, numbers.Real) and 1e-30 <= scale <= 1):
            raise ValueError(
                f"The scale at update {boundary} must be at least 1e-30 and at most 1, not "
                f"{scale!r}; to raise the learning rate, join a warm-up to the schedule returned."
            )
        start = boundaries[-1] if boundaries else 0
        length = boundary - start
        if keep == "epochs":
            length = max(1, -(-(boundary * batch_size - examples) // values[-1]))
        boundaries.append(start + length)
        examples += length * values[-1]
        product *= scale
        values.append(batch_size * min(int(1 / product + 1e-6), int(maximum) // batch_size))
        levels.append(lr * product)
    sizes = StepwiseBatch(tuple(boundaries), tuple(values))
    return _rates(levels, sizes, "linear", batch_size), sizes


def seesaw(
    schedule: optax.Schedule,
    *,
    total_examples: int,
    batch_size: int,
    maximum: int,
    factor: float = 2,
    multiple: int = 1,
    start: float = 0.0,
    rule: str = "sqrt",
) -> tuple[optax.Schedule, StepwiseBatch]:
    r"""Grow the batch where a schedule would let the learning rate decay: Seesaw, for Adam.

    Let :math:`x_1, x_2, \dots` be the places, in examples, where the schedule s has fallen by a
    further factor since the last one, from :math:`x_0` on: the end of its warm-up, or ``start``.
    From :math:`x_k` on

    .. math:: B_k = B_0\, s(x_0) / s(x_k), \qquad
        \eta_k = s(x_k) \sqrt{B_k / B_0}

    so where the schedule falls by a, the batch grows by a and the rate falls by :math:`\sqrt a`.
    An update of Adam has the length of its rate, whatever the batch: as long as gradient noise
    dominates, :math:`\eta \sqrt{1/B}` sets the noise, and that is what it was. With
    ``rule="linear"`` the rate is :math:`s(x_k) B_k / B_0`: it stays, and all decay becomes growth,
    which is the same trade for SGD (Smith et al. 2018), whose noise is set by :math:`\eta / B`.

    The condition of Seesaw is that the rate falls by at least the square root of the growth, else
    the effective rate of a normalized optimizer rises without bound; this is its limit, where it
    holds with equality. Far above the critical batch size noise no longer dominates, and growth is
    no substitute for decay: ``maximum`` has to know.

    Before :math:`x_0` the batch is :math:`B_0` and the rate is the schedule's. Sizes are rounded to
    ``multiple``, and the rate is that of the rounded size. Where the batch has reached ``maximum``,
    the rest of the decay is the schedule's own: :math:`s(x) \sqrt{B_\mathrm{max} / B_0}`. The
    examples are used up exactly, after ``batch_schedule.update_at(total_examples)`` updates: what
    is left over at the end makes one more update of some of the sizes, and what then is left, less
    than :math:`B_0`, is the first update. There is none where total and sizes are multiples of
    :math:`B_0`.

    Args:
        schedule: ``examples -> rate``, written for ``batch_size``; it rises to its peak, if at all,
            and then never again.
        total_examples: of the run; a multiple of ``multiple``.
        batch_size: :math:`B_0`; a multiple of ``multiple``.
        maximum: the largest batch.
        factor: by which the schedule has to have fallen for the batch to grow; 1.1 follows it
            closely, with many sizes to compile; 2 doubles the batch each time.
        multiple: what every size has to be a multiple of: the devices, or devices times ghosts.
        start: the fraction of the examples before which nothing grows, for a late switch.
        rule: "sqrt" for Adam and its kin, "linear" for SGD.

    Returns:
        The learning-rate schedule and the batch schedule, both over updates.

    Raises:
        ValueError: for a schedule that rises again after its peak or is nowhere above 0, sizes that
            are no multiples, a maximum below the first size, a factor that is not above 1, or a
            start outside [0, 1).

    Example:
        >>> schedule = optax.cosine_decay_schedule(1e-3, 1_280_000)
        >>> rate, sizes = seesaw(schedule, total_examples=1_280_000, batch_size=128, maximum=1024)
        >>> sizes.sizes(), sizes.update_at(1_280_000), sizes.examples_before(6380)
        ((128, 256, 512, 1024), 6380, 1280000)
        >>> [round(1e3 * float(rate(update)), 3) for update in (0, *sizes.boundaries)]
        [1.0, 0.707, 0.5, 0.352]

    References:
        Meterez, Morwani, Wu, Oncescu, Pehlevan, Kakade, `Seesaw: Accelerating Training by Balancing
        Learning Rate and Batch Size Scheduling <https://arxiv.org/abs/2510.14717>`_, 2025,
        algorithm 1; Smith, Kindermans, Ying, Le, `Don't Decay the Learning Rate, Increase the Batch
        Size <https://arxiv.org/abs/1711.00489>`_, ICLR 2018 (for SGD); Wang et al.,
        `arXiv 2602.14208 <https://arxiv.org/abs/2602.14208>`_, 2026 (a late start).
    """
    total = _checks.positive_int("total_examples", total_examples)
    base = _checks.positive_int("batch_size", batch_size)
    at_least_initial(maximum, base)
    multiple = _checks.positive_int("multiple", multiple)
    _checks.one_of("rule", rule, ("sqrt", "linear"))
    if not _checks.positive_float("factor", factor) > 1:
        raise ValueError(f"factor must be above 1, not {factor!r}: the batch grows by it.")
    if not (isinstance(start, numbers.Real) and 0 <= start < 1):
        raise ValueError(f"start must be a fraction in [0, 1), not {start!r}.")
    for name, size in (("total_examples", total), ("batch_size", base)):
        if size % multiple:
            raise ValueError(
                f"{name}={size} is no multiple of multiple={multiple}; "
                f"{size - size % multiple or multiple} would be."
            )
    curve = _Curve(schedule, total)
    place = max(curve.peak, math.ceil(start * total))
    top = level = curve(place)
    largest = maximum - maximum % multiple
    # Warm-up, then the peak is held, where there is room to grow.
    stages = [_Stage(0, base, None), _Stage(place, base, level if base < largest else None)]
    while stages[-1].size < largest:
        cut = curve.falls_to(level / factor, place)
        if cut is None:
            break
        place, level = cut, curve(cut)
        size = multiple * round(base * top / level / multiple) if level > 0 else largest
        capped = size >= largest
        stages.append(_Stage(place, min(size, largest), None if capped else level))
    stages = _spend(stages, total)
    boundaries = tuple(stage.start for stage in stages[1:])
    sizes = StepwiseBatch(boundaries, tuple(stage.size for stage in stages))
    return _rates([stage.level for stage in stages], sizes, rule, base, schedule), sizes


class _Stage(NamedTuple):
    """A size, from where on it holds, and the level of the schedule there; None follows it."""

    start: int
    size: int
    level: float | None


class _Curve:
    """A schedule over examples that rises to a peak and falls from there, on the host."""

    def __init__(self, schedule: optax.Schedule, total: int):
        self._at = at_examples(schedule)
        self._grid = np.linspace(0, total, _GRID).astype(np.int64).tolist()
        dtype = jnp.int32 if total <= LARGEST else jnp.float32
        values = jax.vmap(leniently(schedule))(jnp.asarray(np.asarray(self._grid), dtype))
        self._values = np.asarray(values, np.float64)
        self.peak = self._find_peak()
        top = self(self.peak)
        if not top > 0:
            raise ValueError(f"The schedule is nowhere above 0 up to {total} examples.")
        falling = self._values[bisect.bisect_left(self._grid, self.peak) :]
        rises = np.flatnonzero(np.diff(falling) > 1e-5 * top)
        if rises.size:
            where = self._grid[len(self._grid) - len(falling) + int(rises[0])]
            raise ValueError(
                f"The schedule rises again after its peak, near {where} of {total} examples; only "
                "decay can be traded for growth. Trade each cycle on its own."
            )

    def __call__(self, examples: int) -> float:
        return float(np.asarray(self._at(examples)))

    def _find_peak(self) -> int:
        """The first place with the largest value."""
        top = int(np.argmax(self._values))
        low, high = self._grid[max(top - 1, 0)], self._grid[min(top + 1, len(self._grid) - 1)]
        while high - low > 2:
            third = (high - low) // 3
            if self(low + third) < self(high - third):
                low += third
            else:
                high -= third
        return max(range(low, high + 1), key=self)

    def falls_to(self, target: float, after: int) -> int | None:
        """The first place after another where the value is no larger than this, or None."""
        target *= 1 + 1e-6  # a rate of 0.1 * 0.1 is 0.01 but for rounding
        reached = np.flatnonzero((self._values <= target) & (np.asarray(self._grid) > after))
        if not reached.size:
            return None
        low, high = max(self._grid[reached[0] - 1], after), self._grid[reached[0]]
        return (
            low
            + 1
            + bisect.bisect_left(
                range(low + 1, high), True, key=lambda place: self(place) <= target
            )
        )


def _spend(stages: list[_Stage], total: int) -> list[_Stage]:
    """Stages from places in examples to updates, such that the examples are used up exactly."""
    placed, update, seen = [stages[0]], 0, 0
    for stage in stages[1:]:
        updates = max(0, -((seen - stage.start) // placed[-1].size))
        if seen + updates * placed[-1].size >= total:
            break
        update, seen = update + updates, seen + updates * placed[-1].size
        if not updates:
            placed.pop()  # it has come to hold nowhere
        placed.append(stage._replace(start=update))
    # What is left over makes one more update of some of the sizes, and perhaps a first one.
    last, left = divmod(total - seen, placed[-1].size)
    more = []
    for stage in reversed(placed):
        updates, left = divmod(left, stage.size)
        more.append(updates)
    shifts = [*itertools.accumulate(reversed(more), initial=1 if left else 0)]
    end = update + last + shifts[-1]
    placed = [
        stage._replace(start=stage.start + shift)
        for stage, shift in zip(placed, shifts, strict=False)
    ]
    # The last size holds nowhere where what was left over was less than it.
    placed = [stage for stage in placed if stage.start < end]
    return [_Stage(0, left, None), *placed] if left else placed


def _rates(
    levels: Sequence[float | None],
    sizes: StepwiseBatch,
    rule: str,
    base: int,
    schedule: optax.Schedule = optax.constant_schedule(0.0),  # noqa: B008
) -> optax.Schedule:
    """The level of each size, or the schedule where there is none, by the rule of the batch."""
    segment_at, value_at = segments(sizes), at_examples(schedule)
    factors = [float(rule_factor(size / base, rule)) for size in sizes.values]
    held = tuple((level or 0.0) * factor for level, factor in zip(levels, factors, strict=True))
    following = [level is None for level in levels]
    follow = tuple(factor * yes for factor, yes in zip(factors, following, strict=True))

    def rate(update: ArrayLike) -> ArrayLike:
        segment, examples = segment_at(update)
        if not any(following):
            return pick(held, segment)
        return pick(held, segment) + pick(follow, segment) * value_at(examples)

    return rate
