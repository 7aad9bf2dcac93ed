"""Sweeps that are trained: what lies in the folder, going on, adding, and what is refused."""

import csv
import dataclasses
import json

import numpy as np
import optax
import pytest

from gapjax import cli, study
from gapjax.study._sweep import _run
from gapjax.study._sweep._records import read_records
from tests.study.sweep.conftest import SIZES, tiny_sweep


def test_every_size_is_trained_with_every_rate_and_seed(swept):
    folder, result, seen = swept
    line = result.lines["none"]
    assert [point.batch_size for point in line.points] == list(SIZES)
    assert {at.regime for at in seen} == {"4", "8", "32"}
    for made, point in zip(read_records(folder), line.points, strict=True):
        assert made.curves.update[0] == 0 and made.curves.update[-1] == result.config.most_updates
        assert made.curves.array("validation_accuracy").shape[1] == 2 * 2
        assert made.flops > 0 and len(point.trials) == 2
        # The same seed starts alike at every size and rate.
        start = made.curves.array("validation_loss")[0].reshape(2, 2)
        np.testing.assert_array_equal(start[0], start[1])
        # As many examples as the small batch of 8 are twice the updates at 4, and 1.5 the most.
        equal = {"same examples"} if point.batch_size > 4 else set()
        assert set(point.budgets) == {*equal, "same updates", "unlimited"}


def test_the_files_hold_what_was_found(swept):
    folder, result, _ = swept
    found = json.loads((folder / "results.json").read_text())
    assert found["finding"] == study.sweep_finding(result) and found["target"] == 0.4
    assert [p["batch_size"] for p in found["lines"]["none"]["points"]] == list(SIZES)
    with open(folder / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SIZES) * 2 * 2
    point = result.lines["none"].points[0]
    own = [row for row in rows if row["batch_size"] == "4" and row["is_best"] == "1"]
    assert [float(row["updates"] or "nan") for row in own] == [
        pytest.approx(np.nan if x is None else x, nan_ok=True) for x in point.trial.steps
    ]
    page = (folder / "report.html").read_text()
    assert "How large may the batch be" in page and "gapjax sweep x" in page
    assert page.count("<svg") == 3


def test_more_sizes_and_another_target_train_nothing_again(swept, monkeypatch):
    folder, before, _ = swept
    trained = []
    train = _run._train
    monkeypatch.setattr(_run, "_train", lambda *a: (trained.append(a[2].plan.name), train(*a)))
    result = study.run_sweep(tiny_sweep((8, 24)), folder)
    assert trained == ["24"]
    assert [p.batch_size for p in result.lines["none"].points] == [4, 8, 24, 32]
    assert result.lines["none"].points[1] == before.lines["none"].points[1]
    harder = study.run_sweep(tiny_sweep(target=0.3), folder)
    assert trained == ["24"]
    for one, other in zip(result.lines["none"].points, harder.lines["none"].points, strict=True):
        assert other.best is None or other.steps.mean >= one.steps.mean
    assert study.load_sweep(folder).goal.target == 0.3
    assert study.load_sweep(folder, target=0.4).lines["none"].points == result.lines["none"].points
    (folder / "sizes" / "24.json").unlink()
    assert study.run_sweep(tiny_sweep(), folder).lines["none"].points == before.lines["none"].points


def test_the_report_of_a_sweep_is_drawn_again(swept, capsys):
    folder, _, _ = swept
    page = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == page
    assert "The critical batch size" in capsys.readouterr().out


def test_a_folder_belongs_to_one_sweep(swept):
    folder, _, _ = swept
    with pytest.raises(ValueError, match=r"holds another sweep.*rates is 2 there, and 3 here"):
        study.run_sweep(tiny_sweep(rates=3), folder)


def test_a_folder_of_a_study_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a study"):
        study.run_sweep(tiny_sweep(), tmp_path)


def test_a_record_that_was_changed_is_named(swept, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(swept[0], folder)
    path = folder / "sizes" / "4.json"
    path.write_text(path.read_text().replace('"batch_size": 4', '"batch_size": 5'))
    with pytest.raises(ValueError, match=r"4\.json: checksum differs; delete it"):
        study.load_sweep(folder)


def test_a_target_that_is_met_at_the_start_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"is met before the first update.*harder --target"):
        study.run_sweep(tiny_sweep((8,), target=0.95), tmp_path / "run")


def test_stopping_at_the_target_finds_the_same_rate_with_fewer_updates(swept, tmp_path):
    _, full, _ = swept
    result = study.run_sweep(tiny_sweep((8,), stop_at_target=True), tmp_path / "run")
    point = result.lines["none"].points[0]
    own = next(p for p in full.lines["none"].points if p.batch_size == 8)
    (made,) = read_records(tmp_path / "run")
    assert made.curves.update[-1] < full.config.most_updates
    assert point.best == own.best and point.steps == own.steps


def test_a_harder_target_than_the_one_it_stopped_at_is_trained_for(tmp_path):
    easy = tiny_sweep((8,), target=0.5, stop_at_target=True)
    hard = dataclasses.replace(easy, target=0.3)
    study.run_sweep(easy, tmp_path / "run")
    (stopped,) = read_records(tmp_path / "run")
    asked = study.load_sweep(tmp_path / "run", target=0.3).lines["none"]
    assert asked.unknown == (8,) and not asked.points
    again = study.run_sweep(hard, tmp_path / "run")
    (made,) = read_records(tmp_path / "run")
    assert made.curves.update[-1] > stopped.curves.update[-1]
    fresh = study.run_sweep(hard, tmp_path / "other")
    (one,), (other,) = (result.lines["none"].points for result in (again, fresh))
    assert (one.trials, one.best, one.steps) == (other.trials, other.best, other.steps)


def test_a_sweep_that_was_interrupted_goes_on_with_the_same_remedy_alone(tmp_path, monkeypatch):
    told = []

    def keeper(path, config):
        told.append(config)
        raise InterruptedError("enough")

    monkeypatch.setattr(_run, "Keeper", keeper)
    for scale in (0.5, 0.5, 2.0):
        mine = study.Remedy("MINE", "scaled", optimizer=_scaled(scale))
        with pytest.raises(InterruptedError):
            study.run_sweep(tiny_sweep((32,), remedies=((mine,),)), tmp_path / str(len(told)))
    assert told[0] == told[1] != told[2]


def _scaled(scale):
    return lambda tx, plan: optax.chain(tx, optax.scale(scale))


def test_the_looks_of_a_size_are_its_own():
    alone, _ = _run.prepare(tiny_sweep((32,)))
    beside, _ = _run.prepare(tiny_sweep((4, 8, 16, 32)))
    assert alone[0].plan.evaluations == beside[-1].plan.evaluations


@pytest.mark.parametrize("epochs", [0.1, 0.3, 0.7, 1.1, 2.3])
@pytest.mark.parametrize("limit", [1.0, 1.3, 2.0])
def test_no_look_lies_beyond_the_last_update(epochs, limit):
    sweep = tiny_sweep((8,), epochs=epochs, limit=limit)
    (job,), prepared = _run.prepare(sweep)
    left = len(prepared.splits.train.labels)
    assert job.plan.updates == sweep.most_updates(left) == max(job.plan.evaluations)


def test_whole_numbers_and_floats_are_one_sweep():
    one, other = (
        tiny_sweep(epochs=kind(2), limit=kind(2), rate_factor=kind(3)) for kind in (int, float)
    )
    assert repr((one.epochs, one.limit, one.rate_factor)) == repr(
        (other.epochs, other.limit, other.rate_factor)
    )


@pytest.mark.parametrize("changes", [{"rate_factor": 1e200}, {"rates": 1000}])
def test_rates_that_no_float_holds(changes):
    with pytest.raises(ValueError, match=r"rates, each .* times the one before, run from"):
        _run.prepare(tiny_sweep(**changes))


def test_a_target_that_was_met_at_the_start_is_refused_when_it_is_read(swept):
    folder, *_ = swept
    before = (folder / "results.json").read_bytes()
    with pytest.raises(ValueError, match="is met before the first update"):
        study.load_sweep(folder, target=0.99)
    assert (folder / "results.json").read_bytes() == before


def test_a_factorial_and_the_ends_of_a_gap_are_not_used():
    regimes = ("SB", "LB", "LB+LR", "LB+GBN", "LB+LR+GBN")
    sweep = tiny_sweep((8,))
    crossed = dataclasses.replace(
        sweep.study, regimes=regimes, factorial=("LR", "GBN"), baseline=("LB+LR", "LB")
    )
    jobs, _ = _run.prepare(dataclasses.replace(sweep, study=crossed))
    assert len(jobs) == 1


def test_other_axes_are_trained_and_kept(tmp_path):
    asked = tiny_sweep((8, 16), tune_also=("momentum=0.5:0.95",), rates=3, target=0.6)
    result = study.run_sweep(asked, tmp_path / "run")
    for record in read_records(tmp_path / "run"):
        assert len({own["momentum"] for own in record.hyper}) == 3
    momenta = [[t.hyper["momentum"] for t in p.trials] for p in result.lines["none"].points]
    assert momenta[0] == momenta[1]
    assert study.load_sweep(tmp_path / "run") == result
    with pytest.raises(ValueError, match=r"holds another sweep, .*tune_also"):
        study.run_sweep(tiny_sweep((8, 16), rates=3, target=0.6), tmp_path / "run")
