"""Values that cannot be, for every field of a study: one line that names the field, at once."""

import dataclasses

import numpy as np
import pytest

from gapjax.study import Study

# What fits nowhere but where it is listed in FITS; each row of the table is a field and one value.
VALUES = {
    "text": "x",
    "bytes": b"x",
    "none": None,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "-1": -1,
    "0": 0,
    "1e39": 1e39,
    "1e300": 1e300,
    "10**40": 10**40,
    "1e9+1": 1_000_000_001.5,
    "complex": 1j,
    "list": [],
    "dict": {},
    "object": object(),
    "true": True,
    "array": np.array([1, 2]),
    "float64 nan": np.float64("nan"),
    "float32 inf": np.float32("inf"),
    "tuple of text": ("a",),
    "surrogate": "\ud800",
    "fraction": np.float32(0.5),
    "tuple of numbers": (1, 2, 3),
    "set": set(),
    "range": range(3),
}
_NUMBER = {"fraction"}
FITS = {
    "dataset": {"text", "surrogate"},  # looked for when the data are loaded
    "first_seed": {"0"},
    "epochs": _NUMBER,
    "learning_rate": _NUMBER | {"1e9+1"},
    "warmup": _NUMBER | {"0"},
    "decay_at": {"list"},
    "decay_factor": _NUMBER,
    "cooldown": _NUMBER,
    "momentum": _NUMBER | {"0", "none"},
    "b1": {"none"},
    "b2": {"none"},
    "eps": {"none"},
    "weight_decay": _NUMBER | {"0", "none", "1e9+1"},
    "clip_norm": _NUMBER | {"none", "1e9+1"},
    "augment": {"list"},
    "controls": {"true"},
    "factorial": {"list"},
    "plateau_factor": _NUMBER,
    "plateau_epochs": _NUMBER,
    "tune_also": {"list"},
    "tune": {"0"},
    "validation": _NUMBER,
    "noise_scale": {"true"},
    "loss_levels": {"list", "tuple of numbers"},
    "landscape_measures": {"list"},
    "train_examples": {"none"},
    "data_dir": {"text", "none"},
    "controller": {"none"},
    "version": {"text", "surrogate"},
}
FIELDS = [field.name for field in dataclasses.fields(Study)]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", FIELDS)
def test_a_value_that_cannot_be_is_refused_by_name(field, value):
    if value in FITS.get(field, ()):
        Study(**{field: VALUES[value]})
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Study(**{field: VALUES[value]})
    text = str(caught.value)
    assert field.removesuffix("s") in text and "\n" not in text and len(text) < 500


TOGETHER = [
    ({"small_batch": 640}, "small_batch=640 must be smaller than large_batch=640"),
    ({"first_seed": 2**32, "seeds": 1}, "first_seed must be at most 4294967295 for 1 seeds"),
    ({"decay_factor": 1e-20}, "drops by decay_factor=1e-20 leave nothing"),
    ({"decay_at": (0.5, 0.5)}, "decay_at must be rising"),
    ({"decay_at": [0.5] * 40}, "decay_at must be rising"),
    ({"decay_at": tuple(np.linspace(0.1, 0.9, 60))}, "60 drops by decay_factor=0.1 leave nothing"),
    ({"baseline": ("SB", "SB")}, "baseline must be the names of two regimes"),
    ({"baseline": ("SB",)}, "baseline must be the names of two regimes"),
    ({"baseline": (1, 2)}, r"baseline\[0\] must be a text"),
    ({"regimes": ("SB", "SB")}, "each under a name of its own"),
    ({"regimes": ()}, "at least one"),
    ({"optimizer": "adam", "weight_decay": 0.1}, "Use adamw"),
]


@pytest.mark.parametrize(("fields", "message"), TOGETHER)
def test_values_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Study(**fields)
