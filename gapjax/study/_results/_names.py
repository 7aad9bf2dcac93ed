"""One rule for turning a name into a file, and into a figure's text."""

import hashlib
import urllib.parse

_LONGEST = 100  # letters; file systems take 255 bytes, and suffixes come behind


def file_name(name: str) -> str:
    """A name as that of a file: the same for the same name, another for another.

    Letters, digits and ``+-_=`` stay; every other sign becomes ``%`` and its code, so that no name
    leaves its folder, hides, or meets the suffix of another. Long names are cut, with a hash.

    Example:
        >>> file_name("LB+LR+GBN"), file_name("my regime"), file_name("../x")
        ('LB+LR+GBN', 'my%20regime', '%2E%2E%2Fx')
    """
    quoted = urllib.parse.quote(name, safe="+=").replace(".", "%2E").replace("~", "%7E")
    if len(quoted) <= _LONGEST:
        return quoted
    return f"{quoted[: _LONGEST - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def figure_text(name: str) -> str:
    """A name as matplotlib shows it: dollar signs are no mathematics there."""
    return name.replace("$", r"\$")
