"""Compiled programs on disk: shared by processes, cut short, and where nothing can be written."""

import json
import os
import subprocess
import sys
import time
import zlib

import jax
import pytest

from gapjax.training import enable_compile_cache
from gapjax.training._compile_cache import _WholeFile

# Compiles a few programs, and says how many were found compiled; a warning is an error.
COMPILES = """
import sys, json, jax, jax.numpy as jnp
from gapjax.training import enable_compile_cache
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None
)
folder = enable_compile_cache(sys.argv[1] if len(sys.argv) > 1 else None)
for n in range(6):
    jax.jit(lambda x: jnp.tanh(x * n) @ x.T)(jnp.ones((n + 2, 3)))
print(json.dumps([str(folder), len(hits)]))
"""


def _start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", COMPILES, *map(str, arguments)],
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(process):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and not errors, errors[-2000:]
    return json.loads(out)


def _assert_whole(folder):
    entries = list(folder.iterdir())
    assert len(entries) >= 6 and all(entry.name.endswith("-cache") for entry in entries)
    for entry in entries:
        assert zlib.decompress(entry.read_bytes())


@pytest.mark.processes
def test_two_processes_share_a_folder_in_which_entries_were_cut(tmp_path):
    both = [_start(tmp_path / "kept") for _ in range(2)]
    for process in both:
        assert _end(process)[0] == str(tmp_path / "kept")
    _assert_whole(tmp_path / "kept")
    for i, entry in enumerate(sorted((tmp_path / "kept").iterdir())):
        if i % 3 == 0:
            entry.write_bytes(b"")
        if i % 3 == 1:
            entry.write_bytes(entry.read_bytes()[:-7])
    both = [_start(tmp_path / "kept") for _ in range(2)]
    for process in both:
        _, hits = _end(process)
        assert hits >= 2  # those that were whole
    _assert_whole(tmp_path / "kept")  # mended
    assert _end(_start(tmp_path / "kept"))[1] >= 6


@pytest.mark.processes
def test_without_a_home_or_with_one_that_is_a_file_nothing_is_kept_or_said(tmp_path):
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        assert _end(_start(HOME=str(home), XDG_CACHE_HOME="")) == ["None", 0]


def test_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    """As a file system that was mounted read-only, or is full."""
    file = _WholeFile(str(tmp_path / "entry-cache"))
    assert file.write_bytes(zlib.compress(b"program")) and file.exists()

    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("gapjax.training._compile_cache.os.replace", refuse)
    other = _WholeFile(str(tmp_path / "other-cache"))
    other.write_bytes(zlib.compress(b"another"))
    assert not other.exists() and [p.name for p in tmp_path.iterdir()] == ["entry-cache"]
    monkeypatch.setattr("gapjax.training._compile_cache.tempfile.NamedTemporaryFile", refuse)
    other.write_bytes(zlib.compress(b"another"))
    assert not other.exists() and zlib.decompress(file.read_bytes()) == b"program"


def test_what_was_found_is_what_is_read(tmp_path):
    """Though another process takes it away in between."""
    file = _WholeFile("gapjax-compiled://" + str(tmp_path)) / "entry-cache"
    assert isinstance(file, _WholeFile) and str(file) == str(tmp_path / "entry-cache")
    file.write_bytes(zlib.compress(b"program"))
    again = _WholeFile(str(file))
    assert again.exists()
    file.unlink()
    assert zlib.decompress(again.read_bytes()) == b"program"
    assert not file.exists() and _WholeFile(str(tmp_path)).exists()


def test_what_a_kill_left_half_written_is_cleared(tmp_path, monkeypatch):
    for name, age in (("old", 7200), ("new", 10)):
        (tmp_path / f".part-{name}").write_bytes(b"half")
        os.utime(tmp_path / f".part-{name}", (time.time() - age,) * 2)
    with monkeypatch.context() as patched:
        patched.setattr(jax.config, "update", lambda *_: None)
        enable_compile_cache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".part-new"]


def test_no_home_at_all(monkeypatch):
    def refuse(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.expanduser", refuse)
    before = jax.config.jax_compilation_cache_dir
    assert enable_compile_cache() is None
    assert jax.config.jax_compilation_cache_dir == before
    assert enable_compile_cache("~/x") is None
