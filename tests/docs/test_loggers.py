"""The blocks of the page on loggers, each where its library is installed."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.test_pages import BLOCK, DOCS

NEEDS = re.compile(r"not run: needs (\w+)")


def _blocks():
    """What has to be there before, and a block for each library."""
    before, blocks = "", {}
    for reason, _, text in BLOCK.findall((DOCS / "how-to/loggers.md").read_text()):
        if reason:
            blocks[NEEDS.search(reason)[1]] = text
        else:
            before += text
    return before, blocks


BEFORE, BLOCKS = _blocks()
# What holds of a first run alone, so that the page itself may be run again.
AFTER = {"wandb": 'assert list(runs) == ["SB", "LB"]\n'}


def test_every_library_has_its_block():
    assert set(BLOCKS) == {"tensorboard", "clu", "wandb", "mlflow"}


@pytest.mark.slow
@pytest.mark.parametrize("library", BLOCKS)
def test_a_callback_is_a_function(library, tmp_path):
    needed = "clu.metric_writers" if library == "clu" else library
    there = subprocess.run(
        [sys.executable, "-c", f"import {needed}"], capture_output=True, check=False
    )
    if there.returncode:
        pytest.skip(f"{needed} is not installed")
    # A process of its own: these libraries start threads and set up loggers for good.
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + BLOCKS[library] + AFTER.get(library, "")],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(path.is_file() for path in tmp_path.rglob("*"))
