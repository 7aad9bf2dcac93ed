"""The folder of a study: files written whole or not at all, and one configuration per folder."""

import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gapjax._seal import is_sealed, seal


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all, also through a power cut."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
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
    write_text(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def keep_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Write an object for ``read_json``."""
    write_json(path, seal(_plain(value)))


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def open_folder(
    out_dir: str | os.PathLike[str], study: Mapping[str, Any], run: Any
) -> pathlib.Path:
    """Make the folder of a study, or go on in the one that is there.

    Args:
        out_dir: the folder.
        study: the study's description; a folder belongs to one.
        run: how it is run (command, versions, device): kept, not compared.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds another study's results, or cannot be written.
    """
    folder = pathlib.Path(out_dir).expanduser()
    config = folder / "config.json"
    study = json.loads(json.dumps(_plain(study)))
    if config.exists():
        there = read_json(config, "study")["study"]
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
        if not config.exists():
            keep_json(config, {"study": study, "run": run})
        elif not os.access(folder / "regimes", os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror}. Give another folder with --out."
        ) from None
    return folder


def _short(value: Any) -> str:
    """A value in an error message; of named things, the names."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
        value = [item["name"] for item in value]
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def history_rows(name: str, seeds: Iterable[int], history: Mapping[str, Any]) -> list[list[Any]]:
    """The history of a regime as rows of ``history.csv``."""
    rows: list[list[Any]] = []
    for t, update in enumerate(history["update"]):
        for member, seed in enumerate(seeds):
            values = [history[column][t][member] for column in HISTORY_COLUMNS[3:]]
            rows.append([name, seed, update, *("" if v is None else v for v in values)])
    return rows


HISTORY_COLUMNS = (
    "regime",
    "seed",
    "update",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "distance",
    "gradient_noise",
    "gradient_norm",
)


def write_history(path: pathlib.Path, rows: Iterable[list[Any]]) -> None:
    """Write ``history.csv``: a row per regime, mark and seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HISTORY_COLUMNS)
    writer.writerows(rows)
    write_text(path, text.getvalue())
