"""One tree in one folder, by orbax."""

import os
import pathlib
import shutil
from typing import Any


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Save a pytree of arrays as an orbax checkpoint, whole or not at all.

    This process does it alone; of many, only one should, with arrays that it holds whole.

    Args:
        path: the folder of the checkpoint; one that is there is replaced.
        tree: the arrays.
    """
    path = pathlib.Path(path).absolute()
    if path.exists():
        shutil.rmtree(path)
    with _checkpointer() as checkpointer:
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
    path = pathlib.Path(path).absolute()
    if not path.exists():
        raise ValueError(f"there is no checkpoint at {path}.")
    with _checkpointer() as checkpointer:
        return checkpointer.restore(path, like)


def _checkpointer() -> Any:
    """Orbax's checkpointer, which waits for no other process."""
    import jax
    import orbax.checkpoint as ocp

    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    if jax.process_count() == 1:
        options = ocp.options.MultiprocessingOptions()
    return ocp.StandardCheckpointer(multiprocessing_options=options)
