"""How large may the batch be: `python -m benchmarks.sweep digits`, timed, and its picture.

`digits`: 8 sizes, 8 seeds, 5 rates, to a validation error of 0.1 and to the three budgets; the
time it took, compiling and measuring with it. `digits-gbn`: the same with the remedy LR+GBN, in the
same folder, so only that is trained. What is done is kept in the folder, and not trained again.
"""

import argparse
import pathlib
from typing import Any

import numpy as np

from benchmarks.speed.timing import keep
from gapjax import study, training
from gapjax.study._sweep._records import read_records

SIZES = (16, 32, 64, 96, 128, 256, 512, 1024)
TARGET = 0.1
REMEDIES = {"digits": ("none",), "digits-gbn": ("none", "LR+GBN")}


def draw(result: Any, path: pathlib.Path) -> None:
    """The three figures of a sweep side by side."""
    import matplotlib.pyplot as plt

    from gapjax.study._report._figures._style import STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
        for axis, plot in zip(
            axes, (study.plot_steps, study.plot_examples, study.plot_pareto), strict=True
        ):
            plot(result, axis)
        figure.savefig(path, dpi=110)


def figures(result: Any, seconds: float) -> dict[str, Any]:
    """What is kept as JSON."""
    return {
        "finding": study.sweep_finding(result),
        "seconds": seconds,
        "sizes": {
            name: {
                point.batch_size: {
                    "learning rate": point.learning_rate,
                    "at edge": point.at_edge,
                    "updates": [point.steps.mean, point.steps.low, point.steps.high],
                    "examples": point.examples.mean,
                }
                for point in line.points
            }
            for name, line in result.lines.items()
        },
        "critical batch": {
            name: None
            if line.fit is None
            else {
                "critical batch": line.fit.critical_batch,
                "interval": list(line.fit.critical_batch_interval),
                "bootstrap": list(line.fit.critical_batch_bootstrap),
                "20% batch": line.fit.twenty_percent_batch,
                "note": line.fit.note,
            }
            for name, line in result.lines.items()
        },
        "shifts": {n: [s.mean, s.low, s.high] for n, s in result.shifts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=REMEDIES)
    parser.add_argument("--out", default="runs/sweep-benchmark")
    parser.add_argument("--picture", default="docs/sweep.png")
    given = parser.parse_args()
    training.use_cores()
    training.enable_compile_cache()
    asked = study.Sweep(study.Study(), SIZES, TARGET, REMEDIES[given.what])

    def progress(at: Any) -> None:
        if at.update == at.updates:
            print(f"{at.regime}: {at.examples_per_second:,.0f} examples/s", flush=True)

    result = study.run_sweep(asked, given.out, progress=progress)
    records = read_records(pathlib.Path(given.out))
    seconds = float(np.sum([record.seconds for record in records]))
    print(study.sweep_finding(result))
    print(f"\n{seconds:.0f} s of training {len(records)} sizes")
    print(f"kept in {keep('sweep', {given.what: figures(result, seconds)})}")
    draw(result, pathlib.Path(given.picture))


if __name__ == "__main__":
    main()
