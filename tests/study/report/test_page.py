"""The report is one file that needs nothing else and says what the result says."""

import csv
import dataclasses
import html.parser
import io
import re

import numpy as np
import pytest

from gapjax import study
from gapjax.study._findings._result import find_all
from gapjax.study._report._figures import _curves, _list
from gapjax.study._results import _folder
from gapjax.study._results._records import Curves


class _Tags(html.parser.HTMLParser):
    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(finished):
    folder, _, _ = finished
    text = (folder / "report.html").read_text()
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    return text, tags


def _axis():
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def _part(finished, *names):
    """The result of some regimes alone."""
    folder, result, _ = finished
    records = {name: result.regimes[name] for name in names}
    examples = {name: _folder.read_examples(folder, r) for name, r in records.items()}
    return find_all(result.config, records, examples)


def test_nothing_is_fetched_and_nothing_runs(page):
    text, tags = page
    for tag, attrs in tags.seen:
        assert tag not in ("script", "link", "iframe", "img")
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith("#")
    assert "@import" not in text and "url(http" not in text


def test_drawings_share_the_page_without_sharing_ids(page, finished):
    text, tags = page
    assert len(tags.ids) == len(set(tags.ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert {a or b for a, b in used} <= set(tags.ids)
    figures = [f for s in ("gap", "curves", "travel") for f in _list.figures_of(finished[1], s)]
    drawn = sum(4 if figure.switch else 1 for figure in figures)
    assert sum(tag == "svg" for tag, _ in tags.seen) == drawn >= 5
    assert all(figure.caption[0] in text for figure in figures)


def test_every_number_of_the_table_is_there(page, finished):
    _, result, _ = finished
    text = " ".join("".join(page[1].text).split())
    for row in study.rows(result):
        assert len(row) == len(study.columns(result))
        for cell in row:
            assert cell in text
    assert study.finding(result) in text
    assert "gapjax study x" in text
    assert result.config.environment["jax"] in text


def test_the_headline_comes_first(finished):
    titles = [column.title for column in study.columns(finished[1])]
    assert titles[:3] == ["regime", "test acc %", "gap closed % [95%]"]


def test_colours_follow_the_page(page):
    text, _ = page
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert not set(re.findall(r"(?:fill|stroke): (#\w+)", " ".join(drawings)))
    dark = text[text.index("prefers-color-scheme: dark") :]
    for name in set(re.findall(r"var\((--\w+)\)", text)):
        assert f"{name}:" in text
        assert name in dark.split("@media print")[0]


def test_report_can_be_drawn_again_from_the_folder(finished, tmp_path):
    folder, _, _ = finished
    study.write_report(study.load_result(folder), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (folder / "report.html").read_bytes()


def test_curves_against_every_axis_and_a_switch_for_it(page, finished):
    text, tags = page
    _, result, _ = finished
    switch = [attrs for tag, attrs in tags.seen if tag == "input"]
    assert [a["id"] for a in switch] == [
        "axis-updates",
        "axis-examples",
        "axis-flops",
        "axis-seconds",
    ]
    assert "checked" in switch[0] and "checked" not in switch[1]
    for against in ("updates", "examples", "flops", "seconds"):
        axis = _axis()
        study.plot_curves(result, axis, name="test_loss", against=against)
        curves = result.regimes["SB"].curves
        rows, _ = curves.measured("test_loss")
        wanted = getattr(curves, "update" if against == "updates" else against)
        np.testing.assert_allclose(axis.lines[0].get_xdata(), np.array(wanted)[rows])
        assert f'class="by by-{against}"' in text
    with pytest.raises(ValueError, match="against must be one of"):
        study.plot_curves(result, _axis(), name="test_loss", against="hours")
    with pytest.raises(ValueError, match="Did you mean 'test_loss'"):
        study.plot_curves(result, _axis(), name="test_los")
    curves = dataclasses.replace(result.regimes["SB"].curves, flops=[])
    without = {"SB": dataclasses.replace(result.regimes["SB"], curves=curves)}
    bare = dataclasses.replace(result, regimes=without)
    assert "flops" not in _curves.axes_of(bare)
    with pytest.raises(ValueError, match="the FLOPs of regime SB were not measured"):
        study.plot_curves(bare, _axis(), name="test_loss", against="flops")


def test_points_are_the_seeds(finished):
    _, result, _ = finished
    axis = _axis()
    study.plot_headline(result, axis)
    drawn = [c.get_offsets()[:, 0] for c in axis.collections if len(c.get_offsets()) == 3]
    for points, record in zip(drawn, result.regimes.values(), strict=True):
        wanted = 100 * record.run.values["test_accuracy"].array
        np.testing.assert_allclose(points, wanted)


def test_laws_are_drawn_as_they_were_fitted(finished):
    _, result, _ = finished
    axis = _axis()
    study.plot_distance(result, axis)
    found = result.travel["SB"]
    assert result.travel["LB"] is None  # four updates: nothing to fit
    _, log, power = axis.lines[:3]
    first, last = found.updates
    for line in (log, power):
        np.testing.assert_allclose(line.get_xdata()[[0, -1]], found.updates)
    factor = last / first
    np.testing.assert_allclose(np.ptp(log.get_ydata()), found.log_slope.mean * np.log(factor))
    np.testing.assert_allclose(
        power.get_ydata()[-1] / power.get_ydata()[0], factor**found.power_exponent.mean
    )


def test_half_a_study_has_a_report_too(finished, tmp_path):
    study.write_report(_part(finished, "SB"), tmp_path / "part.html")
    text = html.unescape((tmp_path / "part.html").read_text())
    assert "LB was not trained, so there is no gap between SB and LB." in text
    assert "share of the gap" not in text.lower().replace("generalization ", "")


def test_without_remedies_no_share_is_spoken_of(finished, tmp_path):
    two = _part(finished, "SB", "LB")
    study.write_report(two, tmp_path / "two.html")
    text = (tmp_path / "two.html").read_text()
    assert "The share of the gap" not in text and "From batch 8 to batch 32" in text
    assert not any("gap closed:" in note for note in study.notes(two))


def test_a_regime_that_is_one_with_another_is_drawn_once(finished, tmp_path):
    """As two rules of one algorithm are, once both are tuned."""
    folder, result, _ = finished
    records = dict(result.regimes)
    examples = {name: _folder.read_examples(folder, r) for name, r in records.items()}
    records["TWIN"] = dataclasses.replace(records["LB+LR+GBN"], name="TWIN", same_as="LB+LR+GBN")
    examples["TWIN"] = examples["LB+LR+GBN"]
    twins = find_all(result.config, records, examples)
    assert "TWIN" not in twins.gap.shares
    study.write_report(twins, tmp_path / "report.html")
    rows = list(csv.DictReader(io.StringIO(study.format_table(twins, "csv"))))
    share = {row["regime"]: row["gap_closed_mean"] for row in rows}
    assert share["TWIN"] == share["LB+LR+GBN"] != ""


def test_the_ends_may_have_other_names(finished, tmp_path):
    _, result, _ = finished
    config = dataclasses.replace(
        result.config, study={**result.config.study, "baseline": ["LB+LR+GBN", "LB"]}
    )
    folder = finished[0]
    examples = {n: _folder.read_examples(folder, r) for n, r in result.regimes.items()}
    other = find_all(config, result.regimes, examples)
    study.write_report(other, tmp_path / "other.html")
    text = html.unescape((tmp_path / "other.html").read_text())
    assert "held fixed against the small batch" in text
    assert other.travel["SB"] is not None and other.travel["SB"].beside is None
    assert [row[2] for row in study.rows(other)][1:] == ["", ""]


def test_accuracy_of_networks_that_diverged_is_not_drawn(finished):
    values = {
        "test_accuracy": [[0.5, 0.7, 0.6], [0.0, 0.9, 0.9]],
        "test_loss": [[1.0, 1.0, 1.0], [None, 0.5, 0.5]],
    }
    values["distance"] = values["test_loss"]
    curves = Curves([1, 2], [8, 16], [0.1, 0.2], values)
    record = dataclasses.replace(finished[1].regimes["SB"], curves=curves)
    _, mean, _ = _curves.over_members(record, "test_accuracy")
    np.testing.assert_allclose(mean, [0.6, 0.9])


def test_a_new_figure_is_one_entry(finished, monkeypatch, tmp_path):
    def draw(result, axis):
        axis.bar(list(result.regimes), [r.examples for r in result.regimes.values()])

    mine = study.Figure("examples", "gap", draw, ("Examples seen", "by every regime."))
    monkeypatch.setattr(_list, "FIGURES", (*_list.FIGURES, mine))
    study.write_report(finished[1], tmp_path / "mine.html")
    assert "<b>Examples seen</b> by every regime." in (tmp_path / "mine.html").read_text()


def test_names_with_signs_of_mathematics_are_drawn_as_they_are(finished, tmp_path):
    folder, result, _ = finished
    records = {"$x$ & <b>": dataclasses.replace(result.regimes["SB"], name="$x$ & <b>")}
    examples = {"$x$ & <b>": _folder.read_examples(folder, result.regimes["SB"])}
    study.write_report(find_all(result.config, records, examples), tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "<b></td>" not in text and "$x$ &amp; &lt;b&gt;" in text


def test_the_band_of_a_measure_below_0_is_about_its_mean(finished):
    _, result, _ = finished
    record = result.regimes["SB"]
    curves = record.curves
    rows, _ = curves.measured("test_loss")
    values = [[None] * len(row) for row in curves.values["test_loss"]]
    for place, row in enumerate(np.flatnonzero(rows)):
        values[row] = [place - 3.0 + 0.1 * i for i in range(len(values[row]))]
    lower = dataclasses.replace(curves, values={**curves.values, "test_loss": values})
    own = dataclasses.replace(result, regimes={"SB": dataclasses.replace(record, curves=lower)})
    axis = _axis()
    study.plot_curves(own, axis, name="test_loss")
    (line,), (band,) = axis.lines, axis.collections
    assert axis.get_yscale() == "linear"
    ends = band.get_paths()[0].vertices
    for at, mean in line.get_xydata():
        here = ends[np.isclose(ends[:, 0], at), 1]
        assert here.min() < mean < here.max()
        assert mean - here.min() == pytest.approx(here.max() - mean)
