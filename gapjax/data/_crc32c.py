r"""CRC-32C of many records at once, in NumPy.

A CRC is linear over GF(2): that of a message is the exclusive or of what each byte would give
alone, which depends on its value and on how many bytes follow it, so a table gives it. Messages are
cut into segments, all segments of all messages are looked up together, and the CRC of a segment is
carried over the :math:`d` segments behind it by tables for the powers of two in :math:`d`.
"""

import functools
from collections.abc import Sequence

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed
_LONGEST = 256  # bytes of a segment
_AT_ONCE = 1 << 16  # bytes that are looked up at once: what is needed stays in the cache
_ONES = np.uint32(0xFFFFFFFF)


def crc32c(messages: Sequence[bytes | memoryview]) -> np.ndarray:
    """The CRC-32C of each message, ``uint32``.

    References:
        Castagnoli, Braeuer, Herrmann, Optimization of Cyclic Redundancy-Check Codes with 24 and 32
        Parity Bits, IEEE Transactions on Communications 41, 1993; RFC 3720, appendix B.4.
    """
    lengths = np.array([len(message) for message in messages], np.int64)
    eighth = int(lengths.max(initial=8)) // 8
    segment = min(_LONGEST, 1 << max(3, eighth.bit_length()))
    segments = -(-lengths // segment)
    # Zeros in front change nothing once the register starts from zero; that it starts from ones is
    # the same as ones added to it, carried over the whole message.
    pieces: list[bytes | memoryview] = []
    for message in messages:
        pieces += (bytes(-len(message) % segment), message)
    rows = np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, segment)
    last = np.cumsum(segments)
    behind = np.repeat(last, segments) - 1 - np.arange(len(rows))
    carried = _carry(_of_segments(rows), behind * segment)
    sums = np.concatenate([[np.uint32(0)], np.bitwise_xor.accumulate(carried)])
    each = sums[last] ^ sums[last - segments]
    return each ^ _carry(np.full(len(lengths), _ONES), lengths) ^ _ONES


def _of_segments(rows: np.ndarray) -> np.ndarray:
    """The register after each segment, from zero."""
    segment, at_once = rows.shape[1], _AT_ONCE // rows.shape[1]
    table, base = _table()[-segment:].reshape(-1), np.arange(segment) * 256
    out = np.empty(len(rows), np.uint32)
    # Memory that is used again: fresh pages would cost more than what is done with them.
    shape = (min(at_once, len(rows)), segment)
    places, looked = np.empty(shape, np.intp), np.empty(shape, np.uint32)
    for first in range(0, len(rows), at_once):
        part = rows[first : first + at_once]
        count = len(part)
        np.add(part, base, out=places[:count])
        table.take(places[:count], out=looked[:count], mode="clip")
        np.bitwise_xor.reduce(looked[:count], axis=1, out=out[first : first + count])
    return out


def _carry(register: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """Registers after so many bytes of zeros each."""
    register = register.copy()
    for power in range(int(zeros.max(initial=0)).bit_length()):
        wanted = (zeros >> power & 1).astype(bool)
        register[wanted] = _apply(_powers(power), register[wanted])
    return register


def _apply(tables: np.ndarray, register: np.ndarray) -> np.ndarray:
    """A linear map of registers, byte by byte."""
    parts = np.ascontiguousarray(register, "<u4").view(np.uint8).reshape(-1, 4)
    out = tables[0][parts[:, 0]]
    for byte in range(1, 4):
        out ^= tables[byte][parts[:, byte]]
    return out


@functools.cache
def _bytewise() -> np.ndarray:
    """The register after one byte, from zero, ``[256]``."""
    register: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = (register >> 1) ^ (register & 1) * np.uint32(_POLYNOMIAL)
    return register


@functools.cache
def _table() -> np.ndarray:
    """What each byte of a segment gives, by its place and its value, ``[_LONGEST, 256]``."""
    one, rows = _bytewise(), [_bytewise()]
    for _ in range(_LONGEST - 1):
        rows.append(one[rows[-1] & 0xFF] ^ (rows[-1] >> 8))
    return np.stack(rows[::-1])


@functools.cache
def _powers(power: int) -> np.ndarray:
    """Tables for ``2 ** power`` bytes of zeros, ``[4, 256]``: byte of the register, its value."""
    values = np.arange(256, dtype=np.uint32)
    if power == 0:
        one = _bytewise()
        registers = [values << np.uint32(8 * byte) for byte in range(4)]
        return np.stack([one[r & 0xFF] ^ (r >> 8) for r in registers])
    half = _powers(power - 1)
    return np.stack([_apply(half, half[byte]) for byte in range(4)])
