"""Numbers for people, so that they read the same everywhere."""

import math
import re


def readable_bytes(count: float) -> str:
    """Bytes for people, in powers of 1024.

    Example:
        >>> readable_bytes(340), readable_bytes(726_700), readable_bytes(3 * 2**30)
        ('340 B', '709.7 KiB', '3.0 GiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(len(units) - 1, max(0, int(math.log(max(count, 1), 1024))))
    return f"{count / 1024**power:.{1 if power else 0}f} {units[power]}"


def readable_duration(seconds: float) -> str:
    """A time for people, in minutes, or in hours where there are any.

    Example:
        >>> readable_duration(61.4), readable_duration(7200)
        ('1:01', '2:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def one_line(text: str) -> str:
    r"""A text in one line that a terminal shows as it is: no controls, very long words cut.

    Example:
        >>> one_line("no\n  such \x1b[31mfile")
        'no such \\x1b[31mfile'
    """
    words = " ".join(text.split())
    shown = "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in words
    )
    return re.sub(r"\S{400,}", lambda long: f"{long[0][:240]}...{long[0][-60:]}", shown)
