"""A study on two processes with four devices each: the numbers of one process, also if killed."""

import json
import os
import signal
import sys

import numpy as np
import pytest

from gapjax import cli, study
from gapjax.study._population import _keep
from tests.processes import finish, start
from tests.study.conftest import numbers

# They share runs that take long.
pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.processes]

OWN = study.Study(seeds=8, epochs=1, evaluations=2, regimes=("SB", "LB+LR+GBN"))
STUDY = ["--seeds", "8", "--epochs", "1", "--evaluations", "2", "--regimes", "SB", "LB+LR+GBN"]
KILLED_AT, NEVER = 40, 1000  # of the 80 updates of SB
SECONDS = 240  # after which a hung process is killed


def _two(*arguments):
    """Output, errors and exit code of two processes."""
    commands = [["-m", "gapjax.cli", "study", *own, "--distributed"] for own in arguments]
    return finish(start(commands, devices=4), SECONDS)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of a study of two processes, and what they said."""
    folder = tmp_path_factory.mktemp("distributed") / "two"
    command = [*STUDY, "--out", str(folder)]
    said = _two(command, command)
    for _, errors, code in said:
        assert code == 0, errors[-3000:]
    return folder, said


def test_two_processes_train_what_one_does(two, tmp_path):
    expected = study.run_study(OWN, tmp_path).regimes
    folder, said = two
    assert "LB+LR+GBN" in said[0][0] and said[1][0] == ""  # only the first one prints
    found = json.loads((folder / "results.json").read_text())["regimes"]
    for name, record in expected.items():
        for metric in ("train_loss", "test_loss", "distance"):
            np.testing.assert_allclose(
                found[name][metric]["values"], record.run.values[metric].values, rtol=1e-4
            )
        assert found[name]["updates"] == record.updates
    config = json.loads((folder / "config.json").read_text())
    assert (config["environment"]["devices"], config["environment"]["processes"]) == (8, 2)
    assert (folder / "report.html").exists()


def test_processes_that_disagree_are_told_apart(tmp_path):
    arguments = [*STUDY, "--out", str(tmp_path)]
    for output, errors, code in _two(arguments, [*arguments, "--epochs", "2"]):
        message = "the processes differ in epochs: process 0 has 1.0, process 1 has 2.0"
        assert code == 2 and message in errors, errors[-3000:]
        assert "Traceback" not in errors and output == ""
    assert list(tmp_path.iterdir()) == []


def main(dies_at, arguments):
    """The command line; until it dies with a checkpoint after every segment, else as it is."""
    save, restore = _keep.Keeper.save, _keep.Keeper.restore

    def save_and_die(keeper, at, curves, **options):
        save(keeper, at, curves, **options)
        if at.update >= dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def restore_and_say(keeper, start, curves):
        at = restore(keeper, start, curves)
        print(f"begins after update {at.update}", file=sys.stderr)
        return at

    if dies_at:
        _keep._SECONDS, _keep.Keeper.save = -1.0, save_and_die
    _keep.Keeper.restore = restore_and_say
    sys.exit(cli.main(arguments))


def test_a_study_of_which_a_process_is_killed_goes_on_inside_the_regime(two, tmp_path):
    def begin(*dies_at):
        run = ["study", *STUDY, "--out", str(tmp_path), "--distributed"]
        module = ["-m", "tests.study.test_distributed"]
        return start([[*module, str(update), *run] for update in dies_at], devices=4)

    both = begin(NEVER, KILLED_AT)
    try:
        assert both[1].wait(SECONDS) == -signal.SIGKILL
        both[0].kill()  # as a scheduler does when one is lost
    finally:
        finish(both, SECONDS)
    assert not list((tmp_path / "regimes").iterdir())
    begun = []
    for _, errors, code in finish(begin(0, 0), SECONDS):
        assert code == 0, errors[-3000:]
        lines = [line.split() for line in errors.splitlines()]
        begun.append([int(line[-1]) for line in lines if line[:2] == ["begins", "after"]])
    assert begun[0] == begun[1]
    inside, anew = begun[0]  # SB, and the regime after it
    assert 0 < inside < 80 and anew == 0
    assert numbers(tmp_path) == numbers(two[0])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
