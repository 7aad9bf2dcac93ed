"""Reading a checkpoint: every process its own part, and then all go on, or none."""

import pathlib
from typing import Any

import numpy as np

import gapjax
from gapjax._seal import is_sealed
from gapjax.training import _contents
from gapjax.training._history import History
from gapjax.training._hosts import together

ITEMS = ("about", "state")


class Broken(Exception):
    """A checkpoint cannot be read."""


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
    about, found = together(lambda: _files(folder, like, config), ValueError, Broken)

    def unbundle() -> tuple[Any, Any]:
        try:
            return _contents.unbundle(about, found, like)
        except ValueError as error:
            raise Broken(f"{folder / 'state'}: {error}") from error

    # Summing up waits for the other processes: all of them have read their part by now.
    state, past = together(unbundle, Broken)
    history = History(np.zeros(0, np.int64), {}) if past is None else History(**past)
    return state, history, about["batches"]


def _files(folder: pathlib.Path, like: Any, config: Any) -> tuple[dict[str, Any], list[Any]]:
    """What this process reads: the description, and its part of every array."""
    import orbax.checkpoint as ocp

    # Orbax's manager waits after reading until every process has read: in vain if one cannot.
    reader = ocp.CompositeCheckpointHandler(*ITEMS)

    def item(name: str, how: Any) -> Any:
        try:
            return reader.restore(folder, ocp.args.Composite(**{name: how}))[name]
        except Exception as error:  # any of the formats below may fail in its own way
            reason = _contents.reason(error)
            where = folder / name
            raise Broken(reason if f"{where}" in reason else f"{where}: {reason}") from error

    about = item("about", ocp.args.JsonRestore())
    if not is_sealed(about):
        raise Broken(f"{folder / 'about'}: its description is damaged")
    wrong = _contents.mismatch(about, like, config=config, version=gapjax.__version__)
    if wrong:
        raise ValueError(
            f"the checkpoint of update {folder.name} in {folder.parent} belongs to another "
            f"{wrong}, or start anew in another folder."
        )
    return about, item("state", ocp.args.StandardRestore(_contents.wanted(about, like)))
