"""Checkpoints that one of two processes cannot read: both go on from the same one, or neither."""

import json
import pathlib
import re
import shutil
import sys
import warnings
from unittest import mock

import jax
import numpy as np
import pytest

from gapjax import training
from gapjax.training._checkpoints import _storage
from tests.meshes import data_mesh
from tests.processes import finish, start

# They share runs that take long.
pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("unreadable")]

SECONDS = 120  # after which a hung process is killed


def _lose(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _halve_arrays(path):
    for file in (path / "d").iterdir():
        _halve(file)


def _exchange(path):
    """What another update left there, whole."""
    shutil.rmtree(path)
    shutil.copytree(path.parent.parent / "1" / path.name, path)


# Each process looks at a copy of its own, as at a disk or a share of its own. Of every case: which
# process, what and how it is damaged; which updates are passed over, who says what of each; and
# where both go on.
CASES = {
    "description": ([(1, "3/about.json", _halve)], {3: (1, "3/about.json: ")}, 2),
    "metadata": ([(0, "3/state/_METADATA", _halve)], {3: (0, "3/state: ")}, 2),
    "arrays": ([(1, "3/state", _halve_arrays)], {3: (1, r"3/state/d/\w+")}, 2),
    "numbers": ([(1, "3/state", _exchange)], {3: (1, r"3/state: \['host'\] is not what")}, 2),
    "not listed": ([(1, "3", _lose)], {3: (1, "No such file .*/3/about.json")}, 2),
    "each another": (
        [(0, "3/about.json", _lose), (1, "2/state/manifest.ocdbt", _lose)],
        {3: (0, "No such file .*3/about.json"), 2: (1, "2/state")},
        1,
    ),
}


def _state(number):
    """Leaves that a process holds by itself, that all hold, and of which each holds a part."""
    numbers = np.arange(8, dtype=np.float32) + number

    def lie(*axes):
        at = jax.NamedSharding(data_mesh(jax.device_count()), jax.P(*axes))
        return jax.make_array_from_callback((8,), at, lambda index: numbers[index])

    return {"host": numbers, "same": lie(), "split": lie("data")}


def _save(folder, update, number):
    history = training.History(np.array([update]), {"loss": np.ones(1)})
    with training.Checkpoints(folder, every=1) as checkpoints:
        checkpoints.save(update, _state(number), history=history)


def _restore(folder, config=None):
    """What this process finds and says; an error in the words that are the same for all."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with training.Checkpoints(folder, every=1, config=config) as checkpoints:
                assert checkpoints.updates
                found = checkpoints.restore(_state(0))
        except (ValueError, OSError) as error:
            return {"error": str(error)}
    host, *others = found.state.values()
    return {
        "update": found.update,
        "numbers": [host.tolist(), *(x.tolist() for x in training.to_host(others))],
        "history": found.history.step.tolist(),
        "said": [str(w.message) for w in said if w.category is training.CheckpointWarning],
    }


def main(folder):
    """Of one process: a line of JSON per case."""
    training.connect()
    process, kept = jax.process_index(), folder / "kept"

    def copy(name):
        to = folder / f"{name}-{process}"
        # The first process may still hold the lock, and give it back at any moment.
        return pathlib.Path(shutil.copytree(kept, to, ignore=shutil.ignore_patterns(".lock*")))

    def say(case, found):
        print(json.dumps([case, found]), flush=True)

    for update in (1, 2, 3):
        _save(kept, update, update)
    for case, (damages, *_) in CASES.items():
        seen = copy(case.replace(" ", "-"))
        for which, what, damage in damages:
            if which == process:
                damage(seen / what)
        say(case, _restore(seen))
    say("another run", _restore(copy("another"), config=process or None))
    nothing = folder / f"nothing-{process}"
    say("nothing to see", _restore(copy("nothing") if process == 0 else nothing))
    (folder / "file").write_text("")
    say("no folder", _restore(copy("folder") if process == 0 else folder / "file" / "folder"))
    verdicts = [process == 0, True]  # process 1 finds the newest of what both see damaged
    with mock.patch.object(_storage, "is_sealed", side_effect=verdicts):
        say("shared", _restore(kept))
    _save(kept, 3, 30)
    say("saved anew", _restore(kept))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What both processes say, by case."""
    folder = tmp_path_factory.mktemp("unreadable")
    command = ["-m", "tests.training.test_unreadable", str(folder)]
    both = finish(start([command, command], devices=1), SECONDS)
    for _, errors, code in both:
        assert code == 0, errors[-3000:]
    first, second = (dict(map(json.loads, out.splitlines())) for out, *_ in both)
    assert list(first) == list(second)
    return {case: (first[case], second[case]) for case in first}, folder


def _assert_restored(found, update, number):
    for one in found:
        assert (one["update"], one["history"]) == (update, [update])
        assert one["numbers"] == [[float(i + number) for i in range(8)]] * 3


@pytest.mark.parametrize("case", CASES)
def test_both_pass_over_what_one_cannot_read(said, case):
    _, passed_over, update = CASES[case]
    found = said[0][case]
    _assert_restored(found, update, update)
    for one in found:
        assert len(one["said"]) == len(passed_over)
        for text, (newer, (process, reason)) in zip(one["said"], passed_over.items(), strict=True):
            assert re.search(f"update {newer} in .* cannot be read: .*from update {update}", text)
            assert re.search(rf"process {process}: [^;]*{reason}", text)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "nothing to see",
            r"none of the 3 .* update 3: process 1: .*No such file .*/3/about.json",
        ),
        ("another run", r"process 1: the checkpoint of update 3 .* another run: None there, 1"),
        ("no folder", r"process 1: cannot write checkpoints to .*file/folder: Not a directory"),
    ],
)
def test_where_nothing_is_left_both_say_the_same(said, case, words):
    first, second = (one["error"] for one in said[0][case])
    assert re.search(words, first)
    assert second == first.replace("/nothing-0 ", "/nothing-1 ")  # each names its own folder


def test_the_run_goes_on_where_one_process_could_not_read(said):
    found, folder = said
    _assert_restored(found["shared"], 2, 2)
    for one in found["shared"]:
        assert re.search(r"process 1: .*/3/about.json: its description is damaged", one["said"][0])
    assert (folder / "kept" / "3.damaged").exists()
    _assert_restored(found["saved anew"], 3, 30)
    assert not found["saved anew"][0]["said"]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
