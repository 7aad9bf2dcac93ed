"""What the ``gapjax`` command shows on a terminal, or writes to a file in its place."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gapjax._text import readable_duration


@contextlib.contextmanager
def progress(regimes: int) -> Iterator[Callable[[Any], None]]:
    """A live line per regime on a terminal, a line at the end of each elsewhere."""
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<22}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn("{task.completed:>6.0f}/{task.total:.0f} {task.fields[unit]}"),
        rich.progress.TextColumn("{task.fields[speed]:>16}"),
        rich.progress.TextColumn("{task.fields[left]:>12}"),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[tuple[str, str], Any] = {}
    told: set[tuple[str, str]] = set()  # whose end was told: it may be reported more than once

    def show(at: Any) -> None:
        key = at.regime, at.phase
        unit, speed = "updates", "compiling"
        if at.phase == "landscape":
            unit, speed = "%", ""
        elif at.examples_per_second:
            speed = f"{at.examples_per_second:,.0f} ex/s"
        left = "" if at.seconds_left is None else f"{readable_duration(at.seconds_left)} left"
        if key not in tasks:
            number = sum(phase == "train" for _, phase in tasks) + 1
            label = f"{number}/{regimes}" if at.phase == "train" else at.phase
            tasks[key] = bar.add_task(
                f"{label} {at.regime}", total=at.updates, unit=unit, speed=speed, left=left
            )
        bar.update(tasks[key], completed=at.update, speed=speed, left=left)
        if at.update == at.updates and not console.is_terminal and key not in told:
            told.add(key)
            done = f"{at.updates} {unit}, {speed}" if speed else "measured"
            print(f"{at.phase} {at.regime}: {done}", file=sys.stderr)

    # Nothing is started where nothing is drawn: older versions of rich end it with an empty line.
    with contextlib.nullcontext() if bar.disable else bar:
        yield show


def show(title: str, columns: Iterable[Any], rows: Iterable[list[str]]) -> None:
    """Print a table whole: a narrow terminal wraps its lines, a file gets them as they are."""
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    console = rich.console.Console()
    table = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(rich.text.Text, row))  # brackets are no markup
    wide = console.options.update(width=10_000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
