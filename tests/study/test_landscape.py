"""The minima of a study: against the dense Hessian, resumed, on the command line, in the report."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import cli, data, models, study, training
from gapjax.study import _folder, _landscape, _landscape_numbers, _landscape_report
from gapjax.study._prepare import prepare_study

pytestmark = pytest.mark.xdist_group("landscape")  # they share runs that take long


@pytest.fixture(scope="module")
def tiny():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=96).astype(np.int32)
    images = rng.normal(size=(96, 4)).astype(np.float32) + np.eye(3, 4, dtype=np.float32)[labels]
    split = data.Split(images[:64], labels[:64]), data.Split(images[64:], labels[64:])
    return study.Study(
        dataset=data.Dataset(*split, class_names=("a", "b", "c"), name="blobs"),
        model=models.MLP((5,), 3),
        seeds=2,
        epochs=6,
        small_batch=8,
        large_batch=32,
        regimes=("SB", "LB"),
        evaluations=4,
        loss_levels=(1.3, 1e-6),
    )


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("landscape") / "run"
    before = study.run_study(tiny, folder)
    seen = []
    return folder, before, study.run_study(tiny, folder, landscape=True, progress=seen.append), seen


def test_curvature_is_that_of_the_dense_hessian(measured, tiny):
    folder, _, result, _ = measured
    final = training.load_tree(folder / "checkpoints" / "LB")
    images = tiny.dataset.train.images
    images = (images - images.mean(dtype=np.float64)) / images.std(dtype=np.float64)
    found = result.landscape["regimes"]["LB"]
    for seed in range(2):
        params, state = (
            jax.tree.map(lambda x, s=seed: jnp.asarray(x[s]), final[part])
            for part in ("params", "model_state")
        )
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def loss(w, unravel=unravel, state=state):
            variables = {"params": unravel(w), **state}
            logits = tiny.model.apply(variables, images.astype(np.float32))
            labels = tiny.dataset.train.labels
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        dense = np.asarray(jax.hessian(loss)(flat), np.float64)
        values = np.linalg.eigvalsh(dense)[::-1]
        np.testing.assert_allclose(found["train_loss"]["values"][seed], loss(flat), rtol=1e-5)
        top = [column["values"][seed] for column in found["top"]]
        np.testing.assert_allclose(top, values[:5], rtol=1e-3)
        np.testing.assert_allclose(found["smallest"]["values"][seed], values[-1], atol=1e-4)
        error = found["trace_stderr"][seed]
        assert abs(found["trace"]["values"][seed] - values.sum()) <= 5 * error + 1e-4
        # From 4 probes an error bar is itself uncertain: 99.9% of Student's t lie within 12.9.
        share = -values[values < 0].sum() / np.abs(values).sum()
        error = found["negative_mass_stderr"][seed]
        assert abs(found["negative_mass"]["values"][seed] - share) <= 13 * error + 1e-3
        for i, threshold in enumerate(result.landscape["settings"]["thresholds"]):
            slack = 13 * found["counts_stderr"][seed][i] + found["counts_bias"][seed][i] + 1e-2
            assert abs(found["counts"][i]["values"][seed] - (values > threshold).sum()) <= slack


def test_ends_of_the_path_are_the_two_solutions(measured):
    _, _, result, _ = measured
    paths = result.landscape["paths"]
    assert paths["alpha"][0] == -1 and paths["alpha"][-1] == 2
    for end, name in ((0.0, "SB"), (1.0, "LB")):
        at = paths["alpha"].index(end)
        # Recomputed statistics, not the running ones: close, not equal.
        loss = result.landscape["regimes"][name]["train_loss"]["mean"]
        np.testing.assert_allclose(paths["train/loss"]["mean"][at], loss, rtol=0.3)
    assert paths["barrier"]["mean"] >= 0


def test_training_is_left_as_it_was(measured):
    folder, before, result, seen = measured
    assert result.regimes == before.regimes and before.landscape is None
    assert {at.phase for at in seen} == {"landscape"}
    for name in ("SB", "LB", "SB to LB"):
        updates = [at.update for at in seen if at.regime == name]
        assert updates == sorted(updates) and updates[-1] == 100
    assert study.load_result(folder).landscape == result.landscape


def test_an_interrupted_measurement_goes_on(measured, tiny, monkeypatch):
    folder, _, result, _ = measured
    kept = folder / "landscape" / "LB-1.json"
    undisturbed = kept.read_text()
    part = {k: v for k, v in _folder.read_json(kept).items() if k not in ("sam", "line")}
    _folder.keep_json(kept, part)
    calls = []
    measures = {
        name: lambda at, report, name=name, measure=measure: (
            calls.append(name) or measure(at, report)
        )
        for name, measure in _landscape.MEASURES.items()
    }
    monkeypatch.setattr(_landscape, "MEASURES", measures)
    again = study.run_study(tiny, folder, landscape=True)
    assert calls == ["sam", "line"]
    assert kept.read_text() == undisturbed and again.landscape == result.landscape


def test_regimes_are_compared_at_equal_loss(measured, tiny):
    folder, _, result, _ = measured
    reached, never = result.landscape["levels"]
    assert (reached["loss"], never["loss"]) == (1.3, 1e-6)
    assert never["regimes"] == {} and never["ratios"]["keskar"]["mean"] is None
    for name in ("SB", "LB"):
        at = reached["regimes"][name]
        curve = np.array(result.history[name]["train_loss"], float)
        for member, loss in enumerate(at["train_loss"]["values"]):
            row = result.history[name]["update"].index(at["update"]["values"][member])
            assert loss == curve[row, member] <= 1.3
            earlier = curve[:row, member]
            assert (earlier[np.isfinite(earlier)] > 1.3).all()
        # The weights that were kept are those of that update: the same loss, measured anew.
        kept = training.load_tree(folder / "checkpoints" / f"{name} at loss 1.3" / "1")
        images = tiny.dataset.train.images
        images = (images - images.mean(dtype=np.float64)) / images.std(dtype=np.float64)
        variables = {"params": kept["params"], **kept["state"]}
        logits = tiny.model.apply(variables, images.astype(np.float32))
        labels = tiny.dataset.train.labels
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        np.testing.assert_allclose(loss, at["train_loss"]["values"][1], rtol=1e-5)
        assert at["keskar"]["mean"] > 0 and 0 <= at["negative_mass"]["mean"] <= 1
    page = (folder / "report.html").read_text()
    assert "At equal training loss" in page
    for row in _landscape_report.level_rows(result.landscape):
        assert all(cell in page for cell in row)


def test_report_shows_it_and_draws_it_again(measured, capsys):
    folder, before, result, _ = measured
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 8
    for row in _landscape_report.rows(result.landscape):
        assert all(cell in page for cell in row)
    for question, _ in _landscape_report.observations(result.landscape):
        assert question in page
    assert "running statistics" in page
    (folder / "report.html").unlink()
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == page
    study.write_report(before, folder / "without.html")
    assert "Keskar sharpness" not in (folder / "without.html").read_text()
    capsys.readouterr()


def test_one_regime_alone_has_a_report_too(measured, tiny, tmp_path):
    folder, _, result, _ = measured
    shutil.copytree(folder, tmp_path / "run")  # what was measured there is not measured again
    alone = ({"LB": part["LB"]} for part in (result.regimes, result.history))
    part = study.StudyResult(result.config, *alone)
    setup = prepare_study(tiny).setup
    found = _landscape.measure_landscape(setup, tmp_path / "run", part.regimes, part.history)
    study.write_report(part._replace(landscape=found), tmp_path / "alone.html")
    page = (tmp_path / "alone.html").read_text()
    assert "Keskar sharpness" in page and "SB to LB" not in page


def test_flag_is_no_part_of_the_study(monkeypatch, capsys):
    asked = {}

    def run_study(chosen, out, **options):
        asked.update(options, fields=vars(chosen))
        raise ValueError("enough")

    monkeypatch.setattr(study, "run_study", run_study)
    for arguments, wanted in ((["keskar-digits", "--landscape"], True), ([], False)):
        assert cli.main(["study", *arguments]) == 2
        assert asked["landscape"] is wanted and "landscape" not in asked["fields"]
    capsys.readouterr()


def test_statistics_come_out_of_one_update_whatever_its_momentum():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(2.0, 3.0, size=(50, 4)), jnp.float32)
    network = models.as_network(models.MLP((6,), 3))
    params, state = network.init(jax.random.key(0), images)
    (norm,) = _landscape.batch_statistics(network.apply, params, state, images).values()
    before = np.asarray(images, np.float64) @ np.asarray(params["Dense_0"]["kernel"], np.float64)
    np.testing.assert_allclose(norm["mean"], before.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norm["var"], before.var(axis=0), rtol=1e-4)


def test_intervals_cover_and_ratios_are_symmetric():
    rng = np.random.default_rng(0)
    intervals = [_landscape_numbers.mean_interval(x) for x in rng.normal(size=(2000, 3))]
    covered = np.mean([i["low"] <= 0 <= i["high"] for i in intervals])
    assert 0.935 <= covered <= 0.965
    over, under = rng.uniform(1, 2, size=(2, 4))
    one = _landscape_numbers.ratio_interval(over, under)
    other = _landscape_numbers.ratio_interval(under, over)
    np.testing.assert_allclose(one["low"], 1 / other["high"])
    assert _landscape_numbers.mean_interval([np.nan]) == {"mean": None, "low": None, "high": None}


def test_shift_of_known_curves():
    t = np.linspace(-1, 1, 41)
    line = {"t": t, "train/loss": (t - 0.01) ** 2, "test/loss": 2 * (t - 0.21) ** 2 + 1}
    shift, cost = _landscape_numbers._shift(line)
    np.testing.assert_allclose(shift, 0.2, atol=1e-9)
    np.testing.assert_allclose(cost, 2 * 0.21**2, atol=1e-9)
