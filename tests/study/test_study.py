"""One table of ranges: every number that cannot be is refused, in the same words."""

import dataclasses

import numpy as np
import pytest

from gapjax import study
from gapjax.study import PRESETS, Regime, Study, preset

NUMBERS = {
    "seeds": (0, -1, 1.5, "x", True, 10**9, np.inf),
    "first_seed": (-1, 1.5, 2**33),
    "epochs": (0, -1, np.nan, np.inf, 1e300, "x"),
    "small_batch": (0, 2.5, "x", 10**12),
    "large_batch": (0, 2.5),
    "ghost_size": (0, 2.5),
    "learning_rate": (0, -0.1, 1e39, np.nan, "x"),
    "warmup": (-0.1, 1.1, np.nan),
    "decay_factor": (0, 1.5, np.nan),
    "cooldown": (0, 1.5),
    "momentum": (1.0, -0.1, np.nan, "x"),
    "b1": (1.0, -0.1),
    "b2": (1.0, -0.1),
    "eps": (0, np.inf),
    "weight_decay": (-1.0, np.inf, np.nan),
    "clip_norm": (0, -1, np.inf),
    "tune": (-1, 1.5, 10**6),
    "validation": (0, 1.0, np.nan),
    "evaluations": (0, 10**9),
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in NUMBERS.items() for value in values]
)
def test_numbers_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(
        ValueError, match=f"{field} must be a (whole|finite) number.* not "
    ) as found:
        Study(**{field: value})
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("decay_at", (0.7, 0.5), "rising fractions"),
        ("decay_at", (0.5, 1.5), r"decay_at\[1\] must be a finite number above 0 and below 1"),
        ("decay_at", 0.5, "decay_at must be several"),
        ("decay_at", "0.5", "decay_at must be several"),
        ("loss_levels", (0.0,), r"loss_levels\[0\] must be a finite number of at least 1e-30"),
        ("small_batch", 640, "must be smaller than large_batch"),
        ("model", "digits_mlp", "Did you mean 'digits-mlp'"),
        ("task", "classify", "task must be one of"),
        ("task", 3, "or a Task, not 3"),
        ("dataset", {"x": 1}, r"Dataset\(train, test\) takes any pytrees"),
        ("augment", "flip", r"must be several, such as \('flip',\)"),
        ("augment", ("flop",), "Did you mean 'flip'"),
        ("noise_scale", "yes", "noise_scale must be True or False"),
        ("keep", "epoch", "Did you mean 'epochs'"),
        ("data_dir", 3, "data_dir must be a path"),
        ("version", 3, "version must be a text"),
    ],
)
def test_mistakes_are_named_at_construction(field, value, message):
    with pytest.raises(ValueError, match=message):
        Study(**{field: value})


def test_ends_of_the_gap_that_are_not_trained_are_refused_before_training():
    regimes = ("SB", "LB", "LB+LR")
    with pytest.raises(ValueError, match=r"names LB\+LT, .* Did you mean 'LB\+LR'"):
        Study(regimes=regimes, baseline=("SB", "LB+LT"))
    assert Study(regimes=regimes, baseline=("SB", "LB+LR")).baseline == ("SB", "LB+LR")
    assert Study(regimes=("LB+LR",)).baseline == ("SB", "LB")  # the usual ends may be missing


def test_drops_that_leave_nothing_of_a_rate():
    with pytest.raises(ValueError, match="leave nothing of learning_rate=0"):
        Study(decay_at=tuple(np.linspace(0.1, 0.9, 20)), decay_factor=1e-3)
    with pytest.raises(ValueError, match="first_seed must be at most 4294967288 for 8 seeds"):
        Study(first_seed=4_294_967_290)


def test_names_become_objects():
    study = Study(regimes=("SB", Regime("mine", remedies=("LR",))), task="regression")
    assert [r.name for r in study.regimes] == ["SB", "mine"]
    assert study.task.name == "regression"
    assert study.all_seeds == list(range(8))


def test_what_is_left_to_the_optimizer_is_none():
    assert Study().hyperparameters == {}
    assert Study(momentum=0.0, weight_decay=0.1).hyperparameters == {
        "momentum": 0.0,
        "weight_decay": 0.1,
    }


def test_every_field_says_what_it_is():
    for field in dataclasses.fields(Study):
        assert field.metadata["help"]


def test_presets():
    assert preset("digits").seeds == 8
    assert all(isinstance(one.study, Study) and one.meaning for one in PRESETS.values())
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        preset("digit")


def test_the_text_of_the_class_tells_of_every_field():
    told = Study.__doc__
    for field in dataclasses.fields(Study):
        assert told.count(f"\n    {field.name}: ") == 1, field.name
    assert told.index("\n    seeds: how many") < told.index("\n    version: ")
    assert told.index("\n    version: ") < told.index("\nRaises:")
    assert "The other fields" not in told  # what stands for them in the source


@pytest.mark.parametrize("task", study.TASKS)
def test_studies_of_the_same_settings_are_equal(task):
    asked = {"task": task, "regimes": ("SB", "LB", "LB+LR")}
    assert Study(**asked) == Study(**asked) != Study(**asked, seeds=3)
