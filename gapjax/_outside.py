"""Opening what comes from outside: regular files only, parsed and never executed, within bounds.

What a file says about sizes is believed only as far as its own length. A file is read into memory
up to ``MEMORY`` bytes; unpacking is done as it is read, so nothing grows beyond what is asked for.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from gapjax._text import readable_bytes

MEMORY = 640 * 2**20  # bytes of one file that are held at once
JSON = 16 * 2**20  # of one that is parsed: its objects take many times its length
_DICTIONARY = 256 * 2**20  # memory that unpacking xz may take; `xz -9` takes 65 MiB
_PART = 1 << 20

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for reading; links are followed.

    Raises:
        ValueError: it is a folder, a FIFO, a socket or a device, which may never end or never
            answer. They are not even opened.
        OSError: it cannot be opened.
    """
    _check_regular(path, os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    stream = os.fdopen(descriptor, "rb")
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)  # it may have been put in its place
    except ValueError:
        stream.close()
        raise
    return stream


def _check_regular(path: Any, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise ValueError(f"{os.fsdecode(path)} is {kind}, not a regular file.")


def read_file(path: str | os.PathLike[str], *, limit: int = MEMORY) -> bytes:
    """The content of a regular file of at most so many bytes."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise ValueError(
                f"{os.fsdecode(path)} holds {readable_bytes(size)}; at most {readable_bytes(limit)}"
                " are read of such a file."
            )
        return stream.read(size)


def read_json(path: str | os.PathLike[str], *, limit: int = JSON) -> Any:
    """What a JSON file holds; NaN and infinities, which JSON has not, are refused.

    Raises:
        ValueError: it is no regular file, too long, nested too deep, or no JSON.
        OSError: it cannot be read.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    content = read_file(path, limit=limit)
    try:
        return json.loads(content, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError(f"{os.fsdecode(path)} is nested too deep.") from error
    except ValueError as error:
        raise ValueError(f"{os.fsdecode(path)} is no JSON: {error}.") from error


@contextlib.contextmanager
def open_unpacked(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A regular file, unpacked as it is read if it is gzip, bzip2 or xz; to be read forwards.

    Errors of the compression come out as ``EOFError`` or ``ValueError`` that do not name the file.
    """
    with open_regular(path) as raw:
        head = raw.read(6)
        raw.seek(0)
        stream: Any = raw
        if head[:2] == b"\x1f\x8b":
            stream = gzip.GzipFile(fileobj=raw)
        elif head[:3] == b"BZh":
            stream = bz2.BZ2File(raw)
        elif head == b"\xfd7zXZ\0":
            stream = io.BufferedReader(_Xz(raw), _PART)
        try:
            yield stream
        except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise ValueError(str(error)) from error
        except OSError as error:
            if error.errno is not None:  # the disk, not the file
                raise
            raise ValueError(str(error)) from error


def read_at_most(stream: BinaryIO, count: int) -> bytearray:
    """The next bytes of a stream: as many as there are, up to `count`, which costs nothing."""
    content = bytearray()
    while len(content) < count and (part := stream.read(min(_PART, count - len(content)))):
        content += part
    return content


class _Xz(io.RawIOBase):
    """The bytes of an xz file, whose unpacking takes no more than the stated memory."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._rest, self._unpacker = raw, b"", self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._unpacker.eof:  # another stream may follow, or padding
                self._rest = (self._unpacker.unused_data or self._raw.read(_PART)).lstrip(b"\0")
                if not self._rest:
                    return 0
                self._unpacker = self._new()
            part, self._rest = self._rest, b""
            if not part and self._unpacker.needs_input and not (part := self._raw.read(_PART)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            unpacked = self._unpacker.decompress(part, len(buffer))
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)
