"""Folders of images: ``train/CLASS/*.png`` and ``test/CLASS/*.png`` (or ``val``)."""

import pathlib
from collections.abc import Callable, Iterator

from gapjax.data import _archives, _images
from gapjax.data._local import Example, Local, visible

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}


def read(_: str, folder: pathlib.Path) -> Local | None:
    """The data set of a folder with a folder per split and, in each, a folder per class.

    Images may lie in folders within that of their class.
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
    classes = sorted({kind for files in splits.values() for _, kind in files})
    for name in classes:
        if not name.isprintable():  # line breaks, and what stands for bytes that are no UTF-8
            raise ValueError(
                f"{folder} holds a class named {name!r}; the names of classes are UTF-8 and "
                "printable. Rename the folder."
            )

    def reader(files: list[tuple[pathlib.Path, str]]) -> Callable[[], Iterator[Example]]:
        return lambda: (Example(file, kind) for file, kind in files)

    return Local(
        tuple(classes),
        {split: reader(files) for split, files in splits.items()},
        tuple(left_out),
    )
