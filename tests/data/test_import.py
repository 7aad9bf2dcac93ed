import gzip
import os
import pickle
import sys
import tarfile

import numpy as np
import pytest

from data import files
from gapjax.data import from_folder, import_local, load

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _same(dataset, made):
    for split, (images, labels) in zip(("train", "test"), made.values(), strict=True):
        ours = getattr(dataset, split)
        assert files.multiset(ours.images, ours.labels) == files.multiset(images, labels)


def _untouched(folder):
    return sorted(str(p) for p in folder.rglob("*")) if folder.exists() else None


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_become_a_standard_folder(tmp_path, zipped):
    made = files.write_idx(tmp_path / "in" / "deep", zipped=zipped)
    written = import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    assert written == tmp_path / "out" / "mnist" / "3.0.1"
    dataset = load("mnist", data_dir=tmp_path / "out")
    _same(dataset, made)
    assert dataset.name == "mnist"
    assert dataset.class_names == tuple("0123456789")
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.dtype == np.int32


@pytest.mark.parametrize(("name", "classes"), [("mine", 3), ("kmnist", 10)])
def test_idx_files_of_a_name_of_ones_own_have_the_classes_of_their_labels(tmp_path, name, classes):
    files.write_idx(tmp_path / "in", classes=3)
    import_local(name, tmp_path / "in", data_dir=tmp_path / "out")
    assert load(name, data_dir=tmp_path / "out").num_classes == classes


def test_stock_calls_of_tfds_read_it_and_tensorflow_is_never_loaded(tmp_path):
    import tensorflow_datasets as tfds

    made = files.write_idx(tmp_path / "in")
    import_local("fashion_mnist", tmp_path / "in", data_dir=tmp_path / "out")
    source = tfds.data_source(
        "fashion_mnist", split="train[:50%]", data_dir=tmp_path / "out", download=False
    )
    assert len(source) == 10
    everything = tfds.builder("fashion_mnist", data_dir=tmp_path / "out").as_data_source("train")
    images = [record["image"] for record in everything]
    labels = [record["label"] for record in everything]
    assert files.multiset(images, labels) == files.multiset(*made["train"])
    assert tfds.builder_from_directory(tmp_path / "out/fashion_mnist/3.0.1").info.splits
    half = load("fashion_mnist", data_dir=tmp_path / "out", train="train[:50%]", test="train[-3:]")
    np.testing.assert_array_equal(half.train.images, [record["image"] for record in source])
    np.testing.assert_array_equal(half.test.images, images[-3:])
    assert half.class_names[9] == "Ankle boot"
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("write", [files.write_cifar_binary, files.write_cifar_python])
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_archives(tmp_path, write, classes):
    made = write(tmp_path / "in" / f"cifar-{classes}", classes)
    archive = files.pack(tmp_path / "in", tmp_path / "archive.tar.gz")
    import_local(f"cifar{classes}", archive, data_dir=tmp_path / "out")
    dataset = load(f"cifar{classes}", data_dir=tmp_path / "out")
    _same(dataset, made)
    assert dataset.num_classes == classes
    assert classes == 100 or dataset.class_names == tuple(CIFAR10)


def test_folders_of_images_under_a_known_name(tmp_path):
    made = files.write_folders(tmp_path / "in" / "images", CIFAR10)
    files.write_idx(tmp_path / "all" / "mnist")  # another set beside it does not confuse
    files.pack(tmp_path / "in", tmp_path / "all" / "cifar10-png.tar.xz")
    import_local("cifar10", tmp_path / "all", data_dir=tmp_path / "out")
    _same(load("cifar10", data_dir=tmp_path / "out"), made)


def test_folders_of_images_under_a_name_of_ones_own(tmp_path):
    made = files.write_folders(tmp_path / "in", ["rock", "paper"], shape=(9, 7, 1), test="val")
    import_local("my_shapes", tmp_path / "in", data_dir=tmp_path / "out")
    dataset = load("my_shapes", data_dir=tmp_path / "out")
    _same(dataset, made)
    assert dataset.class_names == ("paper", "rock")
    assert dataset.train.images.shape == (6, 9, 7, 1)


def test_images_of_many_sizes_need_one(tmp_path):
    files.write_folders(tmp_path / "in", "ab", sizes=[(20, 30), (25, 25)], suffix="jpg")
    import_local("mixed", tmp_path / "in", data_dir=tmp_path / "out")
    with pytest.raises(ValueError, match=r"mixed differ in size .*pass image_size=224"):
        load("mixed", data_dir=tmp_path / "out")
    dataset = load("mixed", data_dir=tmp_path / "out", image_size=12)
    assert dataset.train.images.shape == (6, 12, 12, 3)


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: -1000 if path.suffix == ".png" else -7])


def _mnist(folder):
    files.write_idx(folder, zipped=True)
    return folder / "train-images-idx3-ubyte.gz"


def _raw_mnist(folder):
    files.write_idx(folder)
    return folder / "t10k-labels-idx1-ubyte"


def _cifar(folder):
    files.write_cifar_binary(folder, 10)
    return folder / "data_batch_3.bin"


def _pickled(folder):
    files.write_cifar_python(folder, 10)
    return folder / "test_batch"


def _image(folder):
    files.write_folders(folder, CIFAR10)
    return folder / "test" / "cat" / "0001.png"


def _archive(folder):
    files.write_cifar_binary(folder / "in", 10)
    archive = files.pack(folder / "in", folder / "cifar.tar.xz")
    for path in (folder / "in").iterdir():
        path.unlink()
    return archive


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("mnist", _mnist),
        ("mnist", _raw_mnist),
        ("cifar10", _cifar),
        ("cifar10", _pickled),
        ("cifar10", _image),
        ("cifar10", _archive),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_left(tmp_path, name, make):
    damaged = make(tmp_path / "in")
    _truncate(damaged)
    (tmp_path / "out" / "mine").mkdir(parents=True)
    before = _untouched(tmp_path)
    with pytest.raises(ValueError, match=damaged.name) as caught:
        import_local(name, tmp_path / "in", data_dir=tmp_path / "out")
    assert "nothing was imported" in str(caught.value)
    assert _untouched(tmp_path) == before
    with pytest.raises(ValueError, match=damaged.name):
        import_local(name, tmp_path / "in", data_dir=tmp_path / "not" / "there")
    assert not (tmp_path / "not").exists()


def test_a_payload_of_the_size_of_a_known_one_must_be_it(tmp_path):
    files.write_idx(tmp_path / "in", train=1, test=1)
    forged = np.zeros(10_000, np.uint8)
    (tmp_path / "in" / "t10k-labels-idx1-ubyte").write_bytes(files.idx_bytes(forged))
    with pytest.raises(ValueError, match=r"t10k-labels.*content is not that of mnist"):
        import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")


def test_an_archive_by_the_name_of_the_original_must_be_it(tmp_path):
    files.write_cifar_binary(tmp_path / "in", 10)
    archive = files.pack(tmp_path / "in", tmp_path / "cifar-10-binary.tar.gz")
    with pytest.raises(ValueError, match="not the archive known by that name"):
        import_local("cifar10", archive, data_dir=tmp_path / "out")


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "harm"),)

    files.write_cifar_python(tmp_path / "in", 10)
    (tmp_path / "in" / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"data_batch_1 .*asks for posix.system"):
        import_local("cifar10", tmp_path / "in", data_dir=tmp_path / "out")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        # what the writer of array_record raises
        RuntimeError("write() failed: No space left on device; writing train.array_record"),
    ],
)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, error):
    import PIL.Image

    def save(self, *args, **kwargs):
        raise error

    files.write_idx(tmp_path / "in")
    monkeypatch.setattr(PIL.Image.Image, "save", save)
    before = _untouched(tmp_path)
    with pytest.raises(ValueError, match=r"No space left on device .*nothing was imported"):
        import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    assert _untouched(tmp_path) == before


def test_what_is_there_stays(tmp_path):
    files.write_idx(tmp_path / "in")
    written = import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    before = _untouched(written)
    with pytest.raises(ValueError, match="is there already"):
        import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    assert _untouched(written) == before


def test_what_cannot_be_imported_says_what_would_fit(tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    for name, source, message in (
        ("mnist", tmp_path / "nowhere", "nothing at"),
        ("mnist", tmp_path / "empty", "train/CLASS"),
        ("digits", tmp_path / "empty", "embedded"),
        ("MNIST", tmp_path / "empty", "Did you mean 'mnist'"),
        ("mine/letters", tmp_path / "empty", "configuration"),
        ("mnist:3.0.1", tmp_path / "empty", "leave the version out"),
    ):
        with pytest.raises(ValueError, match=message):
            import_local(name, source, data_dir=out)
    files.write_folders(tmp_path / "plane", ["plane", "cat"])
    with pytest.raises(ValueError, match=r"no class 'plane'; its classes are airplane"):
        import_local("cifar10", tmp_path / "plane", data_dir=out)
    files.write_folders(tmp_path / "small", CIFAR10, shape=(8, 8, 3))
    with pytest.raises(ValueError, match="8 x 8 pixels, the data set has 32 x 32"):
        import_local("cifar10", tmp_path / "small", data_dir=out)
    files.write_folders(tmp_path / "fine", [f"c{i}" for i in range(100)])
    with pytest.raises(ValueError, match="needs the field 'coarse_label'"):
        import_local("cifar100", tmp_path / "fine", data_dir=out)
    (tmp_path / "two").mkdir()
    for part in ("a", "b"):
        files.write_idx(tmp_path / "two" / part)
    with pytest.raises(ValueError, match="several data sets"):
        import_local("mnist", tmp_path / "two", data_dir=out)
    assert not out.exists()


def test_gzip_with_another_header_is_the_same_payload(tmp_path):
    made = files.write_idx(tmp_path / "in", zipped=True)
    path = tmp_path / "in" / "train-labels-idx1-ubyte.gz"
    with path.open("wb") as raw, gzip.GzipFile("another name", "wb", fileobj=raw) as stream:
        stream.write(files.idx_bytes(made["train"][1]))
    import_local("kmnist", tmp_path / "in", data_dir=tmp_path / "out")
    _same(load("kmnist", data_dir=tmp_path / "out"), made)


@pytest.mark.parametrize("where", ["header", "border", "flipped", "no end"])
def test_a_tar_file_that_is_cut_or_damaged_is_refused(tmp_path, where):
    files.write_folders(tmp_path / "in", ["a", "b"])
    archive = files.pack(tmp_path / "in", tmp_path / "in.tar")
    content = bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    last = members[-2].offset
    if where == "flipped":
        content[last + 20] ^= 1
    else:
        content = content[: {"header": last + 100, "border": last}.get(where, _end(members[-1]))]
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"in\.tar is truncated or damaged"):
        import_local("own", archive, data_dir=tmp_path / "out")
    assert not _untouched(tmp_path / "out")


def _end(member):
    return member.offset_data + -(-member.size // 512) * 512


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_extended_headers_in_a_tar_file_are_read(tmp_path, kind):
    made = files.write_folders(tmp_path / "in", ["a", "b" * 120])
    with tarfile.open(tmp_path / "in.tar", "w", format=kind) as tar:
        tar.add(tmp_path / "in", arcname="x" * 90)
    import_local("own", tmp_path / "in.tar", data_dir=tmp_path / "out")
    _same(load("own", data_dir=tmp_path / "out"), made)


def test_folders_behind_links_are_read_and_loops_end(tmp_path):
    files.write_folders(tmp_path / "in", ["a", "b"])
    extra = tmp_path / "extra"
    extra.mkdir()
    for i in range(5):
        (extra / f"more{i}.png").write_bytes(files.encoded(np.zeros((32, 32, 3), np.uint8)))
    (tmp_path / "in" / "train" / "a" / "more").symlink_to(extra)
    (extra / "back").symlink_to(tmp_path / "in")
    dataset = from_folder(tmp_path / "in")
    assert (len(dataset.train), len(dataset.test)) == (6 + 5, 4)
