"""Writing a checkpoint: every process its own part, and it is there for all, or for none."""

import itertools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax

from gapjax.training._contents import reason
from gapjax.training._hosts import together
from gapjax.training._reading import ITEMS

_managers = itertools.count()  # processes make them together, so they count alike


class Unwritten(Exception):
    """A checkpoint could not be written; in every process, naming those that could not."""


class _Waited(Exception):
    """This process waited in vain for another one."""


def open_manager(folder: pathlib.Path, *, keep: int, timeout: int) -> Any:
    """Orbax's manager of a folder that is there; waits for no other process.

    Args:
        folder: of the checkpoints.
        keep: how many to keep.
        timeout: seconds that a process waits for the others to write.
    """
    import orbax.checkpoint as ocp

    count = jax.process_count()
    # Processes that are named meet at barriers, which time out. Otherwise they meet in a collective
    # on their devices, where the others hang if one does not come.
    meeting = ocp.options.MultiprocessingOptions(
        active_processes=set(range(count)) if count > 1 else None,
        # A barrier that timed out is lost for good, and they are named after updates.
        barrier_sync_key_prefix=f"gapjax{next(_managers)}" if count > 1 else None,
    )
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            create=False,  # refused where processes are named
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            async_options=ocp.AsyncOptions(timeout_secs=timeout),
            multiprocessing_options=meeting,
        ),
        item_names=ITEMS,
    )


def clear(folder: pathlib.Path) -> None:
    """Remove what was left half written, by runs that were killed and saves that failed.

    Orbax would do it in the background of the first process and, if it failed there, end the next
    save in that process only.
    """
    from orbax.checkpoint import utils

    for path in folder.glob(f"*{utils.TMP_DIR_SUFFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def write_together(write: Callable[[], Any], *, timeout: int) -> None:
    """Let every process write, or wait for what it writes in the background.

    Args:
        write: asks orbax; it may wait for the other processes, but no longer than ``timeout``.
        timeout: seconds.

    Raises:
        Unwritten: some process failed; in every one of them.
    """

    def attempt() -> None:
        try:
            write()
        except Exception as error:  # storage fails with many types, orbax hands them on
            cause = _cause(error)
            if cause is not None:
                raise Unwritten(reason(cause)) from error
            raise _Waited(
                f"some process has not written its part within timeout={timeout} seconds"
            ) from error

    try:
        # What a process says that could not write tells more than that the others waited.
        together(attempt, Unwritten, _Waited)
    except _Waited as error:
        raise Unwritten(str(error)) from error


def _cause(error: BaseException | None) -> BaseException | None:
    """What went wrong, if it is more than waiting in vain for another process."""
    while error is not None:
        if not (isinstance(error, TimeoutError) or "Barrier timed out" in str(error)):
            return error
        error = error.__cause__ or error.__context__
    return None
