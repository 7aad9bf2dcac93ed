"""Checkpoints on disk: written and read by every process together, for all of them or for none.

A checkpoint is a folder named after its update: ``state``, which orbax wrote and reads alone,
``history.npz`` and ``about.json``. It is written beside its place and moved there when it is whole.
Every process writes its part of the arrays and none waits for another while it does, so one that
fails holds nobody up: they tell each other when all are done.

The handler is one of orbax's first interface, on purpose. The second, ``orbax.checkpoint.v1``, has
the processes wait for each other while they write, and lies under ``experimental``, where names
change: ``load_pytree`` of 0.11 is deprecated in 0.12, and 0.11 has no ``load``, which replaced it.
A test fails when it has left there.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import gapjax
from gapjax._seal import is_sealed, seal
from gapjax.training._checkpoints import _contents
from gapjax.training._checkpoints._said import Quiet, reason
from gapjax.training._history import History, put
from gapjax.training._hosts import is_first, on_first, together
from gapjax.training._names import names_along

_UNFINISHED, _REMOVED = ".unfinished", ".removed"


class Broken(Exception):
    """A checkpoint cannot be read."""


class Unwritten(Exception):
    """A checkpoint could not be written; in every process, naming those that could not."""


def present(folder: pathlib.Path) -> list[int]:
    """The updates of which this process sees a checkpoint, rising; none if there is no folder."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def clear(folder: pathlib.Path) -> None:
    """Remove what was left half written or half removed, by runs that were killed."""
    for ending in (_UNFINISHED, _REMOVED):
        for path in folder.glob(f"*{ending}"):
            shutil.rmtree(path, ignore_errors=True)


class Writer:
    """Writes checkpoints to a folder, one at a time, in the background.

    Args:
        folder: where to; it has to be there.
        keep: how many to keep.
        timeout: seconds after which a write that has not ended has failed.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int, timeout: int):
        import orbax.checkpoint as ocp

        self._folder, self._keep, self._timeout = folder, keep, timeout
        self._handler = ocp.StandardCheckpointHandler()
        self._quiet = Quiet().start()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "gapjax-checkpoint")
        self._update: int | None = None
        self._writing: concurrent.futures.Future[None] | None = None

    @property
    def update(self) -> int | None:
        """The one that is being written."""
        return self._update

    def start(self, update: int, state: Any, history: Any, about: dict[str, Any]) -> None:
        """Copy the arrays of a state and begin to write; the one before has to be finished.

        Args:
            update: names the checkpoint.
            state: any pytree of arrays and numbers.
            history: a ``History``, or None.
            about: what else to say of it, as JSON.

        Raises:
            Unwritten: no process can write there; in every process.
            ValueError: a leaf of the state is neither an array nor a number.
        """
        import orbax.checkpoint as ocp
        from etils import epath

        self._update = update
        beside = self._folder / f"{update}{_UNFINISHED}"
        tree, contents = _contents.bundle(state)
        past, columns = _describe(history)
        text = json.dumps(seal({**about, **contents, "history": past}))

        def prepare() -> None:
            if is_first():
                shutil.rmtree(beside, ignore_errors=True)
                (beside / "state").mkdir(parents=True)

        _for_all(prepare)
        begun: Any = self._thread.submit(
            # Orbax copies the arrays before it returns, and the state may be donated from then on.
            lambda: (
                asyncio.run(
                    self._handler.async_save(
                        epath.Path(beside / "state"), args=ocp.args.StandardSave(tree)
                    )
                )
                if tree
                else []
            )
        )
        concurrent.futures.wait([begun])

        def write() -> None:
            _all_results(begun.result() or [], self._timeout)
            if is_first():
                with open(beside / "history.npz", "wb") as file:
                    np.savez(file, **columns)  # type: ignore[arg-type]
                (beside / "about.json").write_text(text)
            if jax.process_count() == 1:
                self._commit(update)

        self._writing = self._thread.submit(write)

    def finish(self) -> None:
        """Wait until it is written, by all.

        Raises:
            Unwritten: some process failed; in every one of them, and there is no such checkpoint.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            _for_all(writing.result)
            if jax.process_count() > 1:
                _for_all(lambda: self._commit(self._update) if is_first() else None)
        except Unwritten:
            on_first(lambda: shutil.rmtree(self._unfinished(), ignore_errors=True))
            raise
        self._update = None

    def settle(self) -> None:
        """Wait for this process alone, whatever comes of it."""
        if self._writing is not None:
            concurrent.futures.wait([self._writing])
        self._writing = self._update = None

    def close(self) -> None:
        """Let go of threads."""
        self._thread.shutdown()
        self._handler.close()
        self._quiet.stop()

    def _unfinished(self) -> pathlib.Path:
        return self._folder / f"{self._update}{_UNFINISHED}"

    def _commit(self, update: int | None) -> None:
        """Move it to its place, and remove those that are too many."""
        from etils import epath

        beside = self._folder / f"{update}{_UNFINISHED}"
        if any((beside / "state").iterdir()):
            self._handler.finalize(epath.Path(beside / "state"))
        beside.rename(self._folder / f"{update}")
        for old in present(self._folder)[: -self._keep]:
            with contextlib.suppress(OSError):
                aside = self._folder / f"{old}{_REMOVED}"
                (self._folder / f"{old}").rename(aside)
                shutil.rmtree(aside, ignore_errors=True)


def _all_results(futures: Sequence[Any], timeout: float) -> None:
    """Wait for all, and raise the first error; nothing is left behind that still writes."""
    first: Exception | None = None
    for future in futures:
        try:
            future.result(timeout=timeout)
        except Exception as error:  # storage fails with many types
            first = first or error
    if first is not None:
        raise first


def _for_all(part: Any) -> Any:
    """The part of this process; if it fails in some, it is ``Unwritten`` in all."""

    def attempt() -> Any:
        try:
            return part()
        except Exception as error:  # storage fails with many types, orbax hands them on
            raise Unwritten(reason(error)) from error

    return together(attempt, Unwritten)


def read(folder: pathlib.Path, like: Any, *, config: Any) -> tuple[Any, History, Any]:
    """The state that a checkpoint holds, its history, and where the run stood in the data.

    Args:
        folder: of the one checkpoint, named after its update.
        like: a state, or what it is like.
        config: what this run was started with.

    Raises:
        ValueError: it belongs to another run, release or state.
        Broken: some process cannot read it; in every process, naming those that cannot.
    """
    about, found, history = together(lambda: _files(folder, like, config), ValueError, Broken)

    def unbundle() -> Any:
        try:
            return _contents.unbundle(about, found, like)
        except ValueError as error:
            raise Broken(f"{folder / 'state'}: {error}") from error

    # Summing up waits for the other processes: all of them have read their part by now.
    return together(unbundle, Broken), history, about["batches"]


def _files(folder: pathlib.Path, like: Any, config: Any) -> tuple[dict[str, Any], Any, History]:
    """What this process reads: the description, its part of every array, and the history."""
    import orbax.checkpoint as ocp
    from etils import epath

    def item(name: str, load: Any) -> Any:
        try:
            return load(folder / name)
        except Exception as error:  # any of the formats below may fail in its own way
            text, where = reason(error), folder / name
            raise Broken(text if f"{where}" in text else f"{where}: {text}") from error

    def load_state(path: pathlib.Path) -> Any:
        wanted = _contents.wanted(about, like)
        handler = ocp.StandardCheckpointHandler()
        return wanted and handler.restore(epath.Path(path), args=ocp.args.StandardRestore(wanted))

    if not (folder / "about.json").exists() and (folder / "about").is_dir():
        about = {"format": 2, "gapjax": "0.1.0"}  # as that release laid it out
    else:
        about = item("about.json", lambda path: json.loads(path.read_text()))
        if not is_sealed(about):
            raise Broken(f"{folder / 'about.json'}: its description is damaged")
    wrong = _contents.mismatch(about, like, config=config, version=gapjax.__version__)
    if wrong:
        raise ValueError(
            f"the checkpoint of update {folder.name} in {folder.parent} belongs to another "
            f"{wrong}, or start anew in another folder."
        )
    past: Any = about["history"]
    with Quiet():
        found = item("state", load_state)
    history = item("history.npz", lambda path: _history(path, past))
    return about, found, history


def _describe(history: History | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A history as JSON, without its numbers, and its numbers by name."""
    if history is None:
        return {"tree": None, "leaves": [], "checksum": 0}, {}
    tree = history._asdict()
    named, numbered = jax.tree_util.tree_leaves_with_path(tree), dict[str, Any]()
    for number, (path, _) in enumerate(named):
        put(numbered, names_along(path), number)
    rows, spelled = _contents.describe(tree), _contents.names_of(tree)
    leaves = [leaf for _, leaf in named]
    about = {
        "tree": numbered,
        "leaves": [[name, *row[1:]] for name, row in zip(spelled, rows, strict=True)],
        "checksum": _contents.checksum(leaves),
    }
    return about, {name: np.asarray(x) for name, x in zip(spelled, leaves, strict=True)}


def _history(path: pathlib.Path, about: dict[str, Any]) -> History:
    """A history out of its file."""
    if about["tree"] is None:
        return History(np.zeros(0, np.int64), {})
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        # A type that NumPy does not know comes back as bytes.
        leaves = [file[name].view(jax.numpy.dtype(kind)) for name, kind, _ in about["leaves"]]
    if _contents.checksum(leaves) != about["checksum"]:
        raise ValueError("its history is not what was saved")
    tree = {"metrics": {}, **about["tree"]}
    return History(**jax.tree.map(lambda number: leaves[number], tree))
