"""The paths of leaves as names, the same for a tree and for what a file or a user tells of it."""

from collections.abc import Iterable
from typing import Any

Path = tuple[str, ...]


def path_names(path: Iterable[Any]) -> Path:
    """The keys, attributes and numbers along the path of a leaf."""
    kinds = ("key", "name", "idx")
    return tuple(
        str(next((getattr(entry, kind) for kind in kinds if hasattr(entry, kind)), entry))
        for entry in path
    )
