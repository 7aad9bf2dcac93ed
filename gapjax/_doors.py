"""Data by other doors: tables, loaders and data sets of other libraries, as trees of NumPy arrays.

Nothing is imported that the caller has not: a library is told by the module of its own classes.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gapjax import _arrays, _tables

_PART = 4096  # records that are stacked at a time


def as_arrays(
    source: Any, columns: Sequence[str] | None = None, *, batched: bool | None = None
) -> Any:
    """Examples from wherever they are, as a pytree of NumPy arrays with one leading axis.

    What ``Dataset``, ``GrowingBatches`` and every loop of your own take. Read are

    * Hugging Face ``datasets`` in any format, pandas, polars and Arrow tables: a dict of columns;
      lists of numbers are arrays, images are pixels,
    * data sets with ``__len__`` and ``__getitem__`` (PyTorch, grain, TFDS data sources, lists of
      records): records like the first one,
    * loaders and other iterables (PyTorch, grain, ``tf.data``, generators), which are read to their
      end: give none that never ends,
    * pytrees of arrays: NumPy, JAX, PyTorch. Memory maps stay on the disk.

    Numbers get the types that JAX gives them (``int32``, ``float32``; a whole number that does not
    fit is refused), so that every door gives the same arrays; memory maps stay as they are.

    Args:
        source: the examples.
        columns: which columns of a table, or fields of records, in this order; where records are
            tuples, what to call their entries. All of them by default.
        batched: whether what an iterable yields are batches, to be joined, rather than records, to
            be stacked. By default told from a PyTorch loader, and False elsewhere.

    Returns:
        A dict of arrays for a table; a pytree like one record, with a leading axis, otherwise.

    Raises:
        ValueError: text, missing values, ragged columns or anything else that is no number (named,
            with the remedy), columns that are not there, records that are not alike, no examples,
            or a source without an end.

    Example:
        >>> as_arrays([{"x": [1.0, 2.0], "y": 0}, {"x": [3.0, 4.0], "y": 1}])["x"].shape
        (2, 2)
        >>> records = [(np.zeros(3), 0), (np.ones(3), 1)]
        >>> {name: array.shape for name, array in as_arrays(records, ("images", "labels")).items()}
        {'images': (2, 3), 'labels': (2,)}
    """
    arrays = _read(source, columns, batched)
    lengths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        if not np.ndim(leaf):
            raise ValueError(f"{_named(path)} is one number; it needs a leading axis of examples.")
        lengths[_named(path)] = len(leaf)
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"All arrays need the same leading axis of examples, and {said}.")
    if not any(lengths.values()):
        raise ValueError(f"This {type(source).__name__} holds no examples.")
    return jax.tree_util.tree_map_with_path(_as_jax_has_it, arrays)


def is_door(source: Any) -> bool:
    """Whether a source is one of another library, and no pytree of arrays."""
    return _table_reader(source) is not None or _reader(source) is not None


def label_column(source: Any) -> tuple[str, tuple[str, ...]] | None:
    """The one column of class labels that a source knows the names of, and these names."""
    features = getattr(source, "features", None) if _is_from(source, "datasets") else None
    found = [
        (name, tuple(map(str, feature.names)))
        for name, feature in (features or {}).items()
        if type(feature).__name__ == "ClassLabel" and feature.names
    ]
    return found[0] if len(found) == 1 else None


def _read(source: Any, columns: Sequence[str] | None, batched: bool | None) -> Any:
    if isinstance(columns, str):
        raise ValueError(f"columns must be several names, not one text: [{columns!r}].")
    if batched is not None and not isinstance(batched, bool):
        raise ValueError(f"batched must be True, False or None, not {batched!r}.")
    table = _table_reader(source)
    if table is not None:
        return table(source, columns)
    reader = _reader(source)
    if reader is not None:
        return reader(source, columns, batched)
    if isinstance(source, str | bytes):
        raise ValueError(f"{source[:40]!r} is no source of examples; read the file first.")
    if hasattr(source, "__next__"):
        return _iterated(source, columns, batched)
    if _arrays.is_list_of_records(source):
        return _stacked(source, columns)
    leaves = jax.tree.leaves(source, is_leaf=_is_column)
    if leaves and (all(map(_is_column, leaves)) or isinstance(source, Mapping)):
        chosen = _tables.chosen(source, columns)
        return jax.tree_util.tree_map_with_path(_array, chosen, is_leaf=_is_column)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return _records(source, columns, batched)
    if isinstance(source, Iterable):
        return _iterated(source, columns, batched)
    raise ValueError(
        f"{type(source).__name__} is no source of examples: give a pytree of arrays, a table, an "
        "object with __len__ and __getitem__, or an iterable of records."
    )


def _table_reader(source: Any) -> Callable[[Any, Sequence[str] | None], Any] | None:
    """How a table is read, by where its class comes from."""
    kinds = {cls.__name__ for cls in type(source).__mro__}
    if _is_from(source, "datasets"):
        if isinstance(source, Mapping):
            raise ValueError(
                f"This {type(source).__name__} has the splits {', '.join(map(str, source))}; give "
                f"one of them: source[{next(iter(source), 'train')!r}]."
            )
        return _tables.hugging_face if "Dataset" in kinds else None
    if _is_from(source, "pandas") and "DataFrame" in kinds:
        return _tables.pandas
    if _is_from(source, "polars") and kinds & {"DataFrame", "LazyFrame"}:
        return _tables.polars
    if _is_from(source, "pyarrow") and kinds & {"Table", "RecordBatch"}:
        return _tables.arrow
    return None


_Reader = Callable[[Any, Sequence[str] | None, bool | None], Any]


def _reader(source: Any) -> _Reader | None:
    """How the objects of other libraries are read, by where their classes come from."""
    kinds = {cls.__name__ for cls in type(source).__mro__}
    if _is_from(source, "datasets"):
        return _iterated
    if _is_from(source, "torch") and kinds & {"Dataset", "DataLoader"}:
        if "DataLoader" in kinds:
            return _torch_loader
        return _records if hasattr(source, "__len__") else _iterated
    if _is_from(source, "grain"):
        return _records if hasattr(source, "__getitem__") else _iterated
    if _is_from(source, "tensorflow") and hasattr(source, "as_numpy_iterator"):
        return _tf_data
    return None


def _is_from(value: Any, library: str) -> bool:
    if library not in sys.modules:  # nothing can be of what was never imported
        return False
    return any(cls.__module__.split(".")[0] == library for cls in type(value).__mro__)


def _records(source: Any, columns: Sequence[str] | None, batched: bool | None) -> Any:
    """Random access, record by record or many at once."""
    count = len(source)
    if count >= sys.maxsize:
        raise ValueError(
            f"This {type(source).__name__} repeats without an end; give it before .repeat()."
        )
    many = getattr(source, "__getitems__", None)
    if many is None:
        return _iterated((source[number] for number in range(count)), columns, batched)
    firsts = range(0, count, _PART)
    parts = (many(list(range(first, min(first + _PART, count)))) for first in firsts)
    return _iterated(itertools.chain.from_iterable(parts), columns, batched)


def _iterated(source: Iterable[Any], columns: Sequence[str] | None, batched: bool | None) -> Any:
    """Whatever comes, until no more does."""
    whole = iter(source)
    parts: list[Any] = []
    while records := list(itertools.islice(whole, _PART)):
        parts.append(_joined(records, columns) if batched else _stacked(records, columns))
    if not parts:
        raise ValueError(f"This {type(source).__name__} holds no examples.")
    return parts[0] if len(parts) == 1 else _joined(parts)


def _stacked(records: Sequence[Any], columns: Sequence[str] | None) -> Any:
    try:
        return _arrays.stack([_plain_tree(record, columns) for record in records])
    except ValueError as error:
        raise ValueError(f"The records do not stack: {error}") from error


def _plain_tree(record: Any, columns: Sequence[str] | None) -> Any:
    return jax.tree.map(_plain, _tables.chosen(record, columns), is_leaf=_arrays.is_one_array)


def _joined(batches: Sequence[Any], columns: Sequence[str] | None = None) -> Any:
    """Batches, one behind the other."""
    batches = [_plain_tree(_fields(batch), columns) for batch in batches]
    structure: Any = jax.tree.structure(batches[0])
    for batch in batches:
        if jax.tree.structure(batch) != structure:
            raise ValueError("The batches do not have the same fields.")

    def joined(path: Any, *leaves: Any) -> np.ndarray:
        arrays = [_array(path, leaf) for leaf in leaves]
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1 or not all(array.ndim for array in arrays):
            raise ValueError(
                f"{_named(path)} has batches of the shapes {', '.join(map(str, sorted(shapes)))}; "
                "beyond the examples they must be alike."
            )
        return np.concatenate(arrays)

    return jax.tree_util.tree_map_with_path(joined, *batches)


def _fields(batch: Any) -> Any:
    """A list of arrays as the fields of a batch, which loaders make of tuples."""
    is_list = isinstance(batch, list) and batch and all(hasattr(x, "shape") for x in batch)
    return tuple(batch) if is_list else batch


def _torch_loader(source: Any, columns: Sequence[str] | None, batched: bool | None) -> Any:
    if batched is None:
        batched = source.batch_size is not None or source.batch_sampler is not None
    return _iterated(source, columns, batched)


def _tf_data(source: Any, columns: Sequence[str] | None, batched: bool | None) -> Any:
    if int(source.cardinality()) == -1:
        raise ValueError("This tf.data set repeats without an end; give it before .repeat().")
    return _iterated(source.as_numpy_iterator(), columns, batched)


def _is_column(node: Any) -> bool:
    return _arrays.is_column(node) or _is_from(node, "torch") or _is_from(node, "tensorflow")


def _array(path: Any, leaf: Any) -> np.ndarray:
    """A leaf as an array; a memory map as itself."""
    if isinstance(leaf, np.memmap):
        return leaf
    for library, read in _tables.COLUMNS.items():
        if _is_from(leaf, library):
            return read(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    return _arrays.as_array(path, _plain(leaf))


def _plain(leaf: Any) -> Any:
    """A leaf of another library as NumPy's; anything else as it is."""
    if _is_from(leaf, "torch") and hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        if str(leaf.dtype) == "torch.bfloat16":  # which NumPy has not
            import ml_dtypes

            bits = leaf.view(sys.modules["torch"].int16)
            return bits.numpy().view(ml_dtypes.bfloat16)
        return leaf.numpy()
    if _is_from(leaf, "tensorflow") and hasattr(leaf, "numpy"):
        return leaf.numpy()
    if _is_from(leaf, "PIL") and hasattr(leaf, "getbands"):
        from gapjax.data import _images

        return _images.to_pixels(leaf, 1 if _images.is_grey(leaf) else 3)
    return leaf


def _as_jax_has_it(path: Any, array: np.ndarray) -> np.ndarray:
    return array if isinstance(array, np.memmap) else _arrays.as_on_device(path, array)


def _named(path: Any) -> str:
    return f"Field {jax.tree_util.keystr(path)}" if path else "The source"
