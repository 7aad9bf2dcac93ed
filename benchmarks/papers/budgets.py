"""At which budget is there a gap, and what closes it: `python -m benchmarks.papers.budgets`.

F1 on a part of MNIST, rates tuned over equal grids; the same regimes with the same epochs, the
same updates, and until the same training loss over the whole training set. Budgets named after the
command (`epochs`, `loss`, `loss-0.01`, `updates`) are run alone; other options go to
`gapjax study`.
"""

import argparse
import pathlib
import sys

from benchmarks.papers.kept import keep_study
from benchmarks.papers.pages import write_pages
from benchmarks.papers.run import named_first, run_study, with_options

PRESET = "hoffer-f1-mnist-small"
NEVER = (
    "No regime got there: the rate had fallen before, so that the most epochs allowed are fixed."
)
BUDGETS = {  # with what a reader should know
    "epochs": ("epochs", ""),
    "loss": ("loss=0.1", ""),
    "loss-0.01": ("loss=0.01", NEVER),
    "updates": ("updates", ""),  # of the large batch too, which costs most
}
REGIMES = ["--regimes", "SB", "LB", "LB+LR+GBN", "--large-batch", "512"]
SETTINGS = [*REGIMES, "--seeds", "3", "--tune", "3"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("budgets", nargs="*", choices=BUDGETS, metavar="BUDGET")
    parser.add_argument("--runs", type=pathlib.Path, default="runs/papers")
    asked, options = parser.parse_known_args(named_first(sys.argv[1:], BUDGETS))
    for budget in asked.budgets:
        name, (keep, known) = f"budgets-{budget}", BUDGETS[budget]
        own = with_options([*SETTINGS, "--keep", keep], options)
        run_study([PRESET, *own], asked.runs / name)
        keep_study(asked.runs / name, name, PRESET, f"Held fixed: {keep}. {known}".strip())
    print("\n".join(map(str, write_pages())))
