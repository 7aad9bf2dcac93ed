"""Reading what TFDS has prepared: decoded once into arrays, or as it is needed."""

import contextlib
import hashlib
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gapjax import _checks
from gapjax.data._dataset import Dataset, Split, StreamedSplit

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
    info = builder.info
    if image_size is not None:
        _checks.positive_int("image_size", image_size)
    if info.file_format is not None and info.file_format.value != "array_record":
        raise ValueError(
            f"{builder.data_path} holds {info.file_format.value} files, which need TensorFlow; "
            f"prepare {name} again as array_record: gapjax data import {name} --from DIR, into "
            "another data_dir."
        )
    if test is None:
        test = "test" if "test" in info.splits else "validation"
    fields = _Fields(name, builder, image_size)
    splits = [_read_split(builder, folder, fields, split) for split in (train, test)]
    names = info.features[fields.label].names
    return Dataset(splits[0], splits[1], class_names=tuple(names), name=name)


class _Fields:
    """Which fields of a record are the example and its label, and how they become arrays."""

    def __init__(self, name: str, builder: Any, image_size: int | None):
        import tensorflow_datasets as tfds

        features, keys = builder.info.features, builder.info.supervised_keys

        def first(kind: type) -> str | None:
            return next((key for key in features if isinstance(features[key], kind)), None)

        example, label = keys if keys and len(keys) == 2 else (first(tfds.features.Image), None)
        if label not in features or not isinstance(features[label], tfds.features.ClassLabel):
            label = first(tfds.features.ClassLabel)
        if example not in features or label is None:
            raise ValueError(
                f"{name} has the fields {', '.join(features)}; it does not consist of examples "
                "with class labels. Read it with tfds.data_source and build a gapjax.data.Dataset."
            )
        feature = features[example]
        self.example, self.label, self.size = example, label, image_size
        self.decoders = None
        if isinstance(feature, tfds.features.Image):
            self.decoders = {example: tfds.decode.SkipDecoding()}
        channels = feature.shape[-1] if feature.shape else None
        self.mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels or 3, "RGB")
        self.shape = feature.shape
        if self.decoders and image_size is not None:
            self.shape = (image_size, image_size, channels or 3)
        self.dtype = np.dtype(np.uint8 if self.decoders else feature.np_dtype)
        if self.dtype.kind == "f":
            self.dtype = np.dtype(np.float32)
        if None in self.shape:
            raise ValueError(
                f"The images of {name} differ in size (their shape is {feature.shape}); pass "
                "image_size=224, say, to bring them to one."
            )

    def split(self, records: Sequence[Any]) -> Split:
        """The records as arrays."""
        images = np.empty((len(records), *self.shape), self.dtype)
        labels = np.empty(len(records), np.int32)
        for row, record in enumerate(records):
            value = record[self.example]
            images[row] = self._pixels(value) if self.decoders else value
            labels[row] = record[self.label]
        return Split(images, labels)

    def _pixels(self, encoded: bytes) -> np.ndarray:
        import PIL.Image
        import PIL.ImageOps

        picture: PIL.Image.Image = PIL.Image.open(io.BytesIO(encoded))
        if picture.mode != self.mode:
            picture = picture.convert(self.mode)
        if self.size is not None and picture.size != (self.size, self.size):
            picture = PIL.ImageOps.fit(
                picture, (self.size, self.size), method=PIL.Image.Resampling.BILINEAR
            )
        pixels = np.asarray(picture)
        return pixels[..., None] if pixels.ndim == 2 else pixels


def _read_split(
    builder: Any, folder: pathlib.Path, fields: _Fields, split: str
) -> Split | StreamedSplit:
    """A split or slice: cut from the arrays of its whole split where that fits in memory."""
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except (ValueError, KeyError, AssertionError) as error:
        raise ValueError(
            f"There is no split {split!r}; the splits are {', '.join(splits)}, and slices are "
            f"written like 'train[:90%]'.{_checks.near_matches(split.split('[')[0], splits)}"
        ) from error
    one = fields.dtype.itemsize * int(np.prod(fields.shape))
    budget = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4

    def source(of: str) -> Any:
        return builder.as_data_source(split=of, decoders=fields.decoders)

    if all(one * splits[part.splitname].num_examples <= budget for part in parts):
        pieces = []
        for part in parts:
            whole = _cached(
                builder, folder, fields, part.splitname, lambda of: _decoded(fields, source(of))
            )
            wanted = slice(part.from_, part.to)
            pieces.append(Split(whole.images[wanted], whole.labels[wanted]))
        if len(pieces) == 1:
            return pieces[0]
        return Split(*(np.concatenate(both) for both in zip(*_leaves(pieces), strict=True)))
    if one * splits[split].num_examples <= budget:
        return _decoded(fields, source(split))
    return StreamedSplit(source(split), fields.split)


def _leaves(pieces: Sequence[Split]) -> list[tuple[Any, Any]]:
    return [(piece.images, piece.labels) for piece in pieces]


def _decoded(fields: _Fields, source: Any) -> Split:
    chunks = [
        fields.split(source.__getitems__(list(range(start, min(start + _CHUNK, len(source))))))
        for start in range(0, len(source), _CHUNK)
    ]
    return Split(*(np.concatenate(both) for both in zip(*_leaves(chunks), strict=True)))


def _cached(
    builder: Any,
    folder: pathlib.Path,
    fields: _Fields,
    split: str,
    decode: Callable[[str], Split],
) -> Split:
    """The arrays of a whole split, from the copy kept beside the prepared files if there is one."""
    digest = hashlib.sha256(repr((split, fields.shape, fields.example, fields.label)).encode())
    for file in ("dataset_info.json", "features.json"):
        digest.update((pathlib.Path(builder.data_path) / file).read_bytes())
    stem = f"{builder.info.full_name.replace('/', '-')}-{split}-{digest.hexdigest()[:16]}"
    kept = folder / ".gapjax-decoded" / stem
    names = ("images.npy", "labels.npy")
    with contextlib.suppress(OSError, ValueError, EOFError):
        return Split(*(np.load(kept / name) for name in names))
    arrays = decode(split)
    scratch = None
    try:  # the copy only saves time: no room or no right to write is no error
        kept.parent.mkdir(exist_ok=True)
        scratch = tempfile.mkdtemp(dir=kept.parent)
        for name, array in zip(names, (arrays.images, arrays.labels), strict=True):
            np.save(pathlib.Path(scratch) / name, array)
        shutil.rmtree(kept, ignore_errors=True)  # a copy that could not be read
        os.replace(scratch, kept)
    except OSError:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return arrays
