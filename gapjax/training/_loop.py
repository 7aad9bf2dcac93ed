"""The loop: a compiled step over batches, with a bounded number of updates in flight."""

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax import _checks


class History(NamedTuple):
    """The metrics of a run, on the host.

    Attributes:
        step: the updates recorded, counted from 1, shape ``[T]``.
        metrics: ``{name: values, [T, ...]}``.
    """

    step: np.ndarray
    metrics: dict[str, np.ndarray]


def fit(
    step: Callable[..., Any],
    state: Any,
    batches: Iterable[Any],
    *,
    num_updates: int,
    record_every: int = 1,
    callbacks: Sequence[Callable[[int, Any, Any], None]] = (),
    in_flight: int = 2,
) -> tuple[Any, History]:
    """Make ``num_updates`` updates.

    Args:
        step: ``(state, batch) -> (state, metrics)``, compiled.
        state: where to start.
        batches: an iterable of batches, at least ``num_updates`` long.
        num_updates: how many updates to make.
        record_every: keep the metrics of every so many updates (and of the last one).
        callbacks: each is called as ``callback(update, state, metrics)`` after every update, with
            values that may still be on their way on the device: reading one waits for it.
        in_flight: how many updates may be on their way at once before the loop waits; it bounds
            memory, and keeps collectives of several processes in step.

    Returns:
        The final state and a ``History``.

    Raises:
        ValueError: a number that is not positive, or batches that end too early.

    Example:
        >>> import jax
        >>> step = jax.jit(lambda state, batch: (state + batch, {"sum": state + batch}))
        >>> state, history = fit(step, jax.numpy.zeros(()), [1.0, 2.0, 3.0], num_updates=3)
        >>> history.metrics["sum"].tolist()
        [1.0, 3.0, 6.0]
    """
    _checks.positive_int("num_updates", num_updates)
    _checks.positive_int("record_every", record_every)
    _checks.positive_int("in_flight", in_flight)
    waiting: collections.deque[Any] = collections.deque()
    recorded: list[tuple[int, Any]] = []
    source = iter(batches)
    for update in range(1, num_updates + 1):
        try:
            batch = next(source)
        except StopIteration:
            raise ValueError(
                f"batches ended after {update - 1} of num_updates={num_updates} updates: give more "
                "batches, or an iterable that goes on."
            ) from None
        state, metrics = step(state, batch)
        if update % record_every == 0 or update == num_updates:
            recorded.append((update, metrics))
        waiting.append(metrics)
        if len(waiting) > in_flight:
            jax.block_until_ready(waiting.popleft())
        for callback in callbacks:
            callback(update, state, metrics)
    steps = np.array([update for update, _ in recorded])
    values = jax.device_get([metrics for _, metrics in recorded])
    return state, History(steps, jax.tree.map(lambda *leaves: np.stack(leaves), *values))
