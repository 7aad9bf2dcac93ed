import os

import numpy as np
import pytest

from gapjax.study._results import _folder
from gapjax.study._results._records import Config, TaskFacts

TASK = TaskFacts("classification", "accuracy", True, ["loss", "accuracy"], ["accuracy"], False)


def _config(command="a", **study):
    return Config({"epochs": 20, "rate": 0.1, **study}, TASK, {"command": command})


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
    _folder.open_folder(out, _config())
    _folder.open_folder(out, _config("b"))
    kept = (out / "config.json").read_text()
    assert _folder.read_config(out) == _config()
    both = r"another study.* epochs is 20 there, and 30 here; rate is 0.1 there, and 0.2 here\. "
    with pytest.raises(ValueError, match=both):
        _folder.open_folder(out, _config(epochs=30, rate=0.2))
    assert (out / "config.json").read_text() == kept


def test_folders_of_other_releases_are_refused_in_a_line(tmp_path):
    _folder.keep_json(tmp_path / "config.json", {"study": {"epochs": 20}, "run": {}})
    with pytest.raises(ValueError, match=r"was written by gapjax 0.1, whose files"):
        _folder.read_config(tmp_path)
    _folder.keep_json(tmp_path / "config.json", {"format": 99, "study": {}, "task": {}})
    with pytest.raises(ValueError, match=r"was written by a later gapjax"):
        _folder.open_folder(tmp_path, _config())


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"cannot write to .*file.* Give another folder with --out"
    ):
        _folder.open_folder(tmp_path / "file", _config())


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not there: is .* the folder of a study"):
        _folder.read_json(tmp_path / "config.json")
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"broken.json is not JSON"):
        _folder.read_json(tmp_path / "broken.json")
    for content in (b"\xae\x00", b"[" * 100_000):
        (tmp_path / "broken.json").write_bytes(content)
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


def test_results_of_examples_come_back_and_damage_is_named(finished, tmp_path):
    _, result, _ = finished
    record = result.regimes["LB"]
    (tmp_path / "regimes").mkdir()
    examples = {"loss": np.arange(6.0).reshape(2, 3), "weight": np.ones(3)}
    _folder.keep_regime(tmp_path, record, examples)
    kept = _folder.read_regime(tmp_path, "LB")
    found = _folder.read_examples(tmp_path, kept)
    assert list(found) == ["loss", "weight"]
    np.testing.assert_array_equal(found["loss"], examples["loss"])
    path = tmp_path / "regimes" / "LB.npz"
    good = path.read_bytes()
    for damaged in (good[:-40], good[:50] + bytes([good[50] ^ 1]) + good[51:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"LB.npz is not as it was written .*delete LB.json"):
            _folder.read_examples(tmp_path, kept)
    path.unlink()
    with pytest.raises(ValueError, match=r"LB.npz: No such file .*delete LB.json"):
        _folder.read_examples(tmp_path, kept)
