"""A study from end to end: what its folder holds, how it resumes, every kind of task."""

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
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gapjax import data, models, study, training
from gapjax.study import Regime
from tests.study.conftest import make_blobs, numbers, tiny_study


def test_folder_holds_what_it_should(finished, small):
    folder, result, _ = finished
    found = json.loads((folder / "results.json").read_text())
    assert list(found["regimes"]) == ["SB", "LB", "LB+LR+GBN"]
    for regime in found["regimes"].values():
        for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "distance"):
            values = np.array(regime[name]["values"])
            assert values.shape == (3,)
            np.testing.assert_allclose(regime[name]["mean"], values.mean())
            np.testing.assert_allclose(regime[name]["std"], values.std(ddof=1))
        assert 0 <= regime["test_accuracy"]["mean"] <= 1
        assert set(regime["gap_closed"]) == {"mean", "low", "high"}
        assert 0 < regime["training_seconds"] <= regime["seconds"]
        for name in ("batch_size", "updates", "epochs", "examples", "seconds", "learning_rate"):
            assert regime[name] > 0
    assert (found["regimes"]["SB"]["updates"], found["regimes"]["LB"]["updates"]) == (32, 8)
    assert found["regimes"]["LB"]["examples"] == 256
    assert found["finding"] == study.finding(result)
    assert {c["regime"] for c in found["comparisons"]} == {"LB", "LB+LR+GBN"}
    config = json.loads((folder / "config.json").read_text())
    assert config["study"]["epochs"] == small.epochs
    assert config["environment"]["command"] == "gapjax study x"
    assert (folder / "report.html").stat().st_size > 10_000


def test_history_agrees_with_results(finished):
    folder, result, _ = finished
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    for name, record in result.regimes.items():
        last = [r for r in rows if r["regime"] == name and int(r["update"]) == record.updates]
        values = record.run.values["test_accuracy"].values
        assert [float(r["test_accuracy"]) for r in last] == values
        assert [int(r["seed"]) for r in last] == record.seeds == [0, 1, 2]
        assert {int(r["examples"]) for r in last} == {record.examples}
        seconds = [float(r["seconds"]) for r in rows if r["regime"] == name]
        assert seconds == sorted(seconds)


def _member(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def test_checkpoints_are_the_networks_that_were_measured(finished, small):
    folder, result, _ = finished
    final = training.load_tree(folder / "checkpoints" / "LB")
    dataset = small.load_dataset()
    network = small.make_network(dataset)
    seed = {part: _member(final[part], 1) for part in final}
    x = dataset.train.images
    inputs = (dataset.test.images - x.mean(0)) / x.std(0)
    logits, _ = network.apply(seed["params"], seed["model_state"], inputs, train=False)
    accuracy = np.mean(np.argmax(logits, -1) == dataset.test.labels)
    found = result.regimes["LB"].run.values["test_accuracy"].values[1]
    np.testing.assert_allclose(accuracy, found, atol=1e-6)


def test_progress_runs_to_the_end_of_every_regime_and_carries_what_was_measured(finished):
    _, result, seen = finished
    assert {p.regime for p in seen} == set(result.regimes)
    for name, record in result.regimes.items():
        updates = [p.update for p in seen if p.regime == name]
        assert updates == sorted(updates) and updates[-1] == record.updates
        last = [p.metrics for p in seen if p.regime == name and p.metrics][-1]
        for metric in ("train_loss", "test_accuracy", "distance"):
            np.testing.assert_allclose(last[metric], record.run.values[metric].mean, rtol=1e-6)
    assert any(p.examples_per_second > 0 and p.seconds_left is not None for p in seen)


def test_same_study_again_trains_nothing_and_says_the_same(finished, small):
    folder, result, _ = finished
    before = (folder / "results.json").read_bytes()
    seen = []
    again = study.run_study(small, folder, progress=seen.append)
    assert seen == []
    assert again.regimes == result.regimes
    assert (folder / "results.json").read_bytes() == before


def test_a_second_run_in_the_same_process_leaves_the_folder_to_the_first(small, tmp_path):
    out = tmp_path / "new"
    asked = dataclasses.replace(small, regimes=("SB",), controls=False)
    refused = []

    def come_second(_):
        if not refused:
            with pytest.raises(ValueError, match="written to by this process") as error:
                study.run_study(asked, out)
            refused.append(error.value)

    result = study.run_study(asked, out, progress=come_second)
    assert refused and study.load_result(out) == result


def test_other_study_in_the_same_folder_is_refused(finished, small):
    folder, _, _ = finished
    with pytest.raises(ValueError, match=r"epochs is 4.* there, and 3.* here"):
        study.run_study(dataclasses.replace(small, epochs=3), folder)
    with pytest.raises(ValueError, match=r"dataset is "):
        study.run_study(dataclasses.replace(small, dataset=make_blobs(1)), folder)


def test_tuning_looks_at_the_validation_split_alone(tmp_path, monkeypatch):
    from gapjax.study import _run, _tune

    sizes, real = [], _run.train

    def spy(setup, plan, train_split, test_split, members, **options):
        sizes.append((len(train_split), len(test_split), len(members)))
        return real(setup, plan, train_split, test_split, members, **options)

    for module in (_run, _tune):
        monkeypatch.setattr(module, "train", spy)
    tuned = tiny_study(tune=3, regimes=("SB", "LB"), seeds=2)
    result = study.run_study(tuned, tmp_path / "a")
    assert sizes[0] == (51, 13, 6) and {size[:2] for size in sizes} == {(51, 13), (64, 32)}
    for record in result.regimes.values():
        tuning = record.tuning
        tried = [trial.validation.mean for trial in tuning.trials]
        assert len(tried) == 3 + tuning.extended and tried[tuning.best] == max(tried)
        assert record.run.learning_rate == tuning.trials[tuning.best].learning_rate
        assert tuning.at_edge == (tuning.best in (0, len(tried) - 1))
        # The rule's rate stands beside the tuned one, from the same population.
        assert (record.rule is None) == (record.run.learning_rate == 0.05)
    kept = json.loads((tmp_path / "a" / "results.json").read_text())["regimes"]
    for name, record in result.regimes.items():
        assert kept[name]["learning_rate"] == record.run.learning_rate
        rule = kept[name]["rule"]
        assert (rule and rule["learning_rate"]) == (0.05 if record.rule else None)
    page = html.unescape((tmp_path / "a" / "report.html").read_text())
    assert "at the tuned learning rates" in page and "The tuned learning rate beside" in page


def test_a_diverged_seed_is_kept_as_diverged_and_the_study_goes_on(tmp_path):
    wild = tiny_study(
        seeds=2,
        epochs=1,
        regimes=("SB", "LB"),
        evaluations=2,
        model=models.MLP((8,), 3, norm=lambda use_running_average: lambda x: x),
        optimizer=lambda lr: optax.sgd(lambda count: 1e30 * lr(count)),
    )
    result = study.run_study(wild, tmp_path / "a")
    accuracy = result.regimes["SB"].run.values["test_accuracy"]
    assert accuracy == study.OverSeeds(None, None, [None, None])
    lost = result.regimes["SB"].run.diverged
    assert [d.seed for d in lost] == [0, 1]
    assert lost[0].where == "loss" or lost[0].where.startswith("['")
    said = f"no longer finite in seed 0 at update {lost[0].update} ("
    assert any(said in note and lost[0].where in note for note in study.notes(result))
    assert "diverged in every seed" in study.finding(result)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


@pytest.mark.parametrize("model", [models.MLP((8,), 3), Nnx], ids=["linen", "nnx"])
def test_own_data_model_optimizer_and_regime(model, tmp_path):
    own = tiny_study(
        model=model,
        optimizer=optax.adamw,
        weight_decay=1e-3,
        schedule="cosine",
        warmup=0.05,
        regimes=["SB", "LB", Regime("LB+lin+GBN", remedies=("LINEAR", "GBN"))],
        seeds=2,
        epochs=10,
        learning_rate=0.02,
    )
    result = study.run_study(own, tmp_path / "a")
    assert result.regimes["LB+lin+GBN"].run.learning_rate == pytest.approx(0.08)
    assert result.regimes["SB"].run.values["test_accuracy"].mean > 0.6
    assert result.config.study["dataset"]["name"] == "blobs"
    assert "adamw" in result.config.study["optimizer"]
    assert not any("start of every seed" in note for note in study.notes(result))


def test_seeds_of_a_network_that_was_built_differ_in_their_order_alone(tmp_path):
    own = tiny_study(model=Nnx(nnx.Rngs(0)), regimes=["SB", "LB"], seeds=2, epochs=1)
    result = study.run_study(own, tmp_path / "a")
    losses = result.regimes["SB"].run.values["train_loss"].values
    assert losses[0] != losses[1]
    (said,) = [note for note in study.notes(result) if "start of every seed" in note]
    assert "differ only in the order of the examples" in said
    assert said in html.unescape((tmp_path / "a" / "report.html").read_text())
    other = dataclasses.replace(own, model=Nnx(nnx.Rngs(1)))
    with pytest.raises(ValueError, match=r"another study.* model is"):
        study.run_study(other, tmp_path / "a")


class Schedulefree(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x)


def test_optimizers_with_weights_of_their_own_to_evaluate_are_evaluated_with_them(tmp_path):
    own = tiny_study(
        model=Schedulefree(),
        optimizer=lambda lr: optax.contrib.schedule_free_sgd(0.5),
        regimes=("SB",),
        seeds=1,
    )
    result = study.run_study(own, tmp_path / "a")
    kept = training.load_tree(tmp_path / "a" / "checkpoints" / "SB")["params"]["Dense_0"]
    x = own.dataset.train.images
    inputs = (own.dataset.test.images - x.mean(0)) / x.std(0)
    logits = inputs @ np.asarray(kept["kernel"][0]) + np.asarray(kept["bias"][0])
    accuracy = np.mean(logits.argmax(-1) == own.dataset.test.labels)
    found = result.regimes["SB"].run.values["test_accuracy"].values[0]
    np.testing.assert_allclose(accuracy, found, atol=1e-6)


def test_growing_regimes_report_batch_size_and_noise_scale(tmp_path):
    grown = tiny_study(
        seeds=2, regimes=("SB", "GROW"), decay_at=(0.5,), noise_scale=True, baseline=("SB", "GROW")
    )
    result = study.run_study(grown, tmp_path / "a")
    record = result.regimes["GROW"]
    assert record.batch_sizes == [(0, 8), (16, 32)] and record.updates == 20
    _, noise = record.curves.measured("gradient_noise")
    assert (noise > 0).all()
    assert "<b>Batch size against epochs,</b>" in (tmp_path / "a" / "report.html").read_text()
    assert "8→32" in study.rows(result)[1]


def test_what_a_regime_records_does_not_depend_on_the_others(tmp_path):
    alone = study.run_study(tiny_study(seeds=1, regimes=("SB",)), tmp_path / "a")
    beside = study.run_study(tiny_study(seeds=1, regimes=("SB", "GROW")), tmp_path / "b")
    one, two = (result.regimes["SB"] for result in (alone, beside))
    assert one.run == two.run and one.curves.values == two.curves.values


# ---- every kind of task, by the same code paths -------------------------------------------------


class Regressor(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(1)(nn.tanh(nn.Dense(8)(x)))


class Attention(nn.Module):
    """A small transformer block over tokens."""

    @nn.compact
    def __call__(self, tokens, train=False):
        x = nn.Embed(8, 8)(tokens) + nn.Embed(6, 8)(jnp.arange(tokens.shape[1]))
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)
        return nn.Dense(256)(x + nn.Dense(8)(nn.relu(nn.Dense(16)(nn.LayerNorm()(x)))))


class Conv(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(
            nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Conv(4, (3, 3))(x))
        )
        return nn.Dense(3)(x.mean((1, 2)))


class Masked(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        hidden = nn.tanh(nn.Dense(6)(inputs["x"])) * inputs["mask"][..., None]
        return nn.Dense(3)(hidden.sum(1))


def _parts(arrays, train=64):
    return (
        jax.tree.map(lambda x, s=s: x[s], arrays) for s in (slice(0, train), slice(train, None))
    )


def _regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 3)) * [1.0, 10.0, 1e4] + [0.0, 5.0, 1e5]
    y = np.sin(x[:, 0]) + 0.1 * x[:, 1]
    dataset = data.Dataset(*_parts({"x": x, "y": y}), name="waves", normalize="feature")
    return {"dataset": dataset, "model": Regressor(), "task": study.regression()}


def _tokens():
    rng = np.random.default_rng(0)
    tokens = (rng.integers(1, 4, (96, 1)) + np.arange(6)) % 7 + 1
    tokens[rng.random(96) < 0.5, 4:] = 0  # half of them are shorter
    dataset = data.Dataset(*_parts({"tokens": tokens.astype(np.int32)}), name="counting")
    return {"dataset": dataset, "model": Attention(), "task": study.next_token(pad=0)}


def _multilabel():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (96, 4, 4, 2)).astype(np.uint8)
    labels = np.stack([images[..., c].mean((1, 2)) > 127 for c in (0, 1, 0)], 1)
    dataset = data.Dataset(*_parts(data.Split(images, labels)), name="bright")
    return {"dataset": dataset, "model": Conv(), "task": study.multilabel()}


def _masked():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 5, 4)).astype(np.float32)
    mask = np.arange(5) < rng.integers(1, 6, 96)[:, None]
    labels = (x * mask[..., None]).sum(1)[:, :3].argmax(-1)
    arrays = {"x": x, "mask": mask.astype(np.float32), "label": labels}
    task = study.classification(inputs=lambda b: {"x": b["x"], "mask": b["mask"]})
    return {"dataset": data.Dataset(*_parts(arrays), name="sets"), "model": Masked(), "task": task}


TASKS = {
    "regression": _regression,
    "tokens": _tokens,
    "multilabel": _multilabel,
    "masked": _masked,
}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_runs_to_table_report_tuning_and_landscape(kind, tmp_path):
    own = tiny_study(
        **TASKS[kind](),
        optimizer="adam",
        learning_rate=0.01,
        regimes=("SB", "LB"),
        seeds=2,
        tune=2,
        evaluations=2,
        landscape_measures=("sam",),
    )
    result = study.run_study(own, tmp_path / "a", landscape=True)
    task = own.task
    for record in result.regimes.values():
        for split in ("train", "test"):
            for measure in task.measures:
                assert record.run.values[f"{split}_{measure}"].count == 2
    _, curve = result.regimes["SB"].curves.measured(f"train_{task.headline}")
    assert task.better(curve[-1].mean(), curve[0].mean())
    assert result.landscape.regimes["LB"].numbers["train_loss"].mean == pytest.approx(
        result.regimes["LB"].run.values["train_loss"].mean, rel=1e-4
    )
    page = html.unescape((tmp_path / "a" / "report.html").read_text())
    assert study.finding(result) in page
    for row in study.rows(result):
        assert all(cell in page for cell in row)
    kept = json.loads((tmp_path / "a" / "results.json").read_text())
    assert kept["task"]["headline"] == task.headline
    assert study.load_result(tmp_path / "a") == result
    seen = []
    assert study.run_study(own, tmp_path / "a", progress=seen.append) == result
    assert seen == []


def test_a_gap_of_a_loss_is_one_that_rises(tmp_path):
    own = tiny_study(**_regression(), regimes=("SB", "LB", "LB+LR"), epochs=10, seeds=4)
    result = study.run_study(own, tmp_path / "a")
    small, large = (result.regimes[name].run.values["test_loss"].mean for name in ("SB", "LB"))
    assert large > small and result.gap.gap.mean == pytest.approx(small - large)
    assert "test loss rises by" in study.finding(result)
    assert result.gap.is_clear(False) == (result.gap.gap.high < 0)
    assert result.regimes["SB"].run.gap.mean == pytest.approx(
        result.regimes["SB"].run.values["test_loss"].mean
        - result.regimes["SB"].run.values["train_loss"].mean
    )
    (said,) = [note for note in study.notes(result) if note.startswith("Inputs")]
    assert "normalized per feature, over the whole training split" in said


def test_features_of_very_unlike_scale_are_learned(tmp_path):
    """Normalized as one, the feature that tells would be lost in the noise of the other."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=600), 1e5 * rng.normal(size=600)], 1)
    dataset = data.Dataset(*_parts(data.Split(x, (x[:, 0] > 0).astype(int)), 400))
    own = tiny_study(dataset=dataset, model=models.MLP((8,), 2), regimes=("SB",), seeds=1, epochs=5)
    result = study.run_study(own, tmp_path / "a")
    assert result.regimes["SB"].run.values["test_accuracy"].mean > 0.95


# ---- interrupted --------------------------------------------------------------------------------

ARGUMENTS = ["--seeds", "2", "--epochs", "1", "--evaluations", "2"]
ARGUMENTS += ["--regimes", "SB", "LB", "LB+LR", "--out"]


def _start(out):
    command = [sys.executable, "-m", "gapjax.cli", "study", "digits", *ARGUMENTS, str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.processes
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
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    leftovers = [p.name for p in (tmp_path / "b").rglob("*.part")]
    assert leftovers == []


def test_a_run_that_ends_before_its_batch_grows_is_of_the_batch_it_had(tmp_path):
    grown = tiny_study(seeds=2, regimes=("SB", "GROW"), decay_at=(0.9,), keep="loss=1.05")
    record = study.run_study(grown, tmp_path / "a").regimes["GROW"]
    assert record.updates < 28 and record.stopped is not None
    assert record.batch_sizes == [(0, 8)] and record.batch_size == 8 and record.boundaries == []
