"""Which fields of a TFDS record are what a network learns from, and how they become arrays."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gapjax import _outside
from gapjax._text import readable_bytes
from gapjax.data import _images
from gapjax.data._dataset import Split
from gapjax.data._shards import Record

TOKENS = "tokens"  # the field of a set of texts
VOCABULARY = "vocabulary_size"  # what its metadata.json tells


@dataclasses.dataclass(frozen=True)
class Fields:
    """Two fields, examples and class labels; or one, tokens.

    Attributes:
        name: of the data set.
        features: those of the fields alone, which read a record.
        kinds: shape and type of each field's arrays, for one example.
        label: the field of the class labels; None for tokens.
        class_names: one per class, or per token.
        decode: from what a record holds to one row of each array.
        make: from the arrays to a split.
    """

    name: str
    features: Any
    kinds: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    label: str | None
    class_names: tuple[str, ...]
    decode: Mapping[str, Callable[[Any], Any]]
    make: Callable[[Mapping[str, np.ndarray]], Any]

    def arrays(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Records as arrays.

        Raises:
            ValueError: one cannot be read as what the data set says it is; it is named.
        """
        count, kinds = len(records), self.kinds.items()
        columns = {key: np.empty((count, *shape), dtype) for key, (shape, dtype) in kinds}
        for row, record in enumerate(records):
            values = self.values(record)
            try:
                for key, column in columns.items():
                    value = self.decode[key](values[key])
                    if np.shape(value) != column.shape[1:]:
                        raise ValueError(
                            f"its {key} has shape {list(np.shape(value))}, the data set says "
                            f"{list(column.shape[1:])}"
                        )
                    column[row] = value
            except Exception as error:  # a field may be missing, or hold anything
                raise _unreadable(record, error) from error
        return columns

    def values(self, record: Record) -> Mapping[str, Any]:
        """What a record holds; images are not decoded yet."""
        try:
            return self.features.deserialize_example_np(record.content, decoders=self._skip)
        except Exception as error:  # the parser has errors of many kinds
            raise _unreadable(record, error) from error

    @functools.cached_property
    def _skip(self) -> Any:
        """Images are decoded here, not by TFDS."""
        import tensorflow_datasets as tfds

        return {
            key: tfds.decode.SkipDecoding()
            for key, feature in self.features.items()
            if isinstance(feature, tfds.features.Image)
        }

    @property
    def bytes_per_example(self) -> int:
        """What one example takes in memory."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.kinds.values())


def _unreadable(record: Record, error: Exception) -> ValueError:
    what = str(error).splitlines() or [type(error).__name__]
    return ValueError(f"{record.file}: record {record.number} cannot be read ({what[0][:200]}).")


def class_fields(name: str, info: Any) -> tuple[str, str]:
    """Which field is the example, and which its class label.

    Raises:
        ValueError: the data set does not consist of examples with class labels.
    """
    import tensorflow_datasets as tfds

    features, keys = info.features, info.supervised_keys
    if not isinstance(features, tfds.features.FeaturesDict):
        raise ValueError(_unfit(name, [type(features).__name__]))

    def first(kind: type) -> str | None:
        return next((key for key in features if isinstance(features[key], kind)), None)

    told = isinstance(keys, tuple) and len(keys) >= 2
    pair = keys[:2] if told else (first(tfds.features.Image), None)
    example, label = (key if isinstance(key, str) else None for key in pair)
    if label not in features or not isinstance(features[label], tfds.features.ClassLabel):
        label = first(tfds.features.ClassLabel)
    if example is None or label is None or example == label or example not in features:
        raise ValueError(_unfit(name, features))
    image = isinstance(features[example], tfds.features.Image)
    table = isinstance(features[example], tfds.features.Tensor)
    if not (image or (table and np.dtype(features[example].np_dtype).kind in "biuf")):
        raise ValueError(_unfit(name, features))
    if not features[label].num_classes:
        raise ValueError(_unfit(name, features))
    return example, label


def find_fields(name: str, info: Any, image_size: int | None = None) -> Fields:
    """The fields of a data set that ``load`` reads.

    Raises:
        ValueError: it holds neither examples with class labels nor tokens, images that differ in
            size, or images that are no numbers of 8 or 16 bits.
    """
    import tensorflow_datasets as tfds

    features = info.features
    if (vocabulary := _vocabulary(info)) is not None:
        if image_size is not None:
            raise ValueError(f"{name} holds no images: leave image_size out.")
        return _tokens(name, info, vocabulary)
    example, label = class_fields(name, info)
    feature, labels = features[example], features[label]
    decode: Callable[[Any], Any] = np.asarray
    if isinstance(feature, tfds.features.Image):
        shape, decode = _image(name, feature, image_size)
        dtype: np.dtype = np.dtype(np.uint8)
    else:
        if image_size is not None:
            raise ValueError(f"{name} holds no images: leave image_size out.")
        shape, dtype = feature.shape, np.dtype(feature.np_dtype)
        if dtype.kind == "f":
            dtype = np.dtype(np.float32)
        if None in shape:
            raise ValueError(
                f"The examples of {name} differ in size (their shape is {shape}); read it with "
                "tfds.data_source and build a gapjax.data.Dataset."
            )
    if (size := math.prod(shape) * dtype.itemsize) > _outside.MEMORY:
        raise ValueError(
            f"One example of {name} takes {readable_bytes(size)} (its shape is {shape}); at most "
            f"{readable_bytes(_outside.MEMORY)} are read."
        )
    # what a Split holds; anything else is a dict of the two fields
    is_example = isinstance(feature, tfds.features.Image) or (len(shape) == 1 and dtype.kind == "f")
    return Fields(
        name,
        tfds.features.FeaturesDict({example: feature, label: labels}),
        {example: (shape, dtype), label: ((), np.dtype(np.int32))},
        label,
        tuple(labels.names),
        {example: decode, label: functools.partial(_checked_label, labels.num_classes)},
        (lambda arrays: Split(arrays[example], arrays[label])) if is_example else dict,
    )


def _image(
    name: str, feature: Any, image_size: int | None
) -> tuple[tuple[int, ...], Callable[[bytes], np.ndarray]]:
    """The shape of the images, and how one is decoded."""
    height, width, channels = feature.shape
    channels = channels or 3
    if np.dtype(feature.np_dtype) not in (np.uint8, np.uint16) or channels not in _images.MODES:
        raise ValueError(
            f"The images of {name} are {feature.np_dtype} with {channels} channels; grey, RGB and "
            "RGBA images of 8 or 16 bits are read. Read it with tfds.data_source and build a "
            "gapjax.data.Dataset."
        )
    size = None if image_size is None else (image_size, image_size)
    if size is None and None in (height, width):
        raise ValueError(
            f"The images of {name} differ in size (their shape is {feature.shape}); pass "
            "image_size=224, say, to bring them to one."
        )

    def decode(encoded: bytes) -> np.ndarray:
        picture = _images.open_image(encoded)
        if size is None and picture.size != (width, height):
            raise ValueError(
                f"its image has {picture.height} x {picture.width} pixels, the data set says "
                f"{height} x {width}"
            )
        return _images.to_pixels(picture, channels, size)

    return (*(size or (height, width)), channels), decode


def _checked_label(classes: int, value: Any) -> np.ndarray:
    """Labels or tokens that are those of a class."""
    labels = np.asarray(value)
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0:
        raise ValueError(
            f"its label is {low}: the answers of this split are kept back; train and test on others"
        )
    if high >= classes:
        raise ValueError(f"its label is {high}, and there are {classes} classes")
    return labels


def _vocabulary(info: Any) -> int | None:
    """How many tokens a set of texts knows, as an import of text keeps it; None of another set."""
    import tensorflow_datasets as tfds

    features = info.features
    if not isinstance(features, tfds.features.FeaturesDict) or [*features] != [TOKENS]:
        return None
    feature = features[TOKENS]
    if not isinstance(feature, tfds.features.Tensor) or len(feature.shape) != 1:
        return None
    size = (info.metadata or {}).get(VOCABULARY)
    whole = isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**31
    return size if whole and feature.shape[0] else None


def _tokens(name: str, info: Any, vocabulary: int) -> Fields:
    feature = info.features[TOKENS]
    return Fields(
        name,
        info.features,
        {TOKENS: (feature.shape, np.dtype(np.int32))},
        None,
        tuple(map(str, range(vocabulary))),
        {TOKENS: functools.partial(_checked_label, vocabulary)},
        dict,
    )


def _unfit(name: str, features: Any) -> str:
    fields = [*features]
    said = ", ".join(fields[:12]) + (", ..." if len(fields) > 12 else "")
    return (
        f"{name} has the fields {said}; it does not consist of examples with class labels that are "
        "images or numbers. Read it with tfds.data_source and build a gapjax.data.Dataset."
    )
