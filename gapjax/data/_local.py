"""What a file or a folder of this machine holds: which of the formats that people have on disk."""

import collections
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gapjax.data import _archives, _images


class Example(NamedTuple):
    """One example: pixels or the file that holds them, its class, and where it came from."""

    image: np.ndarray | pathlib.Path
    label: int | str
    extra: Mapping[str, Any] = {}


class Local(NamedTuple):
    """Examples found in local files, by split; each call of a split reads it from its start.

    Attributes:
        class_names: one name per class.
        splits: what reads each split.
        left_out: files beside the examples that are none.
        notes: what else is to be said of it.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Callable[[], Iterator[Example]]]
    left_out: tuple[pathlib.Path, ...] = ()
    notes: tuple[str, ...] = ()


def from_arrays(
    images: np.ndarray, labels: np.ndarray, **extra: np.ndarray
) -> Callable[[], Iterator[Example]]:
    """What reads a split that lies in arrays."""

    def read() -> Iterator[Example]:
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Example(image, int(label), {key: int(v[row]) for key, v in extra.items()})

    return read


def read_local(name: str, source: pathlib.Path, scratch: pathlib.Path) -> Local:
    """What a file or folder holds for a data set of this name.

    Raises:
        ValueError: nothing that is known, several sets, or a file that is damaged.
        OSError: the disk's.
    """
    if not source.exists():
        raise ValueError(f"There is nothing at {source}: give the folder or archive of the files.")
    if source.is_dir():
        found = _search(name, source, scratch, ())
    else:
        found = _opened(name, source, scratch, ())
    if not found:
        raise ValueError(
            f"{source} holds no data set that can be imported: it needs the four IDX files of "
            "MNIST (train-images-idx3-ubyte, ..., gzipped or not), the binary or python files of "
            "CIFAR, a folder of images per class (train/CLASS/*.png and test/CLASS/*.png), or one "
            "archive of these."
        )
    if len(found) > 1:
        raise ValueError(
            f"{source} holds several data sets, and no name tells which is {name}: "
            f"{', '.join(map(str, found))}. Give the folder or archive of one."
        )
    return next(iter(found.values()))


def check_class_names(place: pathlib.Path, names: Sequence[str]) -> None:
    """Names of classes that TFDS writes one to a line and reads as they were."""
    for name in names:
        # line breaks, and what stands for bytes that are no UTF-8
        if not name.isprintable() or name != name.strip() or not name:
            raise ValueError(
                f"{place} holds a class named {name!r}; the names of classes are UTF-8, printable "
                "and without blanks at their ends. Rename it there."
            )


def visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """What lies in a folder, in order, without what notebooks, Macs and Windows leave there."""
    return [path for path in sorted(folder.iterdir()) if not _archives.is_hidden(path.name)]


def _search(
    name: str, folder: pathlib.Path, scratch: pathlib.Path, within: tuple[_archives.Room, ...]
) -> dict[pathlib.Path, Local]:
    """The data set that a folder is, or those in it up to two levels down, by where they lie.

    Where places bear the name, or lie in one that does, the others are looked at only if those hold
    none. `within` has the room of the archive that the folder was unpacked from, once for each
    archive around it.
    """
    here = _recognized(name, folder)
    if here is not None:
        return {folder: here}
    children = [path for path in visible(folder) if path.is_dir()]
    children += [path for child in children for path in visible(child) if path.is_dir()]
    archives = [path for path in visible(folder) if _archives.is_archive(path)]
    if len(within) > 1:
        archives = []  # an archive in an archive in an archive is nobody's data set
    ranked: dict[int, list[pathlib.Path]] = {0: [], 1: [], 2: []}
    for path in children + archives:
        ranked[_rank(name, path.relative_to(folder))].append(path)
    for places in ranked.values():
        if sum(map(_archives.is_archive, places)) > _archives.MOST:
            raise ValueError(
                f"{folder} holds {len(archives)} archives; give the one that is meant."
            )
        found: dict[pathlib.Path, Local] = {}
        for path in places:
            if not found.keys().isdisjoint(path.parents):
                continue  # it is a part of that set
            if path.is_dir():
                local = _recognized(name, path)
                found |= {} if local is None else {path: local}
            else:
                found |= _opened(name, path, scratch, within)
            if len(found) > 1:  # enough to say that there are several
                break
        if found:
            return found
    return {}


def _rank(name: str, path: pathlib.Path) -> int:
    """0 where a part of a path is the name of the set, 1 where one holds it, 2 where none does."""
    wanted = _plain(name.partition("/")[0])
    if any(wanted in (_plain(part), _plain(part.partition(".")[0])) for part in path.parts):
        return 0
    return 1 if any(wanted in _plain(part) for part in path.parts) else 2


def _opened(
    name: str, archive: pathlib.Path, scratch: pathlib.Path, within: tuple[_archives.Room, ...]
) -> dict[pathlib.Path, Local]:
    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
    room = within[0] if within else _archives.Room(archive)
    notes = say_links(archive, _archives.unpack(archive, folder, room))
    found = _search(name, folder, scratch, (*within, room))
    return {
        archive / path.relative_to(folder): local._replace(notes=(*local.notes, *notes))
        for path, local in found.items()
    }


def say_links(archive: pathlib.Path, links: Sequence[str]) -> tuple[str, ...]:
    """What is said of links that were left out of an archive."""
    if not links:
        return ()
    return (
        f"{len(links)} links in {archive} lead to no file of it and were left out; the first is "
        f"{links[0]}. To follow them, unpack it and give the folder.",
    )


def _recognized(name: str, folder: pathlib.Path) -> Local | None:
    from gapjax.data import _cifar, _folders, _idx  # each makes a Local

    readers = (_idx.read, _cifar.read_binary, _cifar.read_python, _folders.read)
    return next((local for read in readers if (local := read(name, folder)) is not None), None)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def remarks(local: Local) -> list[str]:
    """What is to be said of a set that is read all the same."""
    return [*said_left_out(local.left_out, "images"), *local.notes, *_said_pages(local)]


def said_left_out(files: Sequence[pathlib.Path], what: str) -> list[str]:
    """What is said of files beside what was read."""
    if not files:
        return []
    kinds = collections.Counter(path.suffix.lower() or path.name for path in files)
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
    return [
        f"{len(files)} files beside the {what} were left out ({said}); the first is {files[0]}."
    ]


def _said_pages(local: Local) -> list[str]:
    """What is said of image files that hold several images."""
    examples = (example.image for read in local.splits.values() for example in read())
    several = [
        file for file in examples if isinstance(file, pathlib.Path) and _images.pages(file) > 1
    ]
    if not several:
        return []
    return [
        f"{len(several)} files hold several images (pages or frames), of which the first was taken;"
        f" the first such file is {several[0]}. Write each image to a file of its own to have all."
    ]


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def common_shape(local: Local) -> tuple[int | None, int | None, int]:
    """The shape that all images share; an axis along which they differ is None."""
    sizes, grey = set(), True
    for read in local.splits.values():
        for example in read():
            if isinstance(example.image, np.ndarray):
                sizes.add(example.image.shape[:2])
                grey = grey and example.image.shape[-1] == 1
                break  # every image of an array is alike
            size, alike = _images.look(example.image)
            sizes.add(size)
            grey = grey and alike
    height, width = ({size[axis] for size in sizes} for axis in (0, 1))
    return (
        height.pop() if len(height) == 1 else None,
        width.pop() if len(width) == 1 else None,
        1 if grey else 3,
    )
