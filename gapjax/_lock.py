"""One writer per folder: a lock that says who holds it, and that outlives no process.

The lock is a file that is linked into its place, which one process can do alone on local and on
shared file systems. It names host, process and time. Whether its holder still lives is asked of the
kernel where it is the same one; of another host (or container) it is told by the file's time, which
the holder renews. That time is compared with another file's on the same file system, and a lock
that looks abandoned is watched for a while before it is taken over: no two clocks are compared, and
one that jumps takes nothing away.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import threading
import time
import uuid
import weakref
from typing import Any

NAME = ".lock"
RENEWED = 5.0  # seconds, every so many
ABANDONED = 60.0  # seconds without
WATCHED = 20.0  # seconds, before a lock that looks abandoned is taken over


class FolderInUse(ValueError):
    """Another process writes to a folder."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host: its name.
        kernel: which start of which machine, and which of its process namespaces.
        process: the process number there.
        started: when that process started, as its kernel counts; numbers are given again.
        since: the local date and time at which it took the lock.
        token: of this lock alone.
    """

    host: str
    kernel: str
    process: int
    started: str
    since: str
    token: str

    def __str__(self) -> str:
        """In words, for a message."""
        return f"process {self.process} on {self.host} since {self.since}"


class FolderLock:
    """The right to write to a folder, of one process at a time.

    A process may hold it several times over, unless it asks for it alone; a child forked from it
    does not hold it. It is given back by ``release``, at the end of a ``with``, when the object is
    gone, or when the process is.

    Args:
        folder: which has to be there.
        name: of the file in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, FolderLock(folder) as lock:
        ...     lock.is_held()
        True
    """

    def __init__(self, folder: str | os.PathLike[str], *, name: str = NAME):
        self._path = pathlib.Path(folder).absolute() / name
        self._holder: Holder | None = None
        self._finalizer: Any = None

    def acquire(self, *, wait: float = 0.0, alone: bool = False) -> None:
        """Take the lock.

        Args:
            wait: how many seconds to wait for another holder; ``math.inf`` for as long as it takes.
            alone: whether others in this process, such as its other threads, count as others too.

        Raises:
            FolderInUse: another holds it.
            OSError: the folder cannot be written.
        """
        if self._holder is not None and _is_this_process(self._holder):
            return
        deadline = time.monotonic() + wait
        while True:
            holder = _take(self._path, alone)
            if holder is not None:
                break
            if (other := _read(self._path)) is None:  # given back meanwhile
                continue
            if _is_gone(self._path, other):
                _clear(self._path, other)
            elif time.monotonic() >= deadline:
                by = f"this process since {other.since}" if _is_held_here(other) else other
                raise FolderInUse(
                    f"{self._path.parent} is written to by {by}: wait until it has ended, or "
                    f"take another folder. If it has ended and this stays, remove {self._path}."
                )
            else:
                time.sleep(min(1.0, max(0.05, deadline - time.monotonic())))
        self._holder = holder
        stop = threading.Event()
        _renewing(self._path, holder, stop)
        self._finalizer = weakref.finalize(self, _release, self._path, holder, stop)

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        self._holder = None
        if self._finalizer is not None:
            self._finalizer()

    def is_held(self) -> bool:
        """Whether this object holds the lock, and nobody took it over while this process slept."""
        return (
            self._holder is not None
            and _is_this_process(self._holder)
            and _read(self._path) == self._holder
        )

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


# How often each lock is held by this process. A forked child has a copy of it and of every
# FolderLock, and holds nothing: a lock is that of the process whose number it bears.
_held: dict[str, int] = {}
_guard = threading.Lock()


def _is_this_process(holder: Holder) -> bool:
    return holder.process == os.getpid()


def _is_held_here(holder: Holder) -> bool:
    # A forked child knows the token of its parent, and another process may have its number.
    return _is_this_process(holder) and bool(_held.get(holder.token))


def _take(path: pathlib.Path, alone: bool) -> Holder | None:
    """The lock, if it is free or, not alone, this process has it; None if another holds it."""
    with _guard:
        here = _read(path)
        if here is not None and _is_held_here(here):
            if alone:
                return None
            _held[here.token] += 1
            return here
        holder = Holder(
            host=socket.gethostname(),
            kernel=_kernel(),
            process=os.getpid(),
            started=_started(os.getpid()) or "",
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            token=uuid.uuid4().hex,
        )
        beside = path.with_name(f"{path.name}-{holder.token}")
        try:
            beside.write_text(json.dumps(dataclasses.asdict(holder)))
            _link(beside, path)
        except FileExistsError:
            return None
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
        _held[holder.token] = 1
        return holder


def _link(beside: pathlib.Path, path: pathlib.Path) -> None:
    """Give a file its second name, if that is free."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without such names
        with open(path, "x") as file:
            file.write(beside.read_text())


def _release(path: pathlib.Path, holder: Holder, stop: threading.Event) -> None:
    stop.set()
    if not _is_this_process(holder):  # a child, which has not taken it
        return
    with _guard:
        _held[holder.token] -= 1
        if _held[holder.token]:
            return
        del _held[holder.token]
    with contextlib.suppress(OSError):
        if _read(path) == holder:
            path.unlink()


def _renewing(path: pathlib.Path, holder: Holder, stop: threading.Event) -> None:
    """Renew the time of the lock in the background, as long as it is ours."""

    def renew() -> None:
        while not stop.wait(RENEWED):
            with contextlib.suppress(OSError):
                if _read(path) != holder:
                    return
                os.utime(path)

    threading.Thread(target=renew, name="gapjax-lock", daemon=True).start()


def _read(path: pathlib.Path) -> Holder | None:
    """Who holds a lock; None where there is none."""
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError):  # of another release, or damaged
        return Holder("another host", "", 0, "", "an unknown time", "")


def _is_gone(path: pathlib.Path, holder: Holder) -> bool:
    """Whether the holder of a lock does not live any more."""
    if holder.kernel and holder.kernel == _kernel():
        started = _started(holder.process)
        return started is None or started != holder.started
    if _age(path) < ABANDONED:
        return False
    before = _time(path)
    time.sleep(WATCHED)
    return before is not None and before == _time(path)


def _clear(path: pathlib.Path, holder: Holder) -> None:
    """Take away the lock of a holder that is gone, and of no other."""
    aside = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):
        os.rename(path, aside)  # one process alone can
        if _read(aside) != holder:  # a new one, taken meanwhile
            _link(aside, path)
        aside.unlink()


def _age(path: pathlib.Path) -> float:
    """Seconds since a lock was renewed, as its file system counts; 0 if it cannot be told."""
    probe = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - (_time(path) or 0.0)
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _time(path: pathlib.Path) -> float | None:
    """When a lock was renewed; opened, since shared file systems look again only then."""
    try:
        with open(path) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def _kernel() -> str:
    """What tells machines, their starts and namespaces of processes apart; empty if it cannot."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname() if os.name == "posix" else ""


def _started(process: int) -> str | None:
    """When a process of this kernel started, in its ticks; None if there is no such process."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None if os.path.exists("/proc/self/stat") else _is_there(process)
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _is_there(process: int) -> str | None:
    """The same where processes do not tell when they started."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
