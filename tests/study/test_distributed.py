"""A study on two processes with four devices each: the numbers of one process."""

import json

import numpy as np

from gapjax import study
from tests.processes import finish, start

OWN = study.Study(seeds=8, epochs=1, evaluations=2, regimes=("SB", "LB+LR+GBN"))
STUDY = ["--seeds", "8", "--epochs", "1", "--evaluations", "2", "--regimes", "SB", "LB+LR+GBN"]
SECONDS = 240  # after which a hung process is killed


def _two(*arguments):
    """Output, errors and exit code of two processes."""
    commands = [["-m", "gapjax.cli", "study", *own, "--distributed"] for own in arguments]
    return finish(start(commands, devices=4), SECONDS)


def test_two_processes_train_what_one_does(tmp_path):
    expected = study.run_study(OWN, tmp_path / "one").regimes
    command = [*STUDY, "--out", str(tmp_path / "two")]
    two = _two(command, command)
    for said in two:
        assert said[2] == 0, said[1][-3000:]
    assert "LB+LR+GBN" in two[0][0] and two[1][0] == ""  # only the first one prints
    found = json.loads((tmp_path / "two" / "results.json").read_text())["regimes"]
    for name, regime in expected.items():
        for metric in ("train_loss", "test_loss", "distance"):
            np.testing.assert_allclose(
                found[name][metric]["values"], regime[metric]["values"], rtol=1e-4
            )
        assert found[name]["updates"] == regime["updates"]
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert (config["run"]["devices"], config["run"]["processes"]) == (8, 2)
    assert (tmp_path / "two" / "report.html").exists()


def test_processes_that_disagree_are_told_apart(tmp_path):
    arguments = [*STUDY, "--out", str(tmp_path)]
    for output, errors, code in _two(arguments, [*arguments, "--epochs", "2"]):
        message = "the processes differ in epochs: process 0 has 1.0, process 1 has 2.0"
        assert code == 2 and message in errors, errors[-3000:]
        assert "Traceback" not in errors and output == ""
    assert list(tmp_path.iterdir()) == []
