"""One writer per folder: processes that meet, die, sleep, and live on other machines."""

import contextlib
import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from gapjax import _lock
from gapjax._lock import FolderInUse, FolderLock

HOLDS = """
import sys, time
from gapjax._lock import FolderLock
lock = FolderLock(sys.argv[1])
lock.acquire(wait=float(sys.argv[2]))
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@contextlib.contextmanager
def _holding(folder, wait=0.0, seconds=60.0):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder), str(wait), str(seconds)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:  # which closes its pipes
        yield process
        process.kill()


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_given_back_by_every_way_to_let_go(tmp_path):
    with FolderLock(tmp_path) as lock:
        assert lock.is_held() and _names(tmp_path) == [".lock"]
    assert not lock.is_held() and _names(tmp_path) == []
    lock.acquire()
    lock.acquire()  # once is enough
    lock.release()
    lock.release()
    assert _names(tmp_path) == []
    lock = FolderLock(tmp_path)
    lock.acquire()
    del lock
    gc.collect()
    assert _names(tmp_path) == []


def test_a_process_may_hold_it_several_times(tmp_path):
    with FolderLock(tmp_path) as one, FolderLock(tmp_path) as two:
        assert one.is_held() and two.is_held()
        one.release()
        assert two.is_held() and _names(tmp_path) == [".lock"]
    assert _names(tmp_path) == []


def test_alone_is_alone_in_the_process_too(tmp_path):
    with FolderLock(tmp_path) as one:
        with pytest.raises(FolderInUse, match="written to by this process since"):
            FolderLock(tmp_path).acquire(alone=True)
        assert one.is_held()
    FolderLock(tmp_path).acquire(alone=True)


@pytest.mark.processes
def test_another_process_is_told_who_holds_it_and_takes_over_when_that_is_killed(tmp_path):
    with _holding(tmp_path) as process:
        assert process.stdout.readline() == "held\n"
        told = rf"{tmp_path} is written to by process {process.pid} on \S+ since 20\d\d-.*remove"
        with pytest.raises(FolderInUse, match=told):
            FolderLock(tmp_path).acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with FolderLock(tmp_path) as lock:
            assert lock.is_held()


@pytest.mark.processes
def test_a_process_may_wait_for_another(tmp_path):
    with contextlib.ExitStack() as stack:
        with FolderLock(tmp_path):
            waiting = stack.enter_context(_holding(tmp_path, 60, 0))
            impatient = stack.enter_context(_holding(tmp_path, 0.2))
            assert "FolderInUse" in impatient.communicate(timeout=60)[1]
        assert waiting.stdout.readline() == "held\n"
        assert waiting.wait(60) == 0 and _names(tmp_path) == []


@pytest.mark.processes
def test_of_many_that_come_at_once_one_holds_it(tmp_path):
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_holding(tmp_path)) for _ in range(6)]
        ended = [process for process in processes if process.stdout.readline() != "held\n"]
        assert len(ended) == 5


def _leave(folder, **changes):
    """A lock as another process would leave it."""
    with FolderLock(folder):
        holder = _lock._read(folder / ".lock")
    changed = dataclasses.replace(holder, **changes)
    (folder / ".lock").write_text(json.dumps(dataclasses.asdict(changed)))


def test_a_host_that_was_restarted_and_a_number_given_again_hold_nothing(tmp_path):
    _leave(tmp_path, token="a", started="1")  # another process of this number
    with FolderLock(tmp_path) as lock:
        assert lock.is_held()
    _leave(tmp_path, token="a", process=2**22 + 1)
    with FolderLock(tmp_path) as lock:
        assert lock.is_held()


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(_lock, "RENEWED", 0.05)
    monkeypatch.setattr(_lock, "ABANDONED", 1.0)
    monkeypatch.setattr(_lock, "WATCHED", 0.3)


@pytest.mark.usefixtures("quickly")
def test_of_another_host_it_is_believed_as_long_as_it_is_renewed(tmp_path):
    _leave(tmp_path, token="a", kernel="another", host="far")
    with pytest.raises(FolderInUse, match="on far since"):
        FolderLock(tmp_path).acquire()
    old = time.time() - 10
    os.utime(tmp_path / ".lock", (old, old))
    with FolderLock(tmp_path) as lock:
        assert lock.is_held()


@pytest.mark.usefixtures("quickly")
def test_a_clock_that_jumps_takes_nothing_away(tmp_path, monkeypatch):
    """The holder is renewing it, though its time looks long past."""
    _leave(tmp_path, token="a", kernel="another", host="far")
    times = iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(_lock, "_time", lambda path: next(times))
    with pytest.raises(FolderInUse, match="on far since"):
        FolderLock(tmp_path).acquire()


@pytest.mark.usefixtures("quickly")
def test_the_holder_renews_it_and_notices_when_it_was_taken(tmp_path):
    with FolderLock(tmp_path) as lock:
        old = time.time() - 10
        os.utime(tmp_path / ".lock", (old, old))
        end = time.monotonic() + 10
        while (tmp_path / ".lock").stat().st_mtime < old + 5:
            assert time.monotonic() < end
            time.sleep(0.01)
        _lock._clear(tmp_path / ".lock", _lock._read(tmp_path / ".lock"))
        assert not lock.is_held()
        (tmp_path / ".lock").write_text("{}")
    assert _names(tmp_path) == [".lock"]  # another's


@pytest.mark.usefixtures("quickly")
def test_a_lock_that_was_taken_anew_is_put_back(tmp_path):
    """Two processes find the same lock abandoned; the slower one must not take the quicker's."""
    _leave(tmp_path, token="a", started="1")
    stale = _lock._read(tmp_path / ".lock")
    with FolderLock(tmp_path) as lock:
        _lock._clear(tmp_path / ".lock", stale)
        assert lock.is_held() and _names(tmp_path) == [".lock"]


@pytest.mark.usefixtures("quickly")
def test_a_damaged_lock_is_that_of_somebody_unknown(tmp_path):
    (tmp_path / ".lock").write_text("{")
    with pytest.raises(FolderInUse, match="on another host since an unknown time"):
        FolderLock(tmp_path).acquire()
    old = time.time() - 10
    os.utime(tmp_path / ".lock", (old, old))
    with FolderLock(tmp_path) as lock:
        assert lock.is_held()


def test_file_systems_without_second_names(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(_lock.os, "link", refuse)
    with FolderLock(tmp_path) as lock:
        assert lock.is_held()
        with FolderLock(tmp_path) as again:
            assert again.is_held()
    assert _names(tmp_path) == []


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        FolderLock(tmp_path / "nothing").acquire()


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_child_does_not_hold_the_lock_of_its_parent(tmp_path):
    with FolderLock(tmp_path) as lock:
        assert _in_a_child(lambda: not lock.is_held())
        assert _in_a_child(lambda: _is_refused(FolderLock(tmp_path)))
        assert _in_a_child(lambda: _is_refused(lock))  # its copy of the parent's, too
        assert _in_a_child(lambda: lock.release() is None)
        assert lock.is_held() and _names(tmp_path) == [".lock"]
    assert _names(tmp_path) == []


def _is_refused(lock):
    try:
        lock.acquire()
    except FolderInUse as error:
        return f"process {os.getppid()} on" in str(error)
    return False


def _in_a_child(call):
    """Whether a call holds true in a forked child, which ends without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forks beside threads
        child = os.fork()
    if not child:
        try:
            os._exit(0 if call() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0
