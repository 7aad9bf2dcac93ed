"""One tree in one folder, by orbax, with the checksums of its files."""

import glob
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._seal import check_files, seal_files
from gapjax.training._checkpoints._said import Quiet, reason
from gapjax.training._names import named_leaves

# The more general first: numbers of one may be loaded as those of one before it.
_KINDS = (jnp.complexfloating, jnp.floating, jnp.integer, jnp.bool_)


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Save a pytree of arrays as an orbax checkpoint, whole or not at all.

    This process does it alone; of many, only one should, with arrays that it holds whole. One that
    is there is replaced when the new one is whole.

    Args:
        path: the folder of the checkpoint.
        tree: the arrays.

    Raises:
        OSError: it could not be written; nothing of it is left, and an older one stays.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tree(f"{folder}/w", {"w": np.arange(3)})
        ...     load_tree(f"{folder}/w")["w"].tolist()
        [0, 1, 2]
    """
    path = pathlib.Path(path).absolute()
    beside, old = _beside(path, "unfinished"), _beside(path, "replaced")
    _remove(beside)
    try:
        with Quiet(), _checkpointer() as checkpointer:
            checkpointer.save(beside, tree)
        seal_files(beside)
    except Exception as error:  # storage fails with many types
        _remove(beside)
        raise OSError(f"{path} could not be written: {reason(error)}.") from error
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    beside.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load_tree(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Load what ``save_tree`` saved.

    Args:
        path: the folder of the checkpoint.
        like: a tree of arrays or ``jax.ShapeDtypeStruct`` that says structure, types and
            shardings; without it, dictionaries of NumPy arrays, whatever devices they lay on.

    Returns:
        The tree.

    Raises:
        ValueError: there is no checkpoint, or a file of it is not what was saved; which. Or
            ``like`` has other leaves, shapes, or whole numbers where there are none.
    """
    path = pathlib.Path(path).absolute()
    if not path.exists():
        path = _beside(path, "replaced") if _beside(path, "replaced").exists() else path
    if not path.exists():
        raise ValueError(f"there is no checkpoint at {path}.")
    check_files(path)
    with _checkpointer() as checkpointer:
        saved = checkpointer.metadata(path).item_metadata.tree
        if like is None:
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
        _check_like(saved, like)
        return checkpointer.restore(path, like)


def _check_like(saved: Any, like: Any) -> None:
    """Refuse to load what was not saved: orbax cuts arrays and numbers to what is asked for."""
    there, wanted = named_leaves(saved), named_leaves(like)
    for name in [*there, *wanted]:
        if name not in wanted or name not in there:
            only = "the checkpoint" if name in there else "like"
            raise ValueError(f"{only} alone has a leaf at {name!r}; like must have those saved.")
        old, new = there[name], wanted[name]
        if tuple(old.shape) != np.shape(new):
            raise ValueError(
                f"like has shape {np.shape(new)} at {name!r}, and {tuple(old.shape)} was saved."
            )
        types = jnp.dtype(old.dtype), jax.dtypes.result_type(new)
        kinds = [next(k for k in _KINDS if jnp.issubdtype(t, k)) for t in types]
        if _KINDS.index(kinds[0]) < _KINDS.index(kinds[1]):
            raise ValueError(f"like has {types[1]} at {name!r}, and {types[0]} was saved.")


def _beside(path: pathlib.Path, ending: str) -> pathlib.Path:
    return path.with_name(f"{path.name}.{ending}")


def _remove(beside: pathlib.Path) -> None:
    """Remove what was begun: orbax writes to a folder beside the one that it is given."""
    for path in beside.parent.glob(f"{glob.escape(beside.name)}*"):
        shutil.rmtree(path, ignore_errors=True)


def _checkpointer() -> Any:
    """Orbax's checkpointer, which waits for no other process."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    if jax.process_count() == 1:
        options = ocp.options.MultiprocessingOptions()
    return ocp.StandardCheckpointer(multiprocessing_options=options)
