"""The IDX files of MNIST and its kin, gzipped or not."""

import hashlib
import math
import pathlib
import re

import numpy as np

from gapjax import _outside
from gapjax._text import readable_bytes
from gapjax.data._archives import damaged
from gapjax.data._known import FETCHABLE, PAYLOADS
from gapjax.data._local import Local, from_arrays

_STEMS = {"train": "train", "test": "t10k"}  # as MNIST names them
_FILE = re.compile(
    r"(?:(?P<set>emnist-[a-z]+)-)?(?P<split>train|t10k|test)-"
    r"(?P<kind>images(?=.idx3)|labels(?=.idx1))[-.]idx[13]-ubyte(?:\.gz)?"
)


def read(name: str, folder: pathlib.Path) -> Local | None:
    """The data set of a folder that holds the four files.

    Those of EMNIST begin with ``emnist-CONFIG-``; of several configurations the name tells which.
    """
    family = _family(name, folder)
    if family is None:
        return None
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, (image_file, label_file) in family.items():
        stem = _STEMS[split]
        images = _array(name, f"{stem}-images", image_file, 3)
        labels = _array(name, f"{stem}-labels", label_file, 1)
        if len(images) != len(labels):
            raise ValueError(
                f"{image_file} holds {len(images)} images and {label_file} {len(labels)} labels; "
                "they do not belong together."
            )
        if not len(images):
            raise ValueError(f"{image_file} holds no images; nothing was imported.")
        arrays[split] = images[..., None], labels
    classes = 1 + max(int(labels.max()) for _, labels in arrays.values())
    if name in FETCHABLE:  # a part of it may lack the last of its ten
        classes = max(classes, 10)
    return Local(
        tuple(map(str, range(classes))),
        {split: from_arrays(*pair) for split, pair in arrays.items()},
    )


_Pairs = dict[str, tuple[pathlib.Path, pathlib.Path]]


def _family(name: str, folder: pathlib.Path) -> _Pairs | None:
    """The files of images and of labels of both splits, of the set that is meant."""
    found: dict[str, dict[tuple[str, str], pathlib.Path]] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # of two, the one without .gz
        told = _FILE.fullmatch(path.name)
        if told is not None and not path.is_dir():
            split = "train" if told["split"] == "train" else "test"
            found.setdefault(told["set"] or "", {})[split, told["kind"]] = path
    whole = {
        family: {split: (files[split, "images"], files[split, "labels"]) for split in _STEMS}
        for family, files in found.items()
        if len(files) == 4
    }
    for family in (name.replace("/", "-"), ""):
        if family in whole:
            return whole[family]
    if len(whole) == 1 and "/" not in name:  # under a name of one's own
        return next(iter(whole.values()))
    if whole:
        raise ValueError(
            f"{folder} holds the files of {', '.join(sorted(whole))}, and none of them is {name}: "
            "import one by its name, such as 'emnist/letters', or move its four files to a folder "
            "of their own."
        )
    return None


def _array(name: str, key: str, file: pathlib.Path, ndim: int) -> np.ndarray:
    """The array of one file, as far as its bytes go."""
    header = 4 + 4 * ndim
    try:
        with _outside.open_unpacked(file) as stream:
            head = bytes(_outside.read_at_most(stream, header))
            if head[:4] != bytes([0, 0, 8, ndim]):
                raise ValueError(f"it does not start like an IDX file of {ndim} axes of bytes")
            shape = np.frombuffer(head[4:].ljust(4 * ndim, b"\0"), ">u4").tolist()
            size = math.prod(shape)
            if size > _outside.MEMORY:
                raise ValueError(
                    f"it promises {readable_bytes(size)}; at most "
                    f"{readable_bytes(_outside.MEMORY)} are read"
                )
            content = _outside.read_at_most(stream, size + 1)
        if len(content) != size:
            beyond = "more" if len(content) > size else len(content)
            raise ValueError(f"it promises {size} bytes and holds {beyond}")
        known = PAYLOADS.get(name, {}).get(key)
        if known and header + size == known.size:
            digest = hashlib.sha256(head)
            digest.update(content)
            if digest.hexdigest() != known.sha256:
                raise ValueError(f"its content is not that of {name}")
    except (ValueError, EOFError) as error:
        raise damaged(file, error) from error
    return np.frombuffer(content, np.uint8).reshape(shape)
