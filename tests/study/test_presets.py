"""Presets: what they say of themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.papers import kept
from gapjax import models, study
from gapjax.study import PRESETS
from gapjax.study._presets._preset import steps

PICTURES = {"mnist": (28, 28, 1), "digits": (8, 8, 1), "cifar10": (32, 32, 3)}


def test_every_row_of_the_papers_tables_is_there():
    rows = {name for name, preset in PRESETS.items() if preset.paper}
    assert rows == {
        *(f"keskar-{name}" for name in ("f1", "f2", "c1", "c2", "c3", "c4")),
        *(
            f"hoffer-{name}"
            for name in (
                "f1-mnist",
                "c1-cifar10",
                "resnet44-cifar10",
                "vgg-cifar10",
                "c3-cifar100",
                "wrn16-cifar100",
                "alexnet-imagenet",
            )
        ),
    }
    assert all(PRESETS[name].source for name in rows)
    # Hoffer's numbers are recalled, Keskar's were read.
    assert {name for name in rows if PRESETS[name].verified} == {
        name for name in rows if name.startswith("keskar")
    }


def test_rows_of_hoffer_say_where_their_code_does_otherwise():
    for name, preset in PRESETS.items():
        if preset.paper and name.startswith("hoffer"):
            # Their code makes a new optimizer every epoch; C1 and C3 have no momentum to lose.
            assert ("momentum is kept" in preset.differs) is (preset.study.momentum != 0), name
            cifar = preset.study.dataset.startswith("cifar")
            assert ("by ImageNet's" in preset.differs) is cifar, name
            padded = "pad-crop" in preset.study.augment
            assert ("padding is black" in preset.differs) is padded, name
            assert padded or "crop" in preset.differs, name


@pytest.mark.parametrize("name", PRESETS)
def test_it_says_data_size_time_and_the_papers_numbers(name):
    preset = PRESETS[name]
    told = preset.told(name)
    assert told.startswith(f"{name}\n")
    assert str(preset.study.dataset) in told and "on 2 cores" in told and "H100" in told
    assert all(f"{regime} {value:g}" in told for regime, value in preset.paper.items())
    assert ("recalled" in told) is bool(preset.paper and not preset.verified)


def test_small_ones_take_minutes():
    for name, preset in PRESETS.items():
        if name.endswith("-small"):
            short = tuple(one for one in preset.study.regimes if not one.has("RA"))
            study = dataclasses.replace(preset.study, regimes=short, controls=False)
            preset = dataclasses.replace(preset, study=study)
            assert preset.seconds(preset.cpu_gflops) < 1800, name


def test_small_ones_take_an_hour_at_most_with_regime_adaptation():
    for name, preset in PRESETS.items():
        if name.endswith("-small"):
            assert preset.seconds(preset.cpu_gflops) < 3600, name


KEPT = {
    name: found
    for name, found in kept.all_kept().items()
    if found["preset"] and not found["settings"]["tune"] and not found["landscape"]
}


@pytest.mark.parametrize("name", KEPT)
def test_the_time_it_says_is_near_that_of_a_kept_run(name):
    settings, regimes = KEPT[name]["settings"], KEPT[name]["regimes"]
    preset = PRESETS[KEPT[name]["preset"]]
    same = ("seeds", "epochs", "evaluations")
    own = dataclasses.replace(
        preset.study,
        regimes=tuple(one for one in regimes if "LONG" not in one),
        controls=any("LONG" in one for one in regimes),
        **{key: settings[key] for key in same},
    )
    preset = dataclasses.replace(preset, study=own)
    assert [*preset.plans] == [*regimes]
    took = sum(found["seconds"] for found in regimes.values())
    assert 1 / 3 < preset.seconds(preset.cpu_gflops) / took < 3


@pytest.mark.parametrize("name", ["digits", "hoffer-f1-mnist", "hoffer-c1-cifar10-small"])
def test_operations_of_an_example_are_those_of_the_program(name):
    preset = PRESETS[name]
    network = models.as_network(models.find_network(preset.study.model, 10))
    images = jax.ShapeDtypeStruct((8, *PICTURES[preset.study.dataset]), jnp.float32)

    def loss(params, state, images, key):
        outputs, _ = network.apply(params, state, images, train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(
            outputs, jnp.zeros(8, jnp.int32)
        ).mean()

    params, state = jax.eval_shape(network.init, jax.random.key(0), images)
    lowered = jax.jit(jax.grad(loss)).lower(params, state, images, jax.random.key(0))
    assert lowered.cost_analysis()["flops"] / 8e6 == pytest.approx(preset.mflops, rel=0.05)


def test_rates_of_their_code_rise_and_fall():
    schedule = steps({0.0: 0.1, 0.3: 1.0, 0.6: 0.1, 0.9: 0.01}, 200, 0.01)
    at = [float(schedule(update)) for update in (0, 59, 60, 119, 120, 179, 180, 199)]
    np.testing.assert_allclose(at, [1e-3, 1e-3, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-6)


def test_a_part_of_the_data(blobs):
    part = study.Study(dataset=blobs, train_examples=40, small_batch=8, large_batch=32)
    assert len(part.load_dataset().train) == 40
    np.testing.assert_array_equal(part.load_dataset().train.labels, blobs.train.labels[:40])
    with pytest.raises(ValueError, match="train_examples=65 is more than data set blobs has: 64"):
        study.Study(dataset=blobs, train_examples=65).load_dataset()
