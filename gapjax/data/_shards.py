"""The records of a split by number, from the files that hold them: array_record or tfrecord."""

import bisect
import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from gapjax import _outside
from gapjax.data._tfrecord import TFRecordFile


class Record(NamedTuple):
    """A record, and where it came from."""

    content: bytes
    file: str
    number: int


class RecordFile(Protocol):
    """A file of records."""

    def read(self, numbers: Sequence[int]) -> Sequence[bytes]:
        """The records of these numbers; any error is one of the file."""


class _Part(NamedTuple):
    """The records of one file that belong to a split."""

    path: str
    file: RecordFile
    skip: int
    take: int


class Shards:
    """Random access to the records of a split.

    Args:
        parts: its files, in order.
    """

    def __init__(self, parts: Sequence[_Part]):
        self._parts = parts
        self._ends = list(itertools.accumulate(part.take for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitems__(self, numbers: Sequence[int]) -> list[Record]:
        """The records of these numbers.

        Raises:
            ValueError: a file is damaged; it is named.
        """
        by_part: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            by_part.setdefault(bisect.bisect_right(self._ends, number), []).append(place)
        found: list[Any] = [None] * len(numbers)
        for which, places in by_part.items():
            part = self._parts[which]
            first = self._ends[which] - part.take - part.skip
            wanted = [numbers[place] - first for place in places]
            try:
                contents = part.file.read(wanted)
                if len(contents) != len(wanted):
                    raise ValueError(f"{len(wanted)} records were asked for, {len(contents)} came")
            except Exception as error:  # readers have errors of their own
                raise damaged(part.path, error) from error
            for place, number, content in zip(places, wanted, contents, strict=True):
                found[place] = Record(content, part.path, number)
        return found


def damaged(path: str, error: Exception) -> ValueError:
    """What is said of a file of records that cannot be read."""
    lines = str(error).splitlines() or [type(error).__name__]
    return ValueError(
        f"{path} is truncated or damaged ({lines[0][:200]}): prepare or import the data set again."
    )


class _ArrayRecordFile:
    """An array_record file, whose reader checks what it reads."""

    def __init__(self, path: str, count: int):
        self._path, self._count = path, count
        self._reader: Any = None

    def read(self, numbers: Sequence[int]) -> Sequence[bytes]:
        if self._reader is None:
            self._reader = self._open()
        return self._reader.read(list(numbers))

    def _open(self) -> Any:
        from array_record.python import array_record_module

        reader = array_record_module.ArrayRecordReader(
            self._path, options="readahead_buffer_size:0", file_reader_buffer_size=32768
        )
        if reader.num_records() != self._count:
            raise ValueError(
                f"it holds {reader.num_records()} records, dataset_info.json says {self._count}"
            )
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_count": self._count, "_reader": None}


def open_shards(builder: Any, split: str, kept: pathlib.Path) -> Shards:
    """The records of a split or a slice.

    Args:
        builder: of TFDS, for what lies prepared.
        split: as TFDS writes splits.
        kept: a folder for the places of records in tfrecord files.

    Raises:
        ValueError: a file is missing, none, or of a format that is not read.
    """
    form = builder.info.file_format.value if builder.info.file_format else "tfrecord"
    if form not in ("array_record", "tfrecord"):
        raise ValueError(
            f"{builder.data_path} holds {form} files; array_record and tfrecord are read. Convert "
            "it with: python -m tensorflow_datasets.scripts.convert_format"
        )
    parts: list[_Part] = []
    files: dict[str, RecordFile] = {}
    for told in builder.info.splits[split].file_instructions:
        path, count = os.fspath(told.filename), int(told.examples_in_shard)
        if path not in files:
            if os.path.dirname(os.path.abspath(path)) != os.path.abspath(builder.data_path):
                raise ValueError(
                    f"{builder.data_path} names a shard that lies elsewhere: {path[:200]!r}."
                )
            try:
                _outside.open_regular(path).close()
            except OSError as error:
                raise ValueError(
                    f"{path} cannot be read ({error.strerror}): prepare or import the data set "
                    "again."
                ) from error
            if form == "tfrecord":
                files[path] = TFRecordFile(path, count, kept)
            else:
                files[path] = _ArrayRecordFile(path, count)
        parts.append(_Part(path, files[path], int(told.skip), int(told.take)))
    return Shards(parts)
