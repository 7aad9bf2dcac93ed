"""Kill a run at random moments, with SIGKILL, and hold its end against an undisturbed one.

`python -m benchmarks.faults.kill` kills one process 20 times and one of two processes 5 times; each
time the same command goes on. Both runs have to end with the same bits (parameters, optimizer,
running statistics, tracked distances, history), and no kill may cost more than one interval between
checkpoints. Of two processes the one that is left must end by itself, with an error, in time.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.faults.run import Run

ROOT = pathlib.Path(__file__).parent.parent.parent
_START = 120.0  # seconds that a process may take until its first update
_UPDATE = 60.0  # and for any later one


class Kill(NamedTuple):
    """One kill.

    Attributes:
        which: the process that was killed.
        at: the last update it had finished.
        resumed: the update after which the next run went on.
        lost: updates made again.
        left: seconds until the process that was left had ended by itself, None if there was none.
        error: what that process said.
    """

    which: int
    at: int
    resumed: int
    lost: int
    left: float | None
    error: str | None


class Child:
    """A process of the run, its output in files."""

    def __init__(self, run: Run, folder: pathlib.Path):
        self.said = folder / f"stdout-{run.process or 0}"
        self.errors = folder / f"stderr-{run.process or 0}"
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        with open(self.said, "w") as out, open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.faults.run", json.dumps(run._asdict())],
                stdout=out,
                stderr=errors,
                cwd=ROOT,
                env=environment | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            )

    def updates(self) -> list[int]:
        """The updates it has finished."""
        # The transport between processes writes numbers of its own there, and breaks lines.
        return [int(found) for found in re.findall(r"update (\d+)\n", self.said.read_text())]

    def wait_for(self, count: int) -> bool:
        """Wait until it has finished so many updates; False if it has ended before."""
        seen, deadline = 0, time.monotonic() + _START
        while seen < count:
            ended = self.process.poll() is not None
            now = len(self.updates())
            if now > seen:
                seen, deadline = now, time.monotonic() + _UPDATE
            elif ended:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"no update for too long:\n{self.errors.read_text()[-2000:]}")
            time.sleep(0.004)
        return True

    def end(self, timeout: float) -> None:
        """Wait until it has ended well."""
        if self.process.wait(timeout):
            raise RuntimeError(f"the run failed:\n{self.errors.read_text()[-2000:]}")


def free_port() -> int:
    """A port of this machine at which processes can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def children(run: Run, processes: int, folder: pathlib.Path) -> Iterator[list[Child]]:
    """The processes of a run; whatever happens, none of them outlives this."""
    port = free_port()
    started: list[Child] = []
    try:
        for number in range(processes):
            own = run._replace(process=number, port=port) if processes > 1 else run
            started.append(Child(own, folder))
        yield started
    finally:
        for child in started:
            child.process.kill()
            child.process.wait()


def killed_run(
    folder: pathlib.Path,
    *,
    processes: int,
    kills: int,
    updates: int,
    every: int,
    seed: int,
    heartbeat: int = 10,
    cache: str | None = None,
) -> list[Kill]:
    """Run undisturbed; then again, killed many times; compare.

    Raises:
        AssertionError: the runs end with other bits, a kill costs more than one interval, or the
            process that is left outlives the time it is given.
    """
    rng = random.Random(seed)
    whole = Run(str(folder / "whole"), str(folder / "whole.npz"), updates, every, cache)
    whole = whole._replace(heartbeat=heartbeat)
    broken = whole._replace(folder=str(folder / "broken"), out=str(folder / "broken.npz"))
    with children(whole, processes, folder) as both:
        for child in both:
            child.end(300)
    moments: list[tuple[int, int, float | None, str | None]] = []
    resumed: list[int] = []
    at = 0
    while len(moments) < kills:
        most = 2 * (updates - at) // (kills - len(moments))
        with children(broken, processes, folder) as both:
            which = rng.randrange(processes)
            if not both[which].wait_for(rng.randint(1, max(1, min(most, 3 * every)))):
                raise RuntimeError(f"ended too early:\n{both[which].errors.read_text()[-2000:]}")
            time.sleep(rng.uniform(0, 0.03))
            both[which].process.send_signal(signal.SIGKILL)
            both[which].process.wait()
            seen = both[which].updates()
            resumed.append(seen[0] - 1)
            at = seen[-1]
            moments.append((which, at, *_what_is_left(both, which, heartbeat)))
    with children(broken, processes, folder) as both:
        for child in both:
            child.end(300)
        first = both[0].updates()
        resumed.append(first[0] - 1 if first else updates)
    found = [
        Kill(which, at, after, at - after, left, error)
        for (which, at, left, error), after in zip(moments, resumed[1:], strict=True)
    ]
    worst = max(kill.lost for kill in found)
    assert worst <= every, f"a kill cost {worst} updates, with checkpoints every {every}: {found}"
    _compare(whole.out, broken.out)
    return found


def _what_is_left(both: list[Child], which: int, heartbeat: int) -> tuple[float | None, str | None]:
    """How long the other process lived on, and its last words."""
    if len(both) == 1:
        return None, None
    start = time.monotonic()
    other = both[1 - which]
    code = other.process.wait(timeout=3 * heartbeat + 30)
    if code == 0:
        raise AssertionError("a process that had lost the other one ended as if all were well")
    words = [line for line in other.errors.read_text().splitlines() if line.strip()]
    telling = [line for line in words if "Terminating process" in line] or words
    return time.monotonic() - start, telling[-1].partition("] ")[2][
        :130
    ] if telling else f"exit code {code}"


def _compare(first: str, second: str) -> None:
    one, two = np.load(first), np.load(second)
    assert one.files == two.files
    different = [name for name in one.files if one[name].tobytes() != two[name].tobytes()]
    assert not different, f"other bits than in the undisturbed run: {different}"


def main() -> None:
    from benchmarks.speed.timing import keep

    figures: dict[str, Any] = {}
    for name, settings in {
        "one process": {"processes": 1, "kills": 20, "updates": 200, "every": 5, "seed": 0},
        "two processes": {"processes": 2, "kills": 5, "updates": 60, "every": 5, "seed": 1},
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            kills = killed_run(pathlib.Path(folder), cache=f"{folder}/cache", **settings)
        lost = [kill.lost for kill in kills]
        print(f"{name}: {len(kills)} kills at updates {[kill.at for kill in kills]}")
        print(f"  the same bits as undisturbed; lost {lost}, at most {max(lost)}")
        left = [kill.left for kill in kills if kill.left is not None]
        if left:
            print(f"  the process that was left ended within {max(left):.1f} s: {kills[0].error}")
        figures[name] = {**settings, "most_lost": max(lost), "kills": [k._asdict() for k in kills]}
    print(f"kept in {keep('kill', figures)}")


if __name__ == "__main__":
    main()
