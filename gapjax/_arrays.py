"""From what data sets hold (arrays, lists, Python numbers) to arrays that fit onto a device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NUMBERS = bool | int | float | complex


def owned(tree: Any) -> Any:
    """A tree whose NumPy arrays are copies.

    What a device is to do may be done later, and a CPU reads arrays where they lie: a loader that
    fills one buffer again and again would by then have the next batch in it.
    """
    return jax.tree.map(lambda x: np.array(x) if isinstance(x, np.ndarray) else x, tree)


def is_list_of_records(source: Any) -> bool:
    """Whether a list holds one example per entry: anything but numbers, or columns."""
    if not isinstance(source, list) or not source or _holds_numbers(source):
        return False
    shapes = {np.shape(entry) for entry in source if hasattr(entry, "shape")}
    if len(shapes) < 2:
        return True
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) == 1:
        return False
    raise ValueError(
        f"The arrays of the list have different shapes ({', '.join(map(str, sorted(shapes)[:4]))}"
        f"{', ...' if len(shapes) > 4 else ''}): they are neither records, which must be alike "
        "(pad them), nor columns, which must be of one length."
    )


def is_one_array(node: Any) -> bool:
    """Whether a list stands for one array: of numbers, of lists of them, or of equal arrays."""
    if not isinstance(node, list):
        return False
    if not node or _holds_numbers(node):
        return True
    return hasattr(node[0], "shape") and len({np.shape(entry) for entry in node}) == 1


def is_column(leaf: Any) -> bool:
    """Whether a leaf of a pytree is an array, or a list that stands for one."""
    return is_one_array(leaf) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def as_array(path: Any, leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers; Python numbers take the types that JAX gives them."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise ValueError(f"{_name(path)} is a masked array; fill what is missing: .filled(value).")
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise ValueError(f"{_name(path)} holds random keys; pass jax.random.key_data of them.")
    try:
        array = np.asarray(leaf)
    except ValueError as error:
        raise ValueError(
            f"{_name(path)} is ragged: its entries have different lengths. Pad them to one length."
        ) from error
    if isinstance(leaf, _NUMBERS) or (isinstance(leaf, list) and _holds_numbers(leaf)):
        return _as_jax_does(path, array)
    if not _is_numeric(array.dtype):
        raise _no_numbers(path, array)
    return array


def stack(records: Sequence[Any]) -> Any:
    """Records as one pytree of arrays with a leading axis.

    Raises:
        ValueError: for records of different structure, shapes or types; the field is named.
    """
    named, _ = jax.tree_util.tree_flatten_with_path(records[0], is_leaf=is_one_array)
    structure: Any = jax.tree.structure(records[0], is_leaf=is_one_array)
    rows: list[list[Any]] = []
    for record in records:
        leaves, own = jax.tree.flatten(record, is_leaf=is_one_array)
        if own != structure:
            raise ValueError(
                f"one is {str(structure)[8:]}, another {str(own)[8:]}; every record must have the "
                "same fields."
            )
        rows.append(leaves)
    return jax.tree.unflatten(
        structure,
        [
            _stacked(path, column)
            for (path, _), column in zip(named, zip(*rows, strict=True), strict=True)
        ],
    )


def _stacked(path: Any, column: Sequence[Any]) -> np.ndarray:
    arrays = [as_array(path, leaf) for leaf in column]
    kinds = dict.fromkeys(f"{array.dtype}{list(array.shape)}" for array in arrays)
    if len(kinds) > 1:
        one, other = [*kinds][:2]
        raise ValueError(
            f"{_name(path)} is {one} in one of them and {other} in another; every record must "
            "have the same shapes and types."
        )
    return np.stack(arrays)


def as_on_device(path: Any, array: np.ndarray) -> np.ndarray:
    """The array in the type it will have on devices, without a warning; whole numbers must fit."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype != array.dtype and dtype.kind in "iu" and array.size:
        _check_range(path, array, dtype)
    return _narrowed(path, array, dtype)


def _as_jax_does(path: Any, array: np.ndarray) -> np.ndarray:
    """Python numbers, in the types that JAX gives them."""
    kind = array.dtype.kind
    # What is beyond 64 bits is an array of objects too.
    whole = kind == "O" and all(isinstance(value, int) for value in array.flat)
    if kind not in "biufc" and not whole:
        raise _no_numbers(path, array)
    wide = {"b": np.bool_, "f": np.float64, "c": np.complex128}.get(kind, np.int64)
    dtype = jax.dtypes.canonicalize_dtype(wide)
    if dtype.kind == "i" and array.size:
        _check_range(path, array, dtype)
    return _narrowed(path, array, dtype)


def _no_numbers(path: Any, array: np.ndarray) -> ValueError:
    other = next((value for value in array.flat if not isinstance(value, _NUMBERS)), array)
    objects = "objects, such as a " if array.dtype == object else ""
    return ValueError(
        f"{_name(path)} holds {objects}{type(other).__name__.rstrip('_')} ({str(other)[:40]!r}), "
        "which cannot go onto a device; drop the field or turn it into numbers."
    )


def _narrowed(path: Any, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype, copy=False)
    if narrow is not array and dtype.kind in "fc" and np.isinf(narrow).any():
        beyond = np.isinf(narrow) & np.isfinite(array.astype(np.complex128))
        if beyond.any():
            raise ValueError(
                f"{_name(path)} holds {array[beyond].flat[0]}, which is infinite in {dtype}, the "
                "type that JAX gives it; scale it down, or set jax_enable_x64."
            )
    return narrow


def _check_range(path: Any, array: np.ndarray, dtype: np.dtype) -> None:
    low, high = array.min(), array.max()
    limits = np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        value = high if high > limits.max else low
        raise ValueError(
            f"{_name(path)} holds {value}, which does not fit into {dtype}, the type that JAX "
            "gives it; drop the field, number its values anew, or set jax_enable_x64."
        )


def _is_numeric(dtype: np.dtype) -> bool:
    """Whether JAX has the type: of NumPy's numbers it lacks long doubles, and adds a few."""
    if dtype.kind in "biufc":
        return dtype.char not in "gG"
    return jnp.issubdtype(dtype, np.number)


def _holds_numbers(values: Any) -> bool:
    """Whether the first entry of a list, at any depth, is a Python number or a text."""
    while isinstance(values, list) and values:
        values = values[0]
    return isinstance(values, _NUMBERS | str | bytes)


def _name(path: Any) -> str:
    return f"Field {jax.tree_util.keystr(path)}" if path else "The source"
