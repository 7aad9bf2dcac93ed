"""Small local data sets in the formats people have on disk."""

import gzip
import io
import pickle
import tarfile
import zlib

import numpy as np
import PIL.Image

RNG = np.random.Generator(np.random.Philox(key=0))


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder, *, zipped=False, train=20, test=10, side=28, classes=10):
    """The four files; returns {split: (images [N, side, side, 1], labels)}."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for split, stem, count in (("train", "train", train), ("test", "t10k", test)):
        images = RNG.integers(0, 256, (count, side, side), dtype=np.uint8)
        labels = RNG.integers(0, classes, count, dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{stem}-{kind}-ubyte"
            if zipped:
                (folder / (path.name + ".gz")).write_bytes(gzip.compress(idx_bytes(array)))
            else:
                path.write_bytes(idx_bytes(array))
        made[split] = images[..., None], labels
    return made


def _cifar(classes):
    counts = {"train": 10, "test": 4}
    made = {}
    for split, count in counts.items():
        images = RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count) * 7 % classes
        made[split] = images, labels.astype(np.uint8)
    return made


def _files(classes, suffix):
    if classes == 10:
        return {
            "train": [f"data_batch_{i}{suffix}" for i in range(1, 6)],
            "test": [f"test_batch{suffix}"],
        }
    return {"train": [f"train{suffix}"], "test": [f"test{suffix}"]}


def write_cifar_binary(folder, classes):
    folder.mkdir(parents=True, exist_ok=True)
    made = _cifar(classes)
    for split, names in _files(classes, ".bin").items():
        images, labels = made[split]
        for name, rows in zip(
            names, np.array_split(np.arange(len(labels)), len(names)), strict=True
        ):
            planes = images[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)
            head = (
                [labels[rows][:, None]]
                if classes == 10
                else [labels[rows][:, None] % 20, labels[rows][:, None]]
            )
            (folder / name).write_bytes(np.concatenate([*head, planes], 1).tobytes())
    return made


def write_cifar_python(folder, classes):
    folder.mkdir(parents=True, exist_ok=True)
    made = _cifar(classes)
    for split, names in _files(classes, "").items():
        images, labels = made[split]
        for name, rows in zip(
            names, np.array_split(np.arange(len(labels)), len(names)), strict=True
        ):
            table = {b"data": images[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)}
            if classes == 10:
                table[b"labels"] = labels[rows].tolist()
            else:
                table[b"fine_labels"] = labels[rows].tolist()
                table[b"coarse_labels"] = (labels[rows] % 20).tolist()
            (folder / name).write_bytes(pickle.dumps(table, protocol=2))
    return made


def write_folders(folder, classes, *, shape=(32, 32, 3), suffix="png", test="test", sizes=None):
    """`train/CLASS/i.suffix`; returns {split: (images, labels)} in the order of the files."""
    made = {}
    for split, count in (("train", 3), (test, 2)):
        images, labels = [], []
        for label, kind in enumerate(sorted(classes)):
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                here = shape if sizes is None else (*sizes[i % len(sizes)], shape[-1])
                image = RNG.integers(0, 256, here, dtype=np.uint8)
                picture = PIL.Image.fromarray(image[..., 0] if here[-1] == 1 else image)
                picture.save(folder / split / kind / f"{i:04d}.{suffix}")
                images.append(image)
                labels.append(label)
        made[split] = images, labels
    return made


def pack(folder, archive):
    with tarfile.open(archive, "w:" + archive.suffix.lstrip(".")) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return archive


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def png(values, *, bits, kind):
    """Values [H, W, C] as a PNG of a colour type of its standard, which Pillow may not write."""

    def chunk(name, body):
        check = zlib.crc32(name + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + name + body + check

    height, width = (n.to_bytes(4, "big") for n in values.shape[:2])
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    head = chunk(b"IHDR", width + height + bytes([bits, kind, 0, 0, 0]))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def multiset(images, labels):
    """The examples of a split whatever their order (TFDS shuffles when it writes)."""
    return sorted((np.asarray(i).tobytes(), int(y)) for i, y in zip(images, labels, strict=True))


def _crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC32C = _crc32c_table()


def crc32c(content):
    """CRC-32C, a byte at a time."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def tfrecord(records):
    """Records as TensorFlow writes them."""

    def masked(content):
        crc = crc32c(content)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")

    parts = []
    for record in records:
        head = len(record).to_bytes(8, "little")
        parts += [head, masked(head), record, masked(record)]
    return b"".join(parts)


def to_tfrecord(written):
    """Make a prepared folder of array_record files one of tfrecord files, TFDS's default."""
    from array_record.python import array_record_module

    for path in written.glob("*.array_record-*"):
        reader = array_record_module.ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(tfrecord(records))
        path.unlink()
    about = written / "dataset_info.json"
    about.write_text(about.read_text().replace("array_record", "tfrecord"))


def prepare(folder, name, features, supervised_keys, splits):
    """A data set as anyone's own TFDS builder would write it."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=supervised_keys,
        )

    namespace = {
        "name": name,
        "VERSION": tfds.core.Version("2.0.0"),
        "_info": info,
        "_split_generators": lambda self, manager: {
            split: iter(enumerate(examples)) for split, examples in splits.items()
        },
        "_generate_examples": None,
        "__module__": __name__,
        "pkg_dir_path": None,
    }
    with registered.skip_registration():
        builder = type("Own", (tfds.core.GeneratorBasedBuilder,), namespace)
    builder(data_dir=str(folder), file_format="array_record").download_and_prepare()
