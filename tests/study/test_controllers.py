"""Controllers of a study: which there are, what cannot be, what is kept and told of them."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from gapjax import cli, growth, study
from gapjax.study import CONTROLLERS, make_plan
from gapjax.study._results._identity import identity
from gapjax.study._results._records import Decision, RegimeRecord, from_plain, to_plain
from tests.study.conftest import at_looks, tiny_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("controllers"),
]  # they share runs that take long


def _plan(regime="GROW", **changes):
    own = tiny_study(regimes=("SB", "LB", regime), **changes)
    return make_plan(own, own.regimes[-1], 64)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_controller_goes_from_the_small_batch_to_the_large_one(name):
    assert _plan(controller=name).sizes == (8, 16, 32) and CONTROLLERS[name][0]


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """A study whose batch grows at its third look and is looked at a few times more."""
    folder = tmp_path_factory.mktemp("driven") / "a"
    own = tiny_study(
        seeds=2,
        epochs=2,
        regimes=("SB", "GROW"),
        baseline=("SB", "GROW"),
        schedule="constant",
        controls=False,
        controller=at_looks({2: 32}),
    )
    return folder, study.run_study(own, folder)


def test_decisions_are_kept_and_told(driven):
    folder, result = driven
    record = result.regimes["GROW"]
    assert record.batch_sizes == [(0, 8), (5, 32)] and record.batch_size == 32
    assert record.updates == 5 + 3 and record.examples == 5 * 8 + 3 * 32  # 88 left, by 32
    first, second, third, *later = record.decisions
    assert third == Decision(update=5, examples=40, before=8, after=32, reason="said so")
    assert [one.after for one in (first, second, *later)] == [8, 8, *[32] * len(later)]
    kept = json.loads((folder / "results.json").read_text())["regimes"]
    assert kept["GROW"]["decisions"] == to_plain(record.decisions)
    assert kept["SB"]["decisions"] == []
    assert study.load_result(folder).regimes["GROW"] == record
    (told,) = [note for note in study.notes(result) if note.startswith("GROW: a controller of")]
    assert "It grew to 32 at update 5 (40 examples): said so. The updates" in told
    assert "It grew to 32 at update 5" in (folder / "report.html").read_text()
    # The noise it was shown is drawn beside every regime.
    assert all("gradient_noise" in r.curves.values for r in result.regimes.values())


def test_the_noise_of_small_batches_has_chance_of_its_own_in_each(tmp_path):
    # Each small batch is scaled by a number drawn for it: by the same one the ratio would stay.
    drawn = study.Remedy(
        "DRAWN", "scaled", loss=lambda losses, batch, key, plan: losses * jax.random.normal(key)
    )
    regimes = ("SB", study.Regime("SB+DRAWN", "small", (drawn,)))
    tiny = tiny_study(
        regimes=regimes, baseline=("SB", "SB+DRAWN"), seeds=2, noise_scale=True, controls=False
    )
    found = study.run_study(tiny, tmp_path / "run").regimes
    plain, own = (
        np.divide(*(record.curves.array(f"gradient_{name}")[0] for name in ("norm", "noise")))
        for record in found.values()
    )
    assert (own < 0.5 * plain).all()


def test_growth_is_drawn(driven):
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    study.plot_growth(driven[1], axis)
    (grown,) = [line for line in axis.lines if "grown" in str(line.get_label())]
    record = driven[1].regimes["GROW"]
    assert grown.get_xdata().tolist() == [40 / 64] and grown.get_ydata().tolist() == [32]
    assert record.epochs == record.examples / 64


def test_the_noise_is_drawn_of_the_seeds_that_go_on(driven):
    from matplotlib.figure import Figure

    def drawn(lost):
        record = driven[1].regimes["GROW"]
        values = dict(record.curves.values)
        for name in ("gradient_noise", "gradient_norm"):
            values[name] = [[None if i in lost else 4.0 for i in range(2)] for _ in values[name]]
        curves = dataclasses.replace(record.curves, values=values)
        own = {"GROW": dataclasses.replace(record, curves=curves)}
        axis = Figure().subplots()
        study.plot_growth(dataclasses.replace(driven[1], regimes=own), axis)
        hidden = next(line for line in axis.lines if line.get_marker() == "^")
        ratio = next(line for line in axis.lines if "noise scale" in str(line.get_label()))
        return len(hidden.get_xdata()), ratio.get_ydata().tolist()

    whole, without = drawn(()), drawn((1,))
    assert whole == without and whole[0] == 0 and set(whole[1]) == {1.0}


def test_a_record_of_before_there_were_controllers_is_read(driven):
    plain = to_plain(driven[1].regimes["SB"])
    del plain["decisions"]
    assert from_plain(plain, RegimeRecord) == driven[1].regimes["SB"]


def test_one_that_never_grew_says_why(driven):
    record = driven[1].regimes["GROW"]
    stayed = [Decision(1, 8, 8, 8, "noise scale 6 at 8")]
    other = dataclasses.replace(
        driven[1], regimes={"GROW": dataclasses.replace(record, decisions=stayed)}
    )
    assert any(
        "It never did; at the last look: noise scale 6 at 8." in n for n in study.notes(other)
    )


def test_another_controller_is_another_study():
    makes = [
        functools.partial(growth.noise_scale_controller, min_dwell=2),
        functools.partial(growth.noise_scale_controller, min_dwell=3),
        growth.noise_scale_controller(8, maximum=32, min_dwell=2),
        growth.noise_scale_controller(8, maximum=32, min_dwell=3),
        at_looks({1: 16}),
        at_looks({1: 32}),
    ]
    found = [identity(make) for make in makes]
    assert len({digest for digest, _ in found}) == len(makes)
    assert not any(vague for _, vague in found)


def test_the_command_line_knows_controllers(capsys):
    words = ["study", "--seeds", "1", "--epochs", "1", "--regimes", "GROW", "--dry-run"]
    assert cli.main([*words, "--controller", "noise-scale"]) == 0
    said = capsys.readouterr().out
    assert "≤ 80" in said and "16→32→64→128→256→512→640" in said
    assert "known only afterwards" in " ".join(said.split())
    assert cli.main([*words, "--controller", "noise"]) == 2
    assert "Did you mean 'noise-scale'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controller": "noise"}, "controller must be one of.*Did you mean 'noise-scale'"),
        ({"controller": 3}, "controller must be one of.*not 3"),
        ({"controller": "cabs", "regimes": ("SB", "HYBRID")}, "drives the batch of GROW, and no"),
        ({"controller": "cabs", "tune": 3}, "leave one of them out"),
        ({"controller": lambda initial, maximum: 3}, "and gave 3"),
        ({"controller": lambda: 3}, "it raised"),
        ({"controller": at_looks({0: 8})}, "must be rising sizes"),
        (
            {"controller": at_looks({})._replace(update=lambda state, loss: None)},
            "update of the controller must take .*multiple values for argument 'loss'",
        ),
        ({"controller": at_looks({}, first=0)}, "a size of the controller must be a whole"),
    ],
)
def test_mistakes_are_told_at_construction(changes, message):
    with pytest.raises(ValueError, match=message) as found:
        tiny_study(**{"regimes": ("SB", "GROW"), **changes})
    assert "\n" not in str(found.value)


def test_a_size_that_does_not_fit_is_told_before_training():
    with pytest.raises(ValueError, match="regime GROW: a batch of 128 is larger than the 64"):
        _plan(controller=at_looks({0: 128}))
    with pytest.raises(ValueError, match=r"regime GROW\+GBN: a batch of 36 is not a mult"):
        _plan("GROW+GBN", controller=at_looks({0: 36}))
    with pytest.raises(ValueError, match=r"GROW\+LR: a rate that follows the batch does not go"):
        _plan("GROW+LR")


def test_functions_of_the_library_and_of_the_user_make_controllers():
    made = _plan(controller=growth.norm_test_controller).controller
    assert made.sizes() == (8, 16, 32)
    own = _plan(controller=lambda initial, maximum: at_looks({0: maximum}, initial)).controller
    assert own.sizes() == (8, 32)
    assert _plan("HYBRID", decay_at=(0.5,), controller=None).controller is None
