"""Files that mean harm or are merely odd: one line each, in bounded memory, and nothing is left."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib

import numpy as np
import PIL.Image
import pytest

from data import files
from gapjax.data import import_local, load

_SETS = {}


def _case(message, name="mine"):
    def keep(make):
        _SETS[make.__name__.removeprefix("_")] = make, name, message
        return make

    return keep


def _header(*shape):
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


@_case("t10k-images-idx3-ubyte.gz .* promises 1280 bytes and holds more")
def _gzip_that_goes_on(folder):
    files.write_idx(folder, zipped=True)
    zeros = gzip.compress(bytes(1 << 24))
    content = gzip.compress(_header(20, 8, 8)) + zeros * 400  # 6.4 GiB in 6.4 MB
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    return folder


@_case("train-images.* promises 4.0 GiB; at most 640.0 MiB")
def _idx_that_promises_much(folder):
    files.write_idx(folder)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(_header(1 << 12, 1 << 10, 1 << 10) + bytes(100))
    return folder


@_case("train-labels.* promises 500000000 bytes and holds 8")
def _idx_that_promises_more_than_it_holds(folder):
    files.write_idx(folder)
    (folder / "train-labels-idx1-ubyte").write_bytes(_header(500_000_000) + bytes(8))
    return folder


@_case("train-images-idx3-ubyte is a FIFO")
def _fifo(folder):
    files.write_idx(folder)
    (folder / "train-images-idx3-ubyte").unlink()
    os.mkfifo(folder / "train-images-idx3-ubyte")
    return folder


@_case("x.tar is a FIFO, not a regular file")
def _fifo_itself(folder):
    folder.mkdir()
    os.mkfifo(folder / "x.tar")
    return folder / "x.tar"


@_case("zero is a device, not a regular file")
def _device(folder):
    folder.mkdir()
    (folder / "zero").symlink_to("/dev/zero")
    return folder / "zero"


@_case("0000.png is a device")
def _link_to_a_device(folder):
    files.write_folders(folder, "ab")
    (folder / "test" / "b" / "0000.png").unlink()
    (folder / "test" / "b" / "0000.png").symlink_to("/dev/zero")
    return folder


def _tar(folder, *members, raw=b""):
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, about in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in about.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    if raw:
        (folder / "x.tar").write_bytes(raw)
    return folder / "x.tar"


@_case("x.tar .*is a sparse file")
def _sparse_tar(folder):
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "train"}
    headers["GNU.sparse.realsize"] = str(1 << 40)
    content = b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
    return _tar(folder, ("train", content, {"pax_headers": headers}))


@_case("x.tar .*unpacks to more than [67][0-9.]* MiB")
def _tar_of_zeros(folder):
    folder.mkdir()
    info = tarfile.TarInfo("train/a/x.png")
    info.size = 1 << 32
    head = gzip.compress(info.tobuf())
    (folder / "x.tar").write_bytes(head + gzip.compress(bytes(1 << 20)) * 4)
    packed = gzip.compress(bytes(1 << 24))
    (folder / "x.tar").write_bytes(head + packed * 6)
    return folder / "x.tar"


@_case("x.tar .*a header of 104857600 bytes")
def _tar_with_a_large_header(folder):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 100 << 20
    return _tar(folder, raw=gzip.compress(info.tobuf() + bytes(1 << 22)))


@_case("x.tar .*leads out of the folder")
def _tar_that_leads_out(folder):
    return _tar(folder, ("a/../../escaped", b"content", {}))


@_case("x.tar holds no data set")
def _tar_of_links_and_devices(folder):
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc"}
    return _tar(
        folder,
        ("train", b"", link),
        ("train/a", b"", {"type": tarfile.FIFOTYPE}),
        ("test", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}),
        ("null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),
    )


@_case("x.zip .*unpacks to more than [67][0-9.]* MiB")
def _zip_of_zeros(folder):
    folder.mkdir()
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for number in range(5):
            zipped.writestr(f"train/a/{number}.png", bytes(1 << 24))
    return folder / "x.zip"


@_case("x.zip .*leads out of the folder")
def _zip_that_leads_out(folder):
    folder.mkdir()
    with zipfile.ZipFile(folder / "x.zip", "w") as zipped:
        zipped.writestr("../escaped", b"content")
    return folder / "x.zip"


@_case("x.zip .*password")
def _zip_with_a_password(folder):
    folder.mkdir()
    with zipfile.ZipFile(folder / "x.zip", "w") as zipped:
        zipped.writestr("train/a/x.png", b"content")
    content = bytearray((folder / "x.zip").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (folder / "x.zip").write_bytes(content)
    return folder / "x.zip"


@_case("x.zip .*more than 8 archives")
def _many_archives_in_one(folder):
    folder.mkdir()
    with zipfile.ZipFile(folder / "x.zip", "w") as zipped:
        for number in range(100):
            zipped.writestr(f"{number}.zip", b"content")
    return folder / "x.zip"


@_case("holds 9 archives; give the one")
def _many_archives_in_a_folder(folder):
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.zip").write_bytes(b"content")
    return folder


@_case("holds no data set")
def _archives_in_archives(folder):
    folder.mkdir()
    content = b"content"
    for _ in range(50):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as zipped:
            zipped.writestr("x.zip", content)
        content = stream.getvalue()
    (folder / "x.zip").write_bytes(content)
    return folder / "x.zip"


def _image(folder, content, name="0000.png"):
    files.write_folders(folder, "ab")
    (folder / "train" / "a" / name).write_bytes(content)
    return folder


@_case("0000.png .*none of PNG, JPEG")
def _postscript_as_png(folder):
    harm = folder.parent / "harm"
    return _image(folder, f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({harm})".encode())


def _png(width, height):
    def chunk(kind, body):
        return (
            len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        )

    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", sizes + b"\x08\x02\x00\x00\x00"),
            chunk(b"IDAT", zlib.compress(bytes(1 << 20))),
            chunk(b"IEND", b""),
        )
    )


@_case("0000.png .*(exceeds limit|100000 x 100000)")
def _image_of_many_pixels(folder):
    return _image(folder, _png(100_000, 100_000))


@_case("0000.png .*9000 x 9000 pixels; at most 64,000,000")
def _image_of_rather_many_pixels(folder):
    return _image(folder, _png(9_000, 9_000))


@_case("0000.png .*truncated or damaged")
def _image_cut_short(folder):
    return _image(folder, _png(1000, 1000)[:200])


@_case("0000.png .*none of")
def _empty_image(folder):
    return _image(folder, b"")


@_case(r"a class named 'b\\nn'")
def _class_with_a_line_break(folder):
    return files.write_folders(folder, ["a", "b\nn"]) and folder


@_case(r"a class named '\\udcff'")
def _class_that_is_no_utf8(folder):
    return files.write_folders(folder, ["a", os.fsdecode(b"\xff")]) and folder


def _table(folder, content):
    files.write_cifar_python(folder, 10)
    (folder / "data_batch_1").write_bytes(content)
    return folder


class _Harm:
    def __reduce__(self):
        return os.system, ("true",)


@_case("data_batch_1 .*asks for posix.system", "cifar10")
def _pickle_that_calls(folder):
    return _table(folder, pickle.dumps({b"data": _Harm()}))


@_case("data_batch_1 .*array of O", "cifar10")
def _pickle_of_objects(folder):
    return _table(folder, pickle.dumps({b"data": np.array([None] * 3), b"labels": [1]}))


@_case("data_batch_1 .*type has parts", "cifar10")
def _pickle_whose_type_hides_objects(folder):
    # a type that is called u1, whose state then puts an object into it
    hidden = np.zeros(3, np.dtype([("x", object)]))
    return _table(folder, pickle.dumps({b"data": hidden}, protocol=2).replace(b"V8", b"u1"))


@_case("data_batch_1 .*holds 3072 bytes", "cifar10")
def _pickle_of_a_shape_that_lies(folder):
    plain = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]}, protocol=2)
    return _table(folder, plain.replace(b"K\x01M\x00\x0c", b"K\xffM\x00\x0c"))


@_case("data_batch_1 .*more than 1000000 values", "cifar10")
def _pickle_of_many_lists(folder):
    return _table(folder, b"\x80\x02" + b"]" * 1_500_000 + b".")


@_case("data_batch_1 .*no table", "cifar10")
def _pickle_of_no_table(folder):
    return _table(folder, pickle.dumps([1, 2, 3]))


@_case("data_batch_1 .*its labels are", "cifar10")
def _pickle_of_other_labels(folder):
    return _table(folder, pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]}))


@_case("data_batch_1 .*beyond 10 classes", "cifar10")
def _pickle_of_labels_beyond(folder):
    return _table(folder, pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}))


@_case("data_batch_1 .*as many labels as images", "cifar10")
def _pickle_of_too_few_labels(folder):
    return _table(folder, pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}))


@pytest.mark.parametrize("case", _SETS)
def test_each_is_refused_in_one_line_and_nothing_is_left(tmp_path, case):
    make, name, message = _SETS[case]
    source = make(tmp_path / "in")
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises(ValueError, match=message) as caught:
        import_local(name, source, data_dir=tmp_path / "out" / "deep")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_all_of_them_take_bounded_memory_and_time(tmp_path):
    code = (
        "import pathlib, sys, time, warnings\n"
        "from data import test_hostile\n"
        "from gapjax.data import import_local\n"
        "warnings.simplefilter('ignore')\n"
        "slowest = 0\n"
        "for case, (make, name, _) in test_hostile._SETS.items():\n"
        "    source = make(pathlib.Path(sys.argv[1], case))\n"
        "    begin = time.process_time()\n"
        "    try:\n"
        "        import_local(name, source, data_dir=pathlib.Path(sys.argv[1], 'out'))\n"
        "        raise AssertionError(case)\n"
        "    except ValueError:\n"
        "        slowest = max(slowest, time.process_time() - begin)\n"
        # Not ru_maxrss, which goes on from that of the process that started this one.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(status.split('VmHWM:')[1].split()[0], slowest)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stdout.split()[0])
    assert kilobytes < 2**20


def _said(call):
    """What a call says that may end in a ValueError, and in nothing else."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def test_a_feature_that_tfds_has_not_is_never_imported(tmp_path):
    files.write_idx(tmp_path / "in")
    written = import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    features = written / "features.json"
    harm = tmp_path / "harm"
    (tmp_path / "evil.py").write_text(f"open({str(harm)!r}, 'w')")
    sys.path.insert(0, str(tmp_path))
    try:
        plain = features.read_text()
        told = "tensorflow_datasets.core.features.image_feature.Image"
        for key in ("pythonClassName", "python_class_name"):
            crafted = plain.replace("pythonClassName", key).replace(told, "evil.Image")
            assert "evil.Image" in crafted
            features.write_text(crafted)
            with pytest.raises(ValueError, match=r"features.json asks for 'evil.Image'"):
                load("mnist", data_dir=tmp_path / "out")
        features.write_text('{"type": "evil.Image", "content": {}}')
        with pytest.raises(ValueError, match=r"features.json asks for 'evil.Image'"):
            load("mnist", data_dir=tmp_path / "out")
        assert not harm.exists()
        features.write_text("[" * 100_000)
        with pytest.raises(ValueError, match="nested too deep"):
            load("mnist", data_dir=tmp_path / "out")
        features.write_text(plain)
        assert len(load("mnist", data_dir=tmp_path / "out").train) == 20
    finally:
        sys.path.remove(str(tmp_path))


def test_what_describes_a_prepared_set_may_be_anything(tmp_path):
    files.write_idx(tmp_path / "in")
    written = import_local("mnist", tmp_path / "in", data_dir=tmp_path / "out")
    for name in ("dataset_info.json", "features.json", "label.labels.txt"):
        plain = (written / name).read_bytes()
        for content in (b"", b"{}", b"[]", b"null", plain[: len(plain) // 2], b"\xff" * 50):
            (written / name).write_bytes(content)
            assert "\n" not in _said(lambda: load("mnist", data_dir=tmp_path / "out"))
        (written / name).unlink()
        os.mkfifo(written / name)
        begin = time.monotonic()
        with pytest.raises(ValueError, match=f"{name} is a FIFO"):
            load("mnist", data_dir=tmp_path / "out")
        assert time.monotonic() - begin < 60
        (written / name).unlink()
        (written / name).write_bytes(plain)
    assert len(load("mnist", data_dir=tmp_path / "out").train) == 20


def test_the_pickles_of_python_2_and_3_are_read(tmp_path):
    from gapjax.data._pickled import read_table

    pixels = np.arange(24, dtype=np.uint8).reshape(2, 12)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for key in (str, str.encode):
            table = {
                key("data"): pixels,
                key("fortran"): np.asfortranarray(pixels),
                key("wide"): np.arange(3).astype(">i4"),
                key("empty"): np.zeros((0, 3), np.uint8),
                key("labels"): [1, 2, 300, 70_000],
                key("numbers"): [np.int64(5), np.uint8(3)],
            }
            read = read_table(pickle.dumps(table, protocol=protocol))
            for name, value in table.items():
                np.testing.assert_array_equal(
                    read[name if key is str.encode else name.encode()], value
                )
    # what cPickle of Python 2.7 with NumPy 1.16 writes for {"data": uint8 [1, 4], "labels": [1, 9]}
    written = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x01K\teU\x04dataq\x04cnumpy.core.multiarray\n"
        b"_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x01K\x04\x86"
        b"cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff"
        b"\xff\xffK\x00tb\x89U\x04\x00\x01\xfe\xfftbu."
    )
    read = read_table(written)
    assert read[b"labels"] == [1, 9]
    np.testing.assert_array_equal(read[b"data"], [[0, 1, 254, 255]])


def test_flipped_bits_of_a_pickle_never_crash(tmp_path):
    from gapjax.data._pickled import read_table

    table = {b"data": np.zeros((2, 12), np.uint8), b"labels": [1, 2], b"names": ["a", "b"]}
    for protocol in (0, 2, 4, 5):
        content = bytearray(pickle.dumps(table, protocol=protocol))
        for bit in range(8 * len(content)):
            content[bit // 8] ^= 1 << bit % 8
            _said(lambda content=content: read_table(bytes(content)))
            content[bit // 8] ^= 1 << bit % 8


def test_flipped_bits_of_images_are_read_or_named(tmp_path):
    from gapjax.data import _images

    rng = np.random.default_rng(0)
    pixels = PIL.Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
    for kind in _images.FORMATS:
        stream = io.BytesIO()
        pixels.save(stream, kind)
        for _ in range(150):
            content = bytearray(stream.getvalue())
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            _said(lambda content=content: _check_pixels(bytes(content)))


def _check_pixels(content):
    from gapjax.data import _images

    out = _images.to_pixels(_images.open_image(content), 3)
    assert out.dtype == np.uint8
    assert out.shape[-1] == 3
