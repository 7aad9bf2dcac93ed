"""Compiling every batch size before it is due, and finding the largest that fits."""

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gapjax import _checks
from gapjax.growth import GrowingBatches
from gapjax.training._program import inspect_program


def compile_ahead(
    step: Callable[..., Any], batches: GrowingBatches, *, rehearse: bool | None = None
) -> "CompiledAhead":
    """Wrap a jitted step so that growing batches never wait for a compilation.

    After the first update the sizes still to come are compiled in the background, one at a time,
    in rising order, for the shapes and shardings that will arrive. A size that is due while it is
    still being compiled waits for it: what is computed never depends on how fast compilation was.

    Args:
        step: ``(state, batch) -> (state, ...)``, from ``jax.jit`` or ``compile_step``, or anything
            with a ``lower``.
        batches: the iterator that the batches will come from.
        rehearse: also run each compiled size once, on a copy of the state and a batch of zeros. It
            takes the cost of the first run (memory set up, code paged in) out of the update after a
            growth, for one more state in memory. By default only on a single CPU device, where that
            cost is several updates. Never set it for several devices: two programs that communicate
            must not run at the same time.

    Returns:
        A step with the same numbers.

    Raises:
        ValueError: the step cannot be lowered.

    .. note::
       Compilation runs in a thread of its own, which sees none of the contexts around the loop:
       ``ghostify``, ``jax.default_matmul_precision`` and the like belong inside the function that
       is jitted. Around it the numbers stay right, and a growth waits for its compilation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax.growth import GrowingBatches, piecewise_batch
        >>> batches = GrowingBatches({"x": np.ones((8, 2))}, piecewise_batch(2, {1: 4}), seed=0)
        >>> step = jax.jit(lambda state, batch: (state + batch["x"].sum(), None))
        >>> step, state = compile_ahead(step, batches), jnp.zeros(())
        >>> for _ in range(2):
        ...     state, _ = step(state, next(batches))
        >>> float(state)
        12.0
    """
    if not hasattr(step, "lower"):
        raise ValueError(
            "compile_ahead needs a step that can be lowered, as jax.jit(step) is; this one is "
            f"a {type(step).__name__}."
        )
    return CompiledAhead(step, batches, rehearse)


class CompiledAhead:
    """What ``compile_ahead`` gives: call it like the step it wraps."""

    def __init__(self, step: Callable[..., Any], batches: GrowingBatches, rehearse: bool | None):
        self._step, self._batches, self._rehearse = step, batches, rehearse
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "gapjax-compiler")
        self._started: dict[tuple[int, ...], concurrent.futures.Future[None]] = {}
        self._known: set[int] = set()  # sizes that are started, for which no shape is made anew

    def __call__(self, state: Any, batch: Any) -> Any:
        """One update."""
        future = self._started.get(_shape(batch))
        if future is None:
            future = self._started[_shape(batch)] = concurrent.futures.Future()
            future.set_result(None)  # compiled by the call below
        if not future.done():  # a failed compilation fails again below, where it is due
            concurrent.futures.wait([future])
        out = self._step(state, batch)
        # One at a time, so that the end of a program waits for one compilation at most.
        if all(started.done() for started in self._started.values()):
            self._start_next(out[0])
        return out

    def _start_next(self, state: Any) -> None:
        for size in self._batches.sizes():
            if size in self._known:
                continue
            spec = self._batches.spec(size)
            self._known.add(size)
            if _shape(spec) not in self._started:
                rehearse = _on_one_cpu(state) if self._rehearse is None else self._rehearse
                copy = jax.tree.map(lambda leaf: leaf.copy(), state) if rehearse else None
                self._started[_shape(spec)] = self._thread.submit(
                    self._compile, jax.tree.map(_spec, state), spec, copy
                )
                return

    def _compile(self, state: Any, batch: Any, copy: Any) -> None:
        self._step.lower(state, batch).compile()  # type: ignore[attr-defined]
        if copy is not None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # no room for a second state
                jax.block_until_ready(self._step(copy, jax.tree.map(_zeros, batch)))


def _shape(batch: Any) -> tuple[int, ...]:
    return jax.tree.leaves(batch)[0].shape


def _spec(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """What a jitted function tells arrays apart by."""
    sharding = leaf.sharding if leaf.committed else None
    return jax.ShapeDtypeStruct(
        leaf.shape,
        leaf.dtype,
        sharding=sharding,
        weak_type=getattr(leaf, "weak_type", False),  # keys have none
    )


def _on_one_cpu(state: Any) -> bool:
    devices = {device for leaf in jax.tree.leaves(state) for device in leaf.sharding.device_set}
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _zeros(spec: Any) -> Any:
    zeros = np.zeros(spec.shape, spec.dtype)
    return zeros if spec.sharding is None else jax.device_put(zeros, spec.sharding)


def largest_microbatch(
    step: Callable[..., Any],
    state: Any,
    spec: Callable[[int], Any],
    *,
    start: int,
    budget: float | None = None,
) -> int:
    """The largest batch that runs within a memory budget, found without running anything.

    The step is compiled for ``start`` examples, then for half as many, and so on, until what the
    compiler reserves on each device (arguments, results and temporaries) fits.

    Args:
        step: a jitted step ``(state, batch) -> ...``.
        state: the state, or its shapes.
        spec: from a size to what such a batch looks like; ``GrowingBatches.spec``.
        start: the size to begin with.
        budget: bytes per device; by default nine tenths of what the device has.

    Returns:
        The size: pass it as ``microbatch`` to ``growth.GrowingBatches``.

    Raises:
        ValueError: not even a single example fits, or the device does not tell its memory (CPUs do
            not).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spec = lambda size: jax.ShapeDtypeStruct((size, 1024), jnp.float32)
        >>> step = jax.jit(lambda state, batch: state + batch.sum())
        >>> largest_microbatch(step, jnp.zeros(()), spec, start=1024, budget=1_100_000)
        256
    """
    size = _checks.positive_int("start", start)
    if budget is None:
        limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        if limit is None:
            raise ValueError("This device does not tell its memory; state a budget in bytes.")
        budget = 0.9 * limit
    smallest = 0
    while size >= 1:
        try:
            batch = spec(size)
        except ValueError as error:
            raise ValueError(
                f"No batch fits into {budget:.3g} bytes: {2 * size} examples take more, and "
                f"{size} cannot be laid out ({error})"
            ) from error
        compiled = step.lower(state, batch).compile()  # type: ignore[attr-defined]
        memory = inspect_program(compiled).memory
        if memory is None:
            raise ValueError(
                "this backend does not tell what a program needs: try microbatches of a size that "
                "you know to fit."
            )
        if memory.peak <= budget:
            return size
        size, smallest = size // 2, memory.peak
    raise ValueError(f"Not even one example fits into {budget:.3g} bytes; it takes {smallest:.3g}.")
