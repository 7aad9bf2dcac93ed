"""Real processes that meet on this machine, none of which outlives its test."""

import os
import re
import socket
import subprocess
import sys

# What the library for collectives on CPU says, from many threads, which break into each other.
_GLOO = re.compile(
    r"(\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :"
    r"|\d|\s)*"
)


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
    """Output, errors and exit code of each; those that hang are killed."""
    try:
        ended = [(*one.communicate(timeout=seconds), one.returncode) for one in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        ("\n".join(line for line in out.splitlines() if not _GLOO.fullmatch(line)), *rest)
        for out, *rest in ended
    ]
