"""Batches of other libraries: whatever a loader yields, as arrays."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from gapjax._arrays import as_array, as_on_device, owned


def as_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """An iterator over a loader; a ``tf.data.Dataset`` gives NumPy arrays."""
    if hasattr(batches, "as_numpy_iterator"):
        return iter(batches.as_numpy_iterator())
    try:
        return iter(batches)
    except TypeError:
        raise ValueError(
            f"batches must be an iterable of batches, not a {type(batches).__name__}: a list of "
            "them, a loader, or growth.GrowingBatches."
        ) from None


def knows_its_place(batches: Any) -> bool:
    """Whether a run that goes on can take it to where it was."""
    return can(batches, "state") and can(batches, "restore")


def can(batches: Any, method: str) -> bool:
    """Whether they have a method, and not only an attribute of its name."""
    return callable(getattr(batches, method, None))


def without_tensors(batch: Any) -> Any:
    """A batch with every leaf an array of its own: tensors of PyTorch and TensorFlow as NumPy's.

    None of these libraries is imported: their tensors know how to become arrays. What lies in
    host memory is copied.

    Raises:
        ValueError: a leaf that is no array, one of texts or objects, or one with entries that are
            masked or do not fit into the type that JAX gives them, which it would change.
    """
    leaves, structure = jax.tree.flatten(batch)
    if not all(isinstance(leaf, jax.Array) or _is_plain(leaf) for leaf in leaves):
        named = jax.tree_util.tree_leaves_with_path(batch)
        leaves = [_as_array(path, leaf) for path, leaf in named]
    return jax.tree.unflatten(structure, owned(leaves))


def _is_plain(leaf: Any) -> bool:
    """Whether a device takes the array as it is."""
    if type(leaf) is not np.ndarray or leaf.dtype.kind not in "biufcV":
        return False
    return leaf.dtype.itemsize < 8 and leaf.dtype.isnative


def _as_array(path: Any, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array | bool | int | float | complex) or _is_plain(leaf):
        return leaf
    failed = None
    array: Any = leaf if isinstance(leaf, np.ndarray) else None
    for convert in (np.asarray, jax.numpy.from_dlpack):  # bfloat16, and tensors on a device
        if array is not None:
            break
        if not hasattr(leaf, "__array__" if convert is np.asarray else "__dlpack__"):
            continue
        try:
            array = convert(leaf)
        except Exception as error:  # each library has its own
            failed = error
    if isinstance(array, np.ndarray) and array.dtype.kind in "biufcV":
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return as_on_device(path, as_array(path, native))
    if array is None or isinstance(array, np.ndarray):
        kind = f"{array.dtype} array" if array is not None else type(leaf).__name__
        why = "" if failed is None else f" ({failed})"
        raise ValueError(
            f"batch{jax.tree_util.keystr(path)} is a {kind}, which no device takes{why}: leave it "
            "out of the batch, or make numbers of it."
        )
    return array
