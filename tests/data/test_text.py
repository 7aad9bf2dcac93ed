import bz2
import gzip
import lzma
import os
import platform
import shutil
import sys
import types
import warnings
import zipfile
from pydoc_data.topics import topics

import numpy as np
import pytest

from gapjax import _outside
from gapjax.data import import_text, load
from gapjax.data._text import windows


def _joined(tokens):
    """The stream that windows were cut from, each token once."""
    return np.concatenate([tokens[0], *(row[1:] for row in tokens[1:])])


def test_windows_overlap_by_one():
    cut = windows(np.arange(11), 4)
    assert cut.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert windows(np.arange(13), 4).shape == (3, 5)
    assert windows(np.arange(4), 4).shape == (0, 5)
    assert windows(np.arange(0), 4).shape == (0, 5)


@pytest.mark.parametrize("length", [None, 32])
def test_pydoc_holds_every_topic_in_one_split(length):
    dataset = load("pydoc", sequence_length=length)
    assert dataset.name == f"pydoc-{platform.python_version()}"
    assert dataset.num_classes == 256
    assert dataset.normalize is None
    streams = {}
    for split in ("train", "test"):
        tokens = getattr(dataset, split)["tokens"]
        assert tokens.dtype == np.int32
        assert tokens.shape[1] == (length or 128) + 1
        streams[split] = bytes(_joined(tokens).astype(np.uint8))
    for name, text in topics.items():
        found = [split for split, stream in streams.items() if text.encode() in stream]
        # the last topic of a split may be cut by less than a window
        assert len(found) == 1 or text.encode()[:-200] in streams["train"] + streams["test"], name
    whole = sum(len(text.encode()) for text in topics.values())
    assert whole - 2 * (length or 128) <= sum(map(len, streams.values())) <= whole
    assert 0.03 < len(streams["test"]) / whole < 0.3


def test_a_topic_stays_in_its_split_whatever_else_there_is(monkeypatch):
    own = {name: topics[name] for name in sorted(topics)[::2]}
    whole = load("pydoc")
    module = types.SimpleNamespace(topics=own)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    half = load("pydoc")
    for split in ("train", "test"):
        streams = [bytes(_joined(getattr(d, split)["tokens"]).astype("u1")) for d in (whole, half)]
        inside = [name for name in own if own[name].encode() in streams[1]]
        assert inside
        assert all(own[name].encode() in streams[0] for name in inside[:-1])


def test_a_python_without_pydoc_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match=r"without pydoc_data.topics.*import text NAME"):
        load("pydoc")


def test_what_does_not_fit_pydoc(tmp_path):
    for options, message in (
        ({"train": "train[:10%]"}, "comes as it is"),
        ({"image_size": 8}, "comes as it is"),
        ({"sequence_length": 0}, "sequence_length must be a whole number"),
        ({"sequence_length": "8"}, "sequence_length must be a whole number"),
        ({"sequence_length": 10**8}, "is longer than the"),
    ):
        with pytest.raises(ValueError, match=message):
            load("pydoc", **options)
    with pytest.raises(ValueError, match="sequence_length is for 'pydoc'"):
        load("digits", sequence_length=8)


def test_a_file_is_cut_in_two(tmp_path):
    text = "für Elise, " * 300
    (tmp_path / "a.txt").write_text(text)
    written = import_text("own", tmp_path / "a.txt", sequence_length=16, data_dir=tmp_path / "out")
    assert written == tmp_path / "out" / "own" / "1.0.0"
    dataset = load("own", data_dir=tmp_path / "out")
    assert dataset.num_classes == 256
    assert dataset.class_names[:2] == ("0", "1")
    rows = {tuple(row) for row in dataset.train["tokens"].tolist()}
    content = np.frombuffer(text.encode(), np.uint8)
    cut = len(content) - len(content) // 10
    wanted = windows(content[:cut], 16)
    assert len(dataset.train["tokens"]) == len(wanted)  # TFDS shuffles when it writes
    assert rows == {tuple(row) for row in wanted.tolist()}
    assert len(dataset.test["tokens"]) == (len(content) - cut - 1) // 16


def test_a_folder_is_split_by_files(tmp_path):
    for number in range(20):
        (tmp_path / "in" / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "in" / f"{number % 3}" / f"{number}.txt"
        path.write_bytes(bytes([number]) * 90)
    (tmp_path / "in" / ".git").mkdir()
    (tmp_path / "in" / ".git" / "x").write_bytes(b"\xff" * 500)
    import_text("own", tmp_path / "in", sequence_length=8, data_dir=tmp_path / "out")
    dataset = load("own", data_dir=tmp_path / "out")
    seen = {split: set(getattr(dataset, split)["tokens"].flat) for split in ("train", "test")}
    assert len(seen["test"]) == 2
    assert len(seen["train"]) == 18
    assert not seen["train"] & seen["test"]


def test_a_folder_that_is_split_already(tmp_path):
    for split, byte in (("train", b"a"), ("val", b"b"), ("test", b"c")):
        (tmp_path / "in" / split).mkdir(parents=True)
        (tmp_path / "in" / split / "x.txt").write_bytes(byte * 50)
    with pytest.warns(UserWarning, match=r"1 files beside the texts were left out .*val.x.txt"):
        import_text("own", tmp_path / "in", sequence_length=8, data_dir=tmp_path / "out")
    dataset = load("own", data_dir=tmp_path / "out")
    assert set(dataset.train["tokens"].flat) == {ord("a")}
    assert set(dataset.test["tokens"].flat) == {ord("c")}


class _Ids:
    def __init__(self, ids):
        self.ids = ids


class _Tokenizer:
    vocab_size = 50

    def encode(self, text):
        return _Ids([len(word) for word in text.split()])


def test_any_tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("a bb ccc dddd " * 100)
    for name, tokenizer, vocabulary in (
        ("function", lambda text: [len(word) for word in text.split()], 5),
        ("encoder", _Tokenizer(), 50),
    ):
        import_text(
            name,
            tmp_path / "a.txt",
            tokenizer=tokenizer,
            sequence_length=4,
            data_dir=tmp_path / "out",
        )
        dataset = load(name, data_dir=tmp_path / "out")
        assert dataset.num_classes == vocabulary
        assert set(dataset.train["tokens"].flat) == {1, 2, 3, 4}


def test_text_that_does_not_fit(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("text " * 50)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 50)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.iterdir())
    for name, source, options, message in (
        ("mnist", text, {}, "a data set of TFDS"),
        ("pydoc", text, {}, "embedded"),
        ("Own", text, {}, "not the name of a data set"),
        ("own", tmp_path / "none", {}, "nothing at"),
        ("own", text, {"sequence_length": 0}, "sequence_length must be"),
        ("own", text, {"sequence_length": 100}, "has 25 tokens.*at least 101"),
        ("own", tmp_path / "empty.txt", {}, "has 0 tokens"),
        ("own", tmp_path / "one", {}, "holds 1 files; it needs at least one to train on"),
        ("own", tmp_path / "empty", {}, "holds 0 files"),
        ("own", tmp_path / "fifo", {}, "is a FIFO"),
        ("own", tmp_path / "latin.txt", {"tokenizer": list}, "no UTF-8"),
        ("own", text, {"tokenizer": 3}, "tokenizer must be"),
        ("own", text, {"tokenizer": str.split}, "must give a list of whole numbers"),
        ("own", text, {"tokenizer": lambda text: [-1] * 400}, "whole numbers from 0 on"),
        ("own", text, {"tokenizer": lambda text: [2**40] * 400}, "beyond what int32 holds"),
    ):
        with pytest.raises(ValueError, match=message):
            import_text(name, source, data_dir=tmp_path / "out", **options)
    assert sorted(tmp_path.iterdir()) == before


def _bytes_of(split):
    return {chr(byte) for byte in set(split["tokens"].flat)}


@pytest.mark.parametrize(
    ("names", "tested", "left"),
    [
        (("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"), "c", 1),
        (("wiki.train.raw", "wiki.test.raw", "LICENSE"), "b", 1),
        (("train.txt", "test.txt"), "b", 0),
        (("deep/train-0.bin", "deep/val-0.bin"), "b", 0),
        (("My_Train.txt", "my_test.txt", "train-test.txt", "retrain.txt"), "b", 2),
    ],
)
def test_the_names_of_files_tell_their_split(tmp_path, names, tested, left):
    for name, byte in zip(names, "abcd", strict=False):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(byte * 50)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import_text("own", tmp_path / "in", sequence_length=8, data_dir=tmp_path / "out")
    said = [str(w.message) for w in caught if "beside the texts" in str(w.message)]
    assert [text.split()[0] for text in said] == [str(left)] * bool(left)
    dataset = load("own", data_dir=tmp_path / "out")
    assert (_bytes_of(dataset.train), _bytes_of(dataset.test)) == ({"a"}, {tested})


def test_a_word_in_one_name_alone_tells_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "how-to-test.txt", "b.txt"):
        (tmp_path / "in" / name).write_text(name[0] * 50)
    import_text("own", tmp_path / "in", sequence_length=8, data_dir=tmp_path / "out")
    dataset = load("own", data_dir=tmp_path / "out")
    assert len(_bytes_of(dataset.train)) == 2
    assert _bytes_of(dataset.train) | _bytes_of(dataset.test) == {"a", "b", "h"}


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_texts_are_unpacked(tmp_path, kind):
    pack = {"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress
    (tmp_path / f"a.txt.{kind}").write_bytes(pack(b"a" * 900 + b"b" * 100))
    import_text("one", tmp_path / f"a.txt.{kind}", sequence_length=8, data_dir=tmp_path / "out")
    dataset = load("one", data_dir=tmp_path / "out")
    assert (_bytes_of(dataset.train), _bytes_of(dataset.test)) == ({"a"}, {"b"})
    (tmp_path / "in").mkdir()
    for split in ("train", "test"):
        (tmp_path / "in" / f"{split}.txt.{kind}").write_bytes(pack(split[-1].encode() * 100))
    import_text("two", tmp_path / "in", sequence_length=8, data_dir=tmp_path / "out")
    dataset = load("two", data_dir=tmp_path / "out")
    assert (_bytes_of(dataset.train), _bytes_of(dataset.test)) == ({"n"}, {"t"})


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["zip", "tar.xz"])
def test_archives_of_text_are_unpacked(tmp_path, kind, wrapped):
    folder = tmp_path / "in" / "corpus" if wrapped else tmp_path / "in"
    for split, byte in (("train", "a"), ("test", "b")):
        (folder / split).mkdir(parents=True)
        (folder / split / "x.txt").write_text(byte * 100)
    archive = shutil.make_archive(
        str(tmp_path / "x"), {"zip": "zip", "tar.xz": "xztar"}[kind], tmp_path / "in"
    )
    import_text("own", archive, sequence_length=8, data_dir=tmp_path / "out")
    dataset = load("own", data_dir=tmp_path / "out")
    assert (_bytes_of(dataset.train), _bytes_of(dataset.test)) == ({"a"}, {"b"})
    with zipfile.ZipFile(tmp_path / "one.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("enwik", "a" * 900 + "b" * 100)
    import_text("one", tmp_path / "one.zip", sequence_length=8, data_dir=tmp_path / "out")
    dataset = load("one", data_dir=tmp_path / "out")
    assert (_bytes_of(dataset.train), _bytes_of(dataset.test)) == ({"a"}, {"b"})


def test_what_is_packed_otherwise_is_refused_and_named(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.txt").write_text("a" * 100)
    (tmp_path / "in" / "test.txt").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    (tmp_path / "book.docx").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(1000))[:-9])
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.txt").write_text("a" * 100)
    (tmp_path / "both" / "b.tar").write_bytes(bytes(10_240))
    for source, message in (
        ("in", r"test\.txt is a zstd file, no text"),
        ("book.docx", r"book\.docx is a zip file, no text"),
        ("cut.txt.gz", r"cut\.txt\.gz is truncated or damaged"),
        ("bad.zip", r"bad\.zip is truncated or damaged"),
        ("both", r"b\.tar is an archive, no text: give it itself"),
    ):
        with pytest.raises(ValueError, match=message):
            import_text("own", tmp_path / source, data_dir=tmp_path / "out")
    monkeypatch.setattr(_outside, "MEMORY", 1000)
    (tmp_path / "large.gz").write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(ValueError, match=r"large\.gz holds more than 1000 B of text"):
        import_text("own", tmp_path / "large.gz", data_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_text_that_cannot_be_read_or_is_no_utf8_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.txt").write_text("a" * 100)
    (tmp_path / "in" / "test.txt").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"in.test\.txt is no UTF-8 \(at byte 0\)"):
        import_text("own", tmp_path / "in", tokenizer=_Tokenizer(), data_dir=tmp_path / "out")
    (tmp_path / "in" / "test.txt").unlink()
    (tmp_path / "in" / "test.txt").symlink_to("nothing")
    with pytest.raises(ValueError, match=r"test\.txt cannot be read \(it is a link to nothing\)"):
        import_text("own", tmp_path / "in", data_dir=tmp_path / "out")
