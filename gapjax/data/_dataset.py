"""What a data set is: two splits of examples, and how the inputs of a network are normalized."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax import _checks, _doors

NORMALIZATIONS = ("channel", "feature")


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
        labels: ``int32`` of shape ``[N]``, from 0 to the number of classes minus 1; or whatever
            another task than classification predicts, with a leading axis of N. What may be meant
            as either, True and False or whole numbers ``[N, 1]``, is refused.
    """

    images: Any
    labels: Any

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def __repr__(self) -> str:
        """In one line: types and shapes, as arrays themselves take hundreds in messages."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        told = ", ".join(f"{name}={_kind(leaf)}" for name, leaf in fields.items())
        return f"{type(self).__name__}({told})"


class StreamedSplit:
    """Examples too many for memory: read and decoded as they are asked for.

    ``split[i]`` is one example and ``split.__getitems__(numbers)`` several, each a :class:`Split`
    (or whatever the data set holds) without the leading axis. It goes into
    ``gapjax.growth.GrowingBatches`` like a ``Split`` does; give that several ``workers``, since
    decoding takes time.

    Args:
        records: any sequence of encoded records with ``__getitems__``.
        decode: turns a list of records into a ``Split``, or another pytree of arrays.
    """

    def __init__(self, records: Any, decode: Callable[[Sequence[Any]], Any]):
        self._records, self._decode = records, decode

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """The examples of these numbers; those below 0 count from the end."""
        places = range(len(self))
        try:
            asked = [places[number] for number in numbers]
        except IndexError:
            odd = next(number for number in numbers if not -len(self) <= number < len(self))
            raise IndexError(f"there is no example {odd} in a split of {len(self)}.") from None
        split = self._decode(self._records.__getitems__(asked))
        return [jax.tree.map(operator.itemgetter(row), split) for row in range(len(numbers))]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: ``train`` and ``test`` splits, class names and a name.

    For classes of images or features a split is a :class:`Split`; for any other task it is any
    pytree of arrays with one leading axis of examples, such as ``{"tokens": ...}``. Numbers get the
    types that JAX gives them (``int32``, ``float32``; a whole number that does not fit is refused);
    bytes of images stay ``uint8``. Everything else is refused with the remedy.

    Splits may be whatever :func:`as_arrays` reads of other libraries (tables, data sets, loaders).
    Where a Hugging Face data set knows the names of its classes, they are kept, and one column of
    images or features beside the labels is a :class:`Split`.

    Attributes:
        train: the examples to train on.
        test: the examples to measure generalization on.
        class_names: one name per class; label ``i`` means ``class_names[i]``. Numbered where a
            ``Split`` has whole labels and no names are given; None for a task without classes.
        name: what reports and tables call it.
        normalize: how the inputs of a network are normalized, by the mean and the standard
            deviation of the whole training split: ``"channel"`` (every array of images
            ``[N, H, W, C]``, per channel), ``"feature"`` (every array of floats that is none of
            images, per last axis), or None. Whole numbers that are no pixels are never touched.
            ``"auto"``, the default, takes ``"channel"`` for a ``Split`` of images, ``"feature"``
            for a ``Split`` of features, and None for any other pytree; the attribute then holds
            which it was.

    Raises:
        ValueError: lengths, shapes, types or labels that do not fit, numbers that are not finite,
            or an unknown normalization.

    Example:
        >>> import numpy as np
        >>> from gapjax.data import Dataset, Split
        >>> images = np.zeros((6, 8, 8, 1), np.uint8)
        >>> labels = np.array([0, 1, 0, 1, 0, 1])
        >>> mine = Dataset(Split(images[:4], labels[:4]), Split(images[4:], labels[4:]), ("a", "b"))
        >>> len(mine.train), mine.train.labels.dtype, mine.num_classes, mine.normalize
        (4, dtype('int32'), 2, 'channel')
        >>> table = {"x": np.ones((5, 3)), "y": np.ones(5)}
        >>> Dataset(table, table, name="ones").train["x"].dtype
        dtype('float32')
    """

    train: Any
    test: Any
    class_names: tuple[str, ...] | None = None
    name: str = "custom"
    normalize: str | None = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be a text that is not empty, not {self.name!r}.")
        if self.normalize is not None:
            _checks.one_of("normalize", self.normalize, ("auto", *NORMALIZATIONS))
        known: dict[str, tuple[str, ...]] = {}
        for part in ("train", "test"):
            split, names = _opened(getattr(self, part))
            if names is not None:
                known[part] = names
            object.__setattr__(self, part, _checked(split, part))
        _check_same_names(known)
        if self.class_names is None and known:
            object.__setattr__(self, "class_names", next(iter(known.values())))
        examples = {part: _example(getattr(self, part)) for part in ("train", "test")}
        if isinstance(examples["train"], Split):
            object.__setattr__(self, "class_names", _class_names(self, examples))
        elif self.class_names is not None:
            given = _checks.several("class_names", self.class_names)
            object.__setattr__(self, "class_names", tuple(map(str, given)))
        _check_same_kind(examples["train"], examples["test"])
        if self.normalize == "auto":
            object.__setattr__(self, "normalize", _usual(examples["train"]))

    def __repr__(self) -> str:
        """In one line: its name, and how many examples and classes there are."""
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        examples = f"{count(self.train):,} to train on, {count(self.test):,} to test on"
        return f"{type(self).__name__}({self.name!r}: {examples}{classes})"

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 for a task without classes."""
        return len(self.class_names or ())

    @property
    def num_examples(self) -> int:
        """How many examples there are to train on."""
        return count(self.train)


def count(split: Any) -> int:
    """How many examples a split has."""
    return len(split) if isinstance(split, StreamedSplit) else len(jax.tree.leaves(split)[0])


def _kind(leaf: Any) -> str:
    """Type and shape of an array; anything else, such as a place in a tree, as it is."""
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        return repr(leaf)
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _example(split: Any) -> Any:
    """The first example of a split, without a leading axis."""
    return split[0] if isinstance(split, StreamedSplit) else jax.tree.map(lambda x: x[0], split)


def _usual(example: Any) -> str | None:
    """The normalization of what is plainly images or plainly features."""
    if not isinstance(example, Split):
        return None
    return "channel" if example.images.dtype == np.uint8 else "feature"


def _opened(split: Any) -> tuple[Any, tuple[str, ...] | None]:
    """The arrays behind what is another library's, and the names of its classes if it knows them.

    A column of class labels beside one of images or features is a ``Split``.
    """
    if not _doors.is_door(split):
        return split, None
    arrays, known = _doors.as_arrays(split), _doors.label_column(split)
    if known is None:
        return arrays, None
    label, names = known
    others = [name for name in arrays if name != label]
    if len(others) == 1 and _is_example(arrays[others[0]]):
        return Split(arrays[others[0]], arrays[label]), names
    return arrays, names


def _is_example(array: np.ndarray) -> bool:
    """Whether an array is what a ``Split`` holds: images or features."""
    images = array.ndim == 4 and array.dtype == np.uint8
    return images or (array.ndim == 2 and jnp.issubdtype(array.dtype, jnp.floating))


def _checked(split: Any, part: str) -> Any:
    """The split as NumPy arrays of the documented types; a streamed one as it is."""
    if isinstance(split, StreamedSplit):
        return split
    if isinstance(split, Split):
        split = Split(_images(split.images, part), split.labels)
    leaves, structure = jax.tree_util.tree_flatten_with_path(
        split, is_leaf=lambda x: isinstance(x, list)
    )
    if not leaves:
        raise ValueError(
            f"{part} holds no arrays: give a Split, or any pytree of arrays with a leading axis of "
            "examples."
        )
    arrays = [_array(leaf, _place(part, path)) for path, leaf in leaves]
    lengths = {
        _place(part, path): len(array) for (path, _), array in zip(leaves, arrays, strict=True)
    }
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{place} has {length}" for place, length in lengths.items())
        raise ValueError(
            f"every array needs the same leading axis of examples, and {said}: there must be as "
            "many of one as of the other."
        )
    if not next(iter(lengths.values())):
        raise ValueError(f"{part} holds no examples; there must be at least one.")
    checked = jax.tree.unflatten(structure, arrays)
    if isinstance(checked, Split) and _is_class(checked.labels[0]):
        return Split(checked.images, checked.labels.astype(np.int32))
    return checked


def _place(part: str, path: Any) -> str:
    """Where a leaf stands, as Python writes it."""
    return part + jax.tree_util.keystr(path)


def _images(images: Any, part: str) -> np.ndarray:
    images = np.asarray(images)
    if not _is_example(images):
        raise ValueError(
            f"{part}.images has dtype {images.dtype} and shape {images.shape}; it must be uint8 of "
            "shape [N, H, W, C] (grey images need a last axis of 1: images[..., None]), or floats "
            "of shape [N, features]. Any other inputs, images of floats too, go into a pytree of "
            'your own, such as a dict: {"x": images, "y": labels}.'
        )
    return images


def _array(leaf: Any, place: str) -> np.ndarray:
    """A leaf with the type that it has on a device, or what is wrong with it."""
    if np.ma.is_masked(leaf):
        raise ValueError(f"{place} has missing values: leave those examples out, or fill them.")
    array = np.asarray(leaf)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"{place} holds {array.dtype}, which cannot go onto a device: turn it into numbers, or "
            "leave it out."
        )
    if not array.ndim:
        raise ValueError(f"{place} is one number; it needs a leading axis of examples.")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # JAX knows no other
    if array.dtype.itemsize >= 8:
        wide = array.dtype if array.dtype.itemsize == 8 else np.dtype(np.float64)
        narrow = jax.dtypes.canonicalize_dtype(wide)
        if array.dtype.kind in "iu" and array.size:
            bounds, low, high = np.iinfo(narrow), int(array.min()), int(array.max())
            if low < bounds.min or high > bounds.max:
                raise ValueError(
                    f"{place} runs from {low} to {high}, and {narrow} holds {bounds.min} to "
                    f"{bounds.max}: number what it counts anew, or give it as floats."
                )
        with np.errstate(over="ignore"):
            array = array.astype(narrow)
    finite = np.isfinite(array) if jnp.issubdtype(array.dtype, jnp.floating) else np.True_
    if not finite.all():
        bad = np.argwhere(~finite)[0]
        raise ValueError(
            f"{place}[{', '.join(map(str, bad))}] is {array[tuple(bad)]}: every number must be "
            "finite (in float32)."
        )
    return array


def _check_same_kind(train: Any, test: Any) -> None:
    """The examples of both splits must be of the same kind."""
    kinds = [
        {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in named_leaves(example).items()}
        for example in (train, test)
    ]
    for place in {**kinds[0], **kinds[1]}:
        here, there = (kind.get(place, "missing") for kind in kinds)
        if here != there:
            raise ValueError(
                f"an example{place} is {here} in train and {there} in test; both splits must hold "
                "the same kind of example."
            )


def _check_same_names(known: dict[str, tuple[str, ...]]) -> None:
    """Both splits must number their classes alike, where both tell."""
    if len(set(known.values())) < 2:
        return
    train, test = known["train"], known["test"]
    place = next(
        (i for i, pair in enumerate(zip(train, test, strict=False)) if pair[0] != pair[1]),
        min(len(train), len(test)),
    )
    one, other = (repr(names[place]) if place < len(names) else "none" for names in (train, test))
    raise ValueError(
        f"class {place} is {one} in train and {other} in test: number the classes of both alike, "
        "with align_labels_with_mapping of the data set, say."
    )


def _class_names(dataset: Dataset, examples: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes of whole labels, checked against those that are at hand."""
    names = dataset.class_names
    if isinstance(names, str):
        raise ValueError(f"class_names must be one name per class, not one text: {names!r}.")
    if names is not None:
        names = tuple(map(str, _checks.several("class_names", names)))
    labels = {part: one.labels for part, one in examples.items() if isinstance(one, Split)}
    for part, label in labels.items():
        _check_either(label, part)
        if names is not None and not label.ndim and label.dtype.kind not in "iu":
            raise ValueError(
                f"{part}.labels has dtype {label.dtype}; with class names it must hold "
                "integers, one per example. Leave class_names out for targets of another task."
            )
    if not all(_is_class(label) for label in labels.values()):
        return names  # targets of another task
    splits = {part: getattr(dataset, part) for part in labels}
    whole = {part: split for part, split in splits.items() if isinstance(split, Split)}
    if names is None and len(whole) == 2:
        most = max(int(split.labels.max()) for split in whole.values())
        names = tuple(map(str, range(most + 1)))
    if not names:
        raise ValueError("class_names is empty; give one name per class.")
    for part, split in whole.items():
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= len(names):
            hint = " (TFDS labels a split whose answers are kept back with -1)" if low < 0 else ""
            raise ValueError(
                f"{part}.labels run from {low} to {high}, but {len(names)} class names allow "
                f"0 to {len(names) - 1}{hint}."
            )
    return names


def _check_either(label: Any, part: str) -> None:
    """Labels must be plainly those of classes, or plainly the targets of another task."""
    remedy = "Targets of another task are floats, or go into a dict of arrays in place of a Split."
    if not label.ndim and label.dtype.kind == "b":
        raise ValueError(
            f"{part}.labels are True and False; the classes of a Split are whole numbers: "
            f"labels.astype(np.int32). {remedy}"
        )
    if label.shape == (1,) and label.dtype.kind in "biu":
        raise ValueError(
            f"{part}.labels have shape [N, 1]; the classes of a Split are one number per example: "
            f"labels[:, 0]. {remedy}"
        )


def _is_class(label: Any) -> bool:
    """Whether the label of one example is the number of a class."""
    return not label.ndim and label.dtype.kind in "iu"


def named_leaves(tree: Any) -> Mapping[str, Any]:
    """The leaves of a tree by their path, as Python writes it."""
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
