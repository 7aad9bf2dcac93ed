"""Ctrl-C and SIGTERM as the command answers them: one line, one exit code, nothing left behind."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_SAID = {
    signal.SIGINT: "gapjax: interrupted.",
    signal.SIGTERM: "gapjax: told to leave.",
}
GO_ON = "The same command goes on from here."


def _say(number: int) -> None:
    """Write the line of a signal, past Python's streams: its handler may run inside one of them."""
    with contextlib.suppress(OSError):
        os.write(2, f"{_SAID[signal.Signals(number)]} {GO_ON}\n".encode())


def at_once() -> None:
    """From now on both signals end the process where it stands, with a line.

    For a program that has not begun anything yet: what a handler raises may be swallowed by what is
    being imported, or come out as another error.
    """

    def end(number: int, frame: Any) -> None:
        _say(number)
        os._exit(128 + number)

    for number in _SAID:
        signal.signal(number, end)


@contextlib.contextmanager
def raising(*, sigterm: bool = True) -> Iterator[None]:
    """While inside, the signals raise: ``KeyboardInterrupt``, and ``SystemExit`` after its line.

    For what has to be cleared away on the way out. Only the main thread has handlers. A signal that
    comes again, because Python swallowed what was raised, says its line once.

    Args:
        sigterm: whether SIGTERM does; of several processes JAX's own service answers it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    told = False

    def leave(number: int, frame: Any) -> None:
        nonlocal told
        if not told:
            _say(number)
        told = True
        raise SystemExit(128 + number)

    handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    if sigterm:
        handlers[signal.SIGTERM] = leave
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
