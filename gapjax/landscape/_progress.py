"""Progress of long work: a bar with the time left, once the work is seen to take over 5 seconds."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

PATIENCE = 5.0


class Progress(NamedTuple):
    """What a progress callback is given after every step.

    Attributes:
        task: what is being done.
        done: steps finished.
        total: steps in all, an upper limit where the work may stop earlier.
        elapsed: seconds so far.
        remaining: estimate of the seconds left (at most, where `total` is a limit).
        partial: a function without arguments that returns the result so far, in the form that
            ``resume=`` takes; None where there is none.
    """

    task: str
    done: int
    total: int
    elapsed: float
    remaining: float
    partial: Callable[[], Any] | None = None


class Tracker:
    """Counts steps, and reports them to a callback or to a bar on the terminal."""

    def __init__(
        self,
        progress: bool | Callable[[Progress], None],
        task: str,
        total: int,
        partial: Callable[[], Any] | None = None,
    ):
        """`progress`: True for a bar when needed, False for silence, or a callback."""
        self.callback = progress if callable(progress) else None
        self.wanted = progress is True
        self.task, self.total, self.partial = task, total, partial
        self.done = 0
        self.bar: Any = None

    def __enter__(self) -> "Tracker":
        """Starts the clock."""
        self.start = time.perf_counter()
        return self

    def step(self, count: int = 1, note: str = "") -> None:
        """`count` more steps are done."""
        self.done += count
        elapsed = time.perf_counter() - self.start
        remaining = elapsed / self.done * max(self.total - self.done, 0)
        if self.callback:
            self.callback(
                Progress(self.task, self.done, self.total, elapsed, remaining, self.partial)
            )
        elif self.wanted and elapsed > 1 and (self.bar or elapsed + remaining > PATIENCE):
            # The first second is mostly compilation, and foretells nothing.
            self._show(note)

    def _show(self, note: str) -> None:
        """Starts or moves the bar."""
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar
            from rich.progress import TimeRemainingColumn as Remaining

            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("time left"),
                Remaining(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.bar_task = self.bar.add_task(self.task, total=self.total, note=note)
        self.bar.update(self.bar_task, completed=self.done, note=note)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.stop()
