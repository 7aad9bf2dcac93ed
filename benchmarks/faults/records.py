"""Bytes that change in a prepared data set: never a wrong record, always a named one.

`python -m benchmarks.faults.records [COUNT]` writes a small data set as tfrecord files and changes
bytes of its shards, at random places to random values, COUNT of them (200,000 by default): a tenth
of them one at a time, the others 50 at once over the folder. After each change all is
read again. A record that differs from what was written counts as wrong; an error has to name the
shard. Kept in `benchmarks/results/records-faults-cpu.json`.
"""

import collections
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.speed.records import to_tfrecord
from benchmarks.speed.timing import keep
from gapjax.data import _fields, _shards, _tfds, import_local

_AT_ONCE = 50
_SHARDS = ("train", "test")


def _write(root: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for split in _SHARDS:
        for label in "ab":
            (root / "in" / split / label).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (6, 6, 1), np.uint8)
                path = root / "in" / split / label / f"{i}.png"
                PIL.Image.fromarray(pixels[..., 0]).save(path)
    written = import_local("images", root / "in", data_dir=root / "array_record")
    return to_tfrecord(written, root / "tfrecord" / "images" / "1.0.0")


def main(count: int) -> dict[str, Any]:
    """Change so many bytes, and tell what came of it."""
    rng = np.random.default_rng(1)
    found: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        place = _write(pathlib.Path(folder))
        builder = _tfds.open_prepared(place)
        fields = _fields.find_fields("images", builder.info)
        nowhere = pathlib.Path(folder, "none", "kept")  # what was found is never kept
        paths = {split: next(place.glob(f"*{split}.tfrecord*")) for split in _SHARDS}
        good = {split: path.read_bytes() for split, path in paths.items()}

        def read(split: str) -> dict[str, np.ndarray]:
            shards = _shards.open_shards(builder, split, nowhere)
            return fields.arrays(shards.__getitems__(range(len(shards))))

        wanted = {split: read(split) for split in _SHARDS}
        changed = 0
        while changed < count:
            alone = changed < count // 10
            bad = {split: bytearray(content) for split, content in good.items()}
            for _ in range(1 if alone else _AT_ONCE):
                split = _SHARDS[rng.integers(2)]
                at = rng.integers(len(bad[split]))
                bad[split][at] ^= rng.integers(1, 256)
                changed += 1
            for split in _SHARDS:
                if bad[split] == good[split]:
                    continue
                paths[split].write_bytes(bad[split])
                try:
                    got = read(split)
                except ValueError as error:
                    named = paths[split].name in str(error) and "\n" not in str(error)
                    found["named" if named else "not named"] += 1
                else:
                    same = all((got[key] == wanted[split][key]).all() for key in got)
                    found["unnoticed" if same else "wrong"] += 1
                paths[split].write_bytes(good[split])
    return {"bytes changed": changed, "readings": sum(found.values()), **found}


if __name__ == "__main__":
    figures = main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
    print(figures)
    keep("records-faults", figures)
