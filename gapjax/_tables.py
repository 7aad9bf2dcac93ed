"""Tables of other libraries (pandas, polars, Arrow, Hugging Face) as columns of NumPy arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gapjax import _arrays


def chosen(table: Any, columns: Sequence[str] | None) -> Any:
    """The columns that were asked for; entries of a tuple get their names."""
    if columns is None:
        return table
    names = list(columns)
    if isinstance(table, tuple | list) and not _arrays.is_one_array(table):
        if len(table) != len(names):
            raise ValueError(
                f"columns names {len(names)} entries ({', '.join(names)}), and a record has "
                f"{len(table)}."
            )
        return dict(zip(names, table, strict=True))
    if not isinstance(table, Mapping):
        raise ValueError(f"columns={names!r}: the records have no columns to choose from.")
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(
            f"There is no column {missing[0]!r}; there are {', '.join(map(repr, table))}."
        )
    return {name: table[name] for name in names}


def pandas(source: Any, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    """A data frame of pandas."""
    _refuse_repeats(list(source.columns))
    table = chosen({name: source[name] for name in source.columns}, columns)
    return {str(name): _pandas_column(str(name), column) for name, column in table.items()}


def _pandas_column(name: str, column: Any) -> np.ndarray:
    if column.isna().any():
        raise _missing(name)
    values = column.to_numpy()
    if values.dtype.kind in "biuf":
        return values
    if values.dtype != object:
        raise _unfit(name, str(column.dtype))
    return _cells(name, values.tolist())


def polars(source: Any, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    """A data frame of polars, or a query, which is then run."""
    if hasattr(source, "collect"):
        source = source.collect()
    return arrow(source.to_arrow(), columns)


def arrow(source: Any, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    """A table of Arrow."""
    _refuse_repeats(source.schema.names)
    table = chosen({name: source.column(name) for name in source.schema.names}, columns)
    return {name: _arrow_column(name, column) for name, column in table.items()}


def hugging_face(source: Any, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    """A data set of Hugging Face, whatever format it is set to."""
    if source.format["type"] == "custom":
        raise ValueError(
            "This data set has a transform, which is applied as rows are asked for: apply it once "
            "with source.map(...), or take it away with source.with_format(None)."
        )
    names = list(chosen(dict.fromkeys(source.column_names), columns))
    table = source.select_columns(names).with_format("arrow")[:]

    def column(name: str) -> np.ndarray:
        feature = source.features[name]
        if type(feature).__name__ == "Image":
            return _image_column(name, table.column(name), feature.mode)
        return _arrow_column(name, table.column(name))

    return {name: column(name) for name in names}


def _arrow_column(name: str, column: Any) -> np.ndarray:
    """A column of Arrow: numbers, or lists of lists of numbers that are all of one length."""
    import pyarrow as pa

    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):  # of no chunk
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    shape = [len(values)]
    while True:
        if isinstance(values, pa.FixedShapeTensorArray):
            if values.null_count:
                raise _missing(name)
            tensors = values.to_numpy_ndarray()
            return tensors.reshape(*shape, *tensors.shape[1:])
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if values.null_count:
            raise _missing(name)
        kind = values.type
        if pa.types.is_fixed_size_list(kind):
            length = kind.list_size
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = np.unique(np.asarray(values.value_lengths()))
            if len(lengths) > 1:
                raise ValueError(
                    f"Column {name!r} is ragged: its lists have from {lengths[0]} to {lengths[-1]} "
                    "entries. Pad them to one length, or leave the column out."
                )
            length = int(lengths[0]) if len(lengths) else 0
        else:
            break
        shape.append(length)
        values = values.flatten()
    if pa.types.is_dictionary(kind):
        raise _unfit(name, "categories", "take its codes")
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise _unfit(name, str(kind))
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _image_column(name: str, column: Any, mode: str | None) -> np.ndarray:
    """A column of image files, as Hugging Face keeps them: bytes, or a path."""
    from gapjax import _outside
    from gapjax.data import _images

    channels = {word: count for count, word in _images.MODES.items()}
    if mode is not None and mode not in channels:
        raise ValueError(
            f"Column {name!r} holds images of mode {mode!r}, which are no pixels of 8 bits; cast "
            f"it to one of {', '.join(map(repr, channels))}."
        )
    pixels = []
    for number, cell in enumerate(column.to_pylist()):
        if cell is None:
            raise _missing(name)
        try:
            content = cell["bytes"]
            content = _outside.read_file(cell["path"]) if content is None else content
            picture = _images.open_image(content)
            told = 1 if _images.is_grey(picture) else 3
            wanted = told if mode is None else channels[mode]
            pixels.append(_images.to_pixels(_images.upright(picture), wanted))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"Column {name!r}: image {number} cannot be read ({error})."
            ) from error
    return _cells(name, pixels)


def _refuse_repeats(names: Sequence[Any]) -> None:
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"There is more than one column {repeated[0]!r}: rename all but one.")


def _cells(name: str, cells: Sequence[Any]) -> np.ndarray:
    """The cells of a column, each a number or an array, as one array."""
    if any(isinstance(cell, str | bytes) for cell in cells):
        raise _unfit(name, "text")
    try:
        arrays = [_arrays.as_array((), cell) for cell in cells]
    except ValueError as error:
        raise _unfit(name, type(cells[0]).__name__) from error
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"Column {name!r} is ragged: its cells have the shapes {shapes[0]} and {shapes[-1]}. "
            "Bring them to one, or leave the column out."
        )
    return np.stack(arrays) if arrays else np.empty(0)


def _missing(name: str) -> ValueError:
    return ValueError(
        f"Column {name!r} has missing values: fill them or leave out those rows, or leave the "
        "column out with columns=."
    )


def _unfit(name: str, kind: str, remedy: str = "turn it into numbers") -> ValueError:
    return ValueError(
        f"Column {name!r} holds {kind}, which cannot go onto a device: {remedy}, or leave it out "
        "with columns=."
    )


# How one column of each library is read, by its name and itself.
COLUMNS: dict[str, Callable[[str, Any], np.ndarray]] = {
    "pandas": _pandas_column,
    "polars": lambda name, column: _arrow_column(name, column.to_arrow()),
    "pyarrow": _arrow_column,
}
