"""The folder of a study: one experiment, one writer, every damage named with the least to redo."""

import pathlib
import shutil

import numpy as np
import pytest

from gapjax._lock import FolderInUse, FolderLock
from gapjax.study._results import _files, _folder
from gapjax.study._results._records import Config, TaskFacts

TASK = TaskFacts("classification", "accuracy", True, ["loss", "accuracy"], ["accuracy"], False)
STUDY = {
    "epochs": 20,
    "rate": 0.1,
    "dataset": {"name": "x", "normalize": None},
    "model": "net",
    "optimizer": "sgd",
    "regimes": [{"name": "SB"}, {"name": "LB"}],
    "baseline": ["SB", "LB"],
    "validation": 0.2,
}


def _config(command="a", **study):
    return Config({**STUDY, **study}, TASK, {"command": command})


def _copy(finished, tmp_path):
    folder, result, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run", result.config


def test_folder_belongs_to_one_study_once_something_is_trained(tmp_path):
    out = tmp_path / "run"
    with _folder.hold(out):
        _folder.open_folder(out, _config(epochs=30))
        _folder.open_folder(out, _config())  # nothing was trained: the corrected command goes on
        (out / "checkpoints" / "x").write_text("something")
        _folder.open_folder(out, _config("b"))
        kept = (out / "config.json").read_text()
        assert _folder.read_config(out) == _config()
        both = r"another study.* epochs is 20 there, and 30 here; rate is 0.1 there, and 0.2 here"
        with pytest.raises(ValueError, match=both):
            _folder.open_folder(out, _config(epochs=30, rate=0.2))
    assert (out / "config.json").read_text() == kept


def test_other_code_under_the_same_names_is_told(tmp_path):
    out = tmp_path / "run"

    def regimes(digest):
        return [
            {"name": "SB", "remedies": []},
            {"name": "LB+M", "remedies": ["LR", f"M [{digest}]"]},
        ]

    with _folder.hold(out):
        _folder.open_folder(out, _config(regimes=regimes("1")))
        (out / "checkpoints" / "x").write_text("something")
        with pytest.raises(ValueError, match=r": regimes: remedy M of LB\+M is made by other code"):
            _folder.open_folder(out, _config(regimes=regimes("2")))


def test_other_versions_are_told_where_something_is_still_to_be_trained(tmp_path):
    out = tmp_path / "run"

    def config(**versions):
        return Config(STUDY, TASK, {"command": "a", **versions})

    with _folder.hold(out):
        _folder.open_folder(out, config(jax="0.10.2", flax="1"))
        (out / "checkpoints" / "x").write_text("something")
        with pytest.warns(
            UserWarning, match=r"begun with jax 0.10.2 .now 0.11.0.: what is trained"
        ):
            _folder.open_folder(out, config(jax="0.11.0", flax="1", optax="2"))


def _fail(out, error, file=None):
    with _folder.hold(out):
        _folder.open_folder(out, _config())
        if file is not None:
            (out / file).write_text("something")
        raise error("on purpose")


def test_a_start_that_fails_leaves_no_folder(tmp_path):
    out = tmp_path / "run"
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error, match="on purpose"):
            _fail(out, error)
        assert not out.exists()
    with pytest.raises(ValueError, match="on purpose"):
        _fail(out, ValueError, "checkpoints/x")
    assert (out / "config.json").exists()


def test_a_folder_beside_one_that_is_gone_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ValueError, match="cannot write to run: No such file"):
        _fail(pathlib.Path("run"), RuntimeError)


def test_one_writer(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with _folder.hold(out) as lock:
        _folder.check_hold(out, lock)
        monkeypatch.setattr(FolderLock, "is_held", lambda self: False)
        with pytest.raises(FolderInUse, match="taken over by another process"):
            _folder.check_hold(out, lock)


def test_folders_of_other_releases_are_refused_in_a_line(tmp_path):
    _files.keep(tmp_path / "config.json", {"study": {"epochs": 20}, "run": {}})
    with pytest.raises(ValueError, match=r"was written by gapjax 0.1, whose files"):
        _folder.read_config(tmp_path)
    _files.keep(tmp_path / "config.json", {"format": 99, "study": {}, "task": {}})
    with pytest.raises(ValueError, match=r"was written by a later gapjax"):
        _folder.read_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"regimes": 3}, r"config.json: .*study.regimes: expected `array`, got `int`"),
        ({"regimes": [{"title": "SB"}]}, r"study.regimes\[0\]: .*missing required field `name`"),
        ({"baseline": ["SB"]}, r"study.baseline: expected `array` of length 2"),
        ({"dataset": "x"}, r"study.dataset: expected `object`"),
        ({"validation": None}, r"study.validation: expected `float`"),
    ],
)
def test_fields_of_a_study_are_read_by_the_schema(tmp_path, change, said):
    _files.keep(tmp_path / "config.json", {"format": _folder.FORMAT, **vars(_config(**change))})
    with pytest.raises(_files.Damaged, match=said):
        _folder.read_config(tmp_path)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        said = r"cannot write to .*file.* Give another folder \(--out\)"
        with pytest.raises(ValueError, match=said), _folder.hold(out):
            raise AssertionError


def test_results_of_examples_come_back_and_damage_is_named(finished, tmp_path):
    folder, config = _copy(finished, tmp_path)
    record = _folder.read_regime(folder, "LB", config)
    found = _folder.read_examples(folder, record)
    assert {"loss", "accuracy", "weight"} == {*found} and found["loss"].shape == (3, 32)
    path = folder / "regimes" / "LB.npz"
    good = path.read_bytes()
    for damaged in (good[:-40], good[:50] + bytes([good[50] ^ 1]) + good[51:], b""):
        path.write_bytes(damaged)
        said = r"LB.npz: checksum differs; delete .*LB.json .*LB is trained again, the others are"
        with pytest.raises(_files.Damaged, match=said):
            _folder.read_examples(folder, record)
    path.unlink()
    with pytest.raises(_files.Damaged, match=r"LB.npz: No such file .*delete .*LB.json"):
        _folder.read_examples(folder, record)


def _over(source, target):
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


DAMAGES = {
    "a record over another": (
        lambda f: _over(f / "regimes" / "SB.json", f / "regimes" / "LB.json"),
        r"LB.json: .*name: it is regime 'SB', not 'LB'; delete it",
    ),
    "a flipped bit in a record": (lambda f: _flip(f / "regimes" / "LB.json"), r"LB.json: "),
    "results of examples over others": (
        lambda f: _over(f / "regimes" / "SB.npz", f / "regimes" / "LB.npz"),
        r"LB.npz: checksum differs; delete .*LB.json",
    ),
    "a network over another": (
        lambda f: _over(f / "checkpoints" / "SB", f / "checkpoints" / "LB"),
        r"checkpoints/LB: it is not what this regime kept there; delete .*LB.json",
    ),
    "a flipped bit in a network": (
        lambda f: _flip(_largest(f / "checkpoints" / "LB")),
        r"checkpoints/LB/.*: checksum differs; .*delete .*LB.json",
    ),
    "no network": (
        lambda f: shutil.rmtree(f / "checkpoints" / "LB"),
        r"checkpoints/LB: it is not what this regime kept there; delete .*LB.json",
    ),
    "a configuration that was changed": (
        lambda f: _flip(f / "config.json"),
        r"config.json: .*; delete it .*: it is written anew, and what was trained is kept",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_result_belongs_to_its_experiment(finished, tmp_path, name):
    folder, config = _copy(finished, tmp_path)
    damage, said = DAMAGES[name]
    damage(folder)
    with pytest.raises(_files.Damaged, match=said) as caught:
        _folder.open_folder(folder, config)
    kept = {path for path in folder.rglob("*") if path.is_file()}
    caught.value.repair()
    gone = kept - {path for path in folder.rglob("*") if path.is_file()}
    assert len(gone) == 1  # the least there is
    _folder.open_folder(folder, config)
    names = {"LB.json"} if "configuration" not in name else {"config.json"}
    assert {path.name for path in gone} == names
    done = [n for n in config.regimes if _folder.regime_path(folder, n).exists()]
    assert ("LB" in done) == ("configuration" in name)


def test_a_deleted_configuration_makes_old_numbers_no_other_study(finished, tmp_path):
    folder, config = _copy(finished, tmp_path)
    (folder / "config.json").unlink()
    other = Config({**config.study, "epochs": 5.0}, config.task, config.environment)
    with pytest.raises(_files.Damaged, match=r"SB.json: .*study: it belongs to another study than"):
        _folder.open_folder(folder, other)
    (folder / "config.json").unlink()
    _folder.open_folder(folder, config)
    record = _folder.read_regime(folder, "SB", config)
    assert np.isfinite(_folder.read_examples(folder, record)["loss"]).all()
