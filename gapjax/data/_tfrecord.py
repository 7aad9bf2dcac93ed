"""Random access to a tfrecord file, TFDS's default format, without TensorFlow.

A file is one record after the other, each

======  ==========================================
bytes   what
======  ==========================================
8       the length n, little-endian
4       the masked CRC-32C of these eight bytes
n       the record, a serialized ``tf.train.Example``
4       its masked CRC-32C
======  ==========================================

with ``mask(crc) = (crc >> 15 | crc << 17) + 0xa282ead8`` modulo :math:`2^{32}`. There is no table
of contents: where each record starts is found once, by going from length to length, and kept.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from gapjax import _outside
from gapjax.data._crc32c import crc32c
from gapjax.data._kept import kept_arrays

_HEAD, _FOOT = 12, 4
_MASK = np.uint32(0xA282EAD8)
_PART = 1 << 22  # bytes that are read at a time
_NEAR = 1 << 14  # bytes that are rather read than skipped


class TFRecordFile:
    """A tfrecord file.

    Args:
        path: the file.
        count: how many records it must hold.
        kept: a folder in which the places of its records are kept.
    """

    def __init__(self, path: str, count: int, kept: pathlib.Path):
        self._path, self._count, self._kept = path, count, kept
        self._places: np.ndarray | None = None

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """The records of these numbers.

        Raises:
            ValueError: a checksum differs, or the file ends early.
        """
        if self._places is None:
            self._places = self._found()
        starts, stops = self._places[numbers], self._places[1:][numbers]
        with _outside.open_regular(self._path) as stream:
            whole = _spans(stream.fileno(), starts, stops)
        heads = np.frombuffer(b"".join(one[:_HEAD].ljust(_HEAD, b"\0") for one in whole), np.uint8)
        heads = heads.reshape(-1, _HEAD)
        lengths = _check_heads(heads)
        for number, one, length in zip(numbers, whole, lengths.tolist(), strict=True):
            if len(one) != length + _HEAD + _FOOT:
                raise ValueError(f"record {number} is not where it was")
        records = [one[_HEAD:-_FOOT] for one in whole]
        told = np.frombuffer(b"".join(one[-_FOOT:] for one in whole), "<u4")
        wrong = np.flatnonzero(_masked(records) != told)
        if len(wrong):
            raise ValueError(f"the checksum of record {numbers[wrong[0]]} differs")
        return records

    def _found(self) -> np.ndarray:
        """Where each record starts, and where the last one ends."""
        about = os.stat(self._path)
        path = pathlib.Path(self._path).absolute()
        version = "-".join(path.parts[-4:-1])  # name, configuration, version
        kept = self._kept / f"{version}-{path.name}.npz"
        key = f"{path} {about.st_size} {about.st_mtime_ns}"
        kinds = {"places": ((self._count + 1,), np.dtype(np.int64))}
        return kept_arrays(kept, key, kinds, self._walk)["places"]

    def _walk(self) -> dict[str, np.ndarray]:
        """Go from length to length, through the whole file."""
        places, heads, at = [0], bytearray(), 0
        with _outside.open_regular(self._path) as stream:
            size = os.fstat(stream.fileno()).st_size
            first = stream.read(_HEAD)
            for name, magic in (("GZIP", b"\x1f\x8b"), ("ZLIB", b"\x78")):
                if first.startswith(magic) and not _is_head(first):
                    raise ValueError(f"it is compressed with {name}, and only plain files are read")
            part, begin = b"", 0
            while at < size:
                if at + _HEAD > begin + len(part):  # the next part, from this record on
                    stream.seek(at)
                    part, begin = stream.read(_PART), at
                head = part[at - begin : at - begin + _HEAD]
                length = int.from_bytes(head[:8], "little")
                if len(head) < _HEAD or length > size - at - _HEAD - _FOOT:
                    raise ValueError(f"record {len(places) - 1} goes beyond its end")
                heads += head
                at += _HEAD + length + _FOOT
                places.append(at)
                if len(places) > self._count + 1:
                    break
        _check_heads(np.frombuffer(heads, np.uint8).reshape(-1, _HEAD))
        if len(places) != self._count + 1:
            more = "more" if len(places) > self._count + 1 else len(places) - 1
            raise ValueError(f"it holds {more} records, dataset_info.json says {self._count}")
        return {"places": np.array(places, np.int64)}


def _spans(file: int, starts: np.ndarray, stops: np.ndarray) -> list[bytes]:
    """The bytes between places of a file, with one call for those that lie near each other."""
    order = np.argsort(starts, kind="stable")
    first, last = starts[order], stops[order]
    # a new call where the gap is wide, or where much has been asked for already
    apart = (first[1:] - last[:-1] > _NEAR) | (first[1:] // _PART != first[:-1] // _PART)
    found: list[bytes] = [b""] * len(order)
    for group in np.split(np.arange(len(order)), np.flatnonzero(apart) + 1):
        begin = int(first[group[0]])
        part = os.pread(file, int(last[group].max()) - begin, begin)
        for number in group.tolist():
            found[order[number]] = part[int(first[number]) - begin : int(last[number]) - begin]
    return found


def _masked(messages: Sequence[bytes]) -> np.ndarray:
    crc = crc32c(messages)
    return (crc >> np.uint32(15) | crc << np.uint32(17)) + _MASK


def _check_heads(heads: np.ndarray) -> np.ndarray:
    """The lengths that heads ``[N, 12]`` tell, whose checksums are looked at."""
    told = np.ascontiguousarray(heads[:, 8:]).view("<u4")[:, 0]
    wrong = np.flatnonzero(_masked([head.tobytes() for head in heads[:, :8]]) != told)
    if len(wrong):
        raise ValueError(f"the checksum of the length of record {wrong[0]} differs")
    return np.ascontiguousarray(heads[:, :8]).view("<u8")[:, 0]


def _is_head(head: bytes) -> bool:
    try:
        _check_heads(np.frombuffer(head.ljust(_HEAD, b"\0"), np.uint8)[None])
    except ValueError:
        return False
    return True
