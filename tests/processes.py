"""Real processes that meet on this machine, none of which outlives its test."""

import socket


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(processes, seconds):
    """Output, errors and exit code of each; those that hang are killed."""
    try:
        return [(*one.communicate(timeout=seconds), one.returncode) for one in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
