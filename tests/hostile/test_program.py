"""The command as a process of its own: signals, streams, terminals."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "gapjax"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}


def _run(*arguments, shell="", **environment):
    """Exit code, output and errors of the command, its streams laid by a shell."""
    line = ["sh", "-c", f'exec "$@" {shell}', "sh", *COMMAND, *arguments]
    done = subprocess.run(line, capture_output=True, env=ENVIRONMENT | environment, timeout=300)
    return done.returncode, done.stdout, done.stderr.decode()


STREAMS = {
    "closed output": ("presets", ">&-", 0, ""),
    "full output": ("presets", ">/dev/full", 2, "gapjax: cannot write to standard output: No sp"),
    "closed errors": ("studdy", "2>&-", 2, ""),
    "full errors": ("studdy", "2>/dev/full", 2, ""),
    "all closed": ("presets", "<&- >&- 2>&-", 0, ""),
    "closed input": ("remedies", "<&-", 0, ""),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_are_closed_or_full(name):
    line, shell, code, said = STREAMS[name]
    found, _, errors = _run(line, shell=shell)
    assert found == code and errors.startswith(said) and errors.count("\n") == bool(said)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_that_are_not_unicode(encoding):
    code, output, errors = _run("remedies", PYTHONIOENCODING=encoding)
    assert code == 0 and not errors and output.decode(encoding)


@pytest.mark.parametrize("columns", ["1", "3", "5"])
def test_narrow_terminals(columns):
    code, output, errors = _run("data", "import", "--help", COLUMNS=columns)
    assert code == 0 and b"--data-dir" in output and not errors


def test_no_home(tmp_path):
    """As in a container whose user has no entry in passwd."""
    code = (
        "import os, pwd, sys\n"
        "os.environ.pop('HOME', None)\n"
        "def nobody(*_): raise KeyError(0)\n"
        "pwd.getpwuid = pwd.getpwnam = nobody\n"
        "from gapjax.__main__ import main\n"
        "sys.argv[1:] = ['study', '--out', '~/run']\n"
        "sys.exit(main())"
    )
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 2
    assert b"the home folder that ~ stands for" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_imported(number, tmp_path):
    rng = random.Random(number)
    for _ in range(3):
        line = [*COMMAND, "study", "--out", str(tmp_path / "run")]
        process = subprocess.Popen(
            line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(rng.uniform(0.3, 2.0))
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 128 + number
        assert errors.count(b"\n") == 1 and errors.startswith(b"gapjax: ") and not output
        assert not (tmp_path / "run").exists()


def test_a_signal_that_was_swallowed_says_its_line_once():
    """As in a callback of the collector, while modules are imported or programs compiled."""
    code = (
        "import os, signal, sys, time\n"
        "from gapjax import _commands\n"
        "from gapjax.__main__ import main\n"
        "class Collected:\n"
        "    def __del__(self): signal.raise_signal(signal.SIGTERM)\n"
        "def command(*arguments):\n"
        "    with _commands._working():\n"
        "        thing = Collected()\n"
        "        del thing\n"
        "        print('swallowed', flush=True)\n"
        "        time.sleep(60)\n"
        "from gapjax import cli\n"
        "cli._COMMANDS['study'] = cli._COMMANDS['study']._replace(run=command)\n"
        "sys.argv[1:] = ['study']\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 128 + signal.SIGTERM and done.stdout == b"swallowed\n"
    assert done.stderr == b"gapjax: told to leave. The same command goes on from here.\n"


def test_a_second_start_is_told_who_holds_the_folder(tmp_path):
    """Held by this process: what the command is told, with no study under way."""
    from gapjax._lock import FolderLock

    out = tmp_path / "run"
    out.mkdir()
    with FolderLock(out):
        code, output, errors = _run("study", "--epochs", "0.1", "--seeds", "1", "--out", str(out))
    assert code == 2 and not output and errors.count("\n") == 1
    for said in (f"process {os.getpid()}", "since", "--wait"):
        assert said in errors
    assert list(out.iterdir()) == []
