"""Many hosts: one process each, every one doing the same, the first one writing."""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")
_BYTES = 96  # of what is said of an item: a digest, and its beginning in words
_DIGEST = 16


def connect(*, lost_after: int = 60) -> None:
    """Join the processes of a cluster, before anything else asks for devices.

    JAX finds the cluster by itself on TPU pods and under SLURM, Open MPI and Kubernetes. Elsewhere
    it is told by the environment: ``JAX_COORDINATOR_ADDRESS`` (host:port of the first process),
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Args:
        lost_after: seconds after which a process that is not heard of ends all others with an
            error.

    Raises:
        ValueError: there is no cluster, or the processes do not find each other.
    """
    count, own = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if own is None else int(own),
            heartbeat_timeout_seconds=lost_after,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes of this cluster did not find each other: {error} On a TPU pod, under "
            "SLURM, Open MPI and Kubernetes JAX finds them by itself; elsewhere set "
            "JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID for every process."
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def on_first(action: Callable[[], T]) -> T | None:
    """Let the first process do something while the others wait; None for the others.

    Raises:
        ValueError: in the others, if it failed there.
    """
    result, error = None, None
    if is_first():
        try:
            result = action()
        except Exception as caught:
            error = caught
    failed = from_first(error is not None)
    if error is not None:
        raise error
    if failed:
        raise ValueError("process 0 cannot go on; its own message says why.")
    return result


def from_first(value: int) -> int:
    """What the first process says, where all have to do the same.

    Every process has to call it, in the same order.
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def everywhere(here: bool) -> bool:
    """Whether something holds in every process."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(here))))


def check_agreement(items: Mapping[str, Any]) -> None:
    """Compare what every process is about to do, before it costs anything.

    Args:
        items: what has to be the same everywhere, by name.

    Raises:
        ValueError: the processes differ; in every one of them, naming the item, the processes and
            what they have.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    mine = np.stack([_said(str(value)) for value in items.values()])
    everyone = multihost_utils.process_allgather(mine)
    for row, name in enumerate(items):
        said = [bytes(process[row]) for process in everyone]
        other = next((i for i, one in enumerate(said) if one != said[0]), None)
        if other is not None:
            first, second = (one[_DIGEST:].rstrip(b"\0").decode() for one in (said[0], said[other]))
            raise ValueError(
                f"the processes differ in {name}: process 0 has {first}, process {other} has "
                f"{second}. Start the same command with the same versions on every host."
            )


def _said(text: str) -> np.ndarray:
    """A digest of the text and its beginning, as bytes of a fixed number."""
    data = text.encode("ascii", "replace")
    digest = hashlib.sha256(data).digest()[:_DIGEST]
    return np.frombuffer((digest + data[: _BYTES - _DIGEST]).ljust(_BYTES, b"\0"), np.uint8)
