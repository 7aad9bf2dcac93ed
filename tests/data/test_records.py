"""Shards, array_record and tfrecord alike: the right records, or the file that is damaged."""

import contextlib
import os
import pickle

import numpy as np
import pytest

from data import files
from gapjax.data import StreamedSplit, _prepared, import_local, load


@pytest.fixture(params=["array_record", "tfrecord"])
def prepared(tmp_path, request):
    files.write_idx(tmp_path / "in", train=40, side=9)
    written = import_local("mine", tmp_path / "in", data_dir=tmp_path / "out")
    whole = load("mine", data_dir=tmp_path / "out")
    if request.param == "tfrecord":
        files.to_tfrecord(written)
    for path in (tmp_path / "out" / ".gapjax-decoded").iterdir():
        path.unlink()
    return written, whole


def _load(written, **options):
    return load("mine", data_dir=written.parent.parent, **options)


def _shard(written, split="train"):
    return next(written.glob(f"mine-{split}.*record-*"))


def test_every_record_is_the_same_in_both_formats(prepared):
    written, whole = prepared
    again = _load(written)
    np.testing.assert_array_equal(again.train.images, whole.train.images)
    np.testing.assert_array_equal(again.train.labels, whole.train.labels)
    np.testing.assert_array_equal(again.test.images, whole.test.images)
    assert again.class_names == whole.class_names
    part = _load(written, train="train[30:35]", test="train[35:]+test[:2]")
    np.testing.assert_array_equal(part.train.images, whole.train.images[30:35])
    both = np.concatenate([whole.train.images[35:], whole.test.images[:2]])
    np.testing.assert_array_equal(part.test.images, both)


def test_what_does_not_fit_in_memory_is_read_by_number(prepared, monkeypatch):
    written, whole = prepared
    monkeypatch.setattr(_prepared, "memory", lambda: 1)
    streamed = _load(written).train
    assert isinstance(streamed, StreamedSplit)
    for split in (streamed, pickle.loads(pickle.dumps(streamed._records))):
        numbers = [39, 0, 7, 7, 20]
        if split is streamed:
            got = np.stack([one.images for one in split.__getitems__(numbers)])
            np.testing.assert_array_equal(got, whole.train.images[numbers])
        else:
            assert [record.number for record in split.__getitems__(numbers)] == numbers
    assert streamed[-1].labels == whole.train.labels[39]
    part = _load(written, train="train[50%:]").train
    for number in (-1, np.int64(-20), 19):
        np.testing.assert_array_equal(part[number].images, whole.train.images[20:][number])
    for number in (20, -21):
        with pytest.raises(IndexError, match=f"no example {number} in a split of 20"):
            part[number]


def test_several_shards(prepared, tmp_path):
    written, whole = prepared
    if "tfrecord" not in _shard(written).name:
        pytest.skip("the shards of array_record are cut by TFDS")
    content = _shard(written).read_bytes()
    ends, at = [], 0
    while at < len(content):
        at += 16 + int.from_bytes(content[at : at + 8], "little")
        ends.append(at)
    cuts = [0, ends[9], ends[10], ends[39]]
    _shard(written).unlink()
    for number in range(3):
        part = content[cuts[number] : cuts[number + 1]]
        (written / f"mine-train.tfrecord-{number:05d}-of-00003").write_bytes(part)
    about = written / "dataset_info.json"
    text = about.read_text().replace('"40"', '"10",\n"1",\n"29"')
    about.write_text(text)
    again = _load(written, train="train[5:]")
    np.testing.assert_array_equal(again.train.images, whole.train.images[5:])


@pytest.mark.parametrize("how", ["flip", "cut", "more", "missing", "fifo", "empty"])
def test_a_damaged_shard_is_named(prepared, how):
    written, _ = prepared
    path = _shard(written)
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "flip":
        place = content.index(b"image") if b"image" in content else 150
        content[place] ^= 8
    elif how == "cut":
        del content[-20:]
    elif how == "more":
        content += bytes(content) if "tfrecord" in path.name else b""
        content = content if "tfrecord" in path.name else content[:0]
    elif how == "empty":
        content.clear()
    if how == "fifo":
        os.mkfifo(path)
    elif how != "missing":
        path.write_bytes(content)
    with pytest.raises(ValueError, match=path.name) as caught:
        _load(written)
    assert "\n" not in str(caught.value)


def test_bytes_that_change_never_give_another_record(prepared):
    written, whole = prepared
    path = _shard(written)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    named = 0
    for number in range(120):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= rng.integers(1, 256)
        path.write_bytes(bad[: rng.integers(len(bad))] if number % 10 == 0 else bad)
        try:
            again = _load(written)
        except ValueError as error:
            named += path.name in str(error)
            continue
        np.testing.assert_array_equal(again.train.images, whole.train.images)
        np.testing.assert_array_equal(again.train.labels, whole.train.labels)
    # what pads a file of array_record belongs to no record
    assert named == 120 if "tfrecord" in path.name else named >= 12


@pytest.mark.parametrize("content", [b"", b"\x0a\x00", b"\xff" * 9])
def test_a_record_that_is_whole_and_holds_something_else_is_named(prepared, content):
    written, _ = prepared
    if "tfrecord" not in _shard(written).name:
        pytest.skip("its writer is TFDS's")
    for split, count in (("train", 40), ("test", 10)):
        _shard(written, split).write_bytes(files.tfrecord([content] * count))
    with pytest.raises(ValueError, match="record 0 cannot be read"):
        _load(written)


def test_names_of_others_lead_nowhere(prepared, tmp_path):
    written, _ = prepared
    about = written / "dataset_info.json"
    plain = about.read_text()
    template = next(line for line in plain.splitlines() if "filepathTemplate" in line)
    about.write_text(plain.replace(template, template.replace('": "', '": "../../../../../etc/')))
    with pytest.raises(ValueError, match="names a shard that lies elsewhere"):
        _load(written)
    about.write_text(plain.replace('"name": "mine"', '"name": "../../mine"'))
    before = {path for path in tmp_path.rglob("*") if ".gapjax-decoded" not in path.parts}
    with contextlib.suppress(ValueError):
        _load(written)
    assert {p for p in tmp_path.rglob("*") if ".gapjax-decoded" not in p.parts} == before


def test_an_example_of_a_shape_without_end_is_refused(prepared):
    written, _ = prepared
    about = written / "features.json"
    about.write_text(about.read_text().replace('"9"', '"900000"'))
    with pytest.raises(ValueError, match=r"One example of mine takes 754.4 GiB"):
        _load(written)


def test_records_that_move_are_found_again(prepared):
    written, _ = prepared
    path = _shard(written)
    if "tfrecord" not in path.name:
        pytest.skip("an array_record file has a table of contents")
    _load(written)
    (kept,) = (written.parent.parent / ".gapjax-decoded").glob("*train.tfrecord*.npz")
    before = kept.read_bytes()
    os.utime(path, ns=(1, 1))
    for copy in (written.parent.parent / ".gapjax-decoded").glob("mine-1.0.0-train*"):
        copy.unlink()
    _load(written)
    assert kept.read_bytes() != before


def test_compressed_tfrecords_are_refused_by_name(prepared):
    import gzip
    import zlib

    written, _ = prepared
    path = _shard(written)
    if "tfrecord" not in path.name:
        pytest.skip("array_record compresses by itself")
    plain = path.read_bytes()
    for name, packed in (("GZIP", gzip.compress(plain)), ("ZLIB", zlib.compress(plain))):
        path.write_bytes(packed)
        with pytest.raises(ValueError, match=f"compressed with {name}"):
            _load(written)


def test_labels_that_are_kept_back_are_not_tested_on(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "x": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "y": tfds.features.ClassLabel(num_classes=2),
    }
    labelled = [{"x": np.full(2, i, np.float32), "y": i % 2} for i in range(6)]
    hidden = [row | {"y": -1} for row in labelled]
    splits = {"train": labelled, "validation": labelled[:4], "test": hidden}
    files.prepare(tmp_path, "kept_back", features, ("x", "y"), splits)
    assert len(load("kept_back", data_dir=tmp_path).test) == 4
    with pytest.raises(ValueError, match=r"record 0 .*its label is -1: the answers"):
        load("kept_back", data_dir=tmp_path, test="test")
    del splits["validation"]
    files.prepare(tmp_path, "all_kept_back", features, ("x", "y"), splits)
    with pytest.raises(ValueError, match=r"no split with answers.* test='train\[90%:\]'"):
        load("all_kept_back", data_dir=tmp_path)
    files.prepare(tmp_path, "only_train", features, ("x", "y"), {"train": labelled})
    with pytest.raises(ValueError, match="no split with answers"):
        load("only_train", data_dir=tmp_path)


def test_the_streamed_way_never_gives_a_label_that_is_none(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    features = {
        "x": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "y": tfds.features.ClassLabel(num_classes=2),
    }
    rows = [{"x": np.zeros(2, np.float32), "y": y} for y in (0, 1, -1)]
    files.prepare(
        tmp_path, "some_kept_back", features, ("x", "y"), {"train": rows, "test": rows[:2]}
    )
    monkeypatch.setattr(_prepared, "memory", lambda: 1)
    streamed = load("some_kept_back", data_dir=tmp_path).train
    labels = []
    for number in range(3):
        try:
            labels.append(int(streamed[number].labels))
        except ValueError:
            labels.append("named")
    assert sorted(map(str, labels)) == ["0", "1", "named"]
