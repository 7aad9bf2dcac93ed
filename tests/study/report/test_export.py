"""Figures and tables for a paper say what the study found, and need nothing else."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest

from gapjax import cli, study
from gapjax.study._report import _export
from gapjax.study._results._records import Diverged, Trial, Tuning


@pytest.fixture(scope="module")
def figures(finished, tmp_path_factory):
    _, result, _ = finished
    folder = tmp_path_factory.mktemp("figures") / "new" / "folder"
    return folder, study.write_figures(result, folder)


def _rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_every_figure_comes_in_two_widths_and_two_kinds_with_its_data(figures):
    folder, written = figures
    assert {path.name for path in folder.iterdir()} == {path.name for path in written}
    names = {path.stem for path in written if path.suffix == ".csv"}
    assert {"headline", "test_accuracy", "train_loss", "distance"} <= names
    for name in names:
        for columns, inches in _export.WIDTHS.items():
            svg = (folder / f"{name}-{columns}.svg").read_text()
            assert float(re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)[1]) == pytest.approx(
                72 * inches
            )
            assert "<text" not in svg  # letters are outlines: no font has to be there
            pdf = (folder / f"{name}-{columns}.pdf").read_bytes()
            assert b"/FontFile2" in pdf and b"/Type3" not in pdf
            width = float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)[1])
            assert width == pytest.approx(72 * inches, abs=0.01)


def test_drawing_again_changes_no_byte(finished, figures):
    (figure,) = (one for one in study.FIGURES if one.name == "distance")
    files, _ = _export._draw(lambda axis: figure.draw(finished[1], axis), 3.5 / 5.2)
    for suffix, data in files.items():
        assert (figures[0] / f"distance-{suffix}").read_bytes() == data


def test_the_data_are_those_of_the_study(finished, figures):
    _, result, _ = finished
    rows = _rows(figures[0] / "test_accuracy.csv")
    assert {row["x_axis"] for row in rows} == {"updates"}
    assert {row["y_axis"] for row in rows} == {"test accuracy, %"}
    for name, record in result.regimes.items():
        own = [row for row in rows if row["series"] == name]
        line = [row for row in own if row["mark"] == "line"]
        band = [row for row in own if row["mark"] == "band"]
        at, values = record.curves.measured("test_accuracy")
        values = 100 * values
        assert [float(row["x"]) for row in line] == [record.curves.update[i] for i in at]
        np.testing.assert_allclose([float(row["y"]) for row in line], values.mean(1), atol=1e-9)
        low, high = ([float(row[end]) for row in band] for end in ("low", "high"))
        np.testing.assert_allclose(low, values.mean(1) - values.std(1), atol=1e-9)
        np.testing.assert_allclose(high, values.mean(1) + values.std(1), atol=1e-9)


def test_every_seed_is_in_the_data_of_the_headline(finished, figures):
    _, result, _ = finished
    rows = [row for row in _rows(figures[0] / "headline.csv") if row["mark"] == "point"]
    for name, record in result.regimes.items():
        values = [float(row["x"]) for row in rows if row["series"] == name]
        np.testing.assert_allclose(values, 100 * record.run.values["test_accuracy"].array)


def test_nothing_drawn_lacks_a_name(figures):
    for path in figures[1]:
        if path.suffix == ".csv":
            assert all(row["series"] for row in _rows(path)), path


def test_numbers_of_the_table_are_plain(finished):
    _, result, _ = finished
    rows = list(csv.DictReader(io.StringIO(study.format_table(result, "csv"))))
    assert [row["regime"] for row in rows] == list(result.regimes)
    for row in rows:
        record = result.regimes[row["regime"]]
        value = record.run.values["test_accuracy"]
        assert float(row["test_accuracy_mean"]) == value.mean
        assert float(row["test_accuracy_std"]) == value.std
        assert int(row["batch_size"]) == record.batch_size
        # As in the table, without compiling and measuring.
        assert float(row["seconds"]) == record.curves.seconds[-1] <= record.seconds
        assert float(row["flops"]) == record.curves.flops[-1]
    share = result.gap.shares["LB+LR+GBN"]
    ends = [float(rows[-1][f"gap_closed_{end}"]) for end in ("mean", "low", "high")]
    assert ends == [share.mean, share.low, share.high]


def test_latex_holds_the_cells_of_the_table(finished):
    _, result, _ = finished
    text = study.format_table(result, "latex")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    lines = body.splitlines()[1:]
    for line, row in zip(lines, study.rows(result), strict=True):
        assert line.endswith(r" \\")
        cells = line.removesuffix(r" \\").split(" & ")
        assert [cell.replace(r" $\pm$ ", " ± ").replace(r"\%", "%") for cell in cells] == row
    assert not re.search(r"(?<!\\)[%#]", body)
    kinds = re.search(r"begin\{tabular\}\{@\{\}(\w+)@", text)[1]
    assert len(kinds) == len(study.columns(result))


def test_signs_of_latex_are_escaped():
    assert _export._escaped(r"a_b & 5% {x} $y \z ~^#") == (
        r"a\_b \& 5\% \{x\} \$y \textbackslash{}z \textasciitilde{}\textasciicircum{}\#"
    )


def test_markdown_is_a_table(finished):
    _, result, _ = finished
    head, rule, *lines = study.format_table(result, "markdown").splitlines()
    assert head.count("|") == rule.count("|") == len(study.columns(result)) + 1
    assert lines[0].split(" | ")[0] == "| SB"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("updates", "regime"), ["updates", "regime"]),
        (("test", "gap"), ["test acc %", "test loss", "gap"]),  # a heading as it is comes first
        (("gap c", "gap", "gap c"), ["gap closed % [95%]", "gap"]),
    ],
)
def test_columns_that_are_asked_for(finished, asked, found):
    _, result, _ = finished
    whole = [column.title for column in study.columns(result)]
    head, _, *lines = study.format_table(result, columns=asked).splitlines()
    assert head.strip("| ").split(" | ") == found
    for line, row in zip(lines, study.rows(result), strict=False):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells == [row[whole.index(title)] for title in found]
    latex = study.format_table(result, "latex", asked)
    assert len(re.search(r"begin\{tabular\}\{@\{\}(\w+)@", latex)[1]) == len(found)
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines() if r" \\" in line} == {len(found) - 1}


def test_columns_of_plain_numbers(finished):
    _, result, _ = finished
    text = study.format_table(result, "csv", ["regime", "test_accuracy"])
    (head, first, *_) = csv.reader(io.StringIO(text))
    assert head == ["regime", "test_accuracy_mean", "test_accuracy_std"]
    assert float(first[1]) == result.regimes["SB"].run.values["test_accuracy"].mean


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["tests"], "no column begins with 'tests'; there are regime, test acc %, gap closed"),
        ([""], "no column begins with ''"),
        ("regime", r"must be headings, such as \('regime', 'test'\), not 'regime'"),
        ([3], "must be headings"),
        (None, "must be headings, .* not None"),
    ],
)
def test_columns_that_are_not_there(finished, asked, message):
    with pytest.raises(ValueError, match=message):
        study.format_table(finished[1], columns=asked)


def test_an_unfinished_study_is_one_line(finished, tmp_path):
    _, result, _ = finished
    part = dataclasses.replace(result, regimes={"SB": result.regimes["SB"]})
    for write in (
        lambda: study.write_figures(part, tmp_path),
        lambda: study.format_table(part),
        lambda: study.bibliography(part),
    ):
        with pytest.raises(ValueError, match=r"not finished: LB, LB\+LR\+GBN of 3 regimes are not"):
            write()
    with pytest.raises(ValueError, match="Did you mean 'latex'"):
        study.format_table(result, "latexx")


def test_commands(finished, tmp_path, capsys):
    folder, result, _ = finished
    for line, start in (("table", "| regime"), ("cite", "% the generalization gap")):
        assert cli.main([line, str(folder)]) == 0
        assert capsys.readouterr().out.startswith(start)
    assert cli.main(["table", str(folder), "--format", "csv"]) == 0
    assert capsys.readouterr().out == study.format_table(result, "csv")
    assert cli.main(["table", str(folder), "--columns", "regime", "test acc"]) == 0
    assert capsys.readouterr().out.startswith("| regime | test acc % |\n")
    assert cli.main(["table", str(folder), "--frm", "latex"]) == 2
    said = "gapjax: Unrecognized options: --frm, latex. See gapjax table --help.\n"
    assert capsys.readouterr().err == said
    assert cli.main(["table", str(folder), "--format=latex"]) == 0
    assert capsys.readouterr().out == study.format_table(result, "latex")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    for line in ("figures", "table", "cite"):
        assert cli.main([line, str(tmp_path / "sweep")]) == 2
        assert f"holds a sweep, and gapjax {line} takes a study" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"study": {}}')  # 0.1 sealed nothing
    for line in ("figures", "table", "cite"):
        assert cli.main([line, str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_the_table_marks_is_in_the_numbers_too(finished):
    _, result, _ = finished

    def rows(**changes):
        marked = {n: dataclasses.replace(r, **changes) for n, r in result.regimes.items()}
        text = study.format_table(dataclasses.replace(result, regimes=marked), "csv")
        return next(csv.DictReader(io.StringIO(text)))

    first = result.regimes["SB"]
    marks = ("seeds", "diverged", "never_reached", "tuned", "rate_at_edge")
    assert [rows()[mark] for mark in marks] == ["3", "0", "0", "0", "0"]
    lost = dataclasses.replace(
        first.run, diverged=[Diverged(s, 1, None) for s in (0, 2)], hyper={"momentum": 0.7}
    )
    tried = [Trial(0.1, {}, first.run.gap)] * 2
    found = rows(run=lost, stopped=[None, 4, None], tuning=Tuning(tried, 0, True))
    assert [found[mark] for mark in marks] == ["3", "2", "0", "1", "1"]
    assert found["momentum"] == "0.7"
    assert rows(stopped=[None, 4, None])["never_reached"] == "2"


def test_a_table_of_a_tuned_study_says_so(finished):
    _, result, _ = finished
    tuning = Tuning([Trial(0.1, {}, result.regimes["SB"].run.gap)], 0, False)
    tuned = {n: dataclasses.replace(r, tuning=tuning) for n, r in result.regimes.items()}
    text = study.format_table(dataclasses.replace(result, regimes=tuned))
    assert "judged by the accuracy on a validation split (20% of the training set)" in text
    assert "validation" not in study.format_table(result)
