"""Folders of images: ``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val``)."""

import pathlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping

from gapjax import _checks
from gapjax.data import _archives, _images
from gapjax.data._local import Example, Local, check_class_names, visible

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}


def read(_: str, folder: pathlib.Path) -> Local | None:
    """The data set of a folder with a folder per split and, in each, a folder per class.

    Images may lie in folders within that of their class.

    Raises:
        ValueError: a class lies in another split and not in train, or has a name that TFDS cannot
            keep.
        OSError: a folder cannot be read.
    """
    splits: dict[str, list[tuple[pathlib.Path, str]]] = {}
    left_out: list[pathlib.Path] = []
    for child in visible(folder):
        split = SPLITS.get(child.name.lower())
        if split is None or not child.is_dir():
            continue
        for kind in visible(child):
            if not kind.is_dir():
                left_out.append(kind)
                continue
            for file in _archives.files_in(kind):
                if file.suffix.lower() in _images.SUFFIXES:
                    splits.setdefault(split, []).append((file, kind.name))
                else:
                    left_out.append(file)
    if "train" not in splits or len(splits) < 2:
        return None
    classes = {split: {kind for _, kind in files} for split, files in splits.items()}
    names = sorted(set.union(*classes.values()))
    check_class_names(folder, names)
    for split in sorted(classes.keys() - {"train"}):
        _check_known(folder, split, classes["train"], classes[split])

    def reader(files: list[tuple[pathlib.Path, str]]) -> Callable[[], Iterator[Example]]:
        return lambda: (Example(file, kind) for file, kind in files)

    return Local(
        tuple(names),
        {split: reader(files) for split, files in splits.items()},
        tuple(left_out),
        tuple(_said_lacking(folder, classes)),
    )


def _check_known(folder: pathlib.Path, split: str, train: set[str], other: set[str]) -> None:
    """The classes of another split must be among those of train."""
    unknown = sorted(other - train)
    if not unknown:
        return
    alike = {_folded(name): name for name in sorted(train)}
    near = alike.get(_folded(unknown[0]))
    hint = (
        _checks.near_matches(unknown[0], sorted(train))
        if near is None
        else f" {near!a} of train differs from {unknown[0]!a} in capitals only, or in how its "
        "letters are put together."
    )
    raise ValueError(
        f"The {split} split of {folder} has {_named(unknown)}, and train has no such class; its "
        f"classes are {_listed(sorted(train))}.{hint} Every split needs a folder per class, of the "
        f"same names: rename or sort the images of {split}, or take that folder away if nothing "
        "tells their classes."
    )


def _said_lacking(folder: pathlib.Path, classes: Mapping[str, set[str]]) -> Iterator[str]:
    """What is said of classes that are trained on and not tested."""
    for split in sorted(classes.keys() - {"train"}):
        if lacking := sorted(classes["train"] - classes[split]):
            yield f"The {split} split of {folder} lacks {_named(lacking)} of train."


def _folded(name: str) -> str:
    """A name without what capitals and the composition of letters make different."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _named(names: list[str]) -> str:
    return f"the class{'es' if len(names) > 1 else ''} {_listed(names)}"


def _listed(names: list[str]) -> str:
    said = ", ".join(map(repr, names[:8]))
    return said if len(names) <= 8 else f"{said} and {len(names) - 8} more"
