"""Where data lie, and who writes there."""

import concurrent.futures
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from data import files
from gapjax._lock import FolderInUse
from gapjax._paths import local_path
from gapjax.data import _places, _write, import_local, import_text, load
from gapjax.data._workplace import workplace


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "data_dir is empty; give a folder"),
        ("  ", "is empty"),
        (3, "data_dir must be a path, not 3"),
        (b"/tmp", "data_dir must be a path, not b'/tmp'"),
        ("a\0b", "holds a zero byte"),
        ("gs://bucket/there", "is an address, and only folders of this machine"),
        (pathlib.Path("gs://bucket/there"), "is an address"),
        ("s3://bucket", "is an address"),
        ("file:///tmp", "is an address"),
        ("/tmp/\udcff", r"is not UTF-8, which the libraries that write there need"),
        ("~nobody-of-this-name/x", "the home folder that ~nobody-of-this-name stands for"),
    ],
)
def test_what_is_no_folder_of_this_machine_is_refused_everywhere(
    tmp_path, monkeypatch, value, message
):
    monkeypatch.chdir(tmp_path)
    files.write_idx(tmp_path / "in")
    before = sorted(tmp_path.iterdir())
    for call in (
        lambda: load("mnist", data_dir=value),
        lambda: import_local("mnist", tmp_path / "in", data_dir=value),
        lambda: import_text("own", tmp_path / "in", data_dir=value),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=message.replace("data_dir", "source_dir")):
        import_local("mnist", value, data_dir=tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert str(_places.data_folder(None)) == "/home/somebody/tensorflow_datasets"
    assert str(local_path("x", "~/data")) == "/home/somebody/data"
    assert str(local_path("x", "C:/data")) == "C:/data"
    me = pwd.getpwuid(os.getuid())
    assert str(local_path("x", f"~{me.pw_name}/data")) == f"{me.pw_dir}/data".replace("//", "/")
    monkeypatch.setenv("TFDS_DATA_DIR", "~/elsewhere")
    assert str(_places.data_folder(None)) == "/home/somebody/elsewhere"


def test_no_home_and_no_entry_in_passwd(tmp_path, monkeypatch):
    def getpwuid(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    with pytest.raises(ValueError, match="no home folder to keep data sets in: pass data_dir, or"):
        load("mnist")
    with pytest.raises(ValueError, match="the home folder that ~ stands for"):
        load("mnist", data_dir="~/data")
    files.write_idx(tmp_path / "in", side=4)
    import_local("mine", tmp_path / "in", data_dir=tmp_path / "out")
    assert len(load("mine", data_dir=tmp_path / "out").train) == 20
    assert len(load("digits").train) == 1280


def test_a_place_without_the_right_to_write(tmp_path, monkeypatch):
    files.write_idx(tmp_path / "in", side=4)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"Not a directory .*nothing was imported"):
        import_local("mine", tmp_path / "in", data_dir=tmp_path / "file" / "out")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"Permission denied .*out.*nothing was imported"):
        import_local("mine", tmp_path / "in", data_dir=tmp_path / "out")


def test_what_was_left_behind_is_cleared_by_the_next_success(tmp_path):
    files.write_idx(tmp_path / "in", side=4)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("mine", "another", "w81hfk2m"):
        (out / f".gapjax-import-{name}" / "prepared").mkdir(parents=True)
    (out / ".gapjax-import-mine-1-abc" / "prepared").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data set"):
        import_local("mine", tmp_path / "empty", data_dir=out)
    assert (out / ".gapjax-import-another").exists()
    import_local("mine", tmp_path / "in", data_dir=out)
    assert [path.name for path in out.iterdir()] == ["mine"]


_SLOW = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
    "from gapjax.data import _import, import_local\n"
    "whole = _import._records\n"
    "def slow(*args):\n"
    "    for record in whole(*args):\n"
    "        time.sleep(0.05)\n"
    "        yield record\n"
    "_import._records = slow\n"
    "import_local('mine', sys.argv[1], data_dir=sys.argv[2])\n"
)


def _start(source, out):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(source), str(out)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    begin = time.monotonic()
    while not list(out.rglob("*incomplete*")):
        assert process.poll() is None
        assert time.monotonic() - begin < 60
        time.sleep(0.02)
    return process


@pytest.mark.processes
def test_signals_leave_nothing_behind_and_a_kill_is_cleared_up(tmp_path):
    files.write_idx(tmp_path / "in", train=400, side=4)
    out = tmp_path / "out"
    out.mkdir()
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)):
        process = _start(tmp_path / "in", out)
        with pytest.raises(ValueError, match=f"is written to by process {process.pid} on"):
            import_local("mine", tmp_path / "in", data_dir=out)
        import_local("another", tmp_path / "in", data_dir=out)  # in nobody's way
        shutil.rmtree(out / "another")
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert not list(out.iterdir())
    process = _start(tmp_path / "in", out)
    process.kill()
    process.wait(timeout=60)
    assert list(out.iterdir())
    import_local("mine", tmp_path / "in", data_dir=out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert len(load("mine", data_dir=out).train) == 400


def test_of_two_threads_that_import_a_name_one_is_told_that_it_is_there(tmp_path, monkeypatch):
    files.write_idx(tmp_path / "in", side=4)
    plain, both = _write._place, threading.Barrier(2)

    def place(*args):
        both.wait(60)  # until both have made it
        plain(*args)

    monkeypatch.setattr(_write, "_place", place)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(import_local, "mine", tmp_path / "in", data_dir=tmp_path / "out")
            for _ in range(2)
        ]
        errors = [error for call in calls if (error := call.exception(120)) is not None]
    assert [type(error) for error in errors] == [ValueError]
    assert f"mine is there already, at {tmp_path / 'out' / 'mine'}" in str(errors[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert len(load("mine", data_dir=tmp_path / "out").train) == 20


@pytest.mark.processes
@pytest.mark.parametrize("ends", ["within", "through the with of its parent"])
def test_a_forked_child_leaves_the_scratch_folder_of_its_parent(tmp_path, ends):
    parent, child = os.getpid(), 0
    try:
        with workplace(tmp_path, "mine") as scratch:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # forks beside threads
                child = os.fork()
            if not child and ends == "within":
                with pytest.raises(FolderInUse), workplace(tmp_path, "mine"):
                    pass
                os._exit(0)
            if not child:
                raise SystemExit
            assert os.waitpid(child, 0)[1] == 0
            assert scratch.exists()
    except SystemExit:
        os._exit(0)
    finally:
        if os.getpid() != parent:
            os._exit(1)
    assert not list(tmp_path.iterdir())
