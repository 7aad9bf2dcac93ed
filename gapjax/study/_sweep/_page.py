"""The files of a sweep that people read: JSON, CSV, and the report."""

import csv
import functools
import io
import json
import os
import pathlib
from typing import Any

from gapjax.study._report._figures import _style
from gapjax.study._report._page import render, scope
from gapjax.study._results import _files
from gapjax.study._results._records import FORMAT, to_plain
from gapjax.study._sweep import _words
from gapjax.study._sweep._figures import figures_of
from gapjax.study._sweep._findings import SweepResult


def write_files(result: SweepResult, folder: pathlib.Path) -> None:
    """Write ``results.json``, ``sweep.csv`` and ``report.html``."""
    _files.write_json(folder / "results.json", sweep_json(result))
    _files.write_text(folder / "sweep.csv", sweep_csv(result))
    write_sweep_report(result, folder / "report.html")


def sweep_json(result: SweepResult) -> dict[str, Any]:
    """What ``results.json`` holds, for readers without gapjax."""
    goal = result.goal
    return {
        "format": FORMAT,
        "finding": _words.sweep_finding(result),
        "target": goal.target,
        "target_of": goal.name,
        "task": to_plain(result.config.task),
        "sweep": result.config.sweep,
        "num_examples": result.config.num_examples,
        "budgets": {
            "same examples": result.config.examples,
            "same updates": result.config.updates,
            "unlimited, updates": result.config.most_updates,
        },
        "lines": {
            name: {"points": to_plain(line.points), "fit": to_plain(line.fit)}
            for name, line in result.lines.items()
        },
        "shifts": to_plain(result.shifts),
        "notes": _words.sweep_notes(result),
    }


def sweep_csv(result: SweepResult) -> str:
    """A row for every remedy, size, rate and seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    points = [point for line in result.lines.values() for point in line.points]
    beside = list(dict.fromkeys(name for p in points for t in p.trials for name in t.hyper))
    names = ("remedy", "batch_size", "learning_rate", *beside, "is_best", "seed", "updates")
    writer.writerow((*names, "examples"))
    first = result.config.sweep["first_seed"]
    for line in result.lines.values():
        for point in line.points:
            for at, trial in enumerate(point.trials):
                for seed, steps in enumerate(trial.steps, start=first):
                    took = ("", "") if steps is None else (steps, steps * point.batch_size)
                    tuned = (trial.hyper.get(name, "") for name in beside)
                    head = (line.remedy, point.batch_size, trial.learning_rate, *tuned)
                    writer.writerow((*head, int(at == point.best), seed, *took))
    return text.getvalue()


def write_sweep_report(result: SweepResult, path: str | os.PathLike[str]) -> None:
    """Write the report of a sweep, one HTML file.

    Args:
        result: from ``run_sweep`` or ``load_sweep``.
        path: the file; written whole or not at all.
    """
    sweep, drawn = result.config.sweep, []
    for figure in figures_of(result):
        svg = _style.to_svg(functools.partial(figure.draw, result))
        title, text = figure.caption
        drawn.append({"svg": scope(svg, figure.name), "title": title, "text": text})
    environment = result.config.environment
    page = render(
        "sweep.html.j2",
        title=f"How large may the batch be: {_name(sweep['model'])} on {sweep['dataset']['name']}",
        finding=_words.sweep_finding(result),
        tables=[
            ("Every size", _words.sweep_columns(result), list(_words.sweep_rows(result))),
            ("The critical batch size", _words.fit_columns(), list(_words.fit_rows(result))),
        ],
        names={name: i for i, name in enumerate(result.lines)},
        notes=_words.sweep_notes(result),
        drawn=drawn,
        study_json=json.dumps(sweep, indent=1),
        run={k: v for k, v in environment.items() if k != "command" and v},
        command=environment.get("command"),
    )
    _files.write_text(pathlib.Path(path), page)


def _name(model: str) -> str:
    return model.partition(" [")[0][:60]
