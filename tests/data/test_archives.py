"""Links and names of folders in archives, and which place of several holds the set."""

import gzip
import io
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from data import files
from gapjax.data import _archives, from_folder, import_local, load

SHAPE = (4, 4, 3)


def _with_links(folder):
    """Images, some of them links of each kind to another."""
    made = files.write_folders(folder, "ab", shape=SHAPE)
    (folder / "all").mkdir()
    extra = np.arange(48, dtype=np.uint8).reshape(SHAPE)
    (folder / "all" / "x.png").write_bytes(files.encoded(extra))
    (folder / "train" / "b" / "symbolic.png").symlink_to("../../all/x.png")
    (folder / "train" / "b" / "again.png").symlink_to("symbolic.png")  # before what it leads to
    os.link(folder / "all" / "x.png", folder / "test" / "a" / "hard.png")
    images, labels = made["train"]
    more = {"train": ([*images, extra, extra], [*labels, 1, 1])}
    images, labels = made["test"]
    return more | {"test": ([*images, extra], [*labels, 0])}


def _tar(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname="d")


def _zip(folder, archive):
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(folder.rglob("*")):
            is_folder = path.is_dir() and not path.is_symlink()
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix() + "/" * is_folder)
            info.create_system, info.external_attr = 3, path.lstat().st_mode << 16
            if path.is_symlink():
                zipped.writestr(info, os.readlink(path))
            else:
                zipped.writestr(info, path.read_bytes() if path.is_file() else b"")


@pytest.mark.parametrize(("pack", "name"), [(_tar, "x.tar.gz"), (_zip, "x.zip")])
def test_links_to_files_of_the_archive_are_read_as_in_the_folder(tmp_path, pack, name):
    made = _with_links(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / name)
    import_local("mine", tmp_path / name, data_dir=tmp_path / "out")
    dataset, plain = load("mine", data_dir=tmp_path / "out"), from_folder(tmp_path / "in")
    for split in ("train", "test"):
        ours, folder = getattr(dataset, split), getattr(plain, split)
        assert files.multiset(ours.images, ours.labels) == files.multiset(*made[split])
        assert files.multiset(folder.images, folder.labels) == files.multiset(*made[split])


@pytest.mark.parametrize(("pack", "name"), [(_tar, "x.tar.gz"), (_zip, "x.zip")])
def test_links_that_lead_elsewhere_are_counted(tmp_path, pack, name):
    files.write_folders(tmp_path / "in", "ab", shape=SHAPE)
    (tmp_path / "secret.png").write_bytes(files.encoded(np.zeros(SHAPE, np.uint8)))
    place = tmp_path / "in" / "train" / "a"
    (place / "above.png").symlink_to("../../../secret.png")
    (place / "absolute.png").symlink_to(tmp_path / "secret.png")
    (place / "folder").symlink_to("../b")
    (place / "loop.png").symlink_to("loop.png")
    (place / "nothing.png").symlink_to("none.png")
    pack(tmp_path / "in", tmp_path / name)
    with pytest.warns(UserWarning, match=r"^5 links in .*x\..*train/a/above.png.*unpack it and gi"):
        import_local("mine", tmp_path / name, data_dir=tmp_path / "out")
    assert len(load("mine", data_dir=tmp_path / "out").train) == 6


def test_links_take_room_and_memory_within_bounds(tmp_path, monkeypatch):
    (tmp_path / "to").mkdir()
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("x.png")
        info.size = 1 << 20
        tar.addfile(info, io.BytesIO(bytes(1 << 20)))
        for number in range(100):
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = tarfile.SYMTYPE, "x.png"
            tar.addfile(info)
    room = _archives.Room(tmp_path / "x.tar")
    room.left = 50 << 20
    with pytest.raises(ValueError, match=r"x\.tar .*unpacks to more than"):
        _archives.unpack(tmp_path / "x.tar", tmp_path / "to", room)
    assert sum(path.stat().st_size for path in (tmp_path / "to").iterdir()) <= 50 << 20
    monkeypatch.setattr(_archives, "_LINKS", 1 << 12)
    with pytest.raises(ValueError, match=r"x\.tar .*more links than any data set"):
        _archives.unpack(tmp_path / "x.tar", tmp_path, _archives.Room(tmp_path / "x.tar"))


@pytest.mark.parametrize("kind", ["none", "folder of DOS"])
def test_a_zip_of_windows_with_entries_for_its_folders(tmp_path, kind):
    made = files.write_folders(tmp_path / "in", "ab", shape=SHAPE)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        for path in sorted((tmp_path / "in").rglob("*")):
            info = zipfile.ZipInfo("x")
            name = str(path.relative_to(tmp_path / "in")).replace("/", "\\")
            info.filename = name + "\\" * path.is_dir()
            info.create_system = 0
            if path.is_dir() and kind != "none":
                info.external_attr = stat.FILE_ATTRIBUTE_DIRECTORY
            zipped.writestr(info, path.read_bytes() if path.is_file() else b"")
    import_local("mine", tmp_path / "x.zip", data_dir=tmp_path / "out")
    train = load("mine", data_dir=tmp_path / "out").train
    assert files.multiset(train.images, train.labels) == files.multiset(*made["train"])


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("mnist", "MNIST/raw"),  # as torchvision keeps it
        ("mine", "MNIST/raw"),
        ("flowers", "flowers/images"),
        ("flowers", "flowers"),
        ("flowers", "x/flowers"),
    ],
)
def test_a_folder_that_bears_the_name_does_not_hide_what_lies_in_it(tmp_path, name, where):
    made = files.write_idx(tmp_path / "in" / where)
    import_local(name, tmp_path / "in", data_dir=tmp_path / "out")
    train = load(name, data_dir=tmp_path / "out").train
    assert files.multiset(train.images, train.labels) == files.multiset(*made["train"])


def test_the_place_that_is_called_so_comes_first_and_then_the_others(tmp_path):
    made = files.write_idx(tmp_path / "in" / "MNIST" / "raw")
    files.write_idx(tmp_path / "in" / "MNIST" / "raw" / "copy")  # a part of that set
    files.write_idx(tmp_path / "in" / "FashionMNIST" / "raw")
    import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    train = load("mnist", data_dir=tmp_path / "out").train
    assert files.multiset(train.images, train.labels) == files.multiset(*made["train"])
    (tmp_path / "other" / "flowers").mkdir(parents=True)  # which holds nothing
    made = files.write_folders(tmp_path / "other" / "images", "ab", shape=SHAPE)
    import_local("flowers", tmp_path / "other", data_dir=tmp_path / "out")
    train = load("flowers", data_dir=tmp_path / "out").train
    assert files.multiset(train.images, train.labels) == files.multiset(*made["train"])


def test_a_folder_by_the_name_of_its_zip(tmp_path):
    files.write_folders(tmp_path / "in" / "pets" / "images", "ab", shape=SHAPE)
    _zip(tmp_path / "in", tmp_path / "pets.zip")
    import_local("pets", tmp_path / "pets.zip", data_dir=tmp_path / "out")
    assert len(load("pets", data_dir=tmp_path / "out").train) == 6


def _emnist(folder, config):
    made = files.write_idx(folder / "plain", test=11)
    for path in (folder / "plain").iterdir():
        name = f"emnist-{config}-{path.name.replace('t10k', 'test')}.gz"
        (folder / name).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (folder / "plain").rmdir()
    return made


def test_the_files_of_emnist_are_those_of_the_configuration(tmp_path):
    for config in ("letters", "digits"):
        made = _emnist(tmp_path / "in" / "gzip", config)
    import_local("emnist/digits", tmp_path / "in", data_dir=tmp_path / "out")
    dataset = load("emnist/digits", data_dir=tmp_path / "out")
    for split in ("train", "test"):
        ours = getattr(dataset, split)
        assert files.multiset(ours.images, ours.labels) == files.multiset(*made[split])
    for name in ("emnist/balanced", "mine"):
        told = rf"files of emnist-digits, emnist-letters, and none of them is {name}: import one"
        with pytest.raises(ValueError, match=told):
            import_local(name, tmp_path / "in", data_dir=tmp_path / "out")
    made = _emnist(tmp_path / "one", "letters")
    import_local("mine", tmp_path / "one", data_dir=tmp_path / "out")
    train = load("mine", data_dir=tmp_path / "out").train
    assert files.multiset(train.images, train.labels) == files.multiset(*made["train"])


def test_idx_files_without_images_are_refused(tmp_path):
    files.write_idx(tmp_path / "in", test=0)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte holds no images; nothing was im"):
        import_local("mine", tmp_path / "in", data_dir=tmp_path / "out")
