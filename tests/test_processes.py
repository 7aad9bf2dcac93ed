"""What the tests of several processes rest on."""

import subprocess
import sys
import time

import pytest

from tests.processes import finish


def _python(code):
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)


def test_a_process_that_says_much_holds_no_other_up(tmp_path):
    written = tmp_path / "written"
    waits = f"import pathlib\nwhile not pathlib.Path({str(written)!r}).exists(): pass"
    says = f"import sys; sys.stderr.write('x' * 10**6); open({str(written)!r}, 'w')"
    (_, _, first), (_, errors, second) = finish([_python(waits), _python(says)], 60)
    assert (first, second) == (0, 0) and len(errors) == 10**6


def test_processes_that_hang_are_told_with_what_they_said_and_where(tmp_path):
    begun = tmp_path / "begun"
    hangs = f"""
import faulthandler, pathlib, time
faulthandler.enable()
print("begun", flush=True)
pathlib.Path({str(begun)!r}).touch()
time.sleep(1000)
"""
    processes = [_python("print('fine')"), _python(hangs)]
    processes[0].wait(60)
    while not begun.exists() and processes[1].poll() is None:
        time.sleep(0.01)
    told = r"(?s)after 1 seconds.*fine.*begun.*line 6 in <module"
    with pytest.raises(AssertionError, match=told):
        finish(processes, 1)
    assert all(process.poll() is not None for process in processes)
