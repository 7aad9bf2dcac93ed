"""Small data sets of every kind, and one small study, trained once and looked at by many tests."""

import csv
import json

import numpy as np
import pytest

from gapjax import data, growth, models, study


def make_blobs(seed=0, train=64, test=32, features=4, classes=3):
    """Classes of features that a small network tells apart, most of the time."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=train + test).astype(np.int32)
    x = rng.normal(size=(train + test, features)) + 2 * np.eye(classes, features)[labels]
    parts = (data.Split(x[s], labels[s]) for s in (slice(0, train), slice(train, None)))
    return data.Dataset(*parts, class_names=tuple("abc")[:classes], name="blobs")


@pytest.fixture(scope="session")
def blobs():
    return make_blobs()


def tiny_study(**changes):
    """A study that trains in a second or two."""
    settings = {
        "dataset": make_blobs(),
        "model": models.MLP((5,), 3),
        "seeds": 3,
        "epochs": 4,
        "small_batch": 8,
        "large_batch": 32,
        "ghost_size": 8,
        "regimes": ("SB", "LB", "LB+LR+GBN"),
        "evaluations": 3,
    }
    return study.Study(**{**settings, **changes})


def at_looks(sizes, first=8):
    """A controller that knows at which look it proposes what."""

    def update(state, measured, *, loss=None, learning_rate=None):
        size = sizes.get(state.favour, state.size)
        return growth.Proposal(size, "said so"), growth.ControllerState(size, state.favour + 1)

    return growth.Controller(
        lambda: growth.ControllerState(first, 0), update, lambda: (first, *sorted(sizes.values()))
    )


def numbers(folder):
    """All that a study found, but how long it took."""
    found = json.loads((folder / "results.json").read_text())
    costs = [cost for target in found["targets"] for cost in target["costs"].values()]
    for timed in (*found["regimes"].values(), *costs):
        timed.pop("seconds")
        timed.pop("training_seconds", None)  # which targets lack
    with open(folder / "history.csv") as file:
        rows = [{**row, "seconds": None} for row in csv.DictReader(file)]
    return found, rows


@pytest.fixture(scope="session")
def small():
    return tiny_study()


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """The folder and the result of a finished study, and what its progress function saw."""
    folder = tmp_path_factory.mktemp("study") / "run"
    seen = []
    result = study.run_study(small, folder, progress=seen.append, command="gapjax study x")
    return folder, result, seen
