"""A study from end to end: what its folder holds, how it resumes, what it refuses."""

import csv
import dataclasses
import html
import json
import os
import signal
import subprocess
import sys
import time

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

from gapjax import data, models, study, training


def test_folder_holds_what_it_should(finished, small):
    folder, _, _ = finished
    kept = json.loads((folder / "results.json").read_text())["regimes"]
    assert list(kept) == ["SB", "LB", "LB+LR+GBN"]
    for regime in kept.values():
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "distance"):
            values = np.array(regime[name]["values"])
            assert values.shape == (3,)
            np.testing.assert_allclose(regime[name]["mean"], values.mean())
            np.testing.assert_allclose(regime[name]["std"], values.std(ddof=1))
        assert 0 <= regime["test_accuracy"]["mean"] <= 1
        assert set(regime["gap_closed"]) == {"mean", "low", "high"}
    assert (kept["SB"]["updates"], kept["LB"]["updates"]) == (160, 4)
    config = json.loads((folder / "config.json").read_text())
    assert config["study"]["epochs"] == small.epochs
    assert config["run"]["command"] == "gapjax study x"
    assert (folder / "report.html").stat().st_size > 10_000


def test_history_agrees_with_results(finished):
    folder, result, _ = finished
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    for name, regime in result.regimes.items():
        last = [r for r in rows if r["regime"] == name and int(r["update"]) == regime["updates"]]
        assert [float(r["test_accuracy"]) for r in last] == regime["test_accuracy"]["values"]
        assert [int(r["seed"]) for r in last] == regime["seeds"] == [0, 1, 2]


def test_checkpoints_are_the_networks_that_were_measured(finished, small):
    folder, result, _ = finished
    final = training.load_tree(folder / "checkpoints" / "LB")
    dataset = small.load_dataset()
    network = small.make_network(10)
    seed = {part: _member(final[part], 1) for part in final}
    images = (dataset.test.images - dataset.train.images.mean()) / dataset.train.images.std()
    logits, _ = network.apply(
        seed["params"], seed["model_state"], images.astype(np.float32), train=False
    )
    accuracy = np.mean(np.argmax(logits, -1) == dataset.test.labels)
    np.testing.assert_allclose(
        accuracy, result.regimes["LB"]["test_accuracy"]["values"][1], atol=1e-6
    )


def _member(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def test_progress_runs_to_the_end_of_every_regime(finished):
    _, result, seen = finished
    assert {p.regime for p in seen} == set(result.regimes)
    for name, regime in result.regimes.items():
        updates = [p.update for p in seen if p.regime == name]
        assert updates == sorted(updates) and updates[-1] == regime["updates"]
    assert any(p.examples_per_second > 0 and p.seconds_left is not None for p in seen)


def test_same_study_again_trains_nothing_and_says_the_same(finished, small):
    folder, result, _ = finished
    before = (folder / "results.json").read_bytes()
    seen = []
    again = study.run_study(small, folder, progress=seen.append)
    assert seen == []
    assert again.regimes == result.regimes
    assert (folder / "results.json").read_bytes() == before


def test_other_study_in_the_same_folder_is_refused(finished, small):
    folder, _, _ = finished
    with pytest.raises(ValueError, match=r"epochs is 2.* there, and 3 here"):
        study.run_study(dataclasses.replace(small, epochs=3), folder)


def test_tuning_looks_at_the_validation_split_alone(small, tmp_path, monkeypatch):
    tuned = dataclasses.replace(small, tune=3, regimes=("SB", "LB"), epochs=1, seeds=2)
    sizes = []
    from gapjax.study import _run

    real = _run.train

    def spy(setup, plan, train_split, test_split, members, **kwargs):
        sizes.append((len(train_split), len(test_split), len(members)))
        return real(setup, plan, train_split, test_split, members, **kwargs)

    monkeypatch.setattr(_run, "train", spy)
    result = study.run_study(tuned, tmp_path / "a")
    assert sizes[0] == (1024, 256, 6) and sizes[2] == (1024, 256, 6)
    assert sizes[1][:2] == (1280, 517)
    for name in ("SB", "LB"):
        tuning = result.regimes[name]["tuned"]
        tried = {r["learning_rate"]: r["validation_accuracy"]["mean"] for r in tuning["rates"]}
        assert len(tried) == 3
        assert tried[tuning["learning_rate"]] == max(tried.values())
        assert tuning["rule_learning_rate"] == result.regimes[name]["learning_rate"]
        assert tuning["gap_closed"]["mean"] is not None
    # LB makes two updates: the higher the rate the better, so the search ends at its edge.
    assert result.regimes["LB"]["tuned"]["at_edge"]


def test_a_diverged_seed_is_kept_as_diverged_and_the_study_goes_on(tmp_path):
    wild = study.Study(
        seeds=2,
        epochs=1,
        regimes=("SB", "LB"),
        evaluations=2,
        model=models.MLP((8,), norm=lambda use_running_average: lambda x: x),
        optimizer=lambda lr: optax.sgd(lambda count: 1e30 * lr(count)),
    )
    result = study.run_study(wild, tmp_path / "a")
    assert result.regimes["LB"]["test_accuracy"] == {
        "mean": None,
        "std": None,
        "values": [None, None],
    }
    assert [d["seed"] for d in result.regimes["SB"]["diverged"]] == [0, 1]
    first = result.regimes["SB"]["diverged"][0]
    assert first["where"] == "loss" or first["where"].startswith("['")
    said = f"no longer finite in seed 0 at update {first['update']} ("
    assert any(said in note and first["where"] in note for note in study.notes(result))
    assert "SB or LB diverged" in study.finding(result)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.relu(x))


def _own_data():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=160)
    features = rng.normal(size=(160, 6)) + 2 * np.eye(3, 6)[labels]
    parts = [data.Split(features[s], labels[s]) for s in (slice(0, 128), slice(128, None))]
    return data.Dataset(*parts, class_names=("a", "b", "c"), name="own")


@pytest.mark.parametrize("model", [Linen(), Nnx], ids=["linen", "nnx"])
def test_own_data_model_optimizer_and_regime(model, tmp_path):
    own = study.Study(
        dataset=_own_data(),
        model=model,
        optimizer=lambda lr: optax.chain(optax.clip(1.0), optax.adamw(lr)),
        regimes=["SB", "LB", study.Regime("LB+lin+GBN", rule="linear", ghost=True)],
        seeds=2,
        epochs=6,
        small_batch=8,
        large_batch=64,
        ghost_size=8,
        learning_rate=0.01,
    )
    with jax.numpy_dtype_promotion("standard"):  # optax.adamw mixes types by itself
        result = study.run_study(own, tmp_path / "a")
    assert result.regimes["LB+lin+GBN"]["learning_rate"] == pytest.approx(0.08)
    assert result.regimes["SB"]["test_accuracy"]["mean"] > 0.6
    assert result.config["study"]["dataset"] == "own"
    assert "adamw" in result.config["study"]["optimizer"]
    assert not any("start of every seed" in note for note in study.notes(result))


def test_seeds_of_a_network_that_was_built_differ_in_their_order_alone(tmp_path):
    own = study.Study(
        dataset=_own_data(),
        model=Nnx(nnx.Rngs(0)),
        regimes=["SB", "LB"],
        seeds=2,
        epochs=1,
        small_batch=8,
        large_batch=64,
        evaluations=1,
    )
    result = study.run_study(own, tmp_path / "a")
    losses = result.regimes["SB"]["train_loss"]["values"]
    assert losses[0] != losses[1]
    (said,) = [note for note in study.notes(result) if "start of every seed" in note]
    assert "differ only in the order of the examples" in said
    assert said in html.unescape((tmp_path / "a" / "report.html").read_text())
    other = dataclasses.replace(own, model=Nnx(nnx.Rngs(1)))
    with pytest.raises(ValueError, match=r"another study.* start is"):
        study.run_study(other, tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": Linen()}, "gives logits of shape .* for 10 classes"),
        ({"model": lambda rngs: Nnx(rngs)}, "does not run on images of shape"),
        ({"dataset": "digitz"}, "Did you mean 'digits'"),
        ({"large_batch": 2000}, "larger than the 1280"),
        ({"large_batch": 1200, "tune": 2}, "larger than the 1024"),
        (
            {"model": models.MLP((8,), norm=lambda use_running_average: lambda x: x)},
            "has no batch norm",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(change, message, small, tmp_path):
    with pytest.raises(ValueError, match=message):
        study.run_study(dataclasses.replace(small, **change), tmp_path / "a")
    assert not (tmp_path / "a").exists()


ARGUMENTS = ["--seeds", "2", "--epochs", "1", "--evaluations", "2"]
ARGUMENTS += ["--regimes", "SB", "LB", "LB+LR", "--out"]


def _start(out):
    command = [sys.executable, "-m", "gapjax.cli", "study", "digits", *ARGUMENTS, str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_study_goes_on_and_ends_with_the_same_numbers(how, tmp_path):
    undisturbed, killed = _start(tmp_path / "a"), _start(tmp_path / "b")
    try:
        deadline = time.monotonic() + 120
        first = tmp_path / "b" / "regimes" / "SB.json"
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(killed.pid, how)
        _, errors = killed.communicate(timeout=60)
        assert not (tmp_path / "b" / "results.json").exists()
        if how != signal.SIGKILL:
            assert killed.returncode == 128 + how
            assert "Traceback" not in errors and "goes on from here" in errors
        written = first.read_bytes()
        again = _start(tmp_path / "b")
        output, errors = again.communicate(timeout=120)
        assert again.returncode == 0, errors
        assert "train SB" not in errors and "train LB+LR" in errors
        assert "LB+LR" in output
        _, errors = undisturbed.communicate(timeout=120)
        assert undisturbed.returncode == 0, errors
    finally:
        for process in (undisturbed, killed):
            process.kill()
            process.communicate()
    assert first.read_bytes() == written
    for name in ("results.json", "history.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    leftovers = [p.name for p in (tmp_path / "b").rglob("*.part")]
    assert leftovers == []


def test_growing_regimes_report_batch_size_and_noise_scale(tmp_path):
    grown = study.Study(
        seeds=2, epochs=4, regimes=("SB", "GROW"), small_batch=64, evaluations=3, decay_at=(0.5,)
    )
    result = study.run_study(grown, tmp_path / "a")
    assert result.regimes["GROW"]["batch_sizes"] == [[0, 64], [40, 640]]
    assert result.regimes["GROW"]["updates"] == 44
    noise = np.array(result.history["GROW"]["gradient_noise"], float)
    assert (noise[np.isfinite(noise)] > 0).all() and np.isfinite(noise[-1]).all()
    assert "<b>Batch size</b>" in (tmp_path / "a" / "report.html").read_text()
    assert "64→640" in study.rows(result)[1]
