"""Whether a study has room and time at all, told from shapes before anything is made."""

import contextlib
import math
import os
import pathlib
from typing import Any

import jax

from gapjax._text import readable_bytes, readable_duration
from gapjax.study._plan import Plan

_COUNTER = 2**31 - 1  # what schedules and optimizers count updates in holds no more
_FASTEST = 1e-5  # seconds of an update, at best


def check_time(plan: Plan) -> None:
    """See that a regime's updates can be counted.

    Raises:
        ValueError: they cannot; how long they would take.
    """
    if plan.updates > _COUNTER:
        least = readable_duration(plan.updates * _FASTEST)
        raise ValueError(
            f"regime {plan.name} makes {plan.updates:,} updates of every seed, which take at least "
            f"{least} (hours:minutes:seconds), and optimizers count to {_COUNTER:,}: use fewer "
            "epochs, or a larger batch."
        )


def check_memory(plan: Plan, state: Any, members: int, measures: int) -> None:
    """See that what is kept of every member fits in the memory of the devices.

    Args:
        plan: of a regime.
        state: of one member, or its shapes.
        members: trained at once.
        measures: numbers of a member at each mark.

    Raises:
        ValueError: it cannot; what would be needed, what there is, how many would fit.
    """
    one = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    one += 8 * len(plan.marks) * measures
    have = _memory()
    if one * members > have:
        raise ValueError(
            f"regime {plan.name} trains {members:,} networks at once, of which each takes at least "
            f"{readable_bytes(one)} for its state and its curves: {readable_bytes(one * members)} "
            f"of the {readable_bytes(have)} there are. Use fewer seeds, rates or evaluations: "
            f"{have // one:,} networks fit at most."
        )


def _memory() -> int:
    """Bytes of memory of all devices together, or of all hosts where devices are their cores.

    Those of other processes are taken to be like those here.
    """
    here = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in here]
    if all(limits):
        return sum(limits) * jax.device_count() // len(here)  # type: ignore[arg-type]
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # of a container
        have = min(have, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    return have * jax.process_count()
