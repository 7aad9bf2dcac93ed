"""Reading what TFDS has prepared: decoded once into arrays, or as it is needed."""

import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from gapjax import _checks
from gapjax.data._dataset import Dataset, StreamedSplit
from gapjax.data._fields import Fields, find_fields
from gapjax.data._kept import kept_arrays
from gapjax.data._local import memory
from gapjax.data._shards import Shards, open_shards

_CHUNK = 1024  # records read at a time


def read_dataset(
    name: str,
    builder: Any,
    folder: pathlib.Path,
    train: str,
    test: str | None,
    image_size: int | None,
) -> Dataset:
    """Both splits of a prepared data set."""
    if image_size is not None:
        _checks.positive_int("image_size", image_size)
    fields = find_fields(name, builder.info, image_size)
    kept = folder / ".gapjax-decoded"
    if test is None:
        test = _usual_test(builder, kept, fields)
    splits = [_read_split(builder, kept, fields, split) for split in (train, test)]
    return Dataset(splits[0], splits[1], class_names=fields.class_names, name=name)


def _usual_test(builder: Any, kept: pathlib.Path, fields: Fields) -> str:
    """The split to test on: ``test``, or ``validation`` where its answers are kept back."""
    splits = builder.info.splits
    has = [split for split in ("test", "validation") if split in splits]
    if has[:1] == ["test"] and fields.label is not None and splits["test"].num_examples:
        (first,) = open_shards(builder, "test", kept).__getitems__([0])
        label = fields.values(first).get(fields.label)
        if label is not None and np.min(label) < 0:
            has.remove("test")
    if not has:
        raise ValueError(
            f"{fields.name} has no split with answers to test on; its splits are "
            f"{', '.join(splits)}. Pass train='train[:90%]' and test='train[90%:]', say."
        )
    return has[0]


def _read_split(builder: Any, kept: pathlib.Path, fields: Fields, split: str) -> Any:
    """A split or slice: cut from the arrays of its whole split where that fits in memory."""
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
        examples = splits[split].num_examples
    except (ValueError, KeyError, AssertionError, TypeError) as error:
        raise ValueError(
            f"There is no split {split!r}; the splits are {', '.join(splits)}, and slices are "
            f"written like 'train[:90%]'."
            f"{_checks.near_matches(str(split).split('[')[0], splits)}"
        ) from error
    if not examples:
        raise ValueError(f"The split {split!r} of {fields.name} holds no examples.")
    budget = memory() / 4
    one = fields.bytes_per_example
    if all(one * splits[part.splitname].num_examples <= budget for part in parts):
        pieces = []
        for part in parts:
            whole = _cached(builder, kept, fields, part.splitname)
            wanted = slice(part.from_, part.to)
            pieces.append({key: array[wanted] for key, array in whole.items()})
        return fields.make(_joined(pieces))
    shards = open_shards(builder, split, kept)
    if one * examples <= budget:
        return fields.make(_decoded(fields, shards))
    return StreamedSplit(shards, lambda records: fields.make(fields.arrays(records)))


def _joined(pieces: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(pieces) == 1:
        return pieces[0]
    return {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}


def _decoded(fields: Fields, shards: Shards) -> dict[str, np.ndarray]:
    """All records as arrays."""
    pieces = []
    for start in range(0, len(shards), _CHUNK):
        numbers = range(start, min(start + _CHUNK, len(shards)))
        pieces.append(fields.arrays(shards.__getitems__(numbers)))
    return _joined(pieces)


def _cached(builder: Any, kept: pathlib.Path, fields: Fields, split: str) -> dict[str, np.ndarray]:
    """The arrays of a whole split, from the copy kept beside the prepared files if there is one."""
    about = builder.info.splits[split]
    kinds = {
        key: ((about.num_examples, *shape), dtype) for key, (shape, dtype) in fields.kinds.items()
    }
    shards = [pathlib.Path(told.filename) for told in about.file_instructions]
    described = sorted(pathlib.Path(builder.data_path).glob("*.json"))
    key = {
        "files": [[path.name, *_identity(path)] for path in shards],
        "about": [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in described],
        "class names": fields.class_names,
        "arrays": {name: [*shape, dtype.str] for name, (shape, dtype) in kinds.items()},
    }
    sizes = "x".join(str(n) for shape, _ in fields.kinds.values() for n in shape)
    # names come from a file of others: none may lead out of the folder
    stem = re.sub(r"[^\w.+-]", "-", f"{builder.info.full_name}-{split}-{sizes}")
    return kept_arrays(
        kept / f"{stem}.npz",
        json.dumps(key),
        kinds,
        lambda: _decoded(fields, open_shards(builder, split, kept)),
    )


def _identity(path: pathlib.Path) -> list[int]:
    """What changes when a file is written again; nothing of one that is missing."""
    with contextlib.suppress(OSError):
        about = path.stat()
        return [about.st_size, about.st_mtime_ns]
    return []
