"""What it takes to add a remedy, a task, a network, a metric of minima, a figure."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

import gapjax

REMEDY = '''
"""Keep every update short."""

import optax

from gapjax.study import Remedy

SHORT = Remedy(
    "SHORT",
    "updates of norm at most 0.1",
    "Pascanu, Mikolov, Bengio 2013",
    optimizer=lambda tx, plan: optax.chain(tx, optax.clip_by_global_norm(0.1)),
)
'''

TASK = '''
"""Counts: the network gives the logarithm of a rate."""

import jax.numpy as jnp

from gapjax.study import Task


def poisson(outputs, batch):
    return jnp.exp(outputs[:, 0]) - batch["count"] * outputs[:, 0]


def close(outputs, batch):
    return jnp.abs(jnp.exp(outputs[:, 0]) - batch["count"]) < 1


COUNTS = Task(poisson, {"close": close}, "close", inputs=lambda batch: batch["x"], name="counts")
'''

NETWORK = '''
"""One layer, and batch norm."""

import flax.linen as nn


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x)))
        return nn.Dense(1)(x)


def small(num_outputs=1):
    return Small()
'''

METRIC = '''
"""The norm of the gradient at a solution."""

import jax
import optax


def gradient_norm(loss_fn, params, data):
    """The norm of the mean gradient over batches of one size."""
    total = jax.tree.map(lambda *g: sum(g), *(jax.grad(loss_fn)(params, batch) for batch in data))
    return float(optax.tree.norm(total)) / len(data)
'''

ROW = """MEASURES: tuple[Measure, ...] = (
    Measure(
        "gradient",
        lambda at, on_step: {"value": gradient_norm(at.loss_fn, at.params, at.batches)},
        (Number("gradient_norm", "norm of the gradient", _value, compared=True),),
        "norm of the gradient: of the training loss.",
    ),
"""

ENTRY = """FIGURES: tuple[Figure, ...] = (
    Figure(
        "bars", "gap",
        lambda result, axis: axis.bar(*zip(*((n, r.updates) for n, r in result.regimes.items()))),
        ("Bars of updates", "of every regime."),
    ),
"""

RUN = """
import sys
import numpy as np
from gapjax import data, study
from mine.remedy import SHORT
from mine.task import COUNTS

rng = np.random.default_rng(0)
x = rng.normal(size=(96, 3)).astype(np.float32)
counts = rng.poisson(np.exp(0.5 * x[:, 0])).astype(np.float32)
parts = [{"x": x[s], "count": counts[s]} for s in (slice(0, 64), slice(64, None))]
study.run_study(
    study.Study(
        dataset=data.Dataset(*parts, normalize="feature"), model="mine.network:small", task=COUNTS,
        regimes=["SB", "LB", study.Regime("LB+SHORT", "large", (SHORT,))],
        seeds=2, epochs=2, small_batch=8, large_batch=32, evaluations=2,
    ),
    "out", landscape=True,
)
"""

pytestmark = pytest.mark.slow


def _lines(text):
    return len(text.strip().splitlines())


def _insert(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study with all five, in a copy of the package beside a package of the user's."""
    root = tmp_path_factory.mktemp("added")
    source = pathlib.Path(gapjax.__file__).parent
    shutil.copytree(source, root / "gapjax", ignore=shutil.ignore_patterns("__pycache__"))
    mine = root / "mine"
    mine.mkdir()
    for name, text in {"__init__": "", "remedy": REMEDY, "task": TASK, "network": NETWORK}.items():
        (mine / f"{name}.py").write_text(text.lstrip())
    # A metric touches two files: what computes it, and the row that says what becomes of it.
    (root / "gapjax/landscape/_gradient_norm.py").write_text(METRIC.lstrip())
    rows = root / "gapjax/study/_findings/_measures.py"
    _insert(rows, "MEASURES: tuple[Measure, ...] = (\n", ROW)
    _insert(
        rows,
        "from gapjax import landscape\n",
        "from gapjax import landscape\nfrom gapjax.landscape._gradient_norm import gradient_norm\n",
    )
    figures = root / "gapjax/study/_report/_figures/_list.py"
    _insert(figures, "FIGURES: tuple[Figure, ...] = (\n", ENTRY)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return root / "out"


def test_each_is_short():
    assert _lines(REMEDY) <= 15
    assert _lines(TASK) <= 20


def test_a_remedy_a_task_and_a_network_of_ones_own(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["task"]["headline"] == "close"
    assert results["regimes"]["LB+SHORT"]["remedies"] == ["SHORT"]
    moved = {name: found["distance"]["mean"] for name, found in results["regimes"].items()}
    assert moved["LB+SHORT"] <= 0.1 * results["regimes"]["LB+SHORT"]["updates"] + 1e-6
    assert moved["LB+SHORT"] < moved["LB"]


def test_a_metric_and_a_figure_reach_the_report_and_the_json(folder):
    found = json.loads((folder / "landscape.json").read_text())
    assert found["regimes"]["SB"]["numbers"]["gradient_norm"]["mean"] > 0
    assert "gradient_norm" in found["ratios"]
    report = (folder / "report.html").read_text()
    assert "norm of the gradient: of the training loss." in report
    assert re.search(r"Bars of updates", report)
