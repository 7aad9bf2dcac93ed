"""Files written whole or not at all, and what is kept in them, checked when it is read."""

import functools
import json
import math
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from gapjax import _outside
from gapjax._seal import is_sealed, seal
from gapjax.study._results._records import dumps, from_plain, to_plain

R = TypeVar("R")
T = TypeVar("T")
REDONE = "it is made again"


class Damaged(ValueError):
    """Something that a folder keeps is not what was written there.

    Args:
        path: what is damaged.
        why: in what way, in words.
        delete: what has to go to have it made again, the least there is; by default `path`.
        cost: what the same command then does.
    """

    def __init__(
        self,
        path: pathlib.Path,
        why: str,
        *,
        delete: pathlib.Path | None = None,
        cost: str = REDONE,
    ):
        self._made = functools.partial(type(self), path, why, delete=delete, cost=cost)
        self.delete = path if delete is None else delete
        self.what, self.cost = f"{path}: {why}", cost
        it = "it" if delete in (None, path) else f"{self.delete}"
        super().__init__(
            f"{self.what}; delete {it} and run the same command (or add --repair): {cost}."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew from its message, as Python would, it could not be: a pool of processes hangs.
        return self._made, ()

    def repair(self) -> None:
        """Delete the least there is."""
        if self.delete.is_dir() and not self.delete.is_symlink():
            shutil.rmtree(self.delete)
        else:
            self.delete.unlink(missing_ok=True)


def repairing(action: Callable[[], T], repair: bool) -> T:
    """Do something again and again, after what is damaged was deleted."""
    while True:
        try:
            return action()
        except Damaged as damage:
            if not repair:
                raise
            warnings.warn(
                f"{damage.what}; {damage.delete} is deleted: {damage.cost}.", stacklevel=3
            )
            damage.repair()


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Write a file whole or not at all, also through a power cut."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:  # of the file that was asked for, not of its part
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself has to reach the disk
    finally:
        os.close(folder)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text whole or not at all."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write JSON, numbers that are not finite as null."""
    write_text(path, dumps(value))


def keep(path: pathlib.Path, value: Any, *, of: Any = None) -> None:
    """Write an object for ``read``.

    Args:
        path: the file.
        value: a record or a dictionary.
        of: what it belongs to, as JSON.
    """
    write_json(path, seal({**to_plain(value), "of": of}))


def read(
    path: pathlib.Path,
    kind: type[R],
    *,
    of: Any = None,
    check: Callable[[R], Any] = lambda found: None,
    delete: pathlib.Path | None = None,
    cost: str = REDONE,
) -> R:
    """Read what ``keep`` kept.

    Args:
        path: the file.
        kind: the record it holds, or ``dict``.
        of: what it has to belong to.
        check: looks closer, and raises a ValueError that names a field.
        delete: see ``Damaged``.
        cost: see ``Damaged``.

    Raises:
        Damaged: it is not JSON, not such a record, not as it was written, or belongs to something
            else.
        ValueError: it is not there, or no regular file.
    """

    def damaged(why: str) -> Damaged:
        return Damaged(path, why, delete=delete, cost=cost)

    try:
        content = _outside.read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} is not there: is {path.parent} the folder of a study?") from None
    try:
        value = json.loads(content)
        where = _not_finite(value)
        if where is not None:
            raise damaged(f"{where} is not finite, which no number of JSON is")
        if not isinstance(value, dict):
            raise ValueError(f"its top level: expected `object`, got {type(value).__name__}")
        found = from_plain({k: v for k, v in value.items() if k not in ("of", "seal")}, kind)
        check(found)
        whole = is_sealed(value)
    except RecursionError:
        raise damaged("it is nested too deep for what a study writes") from None
    except Damaged:
        raise
    except ValueError as error:  # also of JSON, and of letters
        raise damaged(f"it is not what a study writes: {_inline(error)}") from None
    if not whole:
        raise damaged("checksum differs")
    if value.get("of") != of:
        raise damaged(f"it belongs to {_other(value.get('of'), of)}")
    return found


def _inline(error: ValueError) -> str:
    text = str(error).rstrip(".")
    return f"no JSON ({text})" if isinstance(error, json.JSONDecodeError) else text


def _not_finite(value: Any) -> str | None:
    """Where a value holds a number that is not finite."""
    todo = [("", value)]
    while todo:
        where, at = todo.pop()
        if isinstance(at, float) and not math.isfinite(at):
            return where.lstrip(".") or "its top level"
        if isinstance(at, dict):
            todo += [(f"{where}.{key}", inner) for key, inner in at.items()]
        elif isinstance(at, list):
            todo += [(f"{where}[{i}]", inner) for i, inner in enumerate(at)]
    return None


def _other(there: Any, here: Any) -> str:
    """What a file belongs to, where that is not what was meant."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return "something else"
    differing = [key for key in here if there.get(key) != here[key]] or ["study"]
    key, value = differing[0], there.get(differing[0])
    if isinstance(value, dict) and isinstance(here[key], dict):
        names = [name for name in {**here[key], **value} if here[key].get(name) != value.get(name)]
        return f"other {key} of {', '.join(names)}"
    return f"another {key}"
