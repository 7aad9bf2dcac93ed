"""The cores of this machine."""

import os


def cores() -> int:
    """How many this process may run on, of which a container or a scheduler may leave it few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
