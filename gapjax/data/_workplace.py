"""A folder to work in until something is whole: one writer, and nothing left behind."""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

_PREFIX = ".gapjax-import-"
_LOCK = ".lock"


@contextlib.contextmanager
def workplace(folder: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """An empty folder on the disk of `folder`, for the one process that imports `name` there.

    It is gone afterwards, also after Ctrl-C and SIGTERM. What imports left that were killed is
    cleared away at the end of one that succeeds.

    Raises:
        ValueError: another process imports this name.
        OSError: there is no right to write.
    """
    anchor = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    scratch = anchor / (_PREFIX + name)
    with leaving_on_sigterm(), _only_one(anchor, name):
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            yield scratch
            _clear(anchor, name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _only_one(anchor: pathlib.Path, name: str) -> Iterator[None]:
    """Hold the lock of a name, or say who does; a process that died holds nothing."""
    path = anchor / (_PREFIX + name + _LOCK)
    descriptor = _locked(path)
    if descriptor is None:
        raise ValueError(
            f"{name} is being imported into {anchor} already{_holder(path)}; wait for it."
        )
    try:
        since = datetime.datetime.now().isoformat(timespec="seconds")
        about = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(about).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: pathlib.Path) -> int | None:
    """A descriptor that holds the lock of a file, or None where another has it."""
    import fcntl

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # whoever held it has removed the file: there is another one now


def _holder(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about: Any = json.loads(path.read_bytes()[:1000])
        return f", by process {about['process']} on {about['host']} since {about['since']}"
    return ""


def _clear(anchor: pathlib.Path, name: str) -> None:
    """Remove what imports of other names left that ended without a word."""
    for left in anchor.glob(_PREFIX + "*"):
        other = left.name.removeprefix(_PREFIX).removesuffix(_LOCK)
        if other == name:
            continue
        with contextlib.suppress(OSError, ValueError), _only_one(anchor, other):
            shutil.rmtree(anchor / (_PREFIX + other), ignore_errors=True)


@contextlib.contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """While inside, SIGTERM ends the process as Ctrl-C does: by what is to be cleared away."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # somebody else answers
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
