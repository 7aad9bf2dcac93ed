import concurrent.futures
import os
import zipfile

import numpy as np
import pytest

from data import files
from gapjax.data import _prepared, import_local, load
from gapjax.data._kept import kept_arrays

KINDS = {"x": ((3, 4), np.dtype(np.uint8)), "y": ((3,), np.dtype(np.int32))}
ARRAYS = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4), "y": np.arange(3, dtype=np.int32)}


def _never():
    raise AssertionError("made again")


def _same(arrays):
    return all((arrays[name] == ARRAYS[name]).all() for name in ARRAYS)


def test_arrays_are_made_once(tmp_path):
    path = tmp_path / "kept" / "x.npz"
    assert _same(kept_arrays(path, "key", KINDS, lambda: ARRAYS))
    assert _same(kept_arrays(path, "key", KINDS, _never))
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]
    with np.load(path) as plain:  # any NumPy reads it
        np.testing.assert_array_equal(plain["x"], ARRAYS["x"])


def test_another_key_shape_or_type_is_made_again(tmp_path):
    path = tmp_path / "x.npz"
    for key, kinds in (
        ("key", KINDS),
        ("other", KINDS),
        ("other", KINDS | {"x": ((3, 5), np.dtype(np.uint8))}),
        ("other", KINDS | {"y": ((3,), np.dtype(np.uint32))}),
        ("other", KINDS | {"z": ((3,), np.dtype(np.uint32))}),
    ):
        made = []
        arrays = {name: np.zeros(*kind) for name, kind in kinds.items()}
        kept_arrays(path, key, kinds, lambda arrays=arrays, made=made: made.append(1) or arrays)
        assert made
        kept_arrays(path, key, kinds, _never)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    kept_arrays(path, "key", KINDS, lambda: ARRAYS)
    good = path.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(good), 200):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        assert _same(kept_arrays(path, "key", KINDS, lambda: ARRAYS))
    for length in range(0, len(good), 37):
        path.write_bytes(good[:length])
        assert _same(kept_arrays(path, "key", KINDS, lambda: ARRAYS))
        assert path.read_bytes() == good  # and it is whole again


def test_a_copy_that_would_unpack_to_more_is_not_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, key=np.frombuffer(b"key", np.uint8), **ARRAYS)
    made = []
    kept_arrays(path, "key", KINDS, lambda: made.append(1) or ARRAYS)
    assert made
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("key.npy", bytes(1 << 24))
    assert _same(kept_arrays(path, "key", KINDS, lambda: ARRAYS))


def test_several_that_write_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "x.npz"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(kept_arrays, path, "key", KINDS, lambda: ARRAYS) for _ in range(40)]
        assert all(_same(call.result()) for call in calls)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    assert _same(kept_arrays(path, "key", KINDS, _never))


def test_no_right_to_write_is_no_error(tmp_path, monkeypatch):
    assert _same(kept_arrays(tmp_path / "no" / "folder" / "x.npz", "key", KINDS, lambda: ARRAYS))

    def savez(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    assert _same(kept_arrays(tmp_path / "x.npz", "key", KINDS, lambda: ARRAYS))
    assert not list(tmp_path.iterdir())


def test_classes_that_are_renamed_are_read_anew(tmp_path):
    made = files.write_folders(tmp_path / "in", ["cat", "dog"], shape=(4, 4, 1))
    written = import_local("pets", tmp_path / "in", data_dir=tmp_path / "out")
    assert load("pets", data_dir=tmp_path / "out").class_names == ("cat", "dog")
    for split in ("train", "test"):  # what was a cat is a zebra now, and comes last
        (tmp_path / "in" / split / "cat").rename(tmp_path / "in" / split / "zebra")
    written.rename(tmp_path / "gone")
    import_local("pets", tmp_path / "in", data_dir=tmp_path / "out")
    again = load("pets", data_dir=tmp_path / "out")
    assert again.class_names == ("dog", "zebra")
    for split, part in (("train", again.train), ("test", again.test)):
        images, labels = made[split]
        swapped = [1 - label for label in labels]
        assert files.multiset(part.images, part.labels) == files.multiset(images, swapped)


@pytest.mark.parametrize("what", ["shard", "copied"])
def test_a_copy_belongs_to_what_it_was_made_from(tmp_path, monkeypatch, what):
    files.write_idx(tmp_path / "in", side=5)
    written = import_local("mine", tmp_path / "in", data_dir=tmp_path / "out")
    first = load("mine", data_dir=tmp_path / "out")
    decoded = []
    plain = _prepared._decoded
    monkeypatch.setattr(_prepared, "_decoded", lambda *a: decoded.append(1) or plain(*a))
    load("mine", data_dir=tmp_path / "out")
    assert not decoded
    if what == "shard":
        shard = next(written.glob("*train.array_record*"))
        shard.write_bytes(shard.read_bytes())  # the same, as far as one can tell without reading
    else:
        folder = tmp_path / "out" / ".gapjax-decoded"
        for test in folder.glob("*-test-*"):
            test.write_bytes(folder.joinpath(test.name.replace("test", "train")).read_bytes())
    again = load("mine", data_dir=tmp_path / "out")
    assert decoded
    np.testing.assert_array_equal(first.test.images, again.test.images)


def test_class_names_that_were_changed_are_named(tmp_path):
    files.write_idx(tmp_path / "in", side=5)
    names = import_local("mine", tmp_path / "in", data_dir=tmp_path / "out") / "label.labels.txt"
    names.write_text(names.read_text().replace("9", "nine"))
    with pytest.raises(ValueError, match=r"label\.labels\.txt: checksum differs"):
        load("mine", data_dir=tmp_path / "out")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_who_may_read_it_is_what_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        kept_arrays(tmp_path / "x.npz", "key", KINDS, lambda: ARRAYS)
    finally:
        os.umask(before)
    assert (tmp_path / "x.npz").stat().st_mode & 0o777 == mode
