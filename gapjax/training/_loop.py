"""The loop: a compiled step over batches, with a bounded number of updates in flight."""

import collections
import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gapjax import _checks
from gapjax.training._batches import as_batches, knows_its_place, without_tensors
from gapjax.training._checkpoints import Checkpoints
from gapjax.training._faults import NumericalFault, fault_path, say_skipped
from gapjax.training._history import History, Recorder
from gapjax.training._preemption import Preempted, leave_on_sigterm


def fit(
    step: Callable[..., Any],
    state: Any,
    batches: Iterable[Any],
    *,
    num_updates: int,
    record_every: int = 1,
    callbacks: Sequence[Callable[[int, Any, Any], bool | None]] = (),
    in_flight: int = 2,
    checkpoints: Checkpoints | None = None,
) -> tuple[Any, History]:
    """Make ``num_updates`` updates, or as many as are missing.

    With ``checkpoints`` the run goes on from the newest one, if there is one: state, place in the
    data and history, so that it ends with the numbers of an undisturbed run, bit for bit on the
    same devices. It saves every so many updates and after the last. At SIGTERM it saves after the
    running update and leaves with ``Preempted`` (exit code 143); the same call goes on from there.

    Args:
        step: ``(state, batch) -> (state, metrics)``, compiled. Metrics called ``"fault"`` and
            ``"skipped"`` mean what those of ``make_train_step`` do. A run that goes on may give
            others than before: where the history knows nothing of one it holds NaN, or -1 for these
            two.
        state: where to start.
        batches: an iterable of batches, at least ``num_updates`` long: pytrees of arrays, or of
            what turns into arrays, as loaders of PyTorch, tf.data and grain yield it. To go on,
            one with ``state`` and ``restore`` (``growth.GrowingBatches``) is taken to its place;
            any other must begin anew as it did, and the batches that were used are read and
            dropped.
        num_updates: how many updates to make, those of before an interruption included.
        record_every: keep the metrics of every so many updates (and of the last one, and of every
            update that was skipped).
        callbacks: each is called as ``callback(update, state, metrics)`` after every update, with
            values that may still be on their way on the device: reading one waits for it. If one
            returns True the run ends after this update, as after the last one: recorded, and saved
            where there are checkpoints. The same call would go on from there, and stop again as the
            callback says. Of several processes all have to stop after the same update.
        in_flight: how many updates may be on their way at once before the loop waits; it bounds
            memory, and keeps collectives of several processes in step.
        checkpoints: where to save, and to go on from.

    Returns:
        The final state and a ``History``.

    Raises:
        ValueError: a number that is not positive, batches that end too early, metrics whose shapes
            change, checkpoints of another run, or a folder that another process writes to.
        NumericalFault: a step made with ``on_fault="stop"`` met a loss or gradient that is not
            finite; at most ``in_flight`` updates later.
        Preempted: SIGTERM came; the run is saved.

    Example:
        >>> import jax
        >>> step = jax.jit(lambda state, batch: (state + batch, {"sum": state + batch}))
        >>> state, history = fit(step, jax.numpy.zeros(()), [1.0, 2.0, 3.0], num_updates=3)
        >>> history.metrics["sum"].tolist()
        [1.0, 3.0, 6.0]
    """
    _checks.function("step", step)
    callbacks = [
        _checks.function("a callback", one) for one in _checks.several("callbacks", callbacks)
    ]
    _checks.positive_int("num_updates", num_updates)
    _checks.positive_int("record_every", record_every)
    _checks.positive_int("in_flight", in_flight)
    done, past, source = 0, None, as_batches(batches)
    if checkpoints is not None and checkpoints.updates:
        done, state, past = _go_on(checkpoints, state, batches, num_updates, record_every)
        source = source if knows_its_place(batches) else itertools.islice(source, done, None)
    if checkpoints is not None and done < num_updates:
        checkpoints.reserve()
    params = getattr(state, "params", state)
    recorder = Recorder(past)
    waiting: collections.deque[tuple[int, Any]] = collections.deque()
    last = num_updates

    def wait_for(most: int) -> None:
        """Wait until at most so many updates are on their way, and look at those that are done."""
        while len(waiting) > most:
            update, metrics = waiting.popleft()
            jax.block_until_ready(metrics)
            if _number(metrics, "fault") >= 0:
                raise NumericalFault(update, fault_path(params, metrics["fault"]) or "loss")
            due = update % record_every == 0 or update == last
            if due or _number(metrics, "skipped") >= 0:
                recorder.add(update, metrics)

    with leave_on_sigterm(checkpoints is not None) as told_to_leave, _settling(checkpoints):
        for update in range(done + 1, num_updates + 1):
            try:
                batch = without_tensors(next(source))
            except StopIteration:
                raise ValueError(
                    f"batches ended after {update - 1} of num_updates={num_updates} updates: give "
                    "more batches, or an iterable that goes on."
                ) from None
            state, metrics = _both(step(state, batch))
            waiting.append((update, metrics))
            if checkpoints is not None and not checkpoints.overlap:
                checkpoints.wait()  # for what is written since the update before
            wait_for(in_flight)
            answers = [callback(update, state, metrics) for callback in callbacks]
            if any(map(_says_stop, answers)):
                last = update
            if checkpoints is not None:
                leave = told_to_leave(update)
                if leave or update % checkpoints.every == 0 or update == last:
                    wait_for(0)
                    checkpoints.save(update, state, batches=batches, history=recorder.history())
                if leave and update < last:
                    checkpoints.wait()
                    raise Preempted(
                        f"told to leave: saved after update {update} of {num_updates} in "
                        f"{checkpoints.folder}. The same call goes on from there."
                    )
            if update == last:
                break
    wait_for(0)
    if checkpoints is not None:
        checkpoints.wait()
    history = recorder.history()
    skipped = say_skipped(history, params)
    if skipped:
        warnings.warn(skipped, RuntimeWarning, stacklevel=2)
    return state, history


@contextlib.contextmanager
def _settling(checkpoints: Checkpoints | None) -> Iterator[None]:
    """Let an error out when nothing is being written any more, so that the same call may follow."""
    try:
        yield
    except BaseException:
        if checkpoints is not None:
            checkpoints.settle()
        raise


def _go_on(
    checkpoints: Checkpoints, state: Any, batches: Any, num_updates: int, record_every: int
) -> tuple[int, Any, History]:
    """How far an earlier run came, its state, and what this run would have recorded of it."""
    found = checkpoints.restore(state, batches=batches)
    if found.update > num_updates:
        raise ValueError(
            f"{checkpoints.folder} holds a run of {found.update} updates, more than "
            f"num_updates={num_updates}: ask for more, or take another folder."
        )
    step, metrics = found.history
    kept = (step % record_every == 0) | (step == num_updates)
    if isinstance(metrics, dict) and "skipped" in metrics:
        kept |= metrics["skipped"] >= 0
    return found.update, found.state, jax.tree.map(lambda column: column[kept], found.history)


def _both(given: Any) -> tuple[Any, Any]:
    """A state and metrics, as a step has to give them."""
    if not (isinstance(given, tuple | list) and len(given) == 2):
        raise ValueError(f"step must give (state, metrics), not {jax.tree.structure(given)}.")
    return given[0], given[1]


def _says_stop(answer: Any) -> bool:
    """Whether a callback returned True, of Python's, NumPy's or JAX's; all else means nothing."""
    if isinstance(answer, np.bool_ | jax.Array):
        return answer.dtype == np.bool_ and bool(answer)
    return answer is True


def _number(metrics: Any, name: str) -> int:
    """A fault in the metrics, -1 where there is none."""
    return int(metrics[name]) if isinstance(metrics, dict) and name in metrics else -1
