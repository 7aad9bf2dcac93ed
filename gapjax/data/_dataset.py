"""What a data set is: two splits of images and labels, class names and a name."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("images", "labels"), meta_fields=()
)
@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples as arrays; a pytree, so a batch of a split is again a ``Split``.

    ``len(split)`` is the number of examples. Nothing is checked here, since tracers and other
    leaves pass through when it is used as a pytree; :class:`Dataset` checks what it is given.

    Attributes:
      images: ``uint8`` of shape ``[N, H, W, C]``, or ``float32`` of shape ``[N, features]`` where
        the data are not images.
      labels: ``int32`` of shape ``[N]``, from 0 to the number of classes minus 1.
    """

    images: Any
    labels: Any

    def __len__(self) -> int:
        return int(self.images.shape[0])


class StreamedSplit:
    """Examples too many for memory: read and decoded as they are asked for.

    ``split[i]`` is one example and ``split.__getitems__(numbers)`` several, each a :class:`Split`
    without the leading axis. It goes into ``gapjax.growth.GrowingBatches`` like a ``Split`` does;
    give that several ``workers``, since decoding takes time.

    Args:
      records: any sequence of encoded records with ``__getitems__``.
      decode: turns a list of records into a ``Split``.
    """

    def __init__(self, records: Any, decode: Callable[[Sequence[Any]], Split]):
        self._records, self._decode = records, decode

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Split:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Split]:
        """The examples of these numbers."""
        split = self._decode(self._records.__getitems__(list(numbers)))
        return [Split(*pair) for pair in zip(split.images, split.labels, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: ``train`` and ``test`` splits, class names and a name.

    Integer labels of any width become ``int32``, float features become ``float32``; images stay
    ``uint8``. Everything else is refused with the remedy.

    Attributes:
      train: the examples to train on.
      test: the examples to measure generalization on.
      class_names: one name per class; label ``i`` means ``class_names[i]``.
      name: what reports and tables call it.

    Raises:
      ValueError: if lengths, shapes, types or labels do not fit.

    Example:
      >>> import numpy as np
      >>> from gapjax.data import Dataset, Split
      >>> images = np.zeros((6, 8, 8, 1), np.uint8)
      >>> labels = np.array([0, 1, 0, 1, 0, 1])
      >>> mine = Dataset(Split(images[:4], labels[:4]), Split(images[4:], labels[4:]), ("a", "b"))
      >>> len(mine.train), mine.train.labels.dtype, mine.num_classes
      (4, dtype('int32'), 2)
    """

    train: Split | StreamedSplit
    test: Split | StreamedSplit
    class_names: tuple[str, ...]
    name: str = "custom"

    def __post_init__(self) -> None:
        names = tuple(map(str, self.class_names))
        if not names:
            raise ValueError("class_names is empty; give one name per class.")
        object.__setattr__(self, "class_names", names)
        for part in ("train", "test"):
            object.__setattr__(self, part, _checked(getattr(self, part), part, len(names)))
        shapes = [
            split[0].images.shape if isinstance(split, StreamedSplit) else split.images.shape[1:]
            for split in (self.train, self.test)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"An example has shape {shapes[0]} in train and {shapes[1]} in test; "
                "both splits must hold the same kind of example."
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


def _checked(split: Split | StreamedSplit, part: str, num_classes: int) -> Split | StreamedSplit:
    """The split as NumPy arrays of the documented types; a streamed one as it is."""
    if isinstance(split, StreamedSplit):
        return split
    images, labels = np.asarray(split.images), np.asarray(split.labels)
    if images.ndim == 2 and np.issubdtype(images.dtype, np.floating):
        images = np.asarray(images, np.float32)
    if not (
        (images.ndim == 4 and images.dtype == np.uint8)
        or (images.ndim == 2 and images.dtype == np.float32)
    ):
        raise ValueError(
            f"{part}.images has dtype {images.dtype} and shape {images.shape}; it must be uint8 of "
            "shape [N, H, W, C] (grey images need a last axis of 1: images[..., None]), or floats "
            "of shape [N, features]."
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{part}.labels has dtype {labels.dtype} and shape {labels.shape}; it must hold "
            "integers, one per example."
        )
    if len(images) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"{part} has {len(images)} images and {len(labels)} labels; there must be as many of "
            "one as of the other, and at least one."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{part}.labels run from {low} to {high}, but {num_classes} class names allow "
            f"0 to {num_classes - 1}."
        )
    return Split(images, labels.astype(np.int32))
