"""Many hosts: one process each, every one doing the same, the first one writing."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, cast

import jax
import numpy as np

T = TypeVar("T")
_GRACE = 3.0  # seconds
_LONGEST = 80  # letters of what a process has, in a message


def connect(*, lost_after: int = 60) -> None:
    """Join the processes of a cluster, before anything else asks for devices.

    JAX finds the cluster by itself on TPU pods and under SLURM, Open MPI and Kubernetes. Elsewhere
    it is told by the environment: ``JAX_COORDINATOR_ADDRESS`` (host:port of the first process),
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    From then on an error that nothing catches ends its process at once (``leave``), so that the
    others hear of it no later than of a host that was lost.

    Args:
        lost_after: seconds after which a process that is not heard of ends all others with an
            error.

    Raises:
        ValueError: there is no cluster, or the processes do not find each other.

    Example:
        >>> connect()  # doctest: +SKIP
        >>> jax.process_count()  # doctest: +SKIP
        4
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
    _leave_after_errors()


def _leave_after_errors() -> None:
    say = sys.excepthook

    def hook(*error: Any) -> None:
        say(*error)
        leave(1)

    sys.excepthook = hook


def leave(code: int) -> NoReturn:
    """End this process without meeting the others; where it is the only one, like ``sys.exit``.

    An ordinary exit waits for all processes, five minutes if they do not come: those that know of
    no error go on, and wait in turn for this one.

    Args:
        code: the exit code.

    Raises:
        SystemExit: this process is the only one.

    Example:
        >>> leave(2)
        Traceback (most recent call last):
        SystemExit: 2
    """
    if jax.process_count() == 1:
        raise SystemExit(code)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if is_first():
        # With it ends what the others report to, which aborts them: whoever met the same error says
        # so first.
        time.sleep(_GRACE)
    os._exit(code)


def is_first() -> bool:
    """Whether this process is the one that writes and prints.

    Returns:
        True for the first process, and where there is one alone.

    Example:
        >>> is_first()
        True
    """
    return jax.process_index() == 0


def on_first(action: Callable[[], T]) -> T | None:
    """Let the first process do something while the others wait.

    Args:
        action: what to do.

    Returns:
        What it returns in the first process; None in the others.

    Raises:
        ValueError: in the others, if it failed there.

    Example:
        >>> on_first(lambda: 3)
        3
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

    Args:
        value: a whole number, of this process.

    Returns:
        That of the first process.

    Example:
        >>> from_first(3)
        3
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def everyone(value: Any) -> list[Any]:
    """What every process says, by process, as JSON.

    Every process has to call it, in the same order.
    """
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(mine.size))
    room = np.zeros(sizes.max(), np.uint8)
    room[: mine.size] = mine
    said = multihost_utils.process_allgather(room)
    return [json.loads(bytes(one[:size])) for one, size in zip(said, sizes, strict=True)]


def together(action: Callable[[], T], *kinds: type[Exception]) -> T:
    """Let every process do its part of something that may fail in some: then it fails in all.

    Args:
        action: the part of this process, which must not wait for the others once it can fail: they
            would wait for each other forever.
        kinds: how it may fail, the gravest first.

    Raises:
        Exception: the gravest kind that was met in any process, in every one of them, with the same
            text: what it said there and, unless all said the same, in which.
    """
    result, mine, cause = None, None, None
    try:
        result = action()
    except kinds as error:
        which = next(i for i, kind in enumerate(kinds) if isinstance(error, kind))
        mine, cause = (which, str(error)), error
    said = everyone(mine)
    failed = [one[0] for one in said if one is not None]
    if not failed:
        return cast(T, result)
    texts = {i: one[1] for i, one in enumerate(said) if one is not None and one[0] == min(failed)}
    alike = len(texts) == len(said) and len(set(texts.values())) == 1
    named = [text if alike else f"process {i}: {text}" for i, text in texts.items()]
    more = f"; and so in {len(named) - 2} others" if len(named) > 2 else ""
    raise kinds[min(failed)](named[0] if alike else "; ".join(named[:2]) + more) from cause


def check_agreement(items: Mapping[str, Any]) -> None:
    """Compare what every process is about to do, before it costs anything.

    Args:
        items: what has to be the same everywhere, by name.

    Raises:
        ValueError: the processes differ; in every one of them, naming the item, the processes and
            what they have.

    Example:
        >>> check_agreement({"seeds": 8, "folder": "runs/mine"})
    """
    first, *others = everyone({name: str(value) for name, value in items.items()})
    for name, has in first.items():
        for process, other in enumerate(others, start=1):
            if other.get(name) != has:
                raise ValueError(
                    f"the processes differ in {name}: process 0 has {has[:_LONGEST]}, process "
                    f"{process} has {other.get(name, 'nothing')[:_LONGEST]}. Start the same "
                    "command with the same versions on every host."
                )
