"""Checkpoints, by orbax."""

import os
import pathlib
import shutil
from typing import Any


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Save a pytree of arrays as an orbax checkpoint, whole or not at all.

    Args:
        path: the folder of the checkpoint; one that is there is replaced.
        tree: the arrays.
    """
    import orbax.checkpoint as ocp

    path = pathlib.Path(path).absolute()
    if path.exists():
        shutil.rmtree(path)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def load_tree(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Load what ``save_tree`` saved.

    Args:
        path: the folder of the checkpoint.
        like: a tree of arrays or ``jax.ShapeDtypeStruct`` that says structure, types and
            shardings; without it, dictionaries of NumPy-like arrays as they were saved.

    Raises:
        ValueError: there is no checkpoint.
    """
    import orbax.checkpoint as ocp

    path = pathlib.Path(path).absolute()
    if not path.exists():
        raise ValueError(f"there is no checkpoint at {path}.")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, like)
