"""Files of text: what belongs to which split, and reading it, unpacked where it is compressed."""

import hashlib
import os
import pathlib
import re
import tempfile
from collections.abc import Collection, Mapping
from typing import NamedTuple

from gapjax import _outside
from gapjax._text import readable_bytes
from gapjax.data import _archives, _local
from gapjax.data._folders import SPLITS
from gapjax.data._workplace import leaving_on_sigterm

SHARE = 10  # one text in so many is for testing
# How files begin that no text begins like, and that are not unpacked where they lie among texts.
_PACKED = {
    b"PK\x03\x04": "a zip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
}


class Text(NamedTuple):
    """A text, and the name of its file for what is said."""

    file: pathlib.Path
    content: bytes


def read_texts(place: pathlib.Path) -> tuple[dict[str, list[Text]], list[str]]:
    """The texts of each split, and what is to be said of what was left out.

    Raises:
        ValueError: there is none, too much of it, or a file that cannot be read; it is named.
    """
    if not place.exists():
        raise ValueError(f"There is nothing at {place}: give a text file, or a folder of them.")
    try:
        if place.is_dir():
            return _texts_in(place, place)
        if not _archives.is_archive(place):
            return _cut(_Reader().read(place, place)), []
        with leaving_on_sigterm(), tempfile.TemporaryDirectory(prefix="gapjax-text-") as scratch:
            return _unpacked(place, pathlib.Path(scratch))
    except OSError as error:
        raise _archives.unreadable(error, place) from error


def _unpacked(
    archive: pathlib.Path, folder: pathlib.Path
) -> tuple[dict[str, list[Text]], list[str]]:
    """The texts of an archive, which is unpacked into a folder."""
    links = _archives.unpack(archive, folder, _archives.Room(archive))
    inner = _local.visible(folder)
    while len(inner) == 1 and inner[0].is_dir():  # all of it lies in one folder
        folder = inner[0]
        inner = _local.visible(folder)
    said: list[str] = []
    if len(inner) == 1:
        texts = _cut(_Reader().read(inner[0], archive / inner[0].name))
    else:
        texts, said = _texts_in(folder, archive)
    return texts, [*said, *_local.say_links(archive, links)]


def _cut(text: Text) -> dict[str, list[Text]]:
    """One text as two, of which the last tenth is for testing."""
    content = text.content
    cut = len(content) - len(content) // SHARE
    while cut < len(content) and content[cut] & 0xC0 == 0x80:  # not inside a character of UTF-8
        cut += 1
    return {
        "train": [text._replace(content=content[:cut])],
        "test": [text._replace(content=content[cut:])],
    }


_Names = Mapping[pathlib.Path, pathlib.Path]  # where a file lies, seen from the folder
_Chosen = dict[str, list[pathlib.Path]]


def _texts_in(folder: pathlib.Path, place: pathlib.Path) -> tuple[dict[str, list[Text]], list[str]]:
    """The texts of a folder, which is called `place` in what is said."""
    names = {file: file.relative_to(folder) for file in sorted(_archives.files_in(folder))}
    chosen = _split_by_folders(folder, names) or _split_by_names(names) or _split_by_hash(names)
    if not all(chosen.values()):
        raise ValueError(
            f"{place} holds {len(names)} files; it needs at least one to train on and one to test "
            "on. To cut one file in two, give it itself."
        )
    taken = {file for part in chosen.values() for file in part}
    left_out = [place / name for file, name in names.items() if file not in taken]
    reader = _Reader()
    if sum(file.stat().st_size for file in taken) > reader.left:
        raise _too_much(place)
    texts = {
        split: [reader.read(file, place / names[file]) for file in part]
        for split, part in chosen.items()
    }
    return texts, _local.said_left_out(left_out, "texts")


def _split_by_folders(folder: pathlib.Path, names: _Names) -> _Chosen | None:
    """Files by the folder that they lie in, if there are ones called train and test."""
    folders = [path.name for path in folder.iterdir() if path.is_dir()]
    splits = {name: SPLITS.get(name.lower()) for name in folders}
    told = {file: splits.get(name.parts[0]) for file, name in names.items()}
    return _chosen(told, splits.values())


def _split_by_names(names: _Names) -> _Chosen | None:
    """Files by what their own names say, such as ``wiki.train.raw`` and ``wiki.test.raw``."""
    told = {file: _told(name.name) for file, name in names.items()}
    return _chosen(told, told.values())


def _told(name: str) -> str | None:
    """The split that a part of a file's name tells; None where none does, or several do."""
    told = {SPLITS[part] for part in re.split(r"[._-]", name.lower()) if part in SPLITS}
    return told.pop() if len(told) == 1 else None


def _chosen(
    told: Mapping[pathlib.Path, str | None], splits: Collection[str | None]
) -> _Chosen | None:
    """The files to train and to test on, if there are both; without test, validation is that."""
    test = "test" if "test" in splits else "validation"
    if "train" not in splits or test not in splits:
        return None
    return {
        "train": [file for file, split in told.items() if split == "train"],
        "test": [file for file, split in told.items() if split == test],
    }


def _split_by_hash(names: _Names) -> _Chosen:
    """One file in ten to test on, by a hash of its name."""
    ranked = sorted(names, key=lambda f: hashlib.sha256(os.fsencode(names[f].as_posix())).digest())
    tested = set(ranked[: max(1, len(names) // SHARE)])
    return {
        "train": [file for file in names if file not in tested],
        "test": [file for file in names if file in tested],
    }


class _Reader:
    """Reads texts, unpacked if they are compressed, as long as they fit in memory together."""

    def __init__(self) -> None:
        self.left = _outside.MEMORY

    def read(self, file: pathlib.Path, name: pathlib.Path) -> Text:
        """A text, which goes by a name in what is said."""
        with _outside.open_regular(file) as raw:
            head = raw.read(8)
        kinds = (kind for start, kind in _PACKED.items() if head.startswith(start))
        kind = "an archive" if _archives.is_archive(name) else next(kinds, None)
        if kind is not None:
            raise ValueError(
                f"{name} is {kind}, no text: give it itself if it is a tar or zip archive, unpack "
                "it, or take it away where what it holds lies beside it."
            )
        try:
            with _outside.open_unpacked(file) as stream:
                content = bytes(_outside.read_at_most(stream, self.left + 1))
        except (ValueError, EOFError) as error:
            raise _archives.damaged(name, error) from error
        self.left -= len(content)
        if self.left < 0:
            raise _too_much(name)
        return Text(name, content)


def _too_much(place: pathlib.Path) -> ValueError:
    return ValueError(
        f"{place} holds more than {readable_bytes(_outside.MEMORY)} of text, or is the last of as "
        "much; import a part of it."
    )
