"""What goes into a paper: figures as files with their data beside them, and the table."""

import csv
import functools
import io
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from gapjax import _checks
from gapjax._paths import local_path
from gapjax.study._findings._result import StudyResult
from gapjax.study._report import _table
from gapjax.study._report._figures import _list, _style
from gapjax.study._results import _files
from gapjax.study._results._records import OverSeeds, RegimeRecord

WIDTHS = {"one-column": 3.33, "two-column": 6.9}  # inches, as most proceedings have them
PAPER: dict[str, Any] = {
    "font.size": 8,
    "lines.linewidth": 1.2,
    "svg.fonttype": "path",  # letters as outlines, TrueType in PDF: fonts need not be there
    "pdf.fonttype": 42,
}
_INSIDE = 5  # entries of a legend that stands on the axis
_WITHOUT_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_DATA = ("x_axis", "y_axis", "series", "mark", "x", "y", "low", "high")


def check_finished(result: StudyResult) -> None:
    """Refuse a study of which regimes are missing.

    Raises:
        ValueError: some are, by name.
    """
    names = [regime["name"] for regime in result.config.study["regimes"]]
    missing = [name for name in names if name not in result.regimes]
    if missing:
        raise ValueError(
            f"this study is not finished: {', '.join(missing)} of {len(names)} regimes "
            f"{'is' if len(missing) == 1 else 'are'} not trained yet. The same gapjax study "
            "command goes on from there."
        )


def write_figures(result: StudyResult, folder: str | os.PathLike[str]) -> tuple[pathlib.Path, ...]:
    """Write every figure of a study for a paper: SVG and PDF, in two widths, and what they show.

    Of figure ``NAME`` these are ``NAME-one-column`` (3.33 inches wide) and ``NAME-two-column``
    (6.9 inches), each as ``.svg`` and ``.pdf`` with fonts embedded, and ``NAME.csv``: every point
    that was drawn, a row each, read from the drawing itself.

    Args:
        result: a finished study, from ``run_study`` or ``load_result``.
        folder: to write into; made where it is not there.

    Returns:
        The files.

    Raises:
        ValueError: regimes of the study are not trained yet.
    """
    check_finished(result)
    folder = local_path("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    sections = dict.fromkeys(figure.section for figure in _list.FIGURES)
    if result.landscape is None or not result.landscape.regimes:
        sections.pop("landscape")
    for section in sections:
        for figure in _list.figures_of(result, section):
            height = figure.height(result) / _style.WIDTH
            files, rows = _draw(functools.partial(figure.draw, result), height)
            for suffix, data in files.items():
                written.append(folder / f"{figure.name}-{suffix}")
                _files.write_bytes(written[-1], data)
            written.append(folder / f"{figure.name}.csv")
            _files.write_text(written[-1], _to_csv(_DATA, rows))
    return tuple(written)


def _draw(
    draw: Callable[[Any], None], height: float
) -> tuple[dict[str, bytes], list[tuple[Any, ...]]]:
    """A drawing as files by suffix, and the rows of its data; ``height`` as a share of width."""
    import matplotlib

    files: dict[str, bytes] = {}
    with matplotlib.rc_context(_style.STYLE | PAPER):
        from matplotlib.figure import Figure as Canvas

        for columns, width in WIDTHS.items():
            tall = height * width * (0.62 if columns == "two-column" else 1.0)
            canvas = Canvas(figsize=(width, tall), layout="constrained")
            axis = canvas.add_subplot()
            draw(axis)
            handles, labels = axis.get_legend_handles_labels()
            if len(handles) > _INSIDE:  # they would cover what is drawn
                beside = 2 if columns == "one-column" else 4
                canvas.set_figheight(tall + 0.16 * -(-len(handles) // beside))
                canvas.legend(
                    handles, labels, frameon=False, loc="outside lower center", ncols=beside
                )
            elif handles:
                axis.legend(handles, labels, frameon=False)
            for kind, metadata in _WITHOUT_DATE.items():
                data = io.BytesIO()
                canvas.savefig(data, format=kind, metadata=metadata)
                files[f"{columns}.{kind}"] = data.getvalue()
        rows = [row for axis in canvas.axes for row in _drawn(axis)]
    return files, rows


def _drawn(axis: Any) -> Iterator[tuple[Any, ...]]:
    """What lies on an axis in its own coordinates: lines, points and bands, a row per place.

    An artist is called by its label. A label that starts with an underscore is in no legend.
    """
    from matplotlib.collections import PathCollection, PolyCollection

    # Of two axes that share a picture one has the label.
    beside = axis.get_shared_x_axes().get_siblings(axis)
    across = next((one.get_xlabel() for one in (axis, *beside) if one.get_xlabel()), "")

    def rows(artist: Any, mark: str, places: Any) -> Iterator[tuple[Any, ...]]:
        label = artist.get_label()
        series = "" if re.fullmatch(r"_child\d+", label) else label.removeprefix("_")
        head = (across, axis.get_ylabel(), series.replace(r"\$", "$"), mark)
        empty = (math.nan,) * 2
        return ((*head, *map(float, (*place, *empty)[:4])) for place in places)

    for line in axis.lines:
        if line.get_transform() == axis.transData:  # not a mark across the whole axis
            yield from rows(line, "line", line.get_xydata())
    for artist in axis.collections:
        if isinstance(artist, PathCollection):
            yield from rows(artist, "point", artist.get_offsets())
        elif isinstance(artist, PolyCollection):
            corners = np.concatenate([path.vertices for path in artist.get_paths()])
            at = {x: corners[corners[:, 0] == x, 1] for x in np.unique(corners[:, 0])}
            bounds = ((x, math.nan, y.min(), y.max()) for x, y in at.items())
            yield from rows(artist, "band", bounds)


def _to_csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow("" if value is None or value != value else value for value in row)
    return text.getvalue()


def format_table(result: StudyResult, format: str = "markdown", columns: Sequence[str] = ()) -> str:
    """The table of a study as text for a paper, a page or a program.

    Args:
        result: a finished study, from ``run_study`` or ``load_result``.
        format: ``"latex"`` (a ``tabular`` with rules of the package booktabs), ``"markdown"``, or
            ``"csv"``: plain numbers, mean and standard deviation in columns of their own, fractions
            as they are. ``batch_size`` is the largest of one that grows; means are over ``seeds``
            less ``diverged``, of which ``never_reached`` were not stopped by the loss; ``tuned``
            and ``rate_at_edge`` (†) are 0 or 1.
        columns: which columns, in this order, each by its heading or by how that begins, as in
            ``("regime", "test", "gap closed")``; empty for all.

    Returns:
        The text. Of LaTeX and Markdown the notes of the table follow it.

    Raises:
        ValueError: another format, a heading that is not there, or regimes of the study are not
            trained yet.
    """
    _checks.one_of("format", format, _FORMATS)
    check_finished(result)
    return _FORMATS[format](result, columns)


def _places(headings: Iterable[str], asked: Sequence[str]) -> list[int]:
    """Where the columns are that are asked for: all of them where none is."""
    several = isinstance(asked, Sequence) and not isinstance(asked, str)
    if not several or not all(isinstance(name, str) for name in asked):
        raise ValueError(f"columns must be headings, such as ('regime', 'test'), not {asked!r}.")
    headings = list(headings)
    places: list[int] = []
    for name in asked or headings:
        same = [at for at, heading in enumerate(headings) if heading == name]
        found = same or [at for at, heading in enumerate(headings) if heading.startswith(name)]
        if not found or not name:
            raise ValueError(f"no column begins with {name!r}; there are {', '.join(headings)}.")
        places += [at for at in found if at not in places]
    return places


def _cells(
    result: StudyResult, asked: Sequence[str]
) -> tuple[list[_table.Column], list[list[str]]]:
    """The columns that are asked for, and their cells, a list per row."""
    columns = _table.columns(result)
    places = _places((column.title for column in columns), asked)
    rows = [[row[at] for at in places] for row in _table.rows(result)]
    return [columns[at] for at in places], rows


def _markdown(result: StudyResult, asked: Sequence[str]) -> str:
    columns, rows = _cells(result, asked)
    lines = [
        [column.title for column in columns],
        ["---:" if column.numeric else "---" for column in columns],
        *rows,
    ]
    table = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    notes = [f"- {note.removeprefix('* ')}" for note in _table.notes(result)]
    return "\n".join([*table, "", *notes]) + "\n"


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "→": r"$\to$",
    "−": r"$-$",
    "–": "--",
    "†": r"\dag{}",
    "‖": r"$\Vert$",
    "₀": r"$_0$",
    "²": r"$^2$",
    "×": r"$\times$",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex(result: StudyResult, asked: Sequence[str]) -> str:
    columns, rows = _cells(result, asked)
    kinds = "".join("r" if column.numeric else "l" for column in columns)
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in rows]
    head = " & ".join(_escaped(column.title) for column in columns) + r" \\"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {note.removeprefix('* ')}" for note in _table.notes(result)),
            "",
        ]
    )


def _numbers(result: StudyResult, asked: Sequence[str]) -> str:
    facts = ("batch_size", "ghost_size", "budget", "updates", "examples", "epochs")
    rows: list[dict[str, Any]] = []
    for name, record in result.regimes.items():
        row: dict[str, Any] = {"regime": name, "first_batch_size": record.batch_sizes[0][1]}
        row |= {fact: getattr(record, fact) for fact in facts}
        # As the table has them, compiling and measuring left out.
        spent = {"seconds": record.curves.seconds, "flops": record.curves.flops}
        row |= {name: values[-1] if values else None for name, values in spent.items()}
        row |= {"learning_rate": record.run.learning_rate, **record.run.hyper}
        row |= _marks(record)
        measured: dict[str, OverSeeds] = {**record.run.values, "gap": record.run.gap}
        for measure, value in measured.items():
            row |= {f"{measure}_mean": value.mean, f"{measure}_std": value.std}
        share = result.gap.shares.get(record.same_as or name)
        for end in ("mean", "low", "high"):
            row[f"gap_closed_{end}"] = None if share is None else getattr(share, end)
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    header = [names[at] for at in _places(names, asked)]
    return _to_csv(header, ([row.get(name) for name in header] for row in rows))


def _marks(record: RegimeRecord) -> dict[str, int]:
    """What the table marks: of how many seeds means are, and how far the rate is to be trusted."""
    tuning = record.tuning
    return {
        "seeds": len(record.seeds),
        "diverged": len(record.run.lost),
        "never_reached": _table.unmet(record),
        "tuned": int(record.is_tuned),
        "rate_at_edge": int(tuning is not None and tuning.at_edge),
    }


_FORMATS: dict[str, Callable[[StudyResult, Sequence[str]], str]] = {
    "latex": _latex,
    "markdown": _markdown,
    "csv": _numbers,
}
