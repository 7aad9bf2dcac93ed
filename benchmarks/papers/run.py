"""Run presets, keep what they found, write the pages: what the papers' modules share."""

import argparse
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence

from benchmarks.papers.kept import keep_study
from benchmarks.papers.pages import write_pages
from gapjax import study


def run_presets(
    about: str, prefix: str | tuple[str, ...], arguments: Sequence[str] | None = None
) -> None:
    """The command line of a paper: presets, and what is passed on to `gapjax study`."""
    names = [name for name in study.PRESETS if name.startswith(prefix)]
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "presets", nargs="+", choices=names, metavar="PRESET", help=", ".join(names)
    )
    parser.add_argument("--runs", type=pathlib.Path, default="runs/papers", help="folder of runs")
    parser.add_argument("--note", default="", help="a sentence for the page: what was cut, say")
    parser.add_argument("--as", dest="name", help="name to keep it under, for one preset")
    asked, options = parser.parse_known_args(arguments)
    if asked.name and len(asked.presets) > 1:
        parser.error("--as names one preset, not several")
    for preset in asked.presets:
        name = asked.name or preset
        run_study([preset, *options], asked.runs / name)
        keep_study(asked.runs / name, name, preset, asked.note)
    print("\n".join(map(str, write_pages())))


def named_first(given: Sequence[str], names: Iterable[str]) -> list[str]:
    """Arguments whose names stand first: these, where the first is an option, or there is none.

    A word behind an option that is passed on is the option's own.
    """
    return list(given) if given and not given[0].startswith("-") else [*names, *given]


def with_options(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """The options that are given, and of a benchmark's own those that they do not replace."""
    asked = {word.partition("=")[0] for word in given if word.startswith("--")}
    kept, taken = list[str](), False
    for word in own:
        taken = word in asked if word.startswith("--") else taken
        kept += [] if taken else [word]
    return [*kept, *given]


def run_study(arguments: Sequence[str], folder: pathlib.Path) -> None:
    """`gapjax study` in a process of its own, which goes on where an earlier one stopped."""
    command = [sys.executable, "-m", "gapjax", "study", *arguments, "--out", str(folder)]
    print(f"$ gapjax study {shlex.join(command[4:])}", flush=True)
    code = subprocess.run(command).returncode
    if code:
        raise SystemExit(code)  # it has said why
