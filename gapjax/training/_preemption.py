"""Being told to leave: SIGTERM, which clusters send before they take a machine away."""

import contextlib
import logging
import signal
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
def leave_on_sigterm(enabled: bool) -> Iterator[Callable[[int], bool]]:
    """While inside, SIGTERM no longer kills; it is answered by the function that this yields.

    Called after every update with its number, the function says whether to save and leave. With
    several processes it says so to all of them after the same update, whichever of them was told:
    JAX's preemption service agrees on one, and has installed its own handler. Nothing is changed
    where not ``enabled``, nor in any thread but the main one: Python has no handlers elsewhere.
    """
    if enabled and jax.process_count() > 1:
        import orbax.checkpoint as ocp

        yield ocp.utils.reached_preemption
        return
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield lambda update: False
        return
    told = threading.Event()

    def handle(number: int, frame: Any) -> None:
        told.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield lambda update: told.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
