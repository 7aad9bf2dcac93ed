import dataclasses
import itertools

import jax
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gapjax import cli, study, training
from gapjax.study import _dry_run
from gapjax.study._population import _train
from gapjax.study._population._member import Member, make_population
from gapjax.study._prepare import prepare_study
from gapjax.study._tune import MOST_EXTENSIONS

SMALL = study.Study(seeds=2, epochs=1, regimes=("SB", "LB+LR+GBN", "GROW"), evaluations=2)
DENSE = [64, 128, 128, 128, 10]
PARAMETERS = sum(a * b + b for a, b in itertools.pairwise(DENSE)) + 2 * sum(DENSE[1:-1])


@pytest.mark.slow
def test_needs_are_those_of_the_program():
    needs = {n.plan.name: n for n in study.dry_run(SMALL)}
    assert list(needs) == ["SB", "LB+LR+GBN", "GROW", "SB+LONG"]
    for need in needs.values():
        assert (need.members, need.members_per_device, need.devices) == (2, 1, 2)
        assert need.parameters == PARAMETERS and need.parameter_bytes == 4 * PARAMETERS
        # Parameters, momentum and the start; two running statistics of each norm; counters, keys.
        floats = 4 * (3 * PARAMETERS + 2 * sum(DENSE[1:-1]))
        assert floats < need.state_bytes < floats + 100
        arguments = need.state_bytes + need.data_bytes
        assert abs(need.program.memory.arguments - arguments) < 100
        assert need.program.memory.peak > arguments
        assert need.sent == ()
    assert needs["SB"].examples_per_device == 16
    assert needs["GROW"].examples_per_device == 640  # the largest of a batch that grows
    assert needs["GROW"].program.memory.temporaries > needs["SB"].program.memory.temporaries
    row = study.needs_row(needs["GROW"])
    assert len(row) == len(study.NEEDS_COLUMNS) and row[2] == "16→160→640"
    assert study.needs_row(needs["LB+LR+GBN"])[6] == "16: 40 on each device"


class Spy:
    """An ``advance`` that notes what it is given."""

    def __init__(self, advance, given):
        self.advance, self.given = advance, given

    def __call__(self, *arguments):
        self.given.append([(x.shape, x.dtype) for x in jax.tree.leaves(arguments[:4])])
        return self.advance(*arguments)

    def lower(self, *arguments):
        self.given.append([(x.shape, x.dtype) for x in jax.tree.leaves(arguments[:4])])
        return self.advance.lower(*arguments)


@pytest.mark.slow
def test_the_program_is_the_one_that_trains(monkeypatch):
    small = study.Study(seeds=2, epochs=1, regimes=("LB+LR+GBN",), evaluations=2)
    given = []

    def spied(*arguments, **named):
        population = make_population(*arguments, **named)
        return population._replace(advance=Spy(population.advance, given))

    for module in (_dry_run, _train):
        monkeypatch.setattr(module, "make_population", spied)
    list(study.dry_run(small))
    prepared = prepare_study(small)
    plan, setup = prepared.plans["LB+LR+GBN"], prepared.setup
    members = [Member(seed, plan.rate) for seed in range(2)]
    _train.train(setup, plan, setup.train, setup.test, members)
    assert len(given) > 1 and all(one == given[0] for one in given)


@pytest.mark.slow
def test_tuning_is_told_before_training():
    tuned = study.Study(seeds=3, epochs=1, regimes=("SB",), tune=2)
    tune, trained = study.dry_run(tuned)
    assert (tune.phase, tune.members, trained.phase, trained.members) == ("tune", 6, "train", 6)
    assert tune.data_bytes < trained.data_bytes  # without the validation examples
    assert study.needs_row(tune)[0] == "SB (tune)"
    # One rate more where the better of the two is at the edge, which it is.
    assert tune.more == 3 and study.needs_row(tune)[3] == f"6 (+ 3, {MOST_EXTENSIONS}×)"
    assert trained.more == 0 and study.needs_row(trained)[3] == "6"
    assert tune.plan.updates < trained.plan.updates
    assert f"at most {MOST_EXTENSIONS} times" in study.needs_notes(trained)[-1]


@pytest.mark.slow
def test_one_algorithm_is_tuned_once_over_the_union():
    tuned = study.Study(
        seeds=2, epochs=1, regimes=("LB", "LB+LINEAR"), baseline=("LB", "LB+LINEAR"), tune=3
    )
    tune, *trained = study.dry_run(tuned)
    # Rates of 0.05 and of 2 by factors of 2: no two of them meet.
    assert (tune.plan.name, tune.members, tune.more) == ("LB", 2 * 6, 2)
    assert [(one.plan.name, one.phase, one.members) for one in trained] == [
        ("LB", "train", 4),
        ("LB+LINEAR", "train", 2),
    ]


@pytest.mark.slow
def test_random_search_has_no_edge():
    drawn = study.Study(seeds=1, epochs=1, regimes=("SB",), tune=2, tune_also=("momentum=0.5:0.9",))
    tune, _ = study.dry_run(drawn)
    assert tune.more == 0 and len(study.needs_notes(tune)) == 2


@pytest.mark.slow
def test_regimes_that_follow_a_curve_are_compiled_too():
    *_, match = study.dry_run(study.Study(seeds=1, epochs=1, regimes=("SB", "LB+MATCH")))
    assert match.plan.name == "LB+MATCH" and match.program.memory.peak > 0


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        (32, "16: 2 on each device"),
        (16, "16: 1 on each device"),
        (8, "16: over 2 devices each"),
        (12, "16: straddle devices"),
    ],
)
def test_ghosts_and_devices(examples, told):
    plan = prepare_study(study.Study(regimes=("LB+LR+GBN",))).plans["LB+LR+GBN"]
    assert _dry_run._ghosts(plan, examples) == told


def test_of_members_in_turn_the_temporaries_are_those_of_one():
    """As CPUs train convolutions; a GPU with room for this may not have it for all at once."""
    network = nn.Sequential(
        [nn.Conv(4, (3, 3)), nn.relu, lambda x: x.reshape(len(x), -1), nn.Dense(10)]
    )
    asked = study.Study(model=network, epochs=1, regimes=("SB",), controls=False)
    one, three = (next(study.dry_run(dataclasses.replace(asked, seeds=seeds))) for seeds in (1, 3))
    assert (three.by_turns, three.devices, three.members_per_device) == (True, 1, 3)
    assert three.program.memory.temporaries == one.program.memory.temporaries
    told = "temporaries are those of one"
    assert any(told in note for note in study.needs_notes(three))
    for other in (one, three._replace(by_turns=False)):
        assert not any(told in note for note in study.needs_notes(other))


def test_bytes_are_those_of_one_device():
    mesh = jax.make_mesh((4, 2), ("seeds", "data"), axis_types=(AxisType.Auto,) * 2)
    tree = {"w": jax.ShapeDtypeStruct((8, 6), "float32"), "n": jax.ShapeDtypeStruct((8,), "int8")}
    split = {"w": NamedSharding(mesh, P("seeds", "data")), "n": NamedSharding(mesh, P())}
    assert _dry_run._bytes(tree) == 8 * 6 * 4 + 8
    assert _dry_run._bytes(tree, split) == 2 * 3 * 4 + 8


def test_a_batch_over_devices_sends_its_gradients_and_no_more():
    small = study.Study(seeds=4, epochs=1, regimes=("LB+LR+GBN",), evaluations=2)
    (need,) = study.dry_run(small, batch_devices=2)
    assert need.mesh == {"member": 4, "data": 2} and need.devices == 8
    assert (need.members_per_device, need.examples_per_device) == (1, 320)
    assert {c.kind for c in need.sent} == {"all-reduce"}
    statistics = 2 * 4 * sum(DENSE[1:-1])
    assert sum(c.bytes for c in need.sent) == 4 * PARAMETERS + statistics + 4  # and the loss
    assert study.needs_row(need)[4:7] == [
        "8: member 4 × data 2",
        "1 × 320",
        "16: 20 on each device",
    ]


def test_collectives_are_told_by_kind():
    need = next(study.dry_run(study.Study(seeds=1, epochs=1, regimes=("SB",))))
    sent = (
        training.Collective("all-reduce", (("f32", (10,)),), 40, True),
        training.Collective("all-reduce", (("f32", ()),), 4, True),
        training.Collective("all-gather", (("f32", (512,)),), 2048, True),
    )
    row = study.needs_row(need._replace(sent=sent, mesh={"seeds": 4, "data": 2}, devices=8))
    assert row[-1] == "2 all-reduce 44 B, 1 all-gather 2.0 KiB"
    assert row[4] == "8: seeds 4 × data 2"


def test_the_command_prints_one_table_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--seeds", "2", "--epochs", "1", "--regimes", "SB", "LB", "--out", "run"]
    assert cli.main(["study", "--dry-run", *arguments]) == 0
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    assert any(words[:4] == ["SB", "80", "16", "2"] for words in lines)
    assert any(words[:4] == ["LB", "2", "640", "2"] for words in lines)
    assert "peak memory" in output and f"{PARAMETERS:,} parameters, 169.5 KiB a member" in output
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_said_before_anything_is_compiled(capsys):
    assert cli.main(["study", "--dry-run", "--large-batch", "2000"]) == 2
    assert "larger than the 1280 training examples" in capsys.readouterr().err
