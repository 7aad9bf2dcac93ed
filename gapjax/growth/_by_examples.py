"""Schedules over examples, asked by update: what a batch ramp does to the clock."""

import bisect
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gapjax import _checks, _whole
from gapjax._batch_rules import RULES, rule_factor
from gapjax.growth._ramp_strings import stepwise
from gapjax.growth._schedules import StepwiseBatch

_WIDEST = 2**32 - 1


def by_examples(
    schedule: optax.Schedule,
    batch_schedule: StepwiseBatch,
    *,
    rule: str = "none",
    base_batch_size: int | None = None,
) -> optax.Schedule:
    r"""A schedule written over examples, asked by update, whatever the batch ramp.

    With :math:`n(t) = \sum_{u < t} B_u` the examples seen before update t,

    .. math:: \eta(t) = f(B_t / B_\mathrm{base}) \cdot \mathrm{schedule}(n(t)),

    f the square root, the identity or 1. Warm-up and decay are stated in examples, so they end
    where they were meant to however the batch grows, and two ramps that follow one schedule with
    ``rule="none"`` give the same value after the same examples.

    n(t) is exact, also in traced code without 64-bit integers. It is handed to the schedule as an
    int32 up to :math:`2^{31} - 1`, and beyond that as a float32, rounded to one part in 8 million:
    a boundary of the schedule there may be met late or early by that part of itself. Numbers of the
    schedule that are beyond :math:`2^{31} - 1` have to be written as floats (``250e9``), which is a
    rule of JAX. What lies past the end of a schedule is up to the schedule: those of optax keep
    their last value.

    Args:
        schedule: ``examples -> value``; of optax, or any function of a scalar that can be traced.
        batch_schedule: the ramp, over updates.
        rule: "sqrt", "linear" or "none": what the value is multiplied by at the batch in force.
        base_batch_size: the batch size that the value was tuned for; needed unless the rule is
            "none".

    Returns:
        ``update -> value``, for numbers and traced counts, under ``jit``, ``vmap`` and ``scan``.

    Raises:
        ValueError: for a schedule that is no function or holds whole numbers beyond int32, a batch
            schedule that is not stepwise, an unknown rule, or a rule without a base batch size.

    Example:
        >>> sizes = StepwiseBatch(boundaries=(20,), values=(8, 16))
        >>> rate = by_examples(optax.linear_schedule(0.0, 1.0, 320), sizes)
        >>> float(rate(20)), float(rate(25)), float(rate(30))
        (0.5, 0.75, 1.0)

    References:
        Goyal et al, `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017
        (linear); Malladi et al, `On the SDEs and Scaling Rules for Adaptive Gradient Algorithms
        <https://arxiv.org/abs/2205.10287>`_, 2022 (square root, for Adam); Megatron-LM, whose
        schedules count samples, and what happens where they do not (Megatron-Bridge issue 2609).
    """
    value_at = at_examples(schedule)
    _checks.one_of("rule", rule, RULES)
    segment_at = segments(batch_schedule)
    if rule == "none":
        return lambda update: value_at(segment_at(update)[1])
    if base_batch_size is None:
        raise ValueError(
            f"rule={rule!r} compares the batch with the one that the schedule was tuned for; say "
            "which with base_batch_size=."
        )
    base = _checks.positive_int("base_batch_size", base_batch_size)
    factors = tuple(float(rule_factor(size / base, rule)) for size in batch_schedule.values)

    def scaled(update: ArrayLike) -> ArrayLike:
        segment, examples = segment_at(update)
        return value_at(examples) * pick(factors, segment)

    return scaled


def decay_of_half_life(half_life: float, batch_size: Any) -> Any:
    r"""The decay per update of an average whose half-life is stated in examples.

    .. math:: \beta = 0.5^{B / h}

    An average with decay :math:`\beta` per update weighs what was seen h examples ago half as much
    as what is seen now, whatever the batch: Adam's b2, an average of the weights, the running
    statistics of a batch norm.

    Args:
        half_life: h, in examples (or in tokens, with the batch in tokens).
        batch_size: B: a number, a traced array, or a :class:`StepwiseBatch`.

    Returns:
        The decay; of a batch schedule, a schedule ``update -> decay``.

    Raises:
        ValueError: for a half-life or a batch size that is not above 0.

    Example:
        >>> decay_of_half_life(1000, 100), decay_of_half_life(1000, 200)
        (0.9330329915368074, 0.8705505632961241)
        >>> decay = decay_of_half_life(1000, StepwiseBatch((10,), (100, 200)))
        >>> round(float(decay(9)), 4), round(float(decay(10)), 4)
        (0.933, 0.8706)

    References:
        Marek, Lotfi, Somasundaram, Wilson, Goldblum, `Small Batch Size Training for Language Models
        <https://arxiv.org/abs/2507.07101>`_, 2025; Busbridge et al, `How to Scale Your EMA
        <https://arxiv.org/abs/2307.13813>`_, 2023.
    """
    half_life = _checks.positive_float("half_life", half_life)
    if isinstance(batch_size, StepwiseBatch):
        decays = tuple(0.5 ** (size / half_life) for size in batch_size.values)
        segment_at = segments(batch_size)
        return lambda update: pick(decays, segment_at(update)[0])
    if isinstance(batch_size, jax.Array):
        return jnp.float32(0.5) ** (batch_size.astype(jnp.float32) / half_life)
    return 0.5 ** (_checks.positive_float("batch_size", batch_size) / half_life)


def segments(batch_schedule: StepwiseBatch) -> Callable[[ArrayLike], tuple[Any, Any]]:
    """``update -> (which size holds, the examples before it)``.

    Of a Python number, Python numbers; of an array, an index and ``_whole.Words``.
    """
    stepwise(batch_schedule)
    if max(batch_schedule.values) > _WIDEST:
        raise ValueError(
            f"A batch of {max(batch_schedule.values)} is more than {_WIDEST}, the most that is "
            "counted on a device."
        )
    # An int32 counts no further than this.
    near = sum(boundary <= _whole.LARGEST for boundary in batch_schedule.boundaries) + 1
    starts = np.asarray((0, *batch_schedule.boundaries)[:near], np.uint32)
    sizes = np.asarray(batch_schedule.values[:near], np.uint32)
    words = [_whole.split(offset) for offset in batch_schedule.offsets[:near]]
    high, low = np.asarray(words, np.uint32).T

    def segment_at(update: ArrayLike) -> tuple[Any, Any]:
        if isinstance(update, numbers.Integral):
            update = int(update)
            at = bisect.bisect_right(batch_schedule.boundaries, update)
            return at, batch_schedule.examples_before(update)
        count = jnp.maximum(jnp.asarray(update), 0).astype(jnp.uint32)
        segment = jnp.searchsorted(starts[1:], count, side="right", method="compare_all")
        offset = _whole.Words(*(pick(word, segment) for word in (high, low)))
        made = count - pick(starts, segment)
        return segment, _whole.multiply_add(made, pick(sizes, segment), offset)

    return segment_at


def at_examples(schedule: optax.Schedule) -> Callable[[Any], ArrayLike]:
    """A schedule over examples as a function of what ``segments`` counts."""
    if not callable(schedule):
        raise ValueError(
            f"schedule must be a function of the examples seen, not {schedule!r}. For a value that "
            f"stays the same use optax.constant_schedule({schedule!r})."
        )
    ask = leniently(schedule)
    try:
        jax.eval_shape(ask, jax.ShapeDtypeStruct((), jnp.int32))
    except OverflowError as error:
        raise ValueError(
            "The schedule holds whole numbers beyond 2^31 - 1, which JAX does not take; write them "
            "as floats: 250e9 in place of 250_000_000_000."
        ) from error
    except Exception:
        pass  # it will come again, where the schedule is asked

    def value_at(examples: Any) -> ArrayLike:
        if isinstance(examples, int):
            return ask(examples if examples <= _whole.LARGEST else float(examples))
        exact, wide = _whole.as_int32(examples), _whole.as_float32(examples)
        fits = (examples.high == 0) & (examples.low <= _whole.LARGEST)
        return jnp.where(fits, ask(exact), ask(wide))

    return value_at


def leniently(schedule: optax.Schedule) -> optax.Schedule:
    """The schedule, where promotion is strict too: those of optax mix types."""

    def ask(count: ArrayLike) -> ArrayLike:
        with jax.numpy_dtype_promotion("standard"):
            return schedule(count)

    return ask


def pick(table: Any, index: Any) -> Any:
    """``table[index]``: of a tuple by a Python number, else of an array."""
    if isinstance(index, int):
        return table[index]
    return jnp.asarray(table)[index]
