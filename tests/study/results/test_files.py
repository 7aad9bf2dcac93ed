"""Files of a study: whole or not there, and whatever is not as it was written is named."""

import copy
import json
import os
import pathlib
import pickle

import pytest

from gapjax._seal import seal
from gapjax.study._results import _files
from gapjax.study._results._records import OverSeeds


def test_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    _files.write_text(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        _files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_kept_comes_back_to_whom_it_belongs(tmp_path):
    path, of = tmp_path / "x.json", {"study": "a", "measurement": "b", "networks": {"SB": "c"}}
    _files.keep(path, {"accuracy": [0.98, 0.97]}, of=of)
    assert _files.read(path, dict, of=of) == {"accuracy": [0.98, 0.97]}
    for change, said in (
        ({"study": "x"}, "it belongs to another study"),
        ({"measurement": "x"}, "it belongs to another measurement"),
        ({"networks": {"SB": "c", "LB": "x"}}, "it belongs to other networks of LB"),
    ):
        with pytest.raises(_files.Damaged, match=said):
            _files.read(path, dict, of={**of, **change})
    with pytest.raises(_files.Damaged, match="it belongs to something else"):
        _files.read(path, dict)


VALUE = {"mean": 1.5, "std": 0.0, "values": [1.5, 1.5]}
DAMAGES = {
    "cut": (b'{"a": ', r"it is not what a study writes: no JSON"),
    "no text": (b"\xae\x00", "it is not what a study writes: no JSON"),
    "deep": (b"[" * 100_000, "it is nested too deep"),
    "deep and whole": (b'{"a":' * 900 + b"1" + b"}" * 900, "nested too deep|its top level"),
    "no object": (b"[]", "its top level: expected `object`, got list"),
    "empty": (b"", "no JSON"),
    "no key": (b'{"mean": 1, "values": []}', "missing required field `std`"),
    "type": (b'{"mean": 1, "std": "x", "values": []}', "std: expected `float | null`, got `str`"),
    "inner type": (b'{"mean": 1, "std": 1, "values": [[]]}', r"values\[0\]: expected"),
    "NaN": (b'{"mean": 1, "std": 1, "values": [1, NaN]}', r"values\[1\] is not finite"),
    "huge": (b'{"mean": 1e999, "std": 1, "values": []}', "mean is not finite"),
    "no seal": (json.dumps(VALUE).encode(), "checksum differs"),
    "other": (json.dumps({**seal(VALUE), "mean": 1.25}).encode(), "checksum differs"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_by_its_field_with_what_to_do(tmp_path, name):
    content, said = DAMAGES[name]
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(_files.Damaged, match=said) as caught:
        _files.read(path, OverSeeds, cost="LB is trained again")
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    assert "; delete it and run the same command (or add --repair): LB is trained again." in text
    caught.value.repair()
    assert not path.exists()


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    _files.keep(path, VALUE, of={"study": "a"})
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 5):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            found = _files.read(path, OverSeeds, of={"study": "a"})
        except _files.Damaged:
            continue
        assert found == OverSeeds(**VALUE), bit  # white space alone


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    (tmp_path / "folder").mkdir()
    for name, said in (("x.json", "is a FIFO"), ("folder", "is a folder"), ("no", "is not there")):
        with pytest.raises(ValueError, match=said):
            _files.read(tmp_path / name, dict)
    with pytest.raises(ValueError, match="is a device"):
        _files.read(pathlib.Path("/dev/zero"), dict)


@pytest.mark.parametrize("delete", [None, pathlib.Path("regimes/SB.json")])
def test_damage_comes_back_from_another_process_as_it_was(delete):
    damage = _files.Damaged(pathlib.Path("results.json"), "is cut", delete=delete, cost="none")
    for again in (pickle.loads(pickle.dumps(damage)), copy.copy(damage)):
        assert type(again) is _files.Damaged and str(again) == str(damage)
        assert (again.delete, again.what, again.cost) == (damage.delete, damage.what, "none")
