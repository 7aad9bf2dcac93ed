"""Every remedy on one data set, tuned over equal grids: `python -m benchmarks.papers.remedies`.

Data sets: `digits` (default), `mnist` (F1 on a part), `cifar10` (C1 in small, on a part). Rates are
tuned around each regime's rule: the same number for each, and more where the best lies at an end.
The budget is the epochs of the small batch, or what `--keep` says, as of `gapjax study`; each is
kept by its own name.
"""

import argparse
import pathlib
import sys

from benchmarks.papers.kept import keep_study
from benchmarks.papers.pages import write_pages
from benchmarks.papers.run import named_first, run_study, with_options

REGIMES = ("SB", "LB", "LB+LR", "LB+LR+GBN", "LB+LR+GBN+RA", "LB+NOISE", "LB+WARMUP")
REGIMES += ("LB+SAM", "LB+LARS", "LB+LAMB", "LB+EMA", "LB+PENALTY", "LB+SMOOTH")
SETTINGS = {
    "digits": ("digits", ["--seeds", "8", "--tune", "7"]),
    "mnist": ("hoffer-f1-mnist-small", ["--seeds", "3", "--tune", "5"]),
    # Batches of 256: five epochs with 1024 are 10 updates, after which all are close to chance.
    "cifar10": (
        "hoffer-c1-cifar10-small",
        ["--seeds", "3", "--tune", "3", "--large-batch", "256", "--epochs", "5"],
    ),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--runs", type=pathlib.Path, default="runs/papers")
    parser.add_argument("--keep", default="epochs", help="the budget")
    parser.add_argument("--note", default="", help="a sentence for the page: what was cut, say")
    asked, options = parser.parse_known_args(named_first(sys.argv[1:], ["digits"]))
    preset, own = SETTINGS[asked.data]
    name, regimes = f"remedies-{asked.data}", REGIMES
    if asked.keep != "epochs":
        name += f"-{asked.keep.replace('=', '-')}"
        own = [*own, "--keep", asked.keep]
        # Where updates or the loss are held fixed, regime adaptation changes nothing.
        regimes = tuple(one for one in REGIMES if not one.endswith("+RA"))
    own = [*own, "--regimes", *regimes]
    run_study([preset, *with_options(own, options)], asked.runs / name)
    keep_study(asked.runs / name, name, preset, asked.note)
    print("\n".join(map(str, write_pages())))
