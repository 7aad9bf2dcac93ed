import json
import math
import os

import numpy as np
import pytest

from gapjax.study import _folder


def test_json_round_trip_is_exact_and_knows_no_nan(tmp_path):
    value = {"a": np.float64(0.1), "b": [np.int64(3), math.nan, math.inf], "c": np.eye(2)}
    _folder.keep_json(tmp_path / "x.json", value)
    assert _folder.read_json(tmp_path / "x.json") == {
        "a": 0.1,
        "b": [3, None, None],
        "c": [[1.0, 0.0], [0.0, 1.0]],
    }


def test_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    _folder.write_text(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        _folder.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_belongs_to_one_study(tmp_path):
    out = tmp_path / "run"
    _folder.open_folder(out, {"epochs": 20, "rate": 0.1}, {"command": "a"})
    _folder.open_folder(out, {"epochs": 20, "rate": 0.1}, {"command": "b"})
    kept = (out / "config.json").read_text()
    assert json.loads(kept)["run"] == {"command": "a"}
    both = r"another study.* epochs is 20 there, and 30 here; rate is 0.1 there, and 0.2 here\. "
    with pytest.raises(ValueError, match=both):
        _folder.open_folder(out, {"epochs": 30, "rate": 0.2}, {})
    assert (out / "config.json").read_text() == kept


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"cannot write to .*file.* Give another folder with --out"
    ):
        _folder.open_folder(tmp_path / "file", {}, {})


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not there: is .* the folder of a study"):
        _folder.read_json(tmp_path / "config.json")
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"broken.json is not JSON"):
        _folder.read_json(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_bytes(b"\xae\x00")
    with pytest.raises(ValueError, match=r"broken.json is not JSON"):
        _folder.read_json(tmp_path / "broken.json")
    for foreign in ("[]", '{"a": 1}'):
        (tmp_path / "broken.json").write_text(foreign)
        with pytest.raises(ValueError, match=r"not what a study writes \(it has no 'study'\)"):
            _folder.read_json(tmp_path / "broken.json", "study")


def test_a_number_that_changed_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    _folder.keep_json(path, {"result": {"accuracy": [0.98, 0.97]}})
    assert _folder.read_json(path, "result") == {"result": {"accuracy": [0.98, 0.97]}}
    path.write_text(path.read_text().replace("0.98", "0.99"))
    with pytest.raises(ValueError, match=r"x.json is not as it was written; delete it"):
        _folder.read_json(path, "result")
