"""The paths of leaves as names, the same for a tree and for what a file or a user tells of it."""

from collections.abc import Iterable
from typing import Any

import jax

Path = tuple[str, ...]


def names_along(path: Iterable[Any]) -> Path:
    """The keys, attributes and numbers along the path of a leaf."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf by its path, as ``params/w``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(names_along(path)): leaf for path, leaf in leaves}
