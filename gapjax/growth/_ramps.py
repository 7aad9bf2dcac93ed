"""Batch ramps from and to the settings of other libraries."""

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from gapjax import _checks
from gapjax.growth._ramp_strings import from_starts, from_thresholds, stepwise
from gapjax.growth._schedules import StepwiseBatch


def ramp_from_levanter(steps: Sequence[Mapping[str, int]]) -> StepwiseBatch:
    """The ramp of a ``train_batch_size`` list of levanter.

    Args:
        steps: the entries, each with the step it ``"start"``s at and its ``"value"``; the first
            starts at 0, and they rise. Entries with these as attributes will do.

    Returns:
        The ramp, over updates.

    Raises:
        ValueError: for an entry without the two, a first start that is not 0, or starts that do not
            rise.

    Example:
        >>> ramp_from_levanter([{"start": 0, "value": 32}, {"start": 1000, "value": 64}])
        StepwiseBatch(boundaries=(1000,), values=(32, 64))

    References:
        levanter, ``ScheduleStep`` and ``BatchSchedule`` in ``levanter.schedule``.
    """
    steps = _checks.several("steps", steps)
    starts = {_entry(step, "start"): _entry(step, "value") for step in steps}
    _check_rising("start", [_entry(step, "start") for step in steps])
    return from_starts(starts)


def ramp_to_levanter(batch_schedule: StepwiseBatch) -> list[dict[str, int]]:
    """A ramp as a ``train_batch_size`` list of levanter.

    Args:
        batch_schedule: the ramp.

    Returns:
        The entries, as in its YAML files.

    Raises:
        ValueError: for a schedule that is not stepwise.

    Example:
        >>> ramp_to_levanter(StepwiseBatch(boundaries=(1000,), values=(32, 64)))
        [{'start': 0, 'value': 32}, {'start': 1000, 'value': 64}]
    """
    starts = (0, *stepwise(batch_schedule).boundaries)
    pairs = zip(starts, batch_schedule.values, strict=True)
    return [{"start": start, "value": size} for start, size in pairs]


def ramp_from_megatron(
    start: int, increment: int, samples: int, *, batch_size: int
) -> StepwiseBatch:
    r"""The ramp of Megatron-LM's ``--rampup-batch-size START INCREMENT SAMPLES``.

    With :math:`k = (\mathrm{batch\_size} - \mathrm{start}) / \mathrm{increment}` increments, the
    batch is :math:`\mathrm{start} + \mathrm{increment} \lfloor n k / \mathrm{samples} \rfloor`
    after n examples, up to ``samples`` of them, and ``batch_size`` from then on.

    Args:
        start: the first batch size.
        increment: what is added each time.
        samples: the examples over which the batch grows.
        batch_size: the last batch size (``--global-batch-size``).

    Returns:
        The ramp, over updates.

    Raises:
        ValueError: for numbers below 1, or an increment that does not lead from the first size to
            the last.

    Example:
        >>> sizes = ramp_from_megatron(8, 8, 160, batch_size=16)
        >>> sizes.boundaries, sizes.values, sizes.examples_before(100)
        ((20,), (8, 16), 1440)

    References:
        Megatron-LM, ``num_microbatches_calculator``; the iterations of such a ramp are fewer than
        its samples over the last batch size (Megatron-Bridge issue 2609).
    """
    samples = _checks.positive_int("samples", samples)
    sizes = _linear(start, increment, batch_size)
    span = Fraction(samples, max(len(sizes) - 1, 1))
    return from_thresholds([(number * span, size) for number, size in enumerate(sizes)])


def ramp_from_maxtext(
    *,
    per_device_batch_size: float,
    per_device_batch_size_start: float,
    per_device_batch_size_increment: float,
    global_rampup_samples: int,
    num_devices: int,
) -> StepwiseBatch:
    """The ramp of MaxText's ``enable_rampup_batch_size``.

    With k increments, each size below the last holds for the fewest updates that see
    ``global_rampup_samples / k`` examples; what they see beyond that is not carried over.

    Args:
        per_device_batch_size: the last batch size, per device.
        per_device_batch_size_start: the first.
        per_device_batch_size_increment: what is added each time.
        global_rampup_samples: the examples over which the batch grows.
        num_devices: how many devices there are.

    Returns:
        The ramp, over updates, of global batch sizes.

    Raises:
        ValueError: for sizes that are not whole over all devices, numbers below 1, or an increment
            that does not lead from the first size to the last.

    Example:
        >>> sizes = ramp_from_maxtext(
        ...     per_device_batch_size=8, per_device_batch_size_start=4,
        ...     per_device_batch_size_increment=2, global_rampup_samples=500, num_devices=1,
        ... )
        >>> sizes.boundaries, sizes.values
        ((63, 105), (4, 6, 8))

    References:
        MaxText, ``rampup_batch.py``.
    """
    num_devices = _checks.positive_int("num_devices", num_devices)
    samples = _checks.positive_int("global_rampup_samples", global_rampup_samples)
    first, increment, last = (
        _whole_over_devices(name, value, num_devices)
        for name, value in (
            ("per_device_batch_size_start", per_device_batch_size_start),
            ("per_device_batch_size_increment", per_device_batch_size_increment),
            ("per_device_batch_size", per_device_batch_size),
        )
    )
    sizes = _linear(first, increment, last)
    span = Fraction(samples, max(len(sizes) - 1, 1))
    starts = itertools.accumulate((math.ceil(span / size) for size in sizes[:-1]), initial=0)
    return from_starts(dict(zip(starts, sizes, strict=True)))


def ramp_to_maxtext(batch_schedule: StepwiseBatch, *, num_devices: int) -> dict[str, Any]:
    """A ramp as the settings of MaxText.

    Args:
        batch_schedule: the ramp; its sizes rise by one increment.
        num_devices: how many devices there are.

    Returns:
        The settings of its configuration, by name.

    Raises:
        ValueError: for a ramp that MaxText cannot make: one that does not rise by one increment, or
            whose sizes do not hold for as many examples each, to an update.

    Example:
        >>> ramp_to_maxtext(StepwiseBatch((63, 105), (4, 6, 8)), num_devices=1)
        {'enable_rampup_batch_size': True, 'per_device_batch_size': 8.0,
         'per_device_batch_size_start': 4.0, 'per_device_batch_size_increment': 2.0,
         'global_rampup_samples': 504}
    """
    num_devices = _checks.positive_int("num_devices", num_devices)
    sizes = stepwise(batch_schedule).values
    if len(sizes) == 1:
        return {"enable_rampup_batch_size": False, "per_device_batch_size": sizes[0] / num_devices}
    # Each size holds for the fewest updates that reach the span, so the shortest run is its bound.
    spans = [stop - start for start, stop in itertools.pairwise(batch_schedule.offsets)]
    settings: dict[str, Any] = {
        "per_device_batch_size": sizes[-1] / num_devices,
        "per_device_batch_size_start": sizes[0] / num_devices,
        "per_device_batch_size_increment": (sizes[1] - sizes[0]) / num_devices,
        "global_rampup_samples": min(spans) * len(spans),
    }
    try:
        same = ramp_from_maxtext(**settings, num_devices=num_devices) == batch_schedule
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"MaxText ramps by one increment, each size for as many examples; sizes {sizes} for "
            f"{tuple(spans)} examples are no such ramp."
        )
    return {"enable_rampup_batch_size": True, **settings}


def ramp_from_olmo_core(
    batch_sizes: Sequence[int],
    schedule: Sequence[int],
    *,
    unit: str = "tokens",
    sequence_length: int | None = None,
) -> StepwiseBatch:
    """The ramp of OLMo-core's ``BatchSizeSchedulerCallback(batch_sizes, schedule)``.

    A size is due from its place in ``schedule`` on, and an increase then waits until the examples
    seen are a multiple of the new size. The callback also multiplies the learning rate by
    ``sqrt(new / old)`` at each change, for Adam: that is ``by_examples(..., rule="sqrt",
    base_batch_size=ramp.values[0])``.

    Args:
        batch_sizes: in tokens with a sequence length, else in examples; each is an integer multiple
            of the one before it, or divides it.
        schedule: the values of its durations; the first is 0, and they rise.
        unit: of the durations, "tokens" or "steps".
        sequence_length: tokens per example; None where batches count examples.

    Returns:
        The ramp, over updates, in examples.

    Raises:
        ValueError: for lists of different length, sizes that are no multiples, places that do not
            rise from 0, or tokens without a sequence length.

    Example:
        >>> tokens = 1024 * 4096
        >>> sizes = ramp_from_olmo_core(
        ...     [tokens, 2 * tokens, 4 * tokens], [0, 167_772_160_000, 503_316_480_000],
        ...     sequence_length=4096,
        ... )
        >>> sizes.boundaries, sizes.values
        ((40000, 80000), (1024, 2048, 4096))

    References:
        OLMo-core, ``olmo_core.train.callbacks.batch_size_scheduler``; Merrill, Arora, Groeneveld,
        Hajishirzi, `Critical Batch Size Revisited <https://arxiv.org/abs/2505.23971>`_, 2025, whose
        ramp the example is.
    """
    _checks.one_of("unit", unit, ("tokens", "steps"))
    if sequence_length is None and unit == "tokens":
        raise ValueError("Durations in tokens need the sequence_length of an example.")
    length = _checks.positive_int("sequence_length", sequence_length or 1)
    batch_sizes = _checks.several("batch_sizes", batch_sizes)
    schedule = _checks.several("schedule", schedule)
    if len(batch_sizes) != len(schedule):
        raise ValueError(
            f"{len(batch_sizes)} batch sizes need as many durations, not {len(schedule)}."
        )
    _check_rising("schedule", schedule)
    sizes = [_whole_examples(size, length) for size in batch_sizes]
    for old, new in itertools.pairwise(sizes):
        if max(old, new) % min(old, new) or old == new:
            raise ValueError(f"A batch of {old} changes to a multiple or a divisor, not to {new}.")
    batch, update, seen = sizes[0], 0, 0
    starts = {0: batch}

    def due(number: int) -> int | float:
        """How many more updates it takes until a size is due."""
        if number == len(schedule):
            return math.inf
        if unit == "steps":
            return max(0, schedule[number] - update)
        return max(0, -((seen * length - schedule[number]) // (batch * length)))

    for number, new in enumerate(sizes[1:], 1):
        updates = int(due(number))
        updates += -(seen + updates * batch) % max(new, batch) // batch
        if due(number + 1) <= updates:
            continue  # the next size is due before this one has come to hold
        update, seen, batch = update + updates, seen + updates * batch, new
        starts[update] = new
    return from_starts(starts)


def ramp_to_olmo_core(
    batch_schedule: StepwiseBatch, *, sequence_length: int
) -> dict[str, list[int]]:
    """A ramp as the arguments of OLMo-core's ``BatchSizeSchedulerCallback``, in tokens.

    Args:
        batch_schedule: the ramp; each size is a multiple of the one before it, or divides it.
        sequence_length: tokens per example.

    Returns:
        ``batch_sizes``, and the values of ``schedule``: durations in tokens.

    Raises:
        ValueError: for a ramp that OLMo-core cannot make: sizes that are no multiples, or an
            increase where the examples seen are no multiple of the new size.

    Example:
        >>> ramp_to_olmo_core(StepwiseBatch((100,), (128, 256)), sequence_length=1024)
        {'batch_sizes': [131072, 262144], 'schedule': [0, 13107200]}
    """
    length = _checks.positive_int("sequence_length", sequence_length)
    settings = {
        "batch_sizes": [size * length for size in stepwise(batch_schedule).values],
        "schedule": [offset * length for offset in batch_schedule.offsets],
    }
    made = ramp_from_olmo_core(
        settings["batch_sizes"], settings["schedule"], sequence_length=length
    )
    if made != batch_schedule:
        raise ValueError(
            f"OLMo-core raises a batch where the examples seen are a multiple of the new size; it "
            f"would make {made} of {batch_schedule}."
        )
    return settings


def _entry(step: Any, name: str) -> int:
    """A number of a list entry, by key or by attribute."""
    value = step.get(name) if isinstance(step, Mapping) else getattr(step, name, None)
    if value is None:
        raise ValueError(f"An entry needs a start and a value; {step!r} has no {name}.")
    return _checks.whole_number(name, value)


def _check_rising(name: str, places: Sequence[int]) -> None:
    for place in places:
        _checks.whole_number(name, place)
    if not places or places[0] != 0:
        raise ValueError(f"{name} must begin with 0, not {places[0] if places else 'be empty'}.")
    for one, other in itertools.pairwise(places):
        if other <= one:
            raise ValueError(f"{name} must rise, but {other} follows {one}.")


def _linear(start: int, increment: int, last: int) -> list[int]:
    """The sizes from the first to the last by one increment."""
    start = _checks.positive_int("The first batch size", start)
    increment = _checks.positive_int("The increment", increment)
    last = _checks.positive_int("The last batch size", last)
    if last < start or (last - start) % increment:
        raise ValueError(
            f"Steps of {increment} do not lead from a batch of {start} to one of {last}; "
            f"{last - (last - start) % increment if last > start else start} would end a ramp."
        )
    return list(range(start, last + 1, increment))


def _whole_over_devices(name: str, value: float, num_devices: int) -> int:
    total = _checks.positive_float(name, value) * num_devices
    # 4/3 has no float, and three times the nearest one is 4 all the same.
    if round(total) < 1 or abs(total - round(total)) > 1e-9 * total:
        raise ValueError(f"{name}={value} on {num_devices} devices is no whole number of examples.")
    return round(total)


def _whole_examples(tokens: int, length: int) -> int:
    if _checks.positive_int("A batch size", tokens) % length:
        raise ValueError(f"A batch of {tokens} tokens is no multiple of sequence_length={length}.")
    return tokens // length
