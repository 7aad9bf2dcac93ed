"""The folder of a study: one experiment, one writer, and what each regime keeps in it."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gapjax import _outside, training
from gapjax._lock import FolderInUse, FolderLock
from gapjax._seal import check_files, seal_of
from gapjax.study._results._files import Damaged, keep, read, write_bytes, write_text
from gapjax.study._results._names import file_name
from gapjax.study._results._records import (
    FORMAT,
    Config,
    RegimeRecord,
    StudyFields,
    dumps,
    from_plain,
    to_plain,
)


@contextlib.contextmanager
def hold(folder: pathlib.Path, *, wait: bool = False) -> Iterator[FolderLock]:
    """Make the folder of a study and write to it alone; a start that fails leaves none behind.

    Args:
        folder: the folder.
        wait: wait for another process or thread that writes there, as long as it takes.

    Raises:
        FolderInUse: another process or thread writes there; which, and since when.
        ValueError: it cannot be written.
    """
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        try:
            lock.acquire(alone=True)
        except FolderInUse as error:
            if not wait:
                raise FolderInUse(f"{error} --wait waits for it.") from None
            warnings.warn(str(error), stacklevel=4)
            lock.acquire(wait=math.inf, alone=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror}. Give another folder (--out)."
        ) from None
    try:
        yield lock
    except BaseException:
        if not there and _is_blank(folder) and lock.is_held():
            for part in ("regimes", "checkpoints", "config.json"):
                _remove(folder / part)
        raise
    finally:
        lock.release()
        if not there:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing is in it


def check_hold(folder: pathlib.Path, lock: FolderLock | None) -> None:
    """See that the folder is still ours, before something is put there for good.

    Raises:
        FolderInUse: another process took it over while this one was stopped.
    """
    if lock is not None and not lock.is_held():
        raise FolderInUse(
            f"{folder} was taken over by another process while this one was stopped; it is left "
            "to that one."
        )


def _is_blank(folder: pathlib.Path) -> bool:
    """Whether nothing was trained there yet."""
    kept = (path for part in ("regimes", "checkpoints") for path in (folder / part).rglob("*"))
    return not any(path.is_file() and not path.name.startswith(".") for path in kept)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_folder(folder: pathlib.Path, config: Config) -> None:
    """Begin the folder of a study, or go on in the one that is there.

    Args:
        folder: the folder, which ``hold`` made.
        config: the study, to which the folder belongs; how it is run is kept, not compared.

    Raises:
        ValueError: the folder holds another study's results, or cannot be written.
        Damaged: something in it is not as it was written.
    """
    path = folder / "config.json"
    if (folder / "sweep.json").exists():
        raise ValueError(f"{folder} holds a sweep; give another folder (--out).")
    study = json.loads(dumps(config.study))
    begun = path.exists() and not _is_blank(folder)
    if begun:
        found = read_config(folder)
        there = found.study
        differing = [k for k in {**study, **there} if study.get(k) != there.get(k)]
        if differing:
            changes = "; ".join(_change(k, there.get(k), study.get(k)) for k in differing[:4])
            raise ValueError(
                f"{folder} holds another study, which is left as it is: {changes}"
                f"{f' (and {len(differing) - 4} more fields)' if len(differing) > 4 else ''}. "
                "Give another folder (--out)."
            )
        _warn_of_versions(found.environment, config, folder)
    try:
        for part in ("regimes", "checkpoints"):
            (folder / part).mkdir(exist_ok=True)
        if not begun:
            keep(path, {"format": FORMAT, **to_plain(config)})
        elif not os.access(folder / "regimes", os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror}. Give another folder (--out)."
        ) from None
    for name in config.regimes:
        if regime_path(folder, name).exists():
            _check_regime(folder, read_regime(folder, name, config))


def _warn_of_versions(there: Mapping[str, Any], config: Config, folder: pathlib.Path) -> None:
    """Warn where a folder goes on with what may round otherwise, which its report does not name."""
    here = config.environment
    if all(regime_path(folder, name).exists() for name in config.regimes):
        return
    names = ("jax", "flax", "optax", "numpy", "device", "processor")
    both = [k for k in names if k in there and k in here]
    other = [f"{k} {there[k]} (now {here[k]})" for k in both if there[k] != here[k]]
    if other:
        warnings.warn(
            f"{folder} was begun with {', '.join(other)}: what is trained now may differ in its "
            "last digits and its times, and the report names the first. For one of a kind give "
            "another folder (--out).",
            stacklevel=4,
        )


def read_config(folder: pathlib.Path) -> Config:
    """What the study of a folder is, and how it was run.

    Raises:
        ValueError: no study, or one that another release wrote.
        Damaged: it is not as it was written.
    """
    path = folder / "config.json"
    _check_format(path)
    return read(
        path,
        Config,
        check=lambda config: from_plain(config.study, StudyFields, "study"),
        cost="it is written anew, and what was trained is kept",
    )


def _check_format(path: pathlib.Path) -> None:
    """See that this release wrote a file, if it can be told."""
    found = None
    with contextlib.suppress(ValueError, OSError, RecursionError):
        found = json.loads(_outside.read_file(path))
    if isinstance(found, dict) and "study" in found and found.get("format") != FORMAT:
        release = "gapjax 0.1" if "format" not in found else "a later gapjax"
        raise ValueError(
            f"{path.parent} was written by {release}, whose files this release does not read: use "
            "that release, or train it again in another folder."
        )


def regime_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the record of a regime is kept."""
    return folder / "regimes" / f"{file_name(name)}.json"


def network_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the networks of a regime are kept, all seeds."""
    return folder / "checkpoints" / file_name(name)


def keep_regime(
    folder: pathlib.Path,
    record: RegimeRecord,
    examples: Mapping[str, np.ndarray],
    trees: Sequence[pathlib.Path] = (),
) -> None:
    """Keep what was found of a regime.

    Args:
        folder: of the study.
        record: of the regime.
        examples: what every test example gave.
        trees: the checkpoints that belong to it.
    """
    path = regime_path(folder, record.name)
    data = io.BytesIO()
    np.savez_compressed(data, **examples)  # type: ignore[arg-type]
    write_bytes(path.with_suffix(".npz"), data.getvalue())
    files = {
        _place(folder, path.with_suffix(".npz")): _digest(data.getvalue()),
        **{_place(folder, tree): seal_of(tree) or "" for tree in trees},
    }
    # Last: where it is there, all is.
    keep(path, dataclasses.replace(record, files=files))


def read_regime(folder: pathlib.Path, name: str, config: Config) -> RegimeRecord:
    """The record of a regime that is done.

    Raises:
        Damaged: it is not what was written, or that of another regime or study.
    """
    path = regime_path(folder, name)

    def check(record: RegimeRecord) -> None:
        if record.name != name:
            raise ValueError(f"name: it is regime {record.name!r}, not {name!r}")
        if record.study != config.fingerprint:
            raise ValueError("study: it belongs to another study than config.json beside it")
        measured = [f"{split}_{m}" for split in ("train", "test") for m in config.task.measures]
        runs = {"run": record.run, "rule": record.rule, "curves": record.curves}
        for part, found in runs.items():
            for wanted in ("distance", *measured):
                if found is not None and wanted not in found.values:
                    raise ValueError(f"{part}.values: {wanted!r} is missing")

    return read(path, RegimeRecord, check=check, cost=_again(name))


def read_examples(folder: pathlib.Path, record: RegimeRecord) -> dict[str, np.ndarray]:
    """What every test example gave in a regime: ``[S, n]`` by name, and ``weight`` ``[n]``.

    Raises:
        Damaged: it is not what was written.
    """
    with np.load(io.BytesIO(_examples(folder, record)), allow_pickle=False) as found:
        return dict(found)


def is_kept(folder: pathlib.Path, record: RegimeRecord, path: pathlib.Path) -> bool:
    """Whether something was kept with a regime, be it there still or lost."""
    return _place(folder, path) in record.files


def load_kept(folder: pathlib.Path, record: RegimeRecord, tree: pathlib.Path) -> Any:
    """A checkpoint that belongs to a regime.

    Raises:
        Damaged: it is not what was written, or that of another regime.
    """
    _check_tree(folder, record, tree)
    return training.load_tree(tree)


def origin(config: Config, records: Iterable[RegimeRecord], what: str) -> dict[str, Any]:
    """What something that was measured at the networks of regimes belongs to."""
    networks = {record.name: record.network for record in records}
    return {"study": config.fingerprint, "measurement": what, "networks": networks}


def _examples(folder: pathlib.Path, record: RegimeRecord) -> bytes:
    path = regime_path(folder, record.name).with_suffix(".npz")
    try:
        content = _outside.read_file(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).removeprefix(f"{path} ").rstrip(".")
        raise _damage(folder, record, path, why) from None
    if _digest(content) != record.files.get(_place(folder, path)):
        raise _damage(folder, record, path, "checksum differs")
    return content


def _check_tree(folder: pathlib.Path, record: RegimeRecord, tree: pathlib.Path) -> None:
    if seal_of(tree) != record.files.get(_place(folder, tree), ""):
        raise _damage(folder, record, tree, "it is not what this regime kept there")
    try:
        check_files(tree)
    except ValueError as error:
        path, _, why = str(error).partition(": ")
        raise _damage(folder, record, pathlib.Path(path), why.rstrip(".")) from None


def _check_regime(folder: pathlib.Path, record: RegimeRecord) -> None:
    """See that all is whole that a regime has kept."""
    _examples(folder, record)
    trees = {folder / place for place in record.files if place.startswith("checkpoints/")}
    for tree in sorted({network_path(folder, record.name), *trees}):
        _check_tree(folder, record, tree)


def _damage(folder: pathlib.Path, record: RegimeRecord, path: pathlib.Path, why: str) -> Damaged:
    """Damage to what belongs to a regime, which only training makes again."""
    return Damaged(path, why, delete=regime_path(folder, record.name), cost=_again(record.name))


def _again(name: str) -> str:
    return f"{name} is trained again, the others are kept"


def _place(folder: pathlib.Path, path: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _change(field: str, there: Any, here: Any) -> str:
    """How a field differs; where that would read alike, which of its parts have other code."""
    old, new = _short(there), _short(here)
    if old != new or not isinstance(there, list) or len(there) != len(here):
        return f"{field} is {old} there, and {new} here"
    told = [_code(a, b) for a, b in zip(there, here, strict=True) if a != b]
    return f"{field}: {', '.join(told)} is made by other code there than here"


def _code(there: Any, here: Any) -> str:
    """The named thing that differs, and which of its remedies do."""
    if not isinstance(there, dict) or there.get("remedies") == here.get("remedies"):
        return str(there.get("name") if isinstance(there, dict) else there)
    pairs = zip(there["remedies"], here["remedies"], strict=False)
    names = [str(new).partition(" [")[0] for old, new in pairs if old != new]
    return f"remedy {' and '.join(names)} of {here['name']}"


def _short(value: Any) -> str:
    """A value in an error message; of named things, the names."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
        value = [item["name"] for item in value]
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_history(path: pathlib.Path, records: Iterable[RegimeRecord]) -> None:
    """Write ``history.csv``: a row per regime, seed and update at which something was measured."""
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record.curves.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("regime", "seed", "update", "examples", "seconds", *names))
    for record in records:
        curves = record.curves
        for t, update in enumerate(curves.update):
            for place, seed in enumerate(record.seeds):
                values = [curves.values[n][t][place] if n in curves.values else None for n in names]
                known = (curves.examples[t], curves.seconds[t])
                row = (record.name, seed, update, *known, *values)
                writer.writerow("" if value is None else value for value in row)
    write_text(path, text.getvalue())
