"""The report: one HTML file that needs no network, no script and no other file."""

import functools
import importlib.resources
import json
import os
import pathlib
import re
from typing import Any

from gapjax.study import _diffusion_report, _figures, _folder, _landscape_report, _table
from gapjax.study._result import StudyResult


def write_report(result: StudyResult, path: str | os.PathLike[str]) -> None:
    """Write the report of a study.

    Args:
        result: the study's result, from ``run_study`` or ``load_result``.
        path: the HTML file; written whole or not at all.
    """
    import jinja2

    parts = importlib.resources.files("gapjax.study")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (parts / name).read_text("utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    study, run = result.config["study"], result.config["run"]
    _folder.write_text(
        pathlib.Path(path),
        environment.get_template("report.html.j2").render(
            finding=_table.finding(result),
            seeds=max(len(regime["seeds"]) for regime in result.regimes.values()),
            names=[
                {"name": name, "color": i % len(_figures.PALETTE)}
                for i, name in enumerate(result.regimes)
            ],
            columns=_table.COLUMNS,
            rows=_table.rows(result),
            notes=_table.notes(result),
            tuning=_tuning(result),
            diffusion=_diffusion_report.section(result),
            figures=_draw(result),
            landscape=_landscape(result),
            paper={"ink": _figures.INK, "muted": _figures.MUTED, "grid": _figures.GRID}
            | {f"c{i}": color for i, color in enumerate(_figures.PALETTE)},
            study=study,
            study_json=json.dumps(study, indent=1),
            run={key: value for key, value in run.items() if key != "command" and value},
            command=run.get("command"),
        ),
    )


def _draw(result: StudyResult) -> dict[str, str]:
    rows = 1.2 + 0.42 * len(result.regimes)
    figures: dict[str, tuple[Any, float]] = {
        "accuracy": (_figures.plot_accuracy, rows),
        "distance": (_figures.plot_distance, 3.5),
    }
    if _table.shares(result):
        figures["closed"] = (_figures.plot_gap_closed, rows)
    if any(len(regime["batch_sizes"]) > 1 for regime in result.regimes.values()):
        figures["growth"] = (_figures.plot_growth, 3.5)
    for metric in ("test_accuracy", "train_loss", "test_loss"):
        figures[metric] = (functools.partial(_figures.plot_curves, metric=metric), 3.5)
    return {
        name: _scope(_figures.to_svg(functools.partial(draw, result), height=height), name)
        for name, (draw, height) in figures.items()
    }


def _landscape(result: StudyResult) -> dict[str, Any] | None:
    section = _landscape_report.section(result)
    if section:
        drawn = section["figures"].items()
        section["figures"] = {name: _scope(svg, name) for name, svg in drawn}
    return section


def _scope(svg: str, name: str) -> str:
    """Several drawings share a page: their ids must not meet."""
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)


def _tuning(result: StudyResult) -> list[dict[str, Any]]:
    """Rule and tuned rate of each regime side by side."""
    if not all(regime["tuned"] for regime in result.regimes.values()):
        return []
    rows, closed = [], _table.closed(result, "tuned")
    for name, regime in result.regimes.items():
        tuned = regime["tuned"]
        rows.append(
            {
                "name": name,
                "rule_rate": f"{regime['learning_rate']:.3g}",
                "rule": _table.plus_minus(regime["test_accuracy"], 2, 100),
                "tuned_rate": f"{tuned['learning_rate']:.3g}" + ("†" if tuned["at_edge"] else ""),
                "tuned": _table.plus_minus(tuned["test_accuracy"], 2, 100),
                "closed": closed.get(name, ""),
                "tried": ", ".join(
                    f"{r['learning_rate']:.3g}: "
                    + _table.plus_minus(r["validation_accuracy"], 1, 100)
                    for r in tuned["rates"]
                ),
            }
        )
    return rows
