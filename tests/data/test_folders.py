"""Folders of images whose splits do not agree, or that cannot be read."""

import os
import pathlib
import unicodedata

import numpy as np
import PIL.Image
import pytest

from data import files
from gapjax.data import _folders, from_folder, import_local, load

WAYS = ("from_folder", "import_local")


def _read(way, folder):
    if way == "from_folder":
        return from_folder(folder)
    import_local("mine", folder, data_dir=folder.parent / "out")
    return load("mine", data_dir=folder.parent / "out")


def _images(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files.encoded(np.zeros((4, 4, 3), np.uint8)))
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (  # Tiny ImageNet as it is unpacked
            ["train/n01/images/0.png", "train/n02/images/1.png", "val/images/2.png"],
            r"The validation split of .*in has the class 'images', and train has no such class; "
            r"its classes are 'n01', 'n02'\..* take that folder away",
        ),
        (
            ["train/Cat/0.png", "train/Dog/0.png", "test/cat/0.png", "test/dog/0.png"],
            "test split .*the classes 'cat', 'dog', .*'Cat' of train differs from 'cat' in capital",
        ),
        (
            [
                f"{split}/{unicodedata.normalize(form, 'é')}/0.png"
                for split, form in (("train", "NFC"), ("test", "NFD"))
            ],
            r"'\\xe9' of train differs from 'e\\u0301' in capitals only, or in how its letters",
        ),
        (
            ["train/train/a/0.png", "test/test/a/0.png"],
            "has the class 'test', and train has no such class; its classes are 'train'",
        ),
        (
            ["train/zebra/0.png", "test/zebra/0.png", "test/zebras/0.png"],
            "has the class 'zebras', .*Did you mean 'zebra'",
        ),
        (
            ["train/a/0.png", *(f"test/{i:02}/0.png" for i in range(20))],
            "has the classes '00', .*'07' and 12 more, and train",
        ),
    ],
)
def test_a_class_that_train_lacks_is_refused(tmp_path, way, names, message):
    with pytest.raises(ValueError, match=message):
        _read(way, _images(tmp_path / "in", names))


@pytest.mark.parametrize("way", WAYS)
def test_a_class_that_is_not_tested_is_named(tmp_path, way):
    names = ["train/a/0.png", "train/b/0.png", "train/c/0.png", "test/b/0.png"]
    with pytest.warns(UserWarning, match=r"The test split of .*in lacks the classes 'a', 'c' of t"):
        dataset = _read(way, _images(tmp_path / "in", names))
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.test.labels.tolist() == [1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [" a", "a ", "\u3000a", " "])
def test_blanks_at_the_end_of_a_class_name_are_refused(tmp_path, way, name):
    _images(tmp_path / "in", [f"{split}/{name}/0.png" for split in ("train", "test")])
    with pytest.raises(ValueError, match=r"a class named '.*without blanks at their ends"):
        _read(way, tmp_path / "in")


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, way):
    names = [f"{split}/{name}/0.png" for split in ("train", "test") for name in "ab"]
    _images(tmp_path / "in", names)
    locked, scan = str(tmp_path / "in" / "test" / "b"), os.scandir

    def refuse(path):
        if str(path) == locked:
            raise PermissionError(13, "Permission denied", locked)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the administrator may read all
    with pytest.raises(ValueError, match=r"test/b.*Permission denied|Permission denied .*test/b"):
        _read(way, tmp_path / "in")


@pytest.mark.parametrize("way", WAYS)
def test_a_link_to_nothing_and_a_file_that_is_gone_are_named(tmp_path, monkeypatch, way):
    _images(tmp_path / "in", ["train/a/0.png", "test/a/0.png"])
    (tmp_path / "in" / "train" / "a" / "1.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"1\.png"):
        _read(way, tmp_path / "in")
    (tmp_path / "in" / "train" / "a" / "1.png").unlink()
    plain = _folders.read

    def read(*args):
        found = plain(*args)
        (tmp_path / "in" / "train" / "a" / "0.png").unlink()
        return found

    monkeypatch.setattr(_folders, "read", read)
    with pytest.raises(ValueError, match=r"No such file.*0\.png|0\.png.*No such file"):
        _read(way, tmp_path / "in")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["tif", "gif", "webp"])
def test_pages_beyond_the_first_are_counted(tmp_path, way, kind):
    pages = [PIL.Image.new("L", (4, 4), value) for value in (0, 100, 200)]
    for split in ("train", "test"):
        (tmp_path / "in" / split / "a").mkdir(parents=True)
        path = tmp_path / "in" / split / "a" / f"0.{kind}"
        pages[0].save(path, save_all=True, append_images=pages[1:])
        pages[1].save(path.with_name(f"1.{kind}"))
    with pytest.warns(UserWarning, match=rf"^2 files hold several images .*0\.{kind}\. Write"):
        dataset = _read(way, tmp_path / "in")
    assert len(dataset.train) == 2


@pytest.mark.parametrize("way", WAYS)
def test_grey_of_16_bits_with_transparency_is_grey(tmp_path, way):
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 2), np.uint16)
    for split in ("train", "test"):
        (tmp_path / "in" / split / "a").mkdir(parents=True)
        path = pathlib.Path(tmp_path / "in" / split / "a" / "0.png")
        path.write_bytes(files.png(values, bits=16, kind=4))
    images = _read(way, tmp_path / "in").train.images
    np.testing.assert_array_equal(images[0], values[..., :1] >> 8)
