"""The IDX files of MNIST and its kin, gzipped or not."""

import hashlib
import math
import pathlib

import numpy as np

from gapjax import _outside
from gapjax._text import readable_bytes
from gapjax.data._archives import damaged
from gapjax.data._known import PAYLOADS
from gapjax.data._local import Local, from_arrays


def read(name: str, folder: pathlib.Path) -> Local | None:
    """The data set of a folder that holds the four files."""

    def find(stem: str) -> pathlib.Path | None:
        names = (stem, stem.replace("-idx", ".idx"))
        paths = (folder / (n + suffix) for n in names for suffix in ("", ".gz"))
        return next((path for path in paths if path.exists() and not path.is_dir()), None)

    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        files = [find(f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        if files[0] is None or files[1] is None:
            continue
        images = _array(name, f"{stem}-images", files[0], 3)
        labels = _array(name, f"{stem}-labels", files[1], 1)
        if len(images) != len(labels):
            raise ValueError(
                f"{files[0]} holds {len(images)} images and {files[1]} {len(labels)} labels; they "
                "do not belong together."
            )
        arrays[split] = images[..., None], labels
    if len(arrays) < 2:
        return None
    classes = 1 + max(int(labels.max(initial=0)) for _, labels in arrays.values())
    return Local(
        tuple(map(str, range(max(classes, 10)))),
        {split: from_arrays(*pair) for split, pair in arrays.items()},
    )


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
