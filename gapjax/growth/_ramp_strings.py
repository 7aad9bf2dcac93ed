"""Batch ramps as text: the step-batch-size string of Megatron-LM."""

import itertools
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

from gapjax import _checks
from gapjax.growth._schedules import StepwiseBatch

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([A-Za-z]*)")


def parse_batch_schedule(text: str, *, sequence_length: int | None = None) -> StepwiseBatch:
    """A batch ramp written as ``THRESHOLD:BATCH`` pairs, as Megatron-LM writes it.

    From the first update whose consumed examples have reached a threshold on, the batch has the
    size beside it: the batch in force is that of the last threshold at or below what was consumed.
    A threshold that no update border falls on thus takes effect at the next border; of several that
    fall within one update, the last one counts.

    Args:
        text: pairs set apart by spaces or commas. Both numbers may be decimal and take a suffix K,
            M, B or T (10^3, 10^6, 10^9, 10^12; either case). The first threshold is 0, and they
            rise.
        sequence_length: None: thresholds count examples. A number: they count tokens, and are
            divided by it, rounded down. Batches count examples (sequences) in either case.

    Returns:
        The ramp, over updates.

    Raises:
        ValueError: for a pair that is none, an unknown suffix, a number that is not whole, a first
            threshold that is not 0, thresholds that do not rise (in examples), or a sequence length
            that is no whole number above 0.

    Example:
        >>> sizes = parse_batch_schedule("0:128 640k:512 2.56M:4096")
        >>> sizes.boundaries, sizes.values
        ((5000, 8750), (128, 512, 4096))
        >>> parse_batch_schedule("0:768 250B:1536", sequence_length=4096).boundaries
        (79473,)

    References:
        Megatron-LM, ``--step-batch-size-schedule`` (pull request 4411), 2026.
    """
    if not isinstance(text, str):
        raise ValueError(f"A batch ramp is a text such as '0:128 640k:512', not {text!r}.")
    if sequence_length is not None:
        sequence_length = _checks.positive_int("sequence_length", sequence_length)
    pairs = []
    for entry in text.replace(",", " ").split():
        threshold, colon, size = entry.partition(":")
        if not colon:
            raise ValueError(f"{entry!r} is no THRESHOLD:BATCH pair, such as 250B:1536.")
        batch = _checks.positive_int(f"The batch size in {entry!r}", _number(size, entry))
        pairs.append((_number(threshold, entry) // (sequence_length or 1), batch))
    if not pairs or pairs[0][0] != 0:
        raise ValueError(
            f"A batch ramp starts at 0, as in '0:768 250B:1536'; {text!r} "
            + ("is empty." if not pairs else f"starts at {pairs[0][0]} examples.")
        )
    for (one, _), (other, _) in itertools.pairwise(pairs):
        if other <= one:
            raise ValueError(
                f"Thresholds must rise, but in {text!r} one of {other} examples follows one of "
                f"{one}."
            )
    return from_thresholds(pairs)


def format_batch_schedule(
    batch_schedule: StepwiseBatch, *, sequence_length: int | None = None
) -> str:
    """A batch ramp as the text that :func:`parse_batch_schedule` reads.

    Thresholds are the examples consumed when a size first holds, so what is read back is the same
    ramp update for update.

    Args:
        batch_schedule: the ramp.
        sequence_length: None: thresholds in examples. A number: in tokens.

    Returns:
        The pairs, with suffixes where they shorten a number.

    Raises:
        ValueError: for a schedule that is not stepwise, or a sequence length that is no whole
            number above 0.

    Example:
        >>> sizes = StepwiseBatch(boundaries=(5000, 8750), values=(128, 512, 4096))
        >>> format_batch_schedule(sizes)
        '0:128 640K:512 2.56M:4096'
    """
    stepwise(batch_schedule)
    tokens = 1 if sequence_length is None else _checks.positive_int("length", sequence_length)
    pairs = zip(batch_schedule.offsets, batch_schedule.values, strict=True)
    return " ".join(f"{_text(offset * tokens)}:{size}" for offset, size in pairs)


def from_thresholds(pairs: Iterable[tuple[int | Fraction, int]]) -> StepwiseBatch:
    """The ramp whose batch is that of the last threshold at or below the examples consumed."""
    (_, batch), *rest = pairs
    starts, update, consumed = {0: batch}, 0, 0
    for threshold, size in rest:
        updates = max(0, -((consumed - threshold) // batch))  # until it is reached
        update, consumed = update + updates, consumed + updates * batch
        starts[update] = batch = size
    return from_starts(starts)


def from_starts(starts: Mapping[int, int]) -> StepwiseBatch:
    """The ramp with these sizes from these updates on, 0 first; changes to the same size merge."""
    runs = [next(run) for _, run in itertools.groupby(starts.items(), key=lambda item: item[1])]
    return StepwiseBatch(tuple(start for start, _ in runs[1:]), tuple(size for _, size in runs))


def stepwise(batch_schedule: StepwiseBatch) -> StepwiseBatch:
    """A schedule whose sizes are known ahead, or a ValueError that says where to get one."""
    if not isinstance(batch_schedule, StepwiseBatch):
        raise ValueError(
            f"batch_schedule must be a StepwiseBatch, not {batch_schedule!r}: its sizes have to be "
            "known ahead. Make one with constant_batch, piecewise_batch or parse_batch_schedule."
        )
    return batch_schedule


def _number(text: str, entry: str) -> int:
    """A whole number, which may be decimal before its suffix."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} in {entry!r} is no number such as 768, 2.56M or 250B.")
    digits, suffix = match.groups()
    if suffix.upper() not in _SUFFIXES:
        raise ValueError(
            f"The suffix {suffix!r} in {entry!r} is not known; use K, M, B or T (10^3 to 10^12)."
        )
    value = Fraction(digits) * _SUFFIXES[suffix.upper()]
    if value.denominator != 1:
        raise ValueError(f"{text!r} in {entry!r} is {float(value)}, which is no whole number.")
    return int(value)


def _text(number: int) -> str:
    """A whole number, with the largest suffix that makes it shortest."""
    texts = [str(number)]
    for suffix, unit in _SUFFIXES.items():
        whole, rest = divmod(number, unit)
        if suffix and number:
            fraction = f".{rest:0{len(str(unit)) - 1}d}".rstrip("0").rstrip(".")
            texts.append(f"{whole}{fraction}{suffix}")
    return min(reversed(texts), key=len)
