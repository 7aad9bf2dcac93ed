"""Keskar's sharpness in a random subspace: `python -m benchmarks.papers.subspace`.

The paper's second metric, at the solutions of `keskar-f2-mnist-small`, which `keskar2017` has
trained before into the same folder of runs. The directions are drawn once, the same for all
solutions; the start of the search too. What is measured is kept as it comes, so a run that was
interrupted goes on.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
from typing import Any

import jax
import numpy as np

from benchmarks.papers.pages import subspace_section, write_pages
from benchmarks.speed.timing import keep
from gapjax import landscape, study
from gapjax.study._findings._bench import Bench
from gapjax.study._findings._intervals import geometric_ratio
from gapjax.study._findings._landscape import SEEDS
from gapjax.study._findings._measures import EPSILONS
from gapjax.study._prepare import prepare_study

PRESET = "keskar-f2-mnist-small"
DIMENSIONS = 100  # the paper's


def sharpness(bench: Bench, folder: pathlib.Path, record: Any, member: int) -> dict[str, Any]:
    """Of one solution, by epsilon; one start, in the direction of the gradient."""
    at = bench.solution(folder, record, member)
    found: dict[str, Any] = {}
    for epsilon in EPSILONS:
        one = landscape.keskar_sharpness(
            at.loss_fn,
            at.params,
            at.batches,
            weight_fn=at.weight_fn,
            epsilon=epsilon,
            subspace_dim=DIMENSIONS,
            num_starts=1,
            key=jax.random.key(0),
            check=False,
            progress=False,
        )
        found[f"{epsilon:g}"] = {"value": one.value, "loss": one.loss, "loss_max": one.loss_max}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=pathlib.Path, default="runs/papers", help="folder of runs")
    parser.add_argument("--data-dir")
    parser.add_argument("--landscape-examples", type=int, default=study.Study.landscape_examples)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="measured, as many as others are")
    asked = parser.parse_args()
    folder = asked.runs / PRESET
    result = study.load_result(folder)
    fields = {"seeds": result.config.study["seeds"], "data_dir": asked.data_dir}
    fields["landscape_examples"] = asked.landscape_examples
    settings = dataclasses.replace(study.preset(PRESET), **fields)
    bench = Bench(prepare_study(settings).setup)
    path = folder / f"subspace-{asked.landscape_examples}.json"
    kept: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    ends = result.config.baseline
    seeds = result.regimes[ends[0]].seeds[: asked.seeds]
    for member, seed in enumerate(seeds):
        for regime in ends:
            name = f"{regime}-{seed}"
            if name not in kept:
                kept[name] = sharpness(bench, folder, result.regimes[regime], member)
                path.write_text(json.dumps(kept, indent=1))
                print(name, kept[name], flush=True)
    measured = {}
    for epsilon in (f"{epsilon:g}" for epsilon in EPSILONS):
        small, large = (
            np.array([kept[f"{regime}-{seed}"][epsilon]["value"] for seed in seeds])
            for regime in ends
        )
        measured[epsilon] = {
            **{regime: list(map(float, v)) for regime, v in zip(ends, (small, large), strict=True)},
            "ratio": geometric_ratio(large, small)._asdict(),
        }
    figures = {
        "command": shlex.join(["python", "-m", "benchmarks.papers.subspace", *_portable()]),
        "study": PRESET,
        "baseline": list(ends),
        "seeds": list(map(int, seeds)),
        "dimensions": DIMENSIONS,
        "examples": asked.landscape_examples,
        "epsilons": measured,
    }
    print(f"kept in {keep('keskar_subspace', figures)}")
    print(subspace_section())
    write_pages()


def _portable() -> list[str]:
    """The arguments without the folders of this machine."""
    words, places = sys.argv[1:], ("--runs", "--data-dir")
    return [w for at, w in enumerate(words) if not {w, words[at - 1] if at else ""} & {*places}]


if __name__ == "__main__":
    main()
