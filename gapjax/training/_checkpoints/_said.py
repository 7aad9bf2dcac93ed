"""What orbax says when it fails, in a line."""

import concurrent.futures
import logging
import sys
import threading
from typing import Any

_LATE = 5.0  # seconds


class Quiet:
    """Between ``start`` and ``stop``, orbax's threads do not print errors that are told in a line.

    They log every one with its traceback, and callbacks of storage find their loops closed.
    """

    def start(self) -> "Quiet":
        """Listen to what is printed."""
        self._active, self._before = True, sys.unraisablehook
        sys.unraisablehook = self._hook
        logging.getLogger("absl").addFilter(self._filter)
        return self

    def stop(self) -> None:
        """Let everything through again."""
        self._active = False
        if sys.unraisablehook == self._hook:
            sys.unraisablehook = self._before
        logging.getLogger("absl").removeFilter(self._filter)

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.stop()
            return
        late = threading.Timer(_LATE, self.stop)  # callbacks of what failed come afterwards
        late.daemon = True
        late.start()

    def _hook(self, unraisable: Any) -> None:
        if not (self._active and "Event loop is closed" in str(unraisable.exc_value)):
            self._before(unraisable)

    def _filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)


def reason(error: BaseException) -> str:
    """The telling part of an error, in a line."""
    if isinstance(error, TimeoutError | concurrent.futures.TimeoutError):
        return "it was not written in time"
    text = " ".join(str(error).split()).partition(" [tensorstore_spec")[0].rstrip(".")
    text = text or type(error).__name__
    if len(text) <= 200:
        return text
    for known in ("No space left on device", "Permission denied", "File too large", "Read-only"):
        if known in text:
            return known
    return f"...{text[-197:]}"  # the innermost cause comes last, and with it the file
