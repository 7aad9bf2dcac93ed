"""Being told to leave: SIGTERM, which clusters send before they take a machine away."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax


class Preempted(SystemExit):
    """SIGTERM came, the run was saved and has to leave; not caught, the exit code is 143."""

    def __init__(self, message: str):
        super().__init__(128 + signal.SIGTERM)
        self.message = message
        # An exit with a code prints nothing, and a job that just ends is a riddle.
        logging.getLogger("gapjax").warning(message)

    def __str__(self) -> str:
        return self.message


@contextlib.contextmanager
def on_sigterm(handle: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGTERM calls ``handle`` instead of killing.

    Nothing is changed where several processes take part, which have to leave together and for
    which JAX's preemption service has its own handler, nor in any thread but the main one: Python
    has no handlers elsewhere.

    Args:
        handle: what to do, between two instructions of the main thread.

    Example:
        >>> told = []
        >>> with on_sigterm(lambda: told.append("leave")):
        ...     signal.raise_signal(signal.SIGTERM)
        >>> told
        ['leave']
    """
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def leave_on_sigterm(enabled: bool) -> Iterator[Callable[[int], bool]]:
    """While inside, SIGTERM no longer kills; it is answered by the function that this yields.

    Called after every update with its number, the function says whether to save and leave. With
    several processes it says so to all of them after the same update, whichever of them was told:
    JAX's preemption service agrees on one. A signal that comes too late to be answered comes again
    at the end.

    Args:
        enabled: False changes nothing, and the answer is always False.

    Example:
        >>> with leave_on_sigterm(True) as told_to_leave:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     told_to_leave(1)
        True
    """
    if not enabled:
        yield lambda update: False
        return
    if jax.process_count() > 1:
        import orbax.checkpoint as ocp

        yield ocp.utils.reached_preemption
        return
    told, answered = threading.Event(), threading.Event()

    def answer(update: int) -> bool:
        if told.is_set():
            answered.set()
        return told.is_set()

    with on_sigterm(told.set):
        yield answer
    if told.is_set() and not answered.is_set():  # after the last time it was asked
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def resending_signals() -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM come again where Python swallows what their handlers raise.

    It does so in callbacks of the garbage collector, and JAX has one: of four Ctrl-C while programs
    were compiled, one went lost. For a whole program: it takes over ``sys.unraisablehook``.

    Example:
        >>> with resending_signals():
        ...     pass
    """
    before, timers = sys.unraisablehook, list[threading.Timer]()
    signals = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}

    def hook(swallowed: Any) -> None:
        number = signals.get(swallowed.exc_type)
        if number is None:
            before(swallowed)
            return
        timers.append(threading.Timer(0.1, os.kill, (os.getpid(), number)))
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()
