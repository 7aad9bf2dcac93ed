"""Reading ahead in the background, with a bounded number of batches on their way."""

import collections
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gapjax import _checks


class Prefetcher:
    """Plans and reads the batches after a cursor, a few before they are asked for.

    Args:
        plan: from a cursor to what has to be read and the cursor after it; pure.
        read: reads what was planned; called on background threads.
        depth: how many batches are read ahead; 0 reads when asked.
        workers: the number of threads.
    """

    def __init__(
        self,
        plan: Callable[[Any], tuple[Any, Any]],
        read: Callable[[Any], Any],
        depth: int,
        workers: int,
    ):
        _checks.positive_int("workers", workers)
        depth = _checks.whole_number("prefetch", depth)
        self._plan, self._read, self._depth = plan, read, depth
        self._threads = ThreadPoolExecutor(workers, "gapjax-reader") if depth else None
        self._pending: collections.deque[tuple[Any, Future[Any]]] = collections.deque()

    def next(self, cursor: Any) -> tuple[Any, Any]:
        """The batch after this cursor, and the cursor after the batch."""
        self._fill(cursor)
        if not self._pending:  # nothing is read ahead, or planning failed and now raises
            wanted, after = self._plan(cursor)
            return self._read(wanted), after
        after, future = self._pending.popleft()
        try:
            batch = future.result()
        except BaseException:
            self.forget()  # what was read ahead comes after the batch that failed
            raise
        self._fill(after)
        return batch, after

    def forget(self) -> None:
        """Drop what was read ahead: the next batches have changed."""
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()

    def _fill(self, cursor: Any) -> None:
        """Start reads until enough are on their way; what cannot be planned raises when due."""
        if self._threads is None:
            return
        with contextlib.suppress(Exception):
            while len(self._pending) < self._depth:
                wanted, after = self._plan(self._pending[-1][0] if self._pending else cursor)
                self._pending.append((after, self._threads.submit(self._read, wanted)))
