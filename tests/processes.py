"""Real processes that meet on this machine, none of which outlives its test."""

import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

# What the library for collectives on CPU says, from many threads, which break into each other.
_GLOO = re.compile(
    r"(\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :"
    r"|\d|\s)*"
)
_HUNG = None  # in place of an exit code


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(commands, *, devices):
    """A process per command (of Python's arguments), with so many devices each.

    They find each other by ``training.connect()``, or by ``--distributed``.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONFAULTHANDLER": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(len(commands)),
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, command in enumerate(commands)
    ]


def finish(processes, seconds):
    """Output, errors and exit code of each.

    They are read side by side: one whose pipe is full would wait to be read, and the others for it.

    Raises:
        AssertionError: some did not end in time; with what each said, and where those that hung
            were. They are killed.
    """
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        try:
            ended = list(pool.map(lambda one: _outcome(one, seconds), processes))
        finally:
            for process in processes:
                process.kill()
    if any(code == _HUNG for *_, code in ended):
        said = (f"process {i}:\n{out}\n{errors}" for i, (out, errors, _) in enumerate(ended))
        raise AssertionError(f"not ended after {seconds} seconds; " + "\n".join(said))
    return [
        ("\n".join(line for line in out.splitlines() if not _GLOO.fullmatch(line)), *rest)
        for out, *rest in ended
    ]


def _outcome(process, seconds):
    try:
        return (*process.communicate(timeout=seconds), process.returncode)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where each of its threads is
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        return (*process.communicate(), _HUNG)
