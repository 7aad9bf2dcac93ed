"""Reading a prepared data set: tfrecord, TFDS's default, against array_record.

`python -m benchmarks.speed.records` writes the same images as both, reads them in order and in
random batches (decoded, as `load` and a streamed split do), and as bytes alone, and keeps the
figures in `benchmarks/results/records-cpu.json`. Bar: tfrecord takes at most 1.2 times the time of
array_record on the same images. Where the records start is found once before, and timed beside.
"""

import io
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.speed.timing import interleave, keep, table
from gapjax.data import _fields, _shards, _tfds, import_local
from gapjax.data._crc32c import crc32c

BATCH = 128
# Number of images, their height, width and channels, and the format that they are kept in.
SETS = {
    "like MNIST": (600, 28, 28, 1, "png"),
    "like CIFAR-10": (400, 32, 32, 3, "png"),
    "like ImageNet": (32, 375, 500, 3, "jpg"),
}


def _image(rng: np.random.Generator, height: int, width: int, channels: int) -> PIL.Image.Image:
    """Blobs under noise, which compresses about as photographs do."""
    coarse = rng.integers(0, 256, (6, 8, channels), np.uint8)
    small = PIL.Image.fromarray(coarse[..., 0] if channels == 1 else coarse)
    smooth = np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC), np.int16)
    if channels == 1:  # mostly background
        return PIL.Image.fromarray(np.where(smooth > 150, smooth, 0).astype(np.uint8))
    noise = rng.normal(0, 6, smooth.shape)
    return PIL.Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def _write(root: pathlib.Path, count: int, size: tuple[int, int, int], kind: str) -> Any:
    """The folder of a data set, as array_record."""
    rng = np.random.default_rng(0)
    for split, number in (("train", count), ("test", 2)):
        for label in "ab":
            (root / "in" / split / label).mkdir(parents=True)
        for i in range(number):
            path = root / "in" / split / "ab"[i % 2] / f"{i}.{kind}"
            _image(rng, *size).save(path, quality=95)
    return import_local("images", root / "in", data_dir=root / "array_record")


def to_tfrecord(written: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """The same folder with tfrecord files."""
    from array_record.python import array_record_module

    shutil.copytree(written, target)
    for path in target.glob("*.array_record-*"):
        reader = array_record_module.ArrayRecordReader(str(path))
        out = io.BytesIO()
        for record in reader.read_all():
            head = len(record).to_bytes(8, "little")
            for part in (head, record):
                crc = int(crc32c([part])[0])
                masked = (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
                out.write(part + masked.to_bytes(4, "little"))
        reader.close()
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(out.getvalue())
        path.unlink()
    about = target / "dataset_info.json"
    about.write_text(about.read_text().replace("array_record", "tfrecord"))
    return target


def _readers(place: pathlib.Path, kept: pathlib.Path) -> dict[str, Callable[[], Any]]:
    builder = _tfds.open_prepared(place)
    fields = _fields.find_fields("images", builder.info)
    shards = _shards.open_shards(builder, "train", kept)
    count = len(shards)
    order = np.random.default_rng(0).permutation(count).tolist()

    def read(numbers: list[int], finish: Callable[[Any], Any]) -> Callable[[], Any]:
        def run() -> None:
            for first in range(0, count, BATCH):
                finish(shards.__getitems__(numbers[first : first + BATCH]))

        return run

    def find() -> None:
        shutil.rmtree(kept, ignore_errors=True)
        _shards.open_shards(builder, "train", kept).__getitems__([0])

    return {
        "decoded, in order": read(list(range(count)), fields.arrays),
        "decoded, at random": read(order, fields.arrays),
        "bytes, at random": read(order, lambda records: records),
        "first record": find,
    }


def main() -> None:
    """Measure and keep."""
    figures: dict[str, Any] = {}
    for name, (count, *size, kind) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            written = _write(root, count, tuple(size), kind)
            other = to_tfrecord(written, root / "tfrecord" / "images" / "1.0.0")
            length = sum(path.stat().st_size for path in other.glob("*train*")) / count
            readers = {
                form: _readers(place, root / f"kept-{form}")
                for form, place in (("array_record", written), ("tfrecord", other))
            }
            for what in readers["tfrecord"]:
                runs = {form: found[what] for form, found in readers.items()}
                timings = interleave(runs, reference="array_record", rounds=15)
                figures[f"{name}, {what}"] = {
                    "bytes per record": round(length),
                    **{form: timing._asdict() for form, timing in timings.items()},
                }
                print(f"{name}, {what}:\n{table(timings)}")
    keep("records", figures)


if __name__ == "__main__":
    main()
