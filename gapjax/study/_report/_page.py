"""The report: one HTML file that needs no network, no script and no other file."""

import functools
import importlib.resources
import json
import os
import re
from typing import Any

from gapjax._paths import local_path
from gapjax.study._findings._result import StudyResult
from gapjax.study._report import _comparisons, _landscape, _table, _targets, _travel, _words
from gapjax.study._report._figures import _curves, _list, _style
from gapjax.study._report._numbers import plus_minus
from gapjax.study._results._files import write_text


def write_report(result: StudyResult, path: str | os.PathLike[str]) -> None:
    """Write the report of a study.

    Args:
        result: the study's result, from ``run_study`` or ``load_result``.
        path: the HTML file; written whole or not at all.
    """
    config = result.config
    command, landscape = config.environment.get("command"), _landscape.section(result)
    measured = (result.landscape.environment if result.landscape else None) or {}
    trained = {"command": None} | config.environment
    sections = ("gap", "curves", "travel", *(("landscape",) if landscape else ()))
    write_text(
        local_path("path", path),
        render(
            "report.html.j2",
            title=f"The generalization gap: {_model(config.study)} on {_dataset(config.study)}",
            finding=_words.finding(result),
            seeds=max(len(record.seeds) for record in result.regimes.values()),
            names={name: i for i, name in enumerate(result.regimes)},
            columns=_table.columns(result),
            rows=_table.rows(result),
            notes=_table.notes(result),
            tuned=result.is_tuned,
            tuning=_tuning(result),
            validation=round(100 * config.study["validation"]),
            travel=_travel.section(result),
            figures={section: _draw(result, section) for section in sections},
            landscape=landscape,
            axes={axis: _curves.AXES[axis] for axis in _curves.axes_of(result)},
            targets=_targets.section(result),
            comparisons=_comparisons.rows(result),
            effects=_comparisons.effects(result),
            study_json=json.dumps(config.study, indent=1),
            run={k: v for k, v in config.environment.items() if k != "command" and v},
            command=command,
            measured={k: v for k, v in measured.items() if k in trained and v != trained[k]},
        ),
    )


def render(template: str, **values: Any) -> str:
    """A page of the report from its template."""
    import jinja2

    parts = importlib.resources.files("gapjax.study") / "_report"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (parts / name).read_text("utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    paper = {"ink": _style.INK, "muted": _style.MUTED, "grid": _style.GRID}
    paper |= {f"c{i}": color for i, color in enumerate(_style.PALETTE)}
    palette = len(_style.PALETTE)
    return environment.get_template(template).render(paper=paper, palette=palette, **values)


def _model(study: dict[str, Any]) -> str:
    """A network by its name or its class; what its settings are, the configuration says."""
    name = re.split(r"[\s(\[]", study["model"], maxsplit=1)[0]
    return "a network" if name == "<lambda>" else name


def _dataset(study: dict[str, Any]) -> str:
    return study["dataset"]["name"]


def _draw(result: StudyResult, section: str) -> list[dict[str, Any]]:
    """The drawings of a section, with their captions."""
    drawn = []
    for figure in _list.figures_of(result, section):
        title, text = figure.caption
        drawn.append({"svgs": _drawings(result, figure), "title": title, "text": text})
    return drawn


def _drawings(result: StudyResult, figure: _list.Figure) -> dict[str, str]:
    """The drawings of a figure: one, or one for each axis that it can be drawn against."""
    axes = _curves.axes_of(result) if figure.switch else ("",)
    draws = {
        axis: functools.partial(figure.draw, result, **({"against": axis} if axis else {}))
        for axis in axes
    }
    svgs = _style.to_svgs(draws.values(), height=figure.height(result))
    return {
        axis: scope(svg, f"{figure.name}-{axis}" if axis else figure.name)
        for axis, svg in zip(draws, svgs, strict=True)
    }


def scope(svg: str, name: str) -> str:
    """Several drawings share a page: their ids must not meet."""
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)


def _tuning(result: StudyResult) -> list[dict[str, Any]]:
    """Rule and tuned rate of each regime side by side."""
    if not result.is_tuned:
        return []
    task, rows = result.config.task, []
    closed, by_rule = _table.closed(result), _table.closed(result, "rule")
    scale, digits = task.scale(task.headline), _table.digits(task, task.headline)
    for name, record in result.regimes.items():
        tuning, rule = record.tuning, record.at("rule").run
        assert tuning is not None
        rows.append(
            {
                "name": name,
                "tuned_rate": _table.setting(record.run) + "†" * tuning.at_edge,
                "tuned": _table.measured(task, record.run, "test", task.headline),
                "closed": closed.get(name, ""),
                "rule_rate": _table.setting(rule),
                "rule": _table.measured(task, rule, "test", task.headline),
                "rule_closed": by_rule.get(name, ""),
                "tried": ", ".join(
                    f"{trial.learning_rate:.3g}{_table.others(trial.hyper)}: "
                    + plus_minus(trial.validation, max(digits - 1, 1), scale)
                    for trial in tuning.trials
                ),
            }
        )
    return rows
