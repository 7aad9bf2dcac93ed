"""The folder of a study: files written whole or not at all, and one configuration per folder."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gapjax._seal import is_sealed, seal
from gapjax.study._results._names import file_name
from gapjax.study._results._records import (
    FORMAT,
    Config,
    RegimeRecord,
    dumps,
    from_plain,
    to_plain,
)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all, also through a power cut."""
    write_bytes(path, text.encode("utf-8"))


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


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write JSON, numbers that are not finite as null."""
    write_text(path, dumps(value))


def keep_json(path: pathlib.Path, value: Any) -> None:
    """Write an object for ``read_json``."""
    write_json(path, seal(to_plain(value)))


def read_json(path: pathlib.Path, *keys: str) -> dict[str, Any]:
    """Read what ``keep_json`` wrote, an object that has these keys.

    Raises:
        ValueError: the file is not there, not JSON, lacks a key or is not what was written, said in
            one line.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} is not there: is {path.parent} the folder of a study?") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); delete it to have it made again."
        ) from None
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise ValueError(
            f"{path} is not what a study writes (it has no {missing[0]!r}); delete it to have it "
            "made again."
        )
    if not is_sealed(value):
        raise ValueError(f"{path} is not as it was written; delete it to have it made again.")
    del value["seal"]
    return value


def open_folder(out_dir: str | os.PathLike[str], config: Config) -> pathlib.Path:
    """Make the folder of a study, or go on in the one that is there.

    Args:
        out_dir: the folder.
        config: the study, to which the folder belongs; how it is run is kept, not compared.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds another study's results, or cannot be written.
    """
    folder = pathlib.Path(out_dir).expanduser()
    path = folder / "config.json"
    study = json.loads(dumps(config.study))
    if path.exists():
        there = read_config(folder).study
        differing = [k for k in {**study, **there} if study.get(k) != there.get(k)]
        if differing:
            changes = "; ".join(
                f"{k} is {_short(there.get(k))} there, and {_short(study.get(k))} here"
                for k in differing[:4]
            )
            raise ValueError(
                f"{folder} holds another study, which is left as it is: {changes}"
                f"{f' (and {len(differing) - 4} more fields)' if len(differing) > 4 else ''}. "
                "Give another folder with --out."
            )
    try:
        for part in ("regimes", "checkpoints"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            keep_json(path, {"format": FORMAT, **to_plain(config)})
        elif not os.access(folder / "regimes", os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror}. Give another folder with --out."
        ) from None
    return folder


def read_config(folder: pathlib.Path) -> Config:
    """What the study of a folder is, and how it was run.

    Raises:
        ValueError: no study, or one that another release wrote.
    """
    path = folder / "config.json"
    found = read_json(path, "study")
    if found.get("format") != FORMAT:
        release = "gapjax 0.1" if "format" not in found else "a later gapjax"
        raise ValueError(
            f"{folder} was written by {release}, whose files this release does not read: use that "
            "release, or train it again in another folder."
        )
    return from_plain(found, Config, path)


def regime_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the record of a regime is kept."""
    return folder / "regimes" / f"{file_name(name)}.json"


def keep_regime(
    folder: pathlib.Path, record: RegimeRecord, examples: Mapping[str, np.ndarray]
) -> None:
    """Keep what was found of a regime: its record, and what every test example gave."""
    path = regime_path(folder, record.name)
    data = io.BytesIO()
    np.savez_compressed(data, **examples)  # type: ignore[arg-type]
    write_bytes(path.with_suffix(".npz"), data.getvalue())
    checksum = hashlib.sha256(data.getvalue()).hexdigest()
    # Last: where it is there, all is.
    keep_json(path, dataclasses.replace(record, checksum=checksum))


def read_regime(folder: pathlib.Path, name: str) -> RegimeRecord:
    """The record of a regime that is done."""
    path = regime_path(folder, name)
    return from_plain(read_json(path), RegimeRecord, path)


def read_examples(folder: pathlib.Path, record: RegimeRecord) -> dict[str, np.ndarray]:
    """What every test example gave in a regime: ``[S, n]`` by name, and ``weight`` ``[n]``."""
    path = regime_path(folder, record.name).with_suffix(".npz")
    remedy = f"delete {path.with_suffix('.json').name} beside it to have the regime trained again"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {remedy}.") from None
    if hashlib.sha256(data).hexdigest() != record.checksum:
        raise ValueError(f"{path} is not as it was written (its checksum differs); {remedy}.")
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return dict(found)


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
