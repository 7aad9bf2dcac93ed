"""Kept results: each says what made it, and every page is built from them."""

import dataclasses
import json
import runpy
import shlex
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.papers import figures, held, kept, pages, run, warm_starts
from benchmarks.papers.budgets import BUDGETS
from benchmarks.papers.held import CLAIMS, decided, verdict
from benchmarks.papers.run import with_options
from benchmarks.speed.timing import RESULTS
from gapjax import cli, study, training

FOLDER = kept.FOLDER


@pytest.mark.parametrize("name", pages.PAGES)
def test_pages_say_what_the_kept_runs_say(name):
    assert (kept.FOLDER / name).read_text() == pages.PAGES[name]()


def test_every_kept_result_says_how_it_was_made():
    assert kept.all_kept()


STUDIED = {
    name: shlex.split(found["command"])
    for name, found in kept.all_kept().items()
    if found["command"].startswith("gapjax study ")
}


@pytest.mark.parametrize("name", STUDIED)
def test_a_kept_command_asks_for_what_was_kept(name, monkeypatch, capsys):
    asked = []

    def run_study(chosen, out, **options):
        asked.append(chosen)
        raise ValueError("enough")

    monkeypatch.setattr(study, "run_study", run_study)
    assert cli.main(STUDIED[name][1:]) == 2
    assert "enough" in capsys.readouterr().err
    settings = kept.all_kept()[name]["settings"]
    plain = {k: v for k, v in vars(asked[0]).items() if isinstance(v, bool | int | float | str)}
    for one in plain.keys() & settings.keys() - {"dataset"}:
        assert plain[one] == settings[one], one


def test_pictures_that_were_compressed_are_said_to_be():
    # All that was run here: whoever keeps a run on the original pictures says so in its note.
    for name, found in kept.all_kept().items():
        if found["settings"]["dataset"]["name"] == "cifar10":
            assert "JPEG" in found["note"] or "original" in found["note"], name


def test_beside_the_papers_numbers_stands_what_differs():
    beside = [found for found in kept.all_kept().values() if found["paper"]]
    assert beside
    for found in beside:
        assert found["differs"] == study.PRESETS[found["preset"]].differs


def test_a_kept_sentence_tells_no_gap_from_chance_that_the_numbers_do_not():
    for name, found in kept.all_kept().items():
        low, high = found["gap"]["low"], found["gap"]["high"]
        told = ["That is not statistically significant.", "There is no gap to close"]
        sign = 1 if found["task"]["maximize"] else -1
        clear = sign * low > 0 and sign * high > 0
        better = sign * low < 0 and sign * high < 0
        assert [one in found["finding"] for one in told] == [not clear and not better, better], name


def test_what_a_preset_found_is_of_a_kept_run():
    told = {name: preset.found for name, preset in study.PRESETS.items() if preset.found}
    assert told
    for name, text in told.items():
        found = json.loads((kept.FOLDER / f"{name}.json").read_text())
        assert f"{100 * found['gap']['mean']:.2f} points" in text
        assert f"{found['settings']['seeds']} seeds" in text
        assert ("not statistically significant" in text) == (found["gap"]["low"] <= 0)
        if "times as sharp" in text:
            ratio = found["landscape"]["ratios"]["keskar_0.001"]["mean"]
            assert f"{ratio:.1f} times as sharp" in text


@pytest.mark.parametrize("missing", ["command", "environment", "settings", "regimes"])
def test_a_result_without_what_made_it_is_refused(missing, tmp_path):
    found = {
        "what": "a study",
        "command": "gapjax study",
        "environment": {"device": "cpu"},
        "settings": {"seeds": 2},
        "regimes": {"SB": {}},
    }
    path = tmp_path / "digits.json"
    path.write_text(json.dumps(found))
    assert kept.read_kept(path) == found
    path.write_text(json.dumps({**found, missing: None}))
    with pytest.raises(ValueError, match=f"digits.json has no '{missing}'"):
        kept.read_kept(path)


def test_a_result_without_a_device_is_refused(tmp_path):
    path = tmp_path / "digits.json"
    found = {"what": "w", "command": "c", "settings": {"a": 1}, "regimes": {"SB": {}}}
    path.write_text(json.dumps({**found, "environment": {"device": "", "cores": 2}}))
    with pytest.raises(ValueError, match="on which device"):
        kept.read_kept(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": "  "}, "has no 'command' that is a str"),
        ({"environment": {"device": 7}}, "on which device"),
        ({"gap": None}, "has no 'gap'"),
        ({"comparisons": []}, "has no 'comparisons'"),
        ({"settings": {"seeds": 0}}, "has no 'seeds' that is a int"),
        ({"settings": {"seeds": "3"}}, "has no 'seeds' that is a int"),
        ({"gap": {"mean": 0.1, "low": 0.6, "high": 0.2}}, "a gap that is no interval"),
        ({"gap": {"mean": "0.1", "low": None, "high": None}}, "a gap that is no interval"),
        (
            {"gap": {"mean": float("nan"), "low": 0.1, "high": 0.2}},
            "what is not known is null",
        ),
    ],
)
def test_a_damaged_result_is_refused_by_name(change, said, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    (tmp_path / "a folder.json").mkdir()
    found = kept.read_kept(FOLDER / "digits.json")
    (tmp_path / "digits.json").write_text(json.dumps(found))
    assert kept.all_kept() == {"digits": found}
    (tmp_path / "digits.json").write_text(json.dumps({**found, **change}))
    with pytest.raises(ValueError, match=f"digits.json .*{said}"):
        kept.all_kept()


@pytest.mark.parametrize(
    ("name", "build", "at"),
    [
        *(
            ("warm_starts-digits-cpu", figures.section, at)
            for at in ("command", "machine", "machine/device", "machine/cores", "settings/seeds")
        ),
        *(
            ("critical_batch-cpu", pages.critical_batch_section, at)  # whose page has the command
            for at in ("machine", "machine/device", "machine/cores", "sweep/seeds")
        ),
    ],
)
def test_figures_without_what_made_them_are_refused(name, build, at, tmp_path, monkeypatch):
    found = json.loads((RESULTS / f"{name}.json").read_text())
    for module in (figures, pages):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    (tmp_path / f"{name}.json").write_text(json.dumps(found))
    assert build()
    *path, missing = at.split("/")
    holder = found[path[0]] if path else found
    holder[missing] = type(holder[missing])()  # there, and empty
    (tmp_path / f"{name}.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"{name}.json has no '{missing}'"):
        build()


def test_commands_are_kept_without_the_folders_of_a_machine():
    command = "gapjax study digits --out=/a --seeds 2 --data_dir '/b c' --log-dir d --out e"
    assert kept._portable(command) == "gapjax study digits --seeds 2"


def test_a_study_that_names_no_command_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kept")
    for name, text in (("results", {}), ("config", {"environment": {"command": None}})):
        (tmp_path / f"{name}.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match="does not say by which command it was trained"):
        kept.keep_study(tmp_path, "x")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("within", "low", "high", "said"),
    [
        ((0, np.inf), 0.1, 0.3, "held"),
        ((0, np.inf), -0.3, -0.1, "did not hold"),
        ((0, np.inf), 0.0, 0.0, "did not hold"),
        ((0, np.inf), -0.1, 0.3, "cannot tell"),
        ((0, np.inf), None, None, "cannot tell"),
        ((0, np.inf), None, -0.1, "did not hold"),
        ((0, np.inf), 0.1, None, "held"),
        ((-0.1, 0.1), -0.05, 0.09, "held"),
        ((-0.1, 0.1), 0.2, 0.3, "did not hold"),
        ((-0.1, 0.1), -0.2, 0.9, "cannot tell"),  # both ends outside, the bounds between them
    ],
)
def test_a_verdict_follows_from_the_interval(within, low, high, said):
    claim = dataclasses.replace(CLAIMS[0], within=within)
    assert verdict(claim, {"mean": 0.0, "low": low, "high": high}) == said


def _claim(text):
    return next(claim for claim in CLAIMS if claim.text.startswith(text))


@pytest.mark.parametrize(
    ("better", "note", "said"),
    [
        ("log", "", "held"),
        ("power", "", "did not hold"),
        ("neither", "", "cannot tell"),
        ("log", "less than a decade of steps", "cannot tell"),
        ("power", "only 9 points", "cannot tell"),
    ],
)
def test_which_law_fits_decides_and_not_its_slope(better, note, said):
    travel = {"better": better, "note": note, "delta_aic": 9.0, "log_slope": {"mean": 1.0}}
    found = {"baseline": ["SB", "LB"], "regimes": {"SB": {"diffusion": travel}}}
    claim = _claim("The distance of the small batch grows like log t")
    assert claim.judge(found) == said
    assert claim.number(found) == {"mean": 1.0}  # whichever law it is


def test_which_runs_decide_a_claim_is_their_budget_and_what_they_are_of():
    gap, sharp = _claim("A large batch generalizes worse"), _claim("Large batches end in sharper")
    epochs, loss = {"settings": {"keep": "epochs"}}, {"settings": {"keep": "loss=0.1"}}
    assert gap.decided_by("remedies-x", epochs) and not gap.decided_by("remedies-x", loss)
    until = dataclasses.replace(gap, keep="loss")
    assert until.decided_by("budgets-x", loss) and not until.decided_by("budgets-x", epochs)
    assert not gap.decided_by("pydoc-lm", epochs)  # whose gap is one of losses
    assert sharp.decided_by("keskar-x", epochs) and not sharp.decided_by("hoffer-x", epochs)


def test_every_claim_has_runs_and_each_run_its_seeds():
    rows = decided({**kept.all_kept(), **figures.kept_figures()})
    assert {row[0] for row in rows} == {claim.text for claim in CLAIMS}
    assert all(int(row[4]) >= 2 for row in rows)
    # Of five seeds three were measured.
    own = [row for row in rows if row[2] == "keskar-f2-mnist-small" and "sharper" in row[0]]
    assert own and {row[4] for row in own} == {"3"}


def test_how_far_is_a_geometric_mean_over_pairs():
    ends = ("SB", [4.0, 9.0]), ("LB", [1.0, 4.0])
    found = {"baseline": ["SB", "LB"],
             "regimes": {name: {"distance": {"values": own}} for name, own in ends}}  # fmt: skip
    claim = _claim("The small batch travels farther")
    assert claim.number(found)["mean"] == pytest.approx(3.0)
    found["regimes"]["LB"]["distance"]["values"][1] = None  # it diverged
    assert claim.number(found)["mean"] == pytest.approx(4.0)


def test_what_is_as_far_is_once_as_far():
    assert figures.ratio([2.0, 3.0], [2.0, 3.0]) == dict.fromkeys(("mean", "low", "high"), 1.0)
    assert figures.ratio([2.0], [1.0]) == {"mean": pytest.approx(2.0), "low": None, "high": None}


def test_a_page_is_built_of_a_run_that_lost_a_seed():
    found = json.loads((FOLDER / "digits.json").read_text())
    for over in found["regimes"]["LB"].values():
        if isinstance(over, dict) and "values" in over:
            over["values"][2] = None
    assert "The small batch travels farther." in held.page({"digits": found})
    assert "| LB |" in pages.study_section("digits", found)


def test_marks_are_of_either_of_the_two_compared():
    plain = {"tuning": {"at_edge": False}, "stopped": [3, 4]}
    at_edge, short = {**plain, "tuning": {"at_edge": True}}, {**plain, "stopped": [3, None]}
    assert pages.edge(plain, at_edge) == " †" == pages.edge(at_edge, plain)
    assert pages.missed(plain, short) == " ‡" == pages.missed(short, plain)
    assert pages.edge(plain, short) == pages.missed(plain, at_edge) == ""
    assert pages.missed({**plain, "stopped": None}) == ""
    assert pages.edge({**plain, "tuning": None}) == ""


def test_a_share_of_a_gap_is_told_where_the_large_batch_is_told_to_be_worse():
    for found in kept.all_kept("hoffer").values():
        column = pages.study_section("here", found)
        assert ("No share of a gap" in column) != kept.gap_is_clear(found)
        # A study tells no share where the gap is not clear; runs that were kept before it may.
        none = {"gap_closed": dict.fromkeys(("mean", "low", "high"))}
        without = {**found, "regimes": {n: {**r, **none} for n, r in found["regimes"].items()}}
        if not kept.gap_is_clear(found):
            assert pages.study_section("here", without) == column
    gap = {"mean": 0.02, "low": 0.01, "high": 0.03}
    accuracy, loss = {"maximize": True}, {"maximize": False}
    assert kept.gap_is_clear({"gap": gap, "task": accuracy})
    assert not kept.gap_is_clear({"gap": gap, "task": loss})  # of a loss, the large batch's is less
    assert not kept.gap_is_clear({"gap": {**gap, "low": -0.01}, "task": accuracy})
    assert not kept.gap_is_clear({"gap": {**gap, "low": None, "high": None}, "task": accuracy})


def test_an_option_that_is_given_stands_in_the_place_of_the_benchmark_s_own():
    own = ["--seeds", "3", "--regimes", "SB", "LB", "--tune", "5"]
    assert with_options(own, ["--tune=3", "--epochs", "1"]) == [
        *own[:-2], "--tune=3", "--epochs", "1",
    ]  # fmt: skip
    assert with_options(own, ["--regimes", "SB"]) == [
        "--seeds",
        "3",
        "--tune",
        "5",
        "--regimes",
        "SB",
    ]
    assert with_options(own, []) == own


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("budgets", ["budgets-epochs", "budgets-loss", "budgets-loss-0.01", "budgets-updates"]),
        ("budgets --seeds 2", [f"budgets-{name}" for name in BUDGETS]),
        ("budgets loss epochs --seeds 2", ["budgets-loss", "budgets-epochs"]),
        ("remedies", ["remedies-digits"]),
        ("remedies --seeds 2 --keep loss=0.1", ["remedies-digits-loss-0.1"]),
        ("remedies mnist --seeds 2", ["remedies-mnist"]),
        ("language --seeds 2", ["pydoc-lm"]),
    ],
)
def test_what_is_run_where_nothing_is_named_and_options_are_passed_on(command, runs, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "run_study", lambda options, folder: asked.append((options, folder)))
    monkeypatch.setattr(kept, "keep_study", lambda *_: None)
    monkeypatch.setattr(run, "keep_study", lambda *_: None)
    for module in (pages, run):
        monkeypatch.setattr(module, "write_pages", list)
    name, *options = command.split()
    monkeypatch.setattr(sys, "argv", [name, *options])
    monkeypatch.delitem(sys.modules, f"benchmarks.papers.{name}", raising=False)
    runpy.run_module(f"benchmarks.papers.{name}", run_name="__main__")
    assert [folder.name for _, folder in asked] == runs
    for given, _ in asked:
        assert given.count("--seeds") == (name != "language" or "--seeds" in options)
        if "--seeds" in options:
            assert given[given.index("--seeds") + 1] == "2"


@pytest.mark.parametrize("code", [0, 1])
def test_a_speed_benchmark_that_failed_is_told_by_the_exit_code(code, monkeypatch, capsys):
    done = types.SimpleNamespace(returncode=code)
    monkeypatch.setattr(benchmarks.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "ghost_norm"])
    with pytest.raises(SystemExit) as ended:
        benchmarks.main()
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert "flax BatchNorm" in out and ("ghost_norm failed" in err) is bool(code)


def test_a_study_that_is_refused_ends_the_benchmark_without_a_traceback(monkeypatch, tmp_path):
    done = types.SimpleNamespace(returncode=2)
    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: done)
    with pytest.raises(SystemExit) as ended:
        run.run_study(["digits", "--epochs", "-1"], tmp_path)
    assert ended.value.code == 2


def test_a_warm_start_takes_the_weights_and_a_fresh_optimizer():
    own = dataclasses.replace(study.PRESETS["keskar-digits"].study, seeds=2)
    bench, seeds = warm_starts.make_bench(own, 128), own.all_seeds
    starts = training.stack_members([bench.init(seed) for seed in seeds])
    small = warm_starts.train(bench, starts, seeds, own.small_batch, 1)
    fresh = warm_starts.restarted(bench, small, seeds)
    assert jax.tree.all(jax.tree.map(np.array_equal, fresh.params, small.params))
    assert jax.tree.all(jax.tree.map(np.array_equal, fresh.model_state, small.model_state))
    assert not any(np.any(x) for x in jax.tree.leaves((fresh.step, fresh.opt_state[0].mu)))
    warm = warm_starts.train(bench, fresh, seeds, own.large_batch, 2, first=1)
    starts = training.stack_members([bench.init(seed) for seed in seeds])
    scratch = warm_starts.train(bench, starts, seeds, own.large_batch, 2)
    assert np.all(scratch.step == warm.step) and np.all(warm.step == 20)
    found, other = (warm_starts.measure(bench, at, seeds, sharp=False) for at in (warm, scratch))
    assert np.all(np.array(found["train_loss"]) < other["train_loss"])


def test_numbers_of_warm_starts_are_paired_by_seed():
    large = [{"test_accuracy": [0.90, 0.92], "sharpness": [8.0, 2.0]},
             {"test_accuracy": [0.93, 0.95], "sharpness": [4.0, 1.0]}]  # fmt: skip
    found = {"starts": [{"large": one} for one in large], "batches": large}
    assert figures.gained(found)["mean"] == pytest.approx(0.03)
    assert figures.gained(found)["low"] == pytest.approx(0.03)  # alike in both seeds
    assert [figures.sharper(found)[end] for end in ("mean", "low", "high")] == pytest.approx(
        [0.5] * 3
    )
    assert figures.lost(found) == figures.gained(found)
    assert figures.sharpened(found) == figures.sharper(found)
