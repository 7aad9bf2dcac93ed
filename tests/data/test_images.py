import io

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from data import files
from gapjax.data import _images, from_folder, import_local, load

RNG = np.random.default_rng(0)


def _encoded(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _pixels(content, channels=None):
    return _images.to_pixels(_images.open_image(content), channels)


def test_of_16_bits_the_upper_8_are_taken():
    values = np.array([[0, 255, 256, 257], [511, 32768, 65279, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        grey = _encoded(PIL.Image.fromarray(values), kind)
        np.testing.assert_array_equal(_pixels(grey, 1)[..., 0], values >> 8)
        np.testing.assert_array_equal(_pixels(grey, 3), np.repeat((values >> 8)[..., None], 3, -1))
    wide = _encoded(PIL.Image.fromarray(values.astype(np.int32) * 70_000), "TIFF")
    with pytest.raises(ValueError, match="32 bits"):
        _pixels(wide, 1)
    floats = _encoded(PIL.Image.fromarray(values.astype(np.float32)), "TIFF")
    with pytest.raises(ValueError, match="floats"):
        _pixels(floats, 1)


def test_palettes_transparency_and_cmyk_become_rgb():
    rgb = RNG.integers(0, 256, (5, 6, 3), np.uint8)
    picture = PIL.Image.fromarray(rgb)
    colours = picture.quantize(7)
    looked_up = np.asarray(colours.convert("RGB"))
    for kind in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(_pixels(_encoded(colours, kind)), looked_up)
    alpha = np.concatenate([rgb, RNG.integers(0, 256, (5, 6, 1), np.uint8)], -1)
    content = _encoded(PIL.Image.fromarray(alpha), "PNG")
    np.testing.assert_array_equal(_pixels(content), rgb)
    np.testing.assert_array_equal(_pixels(content, 4), alpha)
    flat = PIL.Image.new("RGB", (8, 8), (200, 40, 90)).convert("CMYK")
    out = _pixels(_encoded(flat, "JPEG", quality=100)).astype(int)
    assert out.shape == (8, 8, 3)
    assert abs(out - [200, 40, 90]).max() < 6
    for mode in ("1", "L", "LA"):
        grey = PIL.Image.fromarray(rgb[..., 0]).convert(mode)
        assert _images.is_grey(_images.open_image(_encoded(grey, "PNG")))
        assert _pixels(_encoded(grey, "PNG"), 1).shape == (5, 6, 1)
    assert not _images.is_grey(_images.open_image(_encoded(picture, "PNG")))


def _lying(folder, orientation, kind):
    """One image of a camera that was not held upright, and what it shows."""
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    picture = PIL.Image.fromarray(pixels)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "jpg" else {}
    for split in ("train", "test"):
        (folder / split / "a").mkdir(parents=True)
        picture.save(folder / split / "a" / f"0.{kind}", exif=exif, **options)
    stored = PIL.Image.open(folder / "train" / "a" / f"0.{kind}")
    return np.asarray(PIL.ImageOps.exif_transpose(stored).convert("RGB"))


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_turned_upright(tmp_path, orientation, kind):
    upright = _lying(tmp_path / "in", orientation, kind)
    import_local("turned", tmp_path / "in", data_dir=tmp_path / "out")
    images = load("turned", data_dir=tmp_path / "out").train.images
    assert images.shape == (1, *((6, 4, 3) if orientation > 4 else (4, 6, 3)))
    np.testing.assert_array_equal(images[0], upright)


def test_grey_images_of_16_bits_in_a_folder(tmp_path):
    values = RNG.integers(0, 65536, (2, 5, 5), np.uint16)
    for split, array in zip(("train", "test"), values, strict=True):
        (tmp_path / "in" / split / "a").mkdir(parents=True)
        PIL.Image.fromarray(array).save(tmp_path / "in" / split / "a" / "0.png")
    import_local("deep", tmp_path / "in", data_dir=tmp_path / "out")
    images = load("deep", data_dir=tmp_path / "out").train.images
    np.testing.assert_array_equal(images[..., 0], values[:1] >> 8)


def test_images_of_16_bits_in_a_set_of_tfds(tmp_path):
    import tensorflow_datasets as tfds

    values = RNG.integers(0, 65536, (3, 4, 4, 1), np.uint16)
    features = {
        "image": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16, encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    pngs = [_encoded(PIL.Image.fromarray(v[..., 0]), "PNG") for v in values]
    splits = {
        split: [{"image": io.BytesIO(png), "label": i} for i, png in enumerate(pngs)]
        for split in ("train", "test")
    }
    files.prepare(tmp_path, "deep", features, ("image", "label"), splits)
    dataset = load("deep", data_dir=tmp_path)
    order = np.argsort(dataset.train.labels)
    np.testing.assert_array_equal(dataset.train.images[order], values >> 8)


def test_hidden_files_are_no_data_and_folders_within_a_class_are(tmp_path):
    source = tmp_path / "in"
    made = files.write_folders(source, ["cat", "dog"], shape=(4, 4, 3))
    (source / "train" / ".ipynb_checkpoints").mkdir()
    (source / "train" / ".ipynb_checkpoints" / "x.png").write_bytes(b"no image")
    (source / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    (source / "train" / "cat" / ".ipynb_checkpoints" / "0000-checkpoint.png").write_bytes(b"none")
    (source / "train" / "cat" / "._0000.png").write_bytes(b"what a Mac leaves")
    (source / "train" / "cat" / "Thumbs.db").write_bytes(b"what Windows leaves")
    (source / "__MACOSX" / "train" / "cat").mkdir(parents=True)
    (source / "__MACOSX" / "train" / "cat" / "._0000.png").write_bytes(b"what a Mac leaves")
    (source / "train" / "dog" / "deeper" / "still").mkdir(parents=True)
    extra = RNG.integers(0, 256, (4, 4, 3), np.uint8)
    inner = source / "train" / "dog" / "deeper" / "still" / "x.jfif"
    PIL.Image.fromarray(extra).save(inner, "JPEG", quality=95)
    import_local("pets", source, data_dir=tmp_path / "out")
    dataset = load("pets", data_dir=tmp_path / "out")
    assert dataset.class_names == ("cat", "dog")
    images, labels = made["train"]
    wanted = [*images, np.asarray(PIL.Image.open(inner))]
    assert files.multiset(dataset.train.images, dataset.train.labels) == files.multiset(
        wanted, [*labels, 1]
    )


def test_what_is_left_out_is_counted(tmp_path):
    files.write_folders(tmp_path / "in", ["cat", "dog"], shape=(4, 4, 3))
    for name in ("a.heic", "b.heic", "notes.txt"):
        (tmp_path / "in" / "train" / "cat" / name).write_bytes(b"something")
    with pytest.warns(UserWarning, match=r"3 files .*\(2 .heic, 1 .txt\); the first is .*a.heic"):
        import_local("pets", tmp_path / "in", data_dir=tmp_path / "out")


def test_the_zip_of_a_mac_is_one_data_set(tmp_path):
    import zipfile

    made = files.write_folders(tmp_path / "in" / "pets", ["cat", "dog"], shape=(4, 4, 3))
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as zipped:
        for path in sorted((tmp_path / "in").rglob("*.png")):
            inside = path.relative_to(tmp_path / "in")
            zipped.write(path, inside)
            beside = inside.with_name("._" + inside.name)
            zipped.writestr(f"__MACOSX/{beside}", b"what a Mac leaves")
    import_local("pets", tmp_path / "pets.zip", data_dir=tmp_path / "out")
    dataset = load("pets", data_dir=tmp_path / "out")
    assert files.multiset(dataset.train.images, dataset.train.labels) == files.multiset(
        *made["train"]
    )


def test_an_image_of_another_size_than_the_set_says_is_named(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(4, 4, 1)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    png = _encoded(PIL.Image.new("L", (4, 4)), "PNG")
    splits = {split: [{"image": io.BytesIO(png), "label": 0}] for split in ("train", "test")}
    files.prepare(tmp_path, "odd", features, ("image", "label"), splits)
    about = tmp_path / "odd" / "2.0.0" / "features.json"
    about.write_text(about.read_text().replace('"4"', '"5"'))
    with pytest.raises(ValueError, match=r"record 0 cannot be read .its image has 4 x 4 pixels"):
        load("odd", data_dir=tmp_path)


def test_numbers_of_32_bits_are_refused_however_small():
    small = _encoded(PIL.Image.fromarray(np.arange(20, dtype=np.int32).reshape(4, 5)), "TIFF")
    with pytest.raises(ValueError, match="32 bits"):
        _pixels(small, 1)


@pytest.mark.parametrize("kind", ["tif", "jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_images_of_every_kind_are_upright(tmp_path, kind, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    made = np.repeat(RNG.integers(0, 256, (8, 1), np.uint8), 6, axis=1)
    upright = np.asarray(PIL.ImageOps.exif_transpose(_with_exif(made, orientation)))
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "in" / split / name).mkdir(parents=True)
            PIL.Image.fromarray(made).save(
                tmp_path / "in" / split / name / f"0.{kind}", exif=exif, **_EXACT.get(kind, {})
            )
    seen = from_folder(tmp_path / "in").train.images[0, ..., 0]
    assert seen.shape == upright.shape
    np.testing.assert_allclose(seen, upright, atol=8 if kind == "jpg" else 0)
    import_local("own", tmp_path / "in", data_dir=tmp_path / "out")
    again = load("own", data_dir=tmp_path / "out").train.images[0, ..., 0]
    np.testing.assert_allclose(again, upright, atol=8 if kind == "jpg" else 0)


_EXACT = {"jpg": {"quality": 100}}


def _with_exif(pixels, orientation):
    picture = PIL.Image.fromarray(pixels)
    picture.getexif()[0x0112] = orientation
    return picture
