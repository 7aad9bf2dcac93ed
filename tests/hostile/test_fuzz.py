"""A fixed set of changed inputs, those that once failed, and flipped bits of every kind of file."""

import json
import shutil

import numpy as np
import pytest

from benchmarks.faults import flips, folders, fuzz

KINDS = ["measurement", "checkpoints", "tree", "tfrecord", "array_record", "kept arrays"]
SEEDS = [tuple(seed) for seed in json.loads(fuzz.SEEDS.read_text())]


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory):
    """The folders that are changed; the study's is the one that other tests trained."""
    root = tmp_path_factory.mktemp("made")
    folders.make(root, KINDS)
    shutil.copytree(finished[0], root / "study")
    fuzz._MADE.append(root)
    yield root
    fuzz._MADE.pop()


@pytest.mark.filterwarnings("ignore")  # of what is odd, but read
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_inputs_that_were_changed_are_read_or_refused_in_one_line(made, target):
    numbers = [*range(8), *(number for name, number in SEEDS if name == target)]
    found = {number: fuzz.run(target, number) for number in numbers}
    # Time is no matter of a test.
    assert not {n: said for n, said in found.items() if said and not said.startswith("took")}


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_goes_unnoticed(made, kind, tmp_path):
    opened = folders.reopen(kind, made, tmp_path)
    found = list(flips.flip_bits(opened, 16, np.random.default_rng(1)))
    assert {what for what, _ in found} <= {"noticed", "harmless"}, found
    assert sum(what == "noticed" for what, _ in found) >= 4
