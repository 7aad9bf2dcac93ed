"""Real processes, killed at random moments; `benchmarks.faults.kill` kills more of them."""

import signal

import numpy as np
import pytest

from benchmarks.faults.kill import children, killed_run
from benchmarks.faults.run import Run
from gapjax import training

# They share runs that take long.
pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("kill")]

UPDATES = 32  # of one process; two end some updates before
SETTINGS = {"every": 4, "seed": 5}


@pytest.fixture(scope="module")
def cache():
    return str(training.enable_compile_cache())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def one(folder, cache):
    """One process, killed twice; it is compared with an undisturbed run bit by bit."""
    (folder / "one").mkdir()
    return killed_run(
        folder / "one", processes=1, kills=2, updates=UPDATES, cache=cache, **SETTINGS
    )


@pytest.fixture(scope="module")
def two(folder, cache):
    """Two processes, of which one is killed; compared likewise."""
    (folder / "two").mkdir()
    return killed_run(
        folder / "two",
        processes=2,
        kills=1,
        updates=UPDATES - 4,
        heartbeat=6,
        cache=cache,
        **SETTINGS,
    )


def test_a_killed_process_ends_with_the_same_bits(one):
    assert len(one) == 2


def test_two_processes_of_which_one_is_killed_end_with_the_same_bits(two):
    (kill,) = two
    assert "another task died" in kill.error or "distributed service" in kill.error


@pytest.mark.usefixtures("one", "two")
def test_the_run_of_two_processes_goes_on_in_one(folder, cache):
    out = folder / "on.npz"
    run = Run(str(folder / "two" / "broken"), str(out), UPDATES, SETTINGS["every"], cache)
    with children(run, 1, folder) as (child,):
        child.end(120)
        assert child.updates() == list(range(UPDATES - 3, UPDATES + 1))
    found, expected = np.load(out), np.load(folder / "one" / "whole.npz")
    for name in expected.files:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_sigterm_to_one_of_two_saves_both_and_leaves(folder, cache, tmp_path):
    run = Run(str(tmp_path), str(tmp_path / "out.npz"), 1000, 100, cache)
    with children(run, 2, folder) as both:
        assert both[0].wait_for(3)
        both[1].process.send_signal(signal.SIGTERM)
        assert [child.process.wait(60) for child in both] == [143, 143]
        at = both[0].updates()[-1]
        assert both[1].updates()[-1] == at
        for child in both:
            assert f"told to leave: saved after update {at} of 1000" in child.errors.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == [str(at)]
