"""One rule for turning what a user gives into a path of this machine."""

import os
import pathlib
import re
from typing import Any


def local_path(name: str, value: Any) -> pathlib.Path:
    """A path of this machine, with ``~`` and ``~user`` looked up.

    Args:
        name: of the argument, for what is said.
        value: the path.

    Raises:
        ValueError: it is no path, empty, an address (``gs://...``), not UTF-8, or its home folder
            is unknown.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a path, not {value!r}.")
    if not text.strip():
        raise ValueError(f"{name} is empty; give a folder, or '.' for the one you are in.")
    if "\0" in text:
        raise ValueError(f"{name}={text!r} holds a zero byte, which no path has.")
    # A Path has made one slash of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError(
            f"{name}={text!r} is an address, and only folders of this machine are read and "
            "written: copy or mount what lies there, and give its path."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}={text!r} is not UTF-8, which the libraries that write there need; rename it, "
            "or link to it."
        ) from error
    if not text.startswith("~"):
        return pathlib.Path(text)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = re.split(r"[/\\]", text)[0]
        raise ValueError(
            f"{name}={text!r}: the home folder that {user} stands for is not known here; give the "
            "whole path."
        )
    return pathlib.Path(expanded)
