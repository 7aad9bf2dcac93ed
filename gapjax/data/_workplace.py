"""A folder to work in until something is whole: one writer, and nothing left behind."""

import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from gapjax._lock import FolderInUse, FolderLock

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
    with leaving_on_sigterm(), FolderLock(anchor, name=_PREFIX + name + _LOCK):
        _remove(anchor, name)
        owner = os.getpid()
        scratch = tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-{owner}-", dir=anchor)
        try:
            yield pathlib.Path(scratch)
            _clear(anchor, name)
        finally:
            if os.getpid() == owner:  # a child forked meanwhile comes by here too
                shutil.rmtree(scratch, ignore_errors=True)


def _remove(anchor: pathlib.Path, name: str) -> None:
    """Remove what is left of imports of a name, whose lock this process holds."""
    for path in (anchor / (_PREFIX + name), *anchor.glob(f"{_PREFIX}{name}-*")):
        if not path.name.startswith(f"{_PREFIX}{name}-{os.getpid()}-"):  # of another thread
            shutil.rmtree(path, ignore_errors=True)


def _clear(anchor: pathlib.Path, name: str) -> None:
    """Remove what imports of other names left that ended without a word."""
    left = [path.name.removeprefix(_PREFIX) for path in anchor.glob(_PREFIX + "*")]
    for other in sorted({text.removesuffix(_LOCK).split("-")[0] for text in left} - {name}):
        with (
            contextlib.suppress(OSError, FolderInUse),
            FolderLock(anchor, name=_PREFIX + other + _LOCK),
        ):
            _remove(anchor, other)


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
