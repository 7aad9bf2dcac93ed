"""Batch-size schedules: from the count of updates to a global batch size, on the host."""

import bisect
import dataclasses
import functools
import itertools
import math
import numbers
from collections.abc import Mapping
from typing import Any, Protocol

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
    can be compiled before it is due. Examples and updates are converted in whole numbers of Python,
    exactly at any size.

    Attributes:
        boundaries: the updates from which a new size holds, rising.
        values: the sizes, one more than there are boundaries.
        offsets: the examples seen before each size first holds, as many as there are sizes.

    Raises:
        ValueError: for boundaries that do not rise from 1, sizes below 1, or as many boundaries as
            sizes.

    Example:
        >>> sizes = StepwiseBatch(boundaries=(100,), values=(128, 512))
        >>> sizes(99), sizes(100), sizes.sizes()
        (128, 512, (128, 512))
    """

    boundaries: tuple[int, ...]
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        boundaries = tuple(
            _checks.positive_int("A boundary", at)
            for at in _checks.several("boundaries", self.boundaries)
        )
        values = tuple(
            _checks.positive_int("A batch size", size)
            for size in _checks.several("values", self.values)
        )
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"{len(boundaries)} boundaries need {len(boundaries) + 1} sizes, not {len(values)}."
            )
        for one, other in itertools.pairwise(boundaries):
            if other <= one:
                raise ValueError(f"Boundaries must rise, but {other} follows {one}.")
        object.__setattr__(self, "boundaries", boundaries)
        object.__setattr__(self, "values", values)

    def __call__(self, update: int) -> int:
        """The global batch size of this update."""
        return self.values[bisect.bisect_right(self.boundaries, update)]

    def sizes(self) -> tuple[int, ...]:
        """Every size this schedule can return, rising."""
        return tuple(sorted(set(self.values)))

    def examples_before(self, update: int) -> int:
        """How many examples are seen before this update, exactly.

        Args:
            update: from 0.

        Returns:
            The sum of the sizes of all updates before it.

        Raises:
            ValueError: for an update that is no whole number of at least 0.

        Example:
            >>> piecewise_batch(128, {100: 512}).examples_before(101)
            13312
        """
        update = _checks.whole_number("update", update)
        segment = bisect.bisect_right(self.boundaries, update)
        start = (0, *self.boundaries)[segment]
        return self.offsets[segment] + (update - start) * self.values[segment]

    def update_at(self, examples: int) -> int:
        """The update that sees example number ``examples`` of the stream.

        That is how many updates are made by the time so many examples were seen, the last one of
        them not counted if it has only begun: ``examples_before(update_at(n)) <= n`` and
        ``update_at(examples_before(u)) == u``.

        Args:
            examples: from 0.

        Returns:
            The update, from 0.

        Raises:
            ValueError: for a number of examples that is no whole number of at least 0.

        Example:
            >>> sizes = piecewise_batch(128, {100: 512})
            >>> sizes.update_at(12_799), sizes.update_at(12_800), sizes.update_at(13_312)
            (99, 100, 101)
        """
        examples = _checks.whole_number("examples", examples)
        segment = bisect.bisect_right(self.offsets, examples) - 1
        start = (0, *self.boundaries)[segment]
        return start + (examples - self.offsets[segment]) // self.values[segment]

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """The examples seen before each size first holds."""
        spans = itertools.pairwise((0, *self.boundaries))
        seen = (
            (stop - start) * size for (start, stop), size in zip(spans, self.values, strict=False)
        )
        return tuple(itertools.accumulate(seen, initial=0))


def constant_batch(size: int) -> StepwiseBatch:
    """One batch size for the whole run.

    Args:
        size: the global batch size, in examples.

    Returns:
        The schedule.

    Raises:
        ValueError: if the size is no whole number of at least 1.

    Example:
        >>> constant_batch(128)(10_000)
        128
    """
    return StepwiseBatch((), (_checks.positive_int("size", size),))


def geometric_batch(initial: int, *, factor: float, every: int, maximum: int) -> StepwiseBatch:
    r"""A batch that grows by a factor every so many updates, up to a maximum.

    .. math:: B_u = \min(B_\mathrm{max},
        \mathrm{round}(B_0 \cdot \mathrm{factor}^{\lfloor u / \mathrm{every} \rfloor}))

    Args:
        initial: the first global batch size.
        factor: the growth at each boundary, above 1.
        every: the number of updates between two growths.
        maximum: the largest size; the last growth stops at it.

    Returns:
        The schedule.

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
    at_least_initial(maximum, initial)
    # A number of Python: the powers of NumPy's overflow.
    kind = int if isinstance(factor, numbers.Integral) else float
    by = kind(factor) if isinstance(factor, numbers.Real) else math.nan
    if not 0 < by < math.inf or round(min(initial * by, 2 * initial)) <= initial:
        raise ValueError(
            f"factor must grow the batch, but {factor!r} times {initial} rounds to no more than "
            f"{initial}; use a factor of 2, say, or constant_batch({initial})."
        )
    rungs = (round(min(initial * by**rung, maximum)) for rung in itertools.count())
    values = [*itertools.takewhile(lambda size: size < maximum, rungs), int(maximum)]
    return StepwiseBatch(tuple(every * k for k in range(1, len(values))), tuple(values))


def piecewise_batch(initial: int, boundaries_and_sizes: Mapping[int, int]) -> StepwiseBatch:
    """A batch that takes the given sizes from the given updates on.

    Args:
        initial: the first global batch size.
        boundaries_and_sizes: from an update to the size that holds from it on.

    Returns:
        The schedule.

    Raises:
        ValueError: if a size is smaller than the one before it.

    Example:
        >>> sizes = piecewise_batch(64, {100: 128, 300: 1024})
        >>> sizes(99), sizes(100), sizes(300)
        (64, 128, 1024)
    """
    boundaries = rising_boundaries("boundaries_and_sizes", boundaries_and_sizes)
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


def rising_boundaries(name: str, by_boundary: Mapping[int, Any]) -> list[int]:
    """The boundaries that a mapping has, rising."""
    if not isinstance(by_boundary, Mapping):
        raise ValueError(
            f"{name} must be a dictionary such as {{100: ..., 300: ...}}, not {by_boundary!r}."
        )
    return sorted(_checks.positive_int("A boundary", boundary) for boundary in by_boundary)


def at_least_initial(maximum: int, initial: int) -> None:
    if _checks.positive_int("maximum", maximum) < initial:
        raise ValueError(f"maximum is {maximum}, below the first batch size {initial}.")
