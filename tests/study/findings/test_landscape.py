"""The solutions of a study: against the dense Hessian, resumed, in the report."""

import dataclasses
import html
import json
import re
import shutil
import types

import jax
import jax.numpy as jnp
import markupsafe
import numpy as np
import optax
import pytest

from gapjax import cli, growth, landscape, study, training
from gapjax.study._findings import _landscape, _measures, _summary, _surroundings
from gapjax.study._population._levels import keep_levels, weights_path
from gapjax.study._prepare import prepare_study
from gapjax.study._report import _landscape as _section
from gapjax.study._results import _files, _folder
from gapjax.study._results._origin import describe
from tests.study.conftest import tiny_study

# They share runs that take long.
pytestmark = [pytest.mark.xdist_group("landscape"), pytest.mark.slow]


@pytest.fixture(scope="module")
def tiny():
    return tiny_study(seeds=2, epochs=6, regimes=("SB", "LB"), loss_levels=(1.3, 1e-6))


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("landscape") / "run"
    before = study.run_study(tiny, folder)
    seen = []
    return folder, before, study.run_study(tiny, folder, landscape=True, progress=seen.append), seen


def _inputs(tiny):
    x = tiny.dataset.train.images
    return ((x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)).astype(np.float32)


def test_curvature_is_that_of_the_dense_hessian(measured, tiny):
    folder, _, result, _ = measured
    final = training.load_tree(folder / "checkpoints" / "LB")
    inputs, found = _inputs(tiny), result.landscape.regimes["LB"]
    for seed in range(2):
        params, state = (
            jax.tree.map(lambda x, s=seed: jnp.asarray(x[s]), final[part])
            for part in ("params", "model_state")
        )
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def loss(w, unravel=unravel, state=state):
            variables = {"params": unravel(w), **state}
            logits = tiny.model.apply(variables, inputs)
            labels = tiny.dataset.train.labels
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        dense = np.asarray(jax.hessian(loss)(flat), np.float64)
        values = np.linalg.eigvalsh(dense)[::-1]

        def number(name, seed=seed):
            return found.numbers[name].values[seed]

        np.testing.assert_allclose(number("train_loss"), loss(flat), rtol=1e-5)
        np.testing.assert_allclose(number("top"), values[0], rtol=1e-3)
        np.testing.assert_allclose(number("top_5"), values[4], rtol=1e-3)
        slack = found.errors["smallest"] + 1e-5  # an eigenvalue is within its residual
        np.testing.assert_allclose(number("smallest"), values[-1], rtol=0, atol=slack)
        assert abs(number("trace") - values.sum()) <= 5 * found.errors["trace"] + 1e-4
        share = -values[values < 0].sum() / np.abs(values).sum()
        # 99.9% of Student's t of 4 probes lie within 4.1 of its 95% intervals.
        error = found.errors["negative_mass"]
        assert abs(number("negative_mass") - share) <= 4.1 * error + 1e-3
        for threshold in _measures.THRESHOLDS:
            name = f"above_{threshold:g}"
            slack = 4.1 * found.errors[name] + 1e-2
            assert abs(number(name) - (values > threshold).sum()) <= slack


def _diagonal(*values):
    op = landscape.from_matvec(lambda v: jnp.array(values) * v, jnp.zeros(len(values)))
    return _measures.Solution({}, None, {}, [], None, op)


def test_a_basis_beyond_memory_leaves_the_bound_of_fewer_steps(monkeypatch):
    few, most = _measures.STEPS
    rough, exact = (
        landscape.Estimate(*np.ones((2, len(_measures.THRESHOLDS))), 0, np.full(4, bias), 4, 0.0)
        for bias in (3.0, 0.1)
    )
    for room, wanted, steps in ((most, exact, most), (few, rough, few)):

        def count(*_, num_steps, room=room, **__):
            if num_steps > room:
                raise MemoryError("too large")
            return {few: rough, most: exact}[num_steps]

        monkeypatch.setattr(landscape, "count_above", count)
        found = _measures._counts(_diagonal(1.0), lambda at: None)
        assert found["num_steps"] == steps
        np.testing.assert_allclose(found["margin"], wanted.interval[1] - 1)


def test_the_density_says_what_its_steps_leave_open():
    # Spread over many scales, on both sides of 0.
    values = np.r_[np.geomspace(1e-4, 100, 50), -np.geomspace(1e-4, 1, 50)]
    found = _measures._density(_diagonal(*values), lambda at: None)
    share = -values[values < 0].sum() / np.abs(values).sum()
    assert abs(found["negative_mass"] - share) <= found["negative_mass_margin"]
    assert found["negative_mass_margin"] > 3 * found["negative_mass_stderr"]  # Student's t of four
    assert (found["low"] <= found["density"]).all() and (found["density"] <= found["high"]).all()
    if found["num_steps"] == _measures.STEPS[0]:
        assert found["negative_mass_bias"] <= found["negative_mass_stderr"]


def test_a_count_within_rounding_of_a_cluster_is_said(measured):
    _, _, result, _ = measured
    assert not any("rounding" in note for note in _section.section(result)["notes"])
    solution = _diagonal(*np.repeat([0.1, 3.0], [97, 3]))
    found = _measures._counts(solution, lambda at: None)
    assert found["unresolved"][_measures.THRESHOLDS.index(0.1)] == pytest.approx(97, abs=1)
    one = result.landscape.regimes["LB"]
    changed = dataclasses.replace(one, unresolved={**one.unresolved, "above_0.1": 97.0})
    regimes = {**result.landscape.regimes, "LB": changed}
    landscape_found = dataclasses.replace(result.landscape, regimes=regimes)
    notes = _section.section(dataclasses.replace(result, landscape=landscape_found))["notes"]
    assert any("λ > 0.1 at LB: about 97 eigenvalues lie within rounding" in note for note in notes)
    assert any("negative share % ±" in note and "λ > 10 ±" in note for note in notes)


def test_ends_of_the_path_are_the_two_solutions(measured):
    _, _, result, _ = measured
    way = result.landscape.between
    assert way.alpha[0] == -1 and way.alpha[-1] == 2
    for end, name in ((0.0, "SB"), (1.0, "LB")):
        at = way.alpha.index(end)
        # Recomputed statistics, not the running ones: close, not equal.
        loss = result.landscape.regimes[name].numbers["train_loss"].mean
        np.testing.assert_allclose(way.curves["train/loss"].mean[at], loss, rtol=0.3)
    assert way.barrier.mean >= 0


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
    of = _folder.origin(result.config, [result.regimes["LB"]], "LB-1")
    part = {k: v for k, v in _files.read(kept, dict, of=of).items() if k not in ("sam", "loss")}
    _files.keep(kept, part, of=of)
    calls = []

    def spied(measure):
        def compute(at, on_step):
            calls.append(measure.name)
            return measure.compute(at, on_step)

        return dataclasses.replace(measure, compute=compute)

    monkeypatch.setattr(_measures, "MEASURES", tuple(map(spied, _measures.MEASURES)))
    again = study.run_study(tiny, folder, landscape=True)
    assert calls == ["loss", "sam"]
    assert again.landscape == result.landscape
    assert json.loads(kept.read_text()).items() == json.loads(undisturbed).items()


def test_a_measurement_belongs_to_its_network(measured, tiny, tmp_path):
    folder, _, result, _ = measured
    shutil.copytree(folder, tmp_path / "run")
    kept = tmp_path / "run" / "landscape"
    shutil.copy(kept / "LB-0.json", kept / "LB-1.json")
    with pytest.raises(
        ValueError, match=r"LB-1.json: it belongs to another measurement; delete it"
    ):
        study.run_study(tiny, tmp_path / "run", landscape=True)
    shutil.copy(kept / "SB-1.json", kept / "LB-1.json")
    told = r"LB-1.json: it belongs to another measurement; .* is deleted: it is measured again"
    with pytest.warns(UserWarning, match=told):
        again = study.run_study(tiny, tmp_path / "run", landscape=True, repair=True)
    assert again.landscape == result.landscape


def test_regimes_are_compared_at_equal_loss(measured, tiny):
    folder, _, result, _ = measured
    reached, never = result.landscape.levels
    assert (reached.loss, never.loss) == (1.3, 1e-6)
    assert never.regimes == {} and never.ratios == {}
    for name in ("SB", "LB"):
        at, curves = reached.regimes[name], result.regimes[name].curves
        losses = curves.array("train_loss")
        for member, loss in enumerate(at["train_loss"].values):
            row = curves.update.index(at["update"].values[member])
            np.testing.assert_allclose(loss, losses[row, member], rtol=1e-5)
            earlier = losses[:row, member]
            assert loss <= 1.3 and (earlier[np.isfinite(earlier)] > 1.3).all()
        # The weights that were kept are those of that update: the same loss, measured anew.
        kept = training.load_tree(folder / "checkpoints" / f"{name} at loss 1.3" / "1")
        variables = {"params": kept["params"], **kept["model_state"]}
        logits = tiny.model.apply(variables, _inputs(tiny))
        labels = tiny.dataset.train.labels
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        np.testing.assert_allclose(loss, at["train_loss"].values[1], rtol=1e-5)
        assert at["keskar_0.001"].mean > 0 and 0 <= at["negative_mass"].mean <= 1
    page = html.unescape((folder / "report.html").read_text())
    assert "At equal training loss" in page
    numbers = [n for m in _measures.MEASURES for n in m.numbers if n.on_the_way]
    for row in _section.level_rows(result.landscape, "LB", numbers):
        assert all(cell in page for cell in row)


def test_report_shows_it_and_draws_it_again(measured, capsys):
    folder, before, result, _ = measured
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 8
    shown = html.unescape(page)
    section = _section.section(result)
    for row in section["rows"]:
        assert len(row) == len(section["columns"])
        assert all(cell in shown for cell in row)
    for question, answer in section["observations"]:
        assert question in shown and answer in shown
    for measure in _measures.MEASURES:
        assert measure.note in shown
    assert "its own statistics" in shown
    (folder / "report.html").unlink()
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == page
    study.write_report(before, folder / "without.html")
    assert "Keskar sharpness" not in (folder / "without.html").read_text()
    capsys.readouterr()


def test_a_landscape_that_another_command_measured_names_it(measured, tiny, tmp_path):
    folder, before, _, _ = measured
    shutil.copytree(folder, tmp_path / "run")  # what was measured there is not measured again
    assert before.config.environment["command"] is None
    later = "as in Ada's notes"  # whatever was given to run_study
    again = study.run_study(tiny, tmp_path / "run", command=later, landscape=True)
    measuring = study.load_result(tmp_path / "run").landscape.environment
    assert again.landscape.environment == measuring
    assert measuring == {**before.config.environment, "command": later}
    trained = before.config.environment
    for found, command, named in (
        (again, None, True),
        (again, "gapjax study x", True),
        (again, later, False),
        (before, "gapjax study x", False),
    ):
        config = dataclasses.replace(found.config, environment={**trained, "command": command})
        study.write_report(dataclasses.replace(found, config=config), tmp_path / "x.html")
        page = (tmp_path / "x.html").read_text()
        told = f"The landscape was measured by</p><pre>{markupsafe.escape(later)}</pre>"
        assert (told in page) is named
        assert command is None or f"<pre>{markupsafe.escape(command)}</pre>" in page
        assert "measured elsewhere" not in page and "then</dt>" not in page
    elsewhere = {**trained, "command": later, "device": "TPU v9"}
    for command, told in ((later, "measured elsewhere."), ("gapjax study x", "measured by</p>")):
        config = dataclasses.replace(again.config, environment={**elsewhere, "command": command})
        study.write_report(dataclasses.replace(again, config=config), tmp_path / "x.html")
        page = (tmp_path / "x.html").read_text()
        assert told in page and f"<dt>device then</dt><dd>{trained['device']}</dd>" in page
    quiet = dataclasses.replace(again.landscape, environment=trained)  # from Python
    found = dataclasses.replace(again, config=config, landscape=quiet)
    study.write_report(found, tmp_path / "x.html")
    assert "The landscape was measured from Python." in (tmp_path / "x.html").read_text()


def test_one_regime_alone_has_a_report_too(measured, tiny, tmp_path):
    folder, _, result, _ = measured
    shutil.copytree(folder, tmp_path / "run")  # what was measured there is not measured again
    alone = {"LB": result.regimes["LB"]}
    setup = prepare_study(tiny).setup
    found = _landscape.measure_landscape(setup, tmp_path / "run", alone, result.config)
    assert found.between is None and found.observations is None
    part = dataclasses.replace(result, regimes=alone, landscape=found)
    study.write_report(part, tmp_path / "alone.html")
    page = (tmp_path / "alone.html").read_text()
    assert "Keskar sharpness" in page and "SB to LB" not in page


@pytest.mark.parametrize(("asked", "wanted"), [(None, "HIGHEST"), ("high", "HIGH")])
def test_products_are_in_full_precision_unless_another_is_asked_for(
    asked, wanted, measured, tiny, tmp_path, monkeypatch
):
    """An accelerator rounds what it multiplies, to so few bits that no eigenpair converges."""
    folder, _, result, _ = measured
    shutil.copytree(folder, tmp_path / "run")
    texts = []

    def products(at, on_step):
        # A function of its own: what jax.jit has traced before is known to it by its function.
        lowered = jax.jit(lambda *given: at.loss_fn(*given)).lower(at.params, at.batches[0])
        texts.append(lowered.as_text())
        return {}

    mine = (study.Measure("products", products),)
    monkeypatch.setattr(_landscape, "find_measures", lambda names: mine)
    setup = prepare_study(tiny).setup
    with jax.default_matmul_precision(asked):
        _landscape.measure_landscape(setup, tmp_path / "run", result.regimes, result.config)
    found = [pair for text in texts for pair in re.findall(r"precision = \[(.*?)\]", text)]
    assert set(found) == {f"{wanted}, {wanted}"}


def test_a_new_measure_is_one_entry(measured, tiny, tmp_path, monkeypatch):
    folder, _, result, _ = measured
    shutil.copytree(folder, tmp_path / "run")

    def norm(at, on_step):
        return {"norm": float(optax.tree.norm(at.params))}

    mine = study.Measure(
        "norm", norm, (study.Number("norm", "‖w‖", lambda m: m["norm"]),), "‖w‖: of all weights."
    )
    more = (*_measures.MEASURES, mine)
    for module in (_measures, _section):
        monkeypatch.setattr(module, "MEASURES", more)
    again = study.run_study(tiny, tmp_path / "run", landscape=True)
    assert again.landscape.regimes["SB"].numbers["norm"].mean > 0
    assert (
        again.landscape.regimes["SB"].numbers["sam"]
        == result.landscape.regimes["SB"].numbers["sam"]
    )
    page = (tmp_path / "run" / "report.html").read_text()
    assert "‖w‖: of all weights." in page and '<th class="n">‖w‖</th>' in page


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


@pytest.mark.parametrize("option", [("measures", "top"), ("examples", "100"), ("seeds", "5")])
def test_what_to_measure_without_measuring_is_refused(option, capsys):
    name = f"--landscape-{option[0]}"
    assert cli.main(["study", "digits", name, option[1]]) == 2
    assert f"{name} is of what --landscape measures: add --landscape." in capsys.readouterr().err


def test_shift_of_known_curves():
    t = np.linspace(-1, 1, 41)
    line = {"t": t, "train/loss": (t - 0.01) ** 2, "test/loss": 2 * (t - 0.21) ** 2 + 1}
    np.testing.assert_allclose(_measures._shift(line), 0.2, atol=1e-9)


def test_as_many_seeds_are_measured_as_are_asked_for(tiny, tmp_path):
    tiny = dataclasses.replace(tiny, landscape_measures=("loss",))
    one = dataclasses.replace(tiny, landscape_seeds=1)
    found = study.run_study(one, tmp_path / "run", landscape=True).landscape
    assert [found.regimes[name].seeds for name in ("SB", "LB")] == [[0], [0]]
    assert [len(found.levels[0].regimes[name]["update"].values) for name in ("SB", "LB")] == [1, 1]
    # The study is the same one, but on the way down no weights of the second seed were kept.
    with pytest.raises(ValueError, match=r"landscape_seeds=2, but .* of the first 1 alone"):
        study.run_study(
            dataclasses.replace(tiny, landscape_seeds=2), tmp_path / "run", landscape=True
        )
    ends = dataclasses.replace(tiny, landscape_seeds=2, loss_levels=())
    study.run_study(dataclasses.replace(ends, landscape_seeds=1), tmp_path / "ends", landscape=True)
    found = study.run_study(ends, tmp_path / "ends", landscape=True).landscape
    assert [found.regimes[name].seeds for name in ("SB", "LB")] == [[0, 1], [0, 1]]


def test_what_is_measured_is_what_was_asked_for(measured, tiny, tmp_path):
    folder, _, result, _ = measured
    shutil.copytree(folder, tmp_path / "run")
    some = dataclasses.replace(tiny, landscape_measures=("keskar_0.001", "density"))
    found = study.run_study(some, tmp_path / "run", landscape=True).landscape
    assert set(found.regimes["LB"].numbers) == {
        "train_loss", "test_loss", "keskar_0.001", "negative_mass",
    }  # fmt: skip
    assert set(found.ratios) == {"train_loss", "keskar_0.001"}
    for name, ratio in found.ratios.items():
        assert ratio == result.landscape.ratios[name]
    assert {one.number for one in found.ranks} == {"keskar_0.001"}
    shown = study.load_result(tmp_path / "run")
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert "ε = 0.001 (Keskar et al., 2017, found" in page and "ε = 0.0005" not in page
    assert "absolute spectrum is negative" in page and "smallest eigenvalue" not in page
    assert "SAM" not in page
    with pytest.raises(ValueError, match="line was not measured in this study: run it again with"):
        study.plot_lines(shown, None)
    # Nothing of the saddle points, and no measure that the words of sharpness are of.
    least = dataclasses.replace(tiny, landscape_measures=("loss",))
    study.run_study(least, tmp_path / "run", landscape=True)
    page = html.unescape((tmp_path / "run" / "report.html").read_text())
    assert "saddle points?" not in page and "Keskar's sharpness" not in page
    assert "Does the large batch overfit?" in page
    # What is missing is measured, what was there before is not measured again.
    again = study.run_study(tiny, tmp_path / "run", landscape=True)
    assert again.landscape == result.landscape
    with pytest.raises(ValueError, match=r"landscape_measures\[0\] must be one of .*keskar_0.001"):
        dataclasses.replace(tiny, landscape_measures=("keskar",))


def test_of_many_examples_a_part_is_measured_on_with_its_sampling_error(measured, tiny, tmp_path):
    folder, _, result, _ = measured
    shutil.copytree(folder, tmp_path / "run")
    before = {path.name for path in (folder / "landscape").iterdir()}
    some = {"landscape_examples": 54, "landscape_measures": ("sam", "line"), "loss_levels": ()}
    setup = prepare_study(dataclasses.replace(tiny, **some)).setup
    found = _landscape.measure_landscape(setup, tmp_path / "run", result.regimes, result.config)
    # Another measurement beside the one on all examples, of the same study.
    after = {path.name for path in (tmp_path / "run" / "landscape").iterdir()}
    assert after - before == {
        f"{what} on 50 of 64.json"
        for what in ("SB-0", "SB-1", "LB-0", "LB-1", "SB to LB-0", "SB to LB-1")
    }
    assert study.load_result(tmp_path / "run").landscape.part == found.part
    assert (found.part.examples, found.part.of, found.part.parts) == (50, 64, 5)

    order = growth.epoch_order(0, 0, 64)[:50]
    final = training.load_tree(folder / "checkpoints" / "LB")
    losses = []
    for seed in range(2):
        params, state = (
            jax.tree.map(lambda x, s=seed: jnp.asarray(x[s]), final[part])
            for part in ("params", "model_state")
        )
        logits = tiny.model.apply({"params": params, **state}, _inputs(tiny)[order])
        labels = tiny.dataset.train.labels[order]
        losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    losses = np.array(losses, np.float64)
    at = found.regimes["LB"]
    np.testing.assert_allclose(at.numbers["train_loss"].values, losses.mean(1), rtol=1e-5)
    # The mean is linear in the data: no bias, and the spread of five parts of ten.
    parts = losses.mean(0).reshape(5, 10).mean(1)
    stderr = parts.std(ddof=1) / np.sqrt(5) * np.sqrt(1 - 50 / 64)
    np.testing.assert_allclose(at.sampling["train_loss"], 2.776 * stderr, rtol=1e-3)
    assert set(at.sampling) == {"train_loss", "sam"} and at.sampling["sam"] > 0
    seeds_alone = result.landscape.ratios["sam"]
    assert found.ratios["sam"].low < found.ratios["sam"].mean < found.ratios["sam"].high
    assert seeds_alone.p_value is not None and found.ratios["sam"].p_value is None

    section = _section.section(dataclasses.replace(result, landscape=found))
    assert [row[0] for row in section["rows"]] == ["SB", "SB: by examples", "LB", "LB: by examples"]
    assert all(len(row) == len(section["columns"]) for row in section["rows"])
    assert "Measured on 50 of 64 training examples" in section["notes"][0]
    assert "5 disjoint parts" in section["notes"][1]
    study.write_report(dataclasses.replace(result, landscape=found), tmp_path / "part.html")
    page = (tmp_path / "part.html").read_text()
    # The chip of a regime's colour stands before its name, not before what is open of it.
    assert "<td>SB: by examples</td>" in page and "</span>SB</td>" in page


def _largest_mean(examples):
    return examples.mean(0).max()


def _largest_eigenvalue(examples):
    return np.linalg.eigvalsh(examples.T @ examples / len(examples))[-1]


SAMPLED = {
    "means": (np.zeros(1), np.ones(1), _largest_mean, 0.0),
    "the largest of means that are far apart": (np.arange(10.0), np.ones(10), _largest_mean, 9.0),
    # Biased by the root of the number of examples, and by its inverse.
    "the largest of means that are near": (
        np.linspace(0, 0.1, 10),
        np.ones(10),
        _largest_mean,
        0.1,
    ),
    "a largest eigenvalue": (
        np.zeros(20),
        np.sqrt(np.r_[3, np.ones(19)]),
        _largest_eigenvalue,
        3.0,
    ),
}


@pytest.mark.montecarlo
@pytest.mark.parametrize("case", SAMPLED)
def test_sampling_error_covers(case):
    middle, spread, statistic, truth = SAMPLED[case]
    rng, part, inside, draws = np.random.default_rng(0), _surroundings.Part(1000, 10**6, 5), 0, 400
    for _ in range(draws):
        examples = middle + spread * rng.normal(size=(1000, len(middle)))
        parts = np.array([statistic(one) for one in np.split(examples, 5)])
        whole = statistic(examples)
        half = _summary._sampling(np.array([whole]), parts[None], part)
        inside += abs(whole - truth) <= half
    assert inside / draws >= 0.92


def test_what_diverged_has_no_sampling_error():
    part = _surroundings.Part(50, 64, 5)
    assert np.isnan(_summary._sampling(np.array([np.nan]), np.ones((1, 5)), part))


def test_how_closely_it_is_looked_at_is_no_part_of_the_study(tiny):
    prepared = prepare_study(tiny)
    a, b = (
        describe(
            dataclasses.replace(tiny, landscape_examples=n),
            prepared.dataset,
            prepared.setup.network,
        )
        for n in (50, 1000)
    )
    assert a == b


def test_a_level_that_only_a_later_seed_reached_was_not_kept_and_is_no_damage(tmp_path):
    update, losses = [10, 20], [[2.0, 2.0], [1.5, 0.9]]
    curves = types.SimpleNamespace(measured=lambda name: (np.arange(2), np.array(losses)))
    record = types.SimpleNamespace(curves=curves, seeds=[0, 1], files={}, update=update)
    _landscape._check_kept(tmp_path, {"SB": record}, (1.0,), 1)
    with pytest.raises(ValueError, match=r"landscape_seeds=2, but .* of the first 1 alone"):
        _landscape._check_kept(tmp_path, {"SB": record}, (1.0,), 2)


def test_weights_at_a_level_are_those_that_first_fell_to_it(tmp_path):
    keep, asked = keep_levels(tmp_path, "SB", (1.0,), (0,)), []

    def weights(value):
        def give():
            asked.append(value)
            return types.SimpleNamespace(_asdict=lambda: {"w": np.full((1, 2), value)})

        return give

    losses = np.array([[2.0], [np.nan], [0.9], [0.5], [np.nan]])  # a row without a look, and a NaN
    for rows, value in ((1, 2.0), (3, 0.9), (4, 0.5), (5, np.nan)):
        keep(types.SimpleNamespace(values={"train_loss": losses[:rows]}), weights(value))
    assert asked == [0.9]
    kept = training.load_tree(weights_path(tmp_path, "SB", 0, 1.0))
    np.testing.assert_array_equal(kept["w"], [0.9, 0.9])


def test_a_seed_that_stopped_early_falls_over_its_own_last_quarter():
    update = np.arange(0, 101, 10)
    own = 1 - np.minimum(update[:, None], [50, 100]) / [100, 200]
    curves = types.SimpleNamespace(
        update=update.tolist(), measured=lambda name: (np.arange(len(update)), own)
    )
    record = types.SimpleNamespace(curves=curves, seeds=[0, 1], stopped=[50, None])
    # The last looks before three quarters of 50 and of 100 updates are at 30 and 70.
    np.testing.assert_allclose(_summary._last_quarter(record), [0.2, 0.15])
    record.stopped = None
    np.testing.assert_allclose(_summary._last_quarter(record), [0.0, 0.15])
