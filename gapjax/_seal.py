"""Files that know whether they are whole: storage may hand back other bits without an error."""

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

SEAL = "checksums.json"


def seal(about: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its own hash."""
    return {**about, "seal": _digest(about)}


def is_sealed(about: Any) -> bool:
    """Whether a JSON object is what ``seal`` gave."""
    return isinstance(about, dict) and about.get("seal") == _digest(
        {name: value for name, value in about.items() if name != "seal"}
    )


def checksum_of(path: str | os.PathLike[str]) -> str:
    """The hash of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def seal_files(
    folder: str | os.PathLike[str], *, name: str = SEAL, suffixes: Sequence[str] = ()
) -> None:
    """Write down the checksums of all files in a folder, in a file of their own.

    Args:
        folder: with files at any depth.
        name: of the file.
        suffixes: of the files that are meant; all by default.
    """
    folder = pathlib.Path(folder)
    sums = {where: checksum_of(folder / where) for where in _files(folder, name, suffixes)}
    (folder / name).write_text(json.dumps(seal({"files": sums})))


def check_files(
    folder: str | os.PathLike[str], *, name: str = SEAL, suffixes: Sequence[str] = ()
) -> None:
    """Compare the files in a folder with what ``seal_files`` wrote down.

    Args:
        folder: what was sealed.
        name: of the file with the checksums.
        suffixes: as it was sealed.

    Raises:
        ValueError: one is damaged, missing or too many; which.
    """
    folder = pathlib.Path(folder)
    try:
        about = json.loads((folder / name).read_text())
    except (OSError, ValueError, RecursionError):
        about = None
    if not is_sealed(about) or not isinstance(about.get("files"), dict):
        raise ValueError(
            f"{folder / name}: these are no checksums, so nothing here is known to be whole."
        )
    here, sums = _files(folder, name, suffixes), about["files"]
    for where in sorted({*here, *sums}):
        wrong = "is missing" if where not in here else "was not there before"
        if where in here and where in sums:
            if checksum_of(folder / where) == sums[where]:
                continue
            wrong = "checksum differs"
        raise ValueError(f"{folder / where}: {wrong}; it is not what was saved.")


def seal_of(folder: str | os.PathLike[str], *, name: str = SEAL) -> str | None:
    """What tells the files that ``seal_files`` sealed from all others; None where none did."""
    try:
        about = json.loads((pathlib.Path(folder) / name).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return about["seal"] if is_sealed(about) else None


def _files(folder: pathlib.Path, name: str, suffixes: Sequence[str]) -> list[str]:
    """The files in a folder, but the one of the checksums, by their place in it."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    meant = tuple(suffixes) or ("",)
    return sorted(where for where in found if where != name and where.endswith(meant))


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
