"""The checkpoints of a run: the last few, checked, with all that it needs to go on."""

import functools
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

import gapjax
from gapjax import _checks
from gapjax._lock import FolderInUse, FolderLock
from gapjax._paths import local_path
from gapjax.training._batches import can
from gapjax.training._checkpoints._contents import FORMAT
from gapjax.training._checkpoints._storage import Broken, Unwritten, Writer, clear, present, read
from gapjax.training._history import History
from gapjax.training._hosts import everyone, is_first, on_first, together


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, or one that was written cannot be read."""


class Checkpoint(NamedTuple):
    """What ``Checkpoints.restore`` gives.

    Attributes:
        update: after how many updates it was saved.
        state: the state, laid out as ``like`` was.
        history: what was recorded until then.
    """

    update: int
    state: Any
    history: History


class Checkpoints:
    """The checkpoints of one run: the last few, each whole or not there, written in the background.

    Hand it to ``fit``, or call ``save`` and ``restore`` from a loop of your own. A checkpoint holds
    the state (any pytree of arrays and numbers: keys, any type, any sharding), the place in the
    data, the history so far and what the run was started with. Every leaf carries a checksum,
    because storage may hand back other bits without an error. With several processes all call every
    method, on one file system that they share.

    One run at a time writes to a folder: from its first save on (in ``fit``, from the start) it
    holds a lock, which is given back at the end, or when it is killed. Anyone may read meanwhile.

    The state is an orbax checkpoint of its own, nested dictionaries of arrays by the names that
    they have in the state, so that it can be read without gapjax::

        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore("/runs/mine/30000/state")  # state["params"], ...

    (Random keys are their numbers there; arrays without elements are left out.)

    Args:
        folder: where to; a folder of its own per run.
        every: ``fit`` saves every so many updates.
        keep: how many to keep; from 2 on, a damaged newest one costs one interval.
        overlap: let a write take longer than the update after it, until the next save at most: for
            states so large that writing takes many updates. A kill then costs up to twice
            ``every``; otherwise ``fit`` waits, and it never costs more than ``every`` updates.
        config: what the run was started with, as JSON; a run with another one is refused.
        on_save_error: where a checkpoint cannot be written (a full disk, say): ``"raise"`` an
            ``OSError``, or ``"warn"`` and train on with the last good one kept. An error of the
            background is found at the next ``save`` or ``wait``.
        timeout: seconds after which a write that has not ended has failed, of several processes in
            all.

    Raises:
        ValueError: a number that is not positive, a word that is unknown, a ``config`` that is no
            JSON, or a folder that is none of this machine.

    Example:
        >>> import tempfile, jax.numpy as jnp
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Checkpoints(folder.name, every=100, config={"lr": 0.1}) as checkpoints:
        ...     checkpoints.save(100, {"w": jnp.ones(3)})
        >>> again = Checkpoints(folder.name, every=100, config={"lr": 0.1})
        >>> found = again.restore({"w": jnp.zeros(3)})
        >>> found.update, found.state["w"].tolist()
        (100, [1.0, 1.0, 1.0])
        >>> folder.cleanup()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int,
        keep: int = 3,
        overlap: bool = False,
        config: Any = None,
        on_save_error: str = "raise",
        timeout: int = 600,
    ):
        self.folder = local_path("folder", folder).absolute()
        self.every = _checks.positive_int("every", every)
        self.overlap = overlap
        self._keep = _checks.positive_int("keep", keep)
        self._timeout = _checks.positive_int("timeout", timeout)
        self._raise = _checks.one_of("on_save_error", on_save_error, ("raise", "warn")) == "raise"
        try:
            self._config = json.loads(json.dumps(config))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"config must be JSON (numbers, texts, lists, dicts): {error}."
            ) from None
        self._lock: FolderLock | None = None
        self._writer: Writer | None = None

    @property
    def updates(self) -> tuple[int, ...]:
        """After how many updates there is a checkpoint, for any of the processes, rising."""
        own = together(self._usable(lambda: present(self.folder)), OSError)
        return tuple(sorted({update for seen in everyone(own) for update in seen}))

    def reserve(self) -> None:
        """Take the folder for this run, before anything is computed that could not be saved.

        Raises:
            ValueError: another process writes to it; who, and since when.
            OSError: it cannot be written.
        """

        def take() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if is_first():
                lock = FolderLock(self.folder)
                lock.acquire()
                self._lock = lock
                clear(self.folder)

        if self._writer is None:
            together(self._usable(take), OSError, FolderInUse)
            self._writer = Writer(self.folder, keep=self._keep, timeout=self._timeout)

    def save(
        self, update: int, state: Any, *, batches: Any = None, history: History | None = None
    ) -> None:
        """Save in the background; waits only for the save before this one.

        The arrays are copied before this returns, so the state may be donated to the next update.

        Args:
            update: how many updates the run has made.
            state: any pytree of arrays and numbers.
            batches: where the examples come from: anything whose ``state()`` is JSON.
            history: what was recorded so far.

        Raises:
            OSError: this checkpoint or the one before it could not be written.
            ValueError: the folder holds a later checkpoint, another process writes to it, or a leaf
                of the state is neither an array nor a number.
        """
        self.wait()
        self.reserve()
        newest = max(self.updates, default=-1)
        if update <= newest:
            raise ValueError(
                f"{self.folder} holds a checkpoint of update {newest}, so update {update} cannot "
                "be saved there: restore it and go on, or take another folder."
            )
        together(self._usable(self._keep_hold), OSError, FolderInUse)
        about = {
            "format": FORMAT,
            "gapjax": gapjax.__version__,
            "config": self._config,
            "update": int(update),
            "batches": batches.state() if can(batches, "state") else None,
        }
        writer = self._writer
        self._try(lambda: writer.start(int(update), state, history, about))  # type: ignore[union-attr]

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: the last checkpoint could not be written.
        """
        if self._writer is not None and self._writer.update is not None:
            self._try(self._writer.finish)

    def close(self) -> None:
        """Wait, and let go of threads, files and the lock; also at the end of a ``with``.

        Raises:
            OSError: the last checkpoint could not be written.
        """
        try:
            self.wait()
        finally:
            self._let_go()

    def settle(self) -> None:
        """After an error, see that nothing is being written any more: the run may begin anew.

        Of several processes none waits: the others may know of no error, and will not come.
        """
        if self._writer is not None and jax.process_count() == 1:
            self._writer.settle()
            self._let_go()

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._lock is not None:
            self._lock.release()
        self._writer = self._lock = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.settle()

    def restore(self, like: Any, *, batches: Any = None) -> Checkpoint:
        """The newest checkpoint that every process can read.

        One that is damaged, if only for one of them, is passed over by all with a
        ``CheckpointWarning`` and put aside as ``N.damaged``.

        Args:
            like: a state (or its ``jax.ShapeDtypeStruct``) that says structure, types and where to
                put every array; the devices need not be those of the run that saved.
            batches: if it has a ``restore``, it is taken to where the run was.

        Returns:
            The ``Checkpoint``.

        Raises:
            ValueError: there is none, none can be read, or the newest belongs to another run,
                release or state, or to other data; in every process, and nothing is changed.
        """
        damaged: dict[int, Exception] = {}
        for update in reversed(self.updates):
            try:
                state, history, place = read(self.folder / f"{update}", like, config=self._config)
            except Broken as error:
                damaged[update] = error
                continue
            if can(batches, "restore"):
                if place is None:
                    raise ValueError(
                        f"the checkpoint of update {update} in {self.folder} does not say where "
                        "the run stood in the data: it was saved without batches=."
                    )
                together(functools.partial(batches.restore, place), ValueError)
            if damaged:
                self._put_aside(damaged, update)
            return Checkpoint(update, state, history)
        if not damaged:
            raise ValueError(f"there is no checkpoint in {self.folder}.")
        newest = max(damaged)
        raise ValueError(
            f"none of the {len(damaged)} checkpoints in {self.folder} can be read; the newest, of "
            f"update {newest}: {damaged[newest]}. Start anew in another folder."
        )

    def _usable(self, action: Callable[[], Any]) -> Callable[[], Any]:
        """An action on the folder, whose errors name it."""

        def act() -> Any:
            try:
                return action()
            except OSError as error:
                raise OSError(
                    f"cannot write checkpoints to {self.folder}: {error.strerror or error}. Take "
                    "another folder."
                ) from error

        return act

    def _keep_hold(self) -> None:
        """See that the folder is still ours: it may have been removed, or taken over."""
        if self._lock is not None and not self._lock.is_held():
            self._lock.release()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()

    def _try(self, write: Callable[[], Any]) -> None:
        """Write; a failure in any process is an error or a warning in all, by choice."""
        writer = self._writer
        assert writer is not None
        try:
            write()
        except Unwritten as error:
            failed = writer.update
            writer.settle()
            newest = max(self.updates, default=None)
            left = "There is none yet" if newest is None else f"The last good one: update {newest}"
            message = (
                f"the checkpoint of update {failed} could not be written to {self.folder}: "
                f"{error}. {left}."
            )
            if self._raise:
                raise OSError(
                    f"{message} Make room there or let it be written, and run it again."
                ) from error
            warnings.warn(f"{message} Training goes on.", CheckpointWarning, stacklevel=4)

    def _put_aside(self, damaged: Mapping[int, Exception], good: int) -> None:
        """Move damaged checkpoints out of the way, so that newer ones can take their place."""

        def move() -> None:
            for update in damaged:
                path, aside = self.folder / f"{update}", self.folder / f"{update}.damaged"
                if path.exists():
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)

        kept = "It is kept as {}.damaged"
        try:
            self.reserve()
            on_first(move)
        except (FolderInUse, OSError):  # of a run that goes on, or read-only: we only look
            kept = "It is left as it is"
        for update, error in damaged.items():
            warnings.warn(
                f"the checkpoint of update {update} in {self.folder} cannot be read: {error}. "
                f"{kept.format(update)}; going on from update {good}.",
                CheckpointWarning,
                stacklevel=3,
            )
