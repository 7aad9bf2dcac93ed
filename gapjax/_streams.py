"""Standard streams that may be closed, full, or unable to write more than ASCII."""

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import Any

# What stands for a sign where a stream cannot write it.
_PLAIN = {
    "±": "+-",
    "×": "x",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "‖": "||",
    "·": "*",
    "√": "sqrt",
    "α": "alpha",
    "β": "beta",
    "ε": "epsilon",
    "κ": "kappa",
    "λ": "lambda",
    "ρ": "rho",
    "φ": "phi",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "²": "^2",
    "†": "+",
    "‡": "++",
    **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
}


def prepare() -> None:
    """Make the streams of this process such that writing to them does no harm.

    Signs that they cannot write become plainer ones. Descriptors that are closed are taken, so that
    no file is opened in their place, into which libraries would write their messages. What cannot
    be said on standard error is not said.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    codecs.register_error("plainer", _plainer)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="plainer")
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Lossy(2, "w", closefd=False)),
        encoding=encoding,
        errors="plainer",
        line_buffering=True,
        write_through=True,
    )


def give_up(stream: Any) -> None:
    """Let what is still to be written to a stream go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def cannot_write(error: OSError) -> bool:
    """Whether an error is one of writing to a stream, which names no file."""
    return error.filename is None and error.errno in (
        errno.ENOSPC,
        errno.EIO,
        errno.EBADF,
        errno.EFBIG,
        errno.EDQUOT,
    )


class _Lossy(io.FileIO):
    """Writing never fails."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(memoryview(data).cast("B"))


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in text), error.end
