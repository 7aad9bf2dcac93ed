"""Unpacking archives: plain files only, inside the folder, no more than there is room for."""

import os
import pathlib
import posixpath
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, NamedTuple

from gapjax import _outside
from gapjax._text import readable_bytes

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")

_ROOM = 64 * 2**20  # bytes that any archive may unpack to,
_RATIO = 100  # and this many times its own length beyond them
_FILES = 2_000_000
MOST = 8  # archives in one place
_HEADER = 1 << 20  # bytes of one header of a tar file
_DIRECTORY = 64 << 20  # and of the directory of a zip file
_PART = 1 << 18
_HOPS = 40  # from link to link, as Linux allows
_TARGET = 4096  # bytes of the name that a link leads to
_LINKS = 256 << 20  # bytes of memory for all links of an archive,
_OBJECTS = 256  # and for one beside its names


def is_archive(path: pathlib.Path) -> bool:
    """Whether a file goes by the name of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file is none of the data: what notebooks, Macs and Windows leave in folders."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def files_in(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files in a folder and in those within it, linked ones too, in order; no hidden ones.

    Raises:
        OSError: a folder cannot be read, with its name.
    """
    above = folder.resolve().parents
    seen = {_identity(place) for place in above}  # a link may lead back
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        if (here := _identity(place)) in seen:
            folders[:] = []
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if not is_hidden(name):
                yield pathlib.Path(place, name)


def _raise(error: OSError) -> None:
    raise error


def _identity(folder: str | pathlib.Path) -> tuple[int, int]:
    """What a folder is, by whatever name."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


class Room:
    """How many bytes an import may still unpack; archives within an archive share its room."""

    def __init__(self, archive: pathlib.Path):
        self.size = self.left = _ROOM + _RATIO * archive.stat().st_size

    def take(self, count: int) -> None:
        """Count bytes that are unpacked, or say that they are too many."""
        self.left -= count
        if self.left < 0:
            raise ValueError(
                f"it unpacks to more than {readable_bytes(self.size)}, as no data set does; if it "
                "is meant, unpack it and give the folder"
            )


def unpack(archive: pathlib.Path, folder: pathlib.Path, room: Room) -> list[str]:
    """Write the files of an archive into a folder; hidden ones and devices are left out.

    A link to a file of the archive becomes a copy of it, which takes room as any file does.

    Returns:
        The names of the links that lead to no file of the archive; they are left out.

    Raises:
        ValueError: it is damaged, no archive, or more than there is room for.
        OSError: the disk's, with its number.
    """
    try:
        with _outside.open_regular(archive) as raw:
            zipped = raw.read(2) == b"PK"
        with _outside.open_unpacked(archive) as stream:
            files = nested = 0
            links = _Links()
            for name, member in _zip_members(stream) if zipped else _tar_members(stream, room):
                files, nested = files + 1, nested + name.lower().endswith(SUFFIXES)
                if files > _FILES or nested > MOST:
                    raise ValueError(
                        f"it holds more than {_FILES} files"
                        if files > _FILES
                        else f"it holds more than {MOST} archives"
                    )
                parts = _parts(name)
                if not parts:
                    continue
                if isinstance(member, _Link):
                    links.add("/".join(parts), member)
                else:
                    _write(folder.joinpath(*parts), member, room if zipped else None)
            return links.copy(folder, room)
    except OSError as error:
        if error.errno is not None:  # the disk, not the archive
            raise
        raise damaged(archive, error) from error
    except (
        ValueError,
        EOFError,
        RuntimeError,  # an archive with a password
        NotImplementedError,
        KeyError,
        OverflowError,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as error:
        raise damaged(archive, error) from error


def damaged(file: pathlib.Path, why: object) -> ValueError:
    """What is said of a file that cannot be read as what it should be."""
    lines = str(why).splitlines() or [type(why).__name__]
    return ValueError(f"{file} is truncated or damaged ({lines[0][:200]}); nothing was imported.")


def _parts(name: str) -> list[str]:
    """The steps of a member's name; none of a folder or of what is hidden."""
    spelled = name.replace("\\", "/")  # as some programs of Windows write it
    parts = [part for part in spelled.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"it holds the name {name!r}, which leads out of the folder")
    return [] if spelled.endswith("/") or any(map(is_hidden, parts)) else parts


class _Link(NamedTuple):
    """A link among the members: the name it leads to, seen from the archive or from its place."""

    name: str
    is_symbolic: bool

    def target(self, place: str) -> str | None:
        """The name in the archive that it leads to from its own, if it is one."""
        around = posixpath.dirname(place) if self.is_symbolic else ""
        told = self.name if self.is_symbolic else self.name.lstrip("/")
        name = posixpath.normpath(posixpath.join(around, told))
        out = name in (".", "..") or name.startswith(("/", "../")) or "\0" in name
        return None if out else name


class _Links:
    """The links of an archive by name, kept until all files are there, within bounds."""

    def __init__(self) -> None:
        self._targets: dict[str, str | None] = {}
        self._held = 0

    def add(self, place: str, link: _Link) -> None:
        """Keep a link."""
        self._held += _OBJECTS + len(place) + len(link.name)
        if self._held > _LINKS:
            raise ValueError("it holds more links than any data set")
        self._targets[place] = link.target(place)

    def copy(self, folder: pathlib.Path, room: Room) -> list[str]:
        """Copy the files that links lead to into their places; the names of links to none."""
        left = []
        for place, target in self._targets.items():
            for _ in range(_HOPS):
                if target is None or target not in self._targets:
                    break
                target = self._targets[target]
            path = folder / place
            # what is unpacked holds no links, so a file by that name lies in the folder
            if target is None or not (file := folder / target).is_file() or path.exists():
                left.append(place)
                continue
            room.take(file.stat().st_size)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
        return left


def unreadable(error: OSError, place: pathlib.Path) -> ValueError:
    """What is said of a file or folder that the disk does not give."""
    name = error.filename or place
    why = "it is a link to nothing" if os.path.islink(name) and not os.path.exists(name) else None
    return ValueError(
        f"{name} cannot be read ({why or error.strerror or error}): mend that, or take it away."
    )


def _write(path: pathlib.Path, member: IO[bytes], room: Room | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        while part := member.read(_PART):
            if room is not None:
                room.take(len(part))
            out.write(part)


def _tar_members(stream: BinaryIO, room: Room) -> Iterator[tuple[str, IO[bytes] | _Link]]:
    forward: Any = _Forward(stream, room)
    tar: Any
    with tarfile.open(fileobj=forward, mode="r:", tarinfo=_Header) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # it would keep them all
            if member.issparse():
                raise ValueError(f"{member.name} is a sparse file")
            if member.isreg() and (content := tar.extractfile(member)) is not None:
                yield member.name, content
            elif member.issym() or member.islnk():
                yield member.name, _Link(member.linkname, member.issym())
        # the check of the compressed stream comes at its end, behind that of the archive
        while forward.read(_PART):
            pass


class _Header(tarfile.TarInfo):
    """A header that says when it is cut or damaged; a tar file would seem to end there."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # of zeros: the end mark
            raise
        except tarfile.HeaderError as error:
            raise EOFError(f"a header is no header: {error}") from error


def _zip_members(stream: BinaryIO) -> Iterator[tuple[str, IO[bytes] | _Link]]:
    with zipfile.ZipFile(_Capped(stream)) as zipped:
        for member in zipped.infolist():
            kind = member.external_attr >> 28  # of a file written on Unix; 0 elsewhere
            if not member.is_dir() and kind in (0, 8, 10):
                with zipped.open(member) as content:
                    if kind == 10:  # a symbolic link, whose content is the name it leads to
                        yield member.filename, _Link(os.fsdecode(content.read(_TARGET)), True)
                    else:
                        yield member.filename, content


class _Forward:
    """A stream that is read forwards, in small parts, within the room."""

    def __init__(self, stream: BinaryIO, room: Room):
        self._stream, self._room, self._at = stream, room, 0

    def tell(self) -> int:
        return self._at

    def read(self, count: int) -> bytes:
        if count > _HEADER:
            raise ValueError(f"it holds a header of {count} bytes")
        content = bytes(_outside.read_at_most(self._stream, count))
        self._at += len(content)
        self._room.take(len(content))
        return content

    def seek(self, place: int) -> int:
        while self._at < place and self.read(min(_PART, place - self._at)):
            pass
        if self._at != place:
            raise EOFError("it ends early")
        return place


class _Capped:
    """A file whose directory of members is not read where it is larger than any."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.length = os.fstat(stream.fileno()).st_size

    def read(self, count: int = -1) -> bytes:
        if (self.length - self.tell() if count < 0 else min(count, self.length)) > _DIRECTORY:
            raise ValueError("its directory is larger than 64 MiB")
        return self._stream.read(count)

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing: the file is its opener's."""
