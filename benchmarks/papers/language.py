"""A small language model, ramps beside their controls: `python -m benchmarks.papers.language`.

Bytes of Python's own reference, a transformer, AdamW with a cosine: a constant small and a constant
large batch, `GROW` and `SEESAW`, all at equal tokens. Other options go to `gapjax study`.
"""

import argparse
import pathlib

from benchmarks.papers.kept import keep_study
from benchmarks.papers.pages import write_pages
from benchmarks.papers.run import run_study

PRESET = "pydoc-lm"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default="runs/papers")
    asked, options = parser.parse_known_args()
    run_study([PRESET, *options], asked.runs / PRESET)
    keep_study(asked.runs / PRESET, PRESET, PRESET)
    print("\n".join(map(str, write_pages())))
