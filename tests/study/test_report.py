"""The report is one file that needs nothing else and says what the result says."""

import html.parser
import re

import numpy as np
import pytest

from gapjax import study
from gapjax.study import _figures


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


def test_nothing_is_fetched_and_nothing_runs(page):
    text, tags = page
    for tag, attrs in tags.seen:
        assert tag not in ("script", "link", "iframe", "img")
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith("#")
    assert "@import" not in text and "url(http" not in text


def test_drawings_share_the_page_without_sharing_ids(page):
    text, tags = page
    assert len(tags.ids) == len(set(tags.ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert {a or b for a, b in used} <= set(tags.ids)
    assert sum(tag == "svg" for tag, _ in tags.seen) == 6


def test_every_number_of_the_table_is_there(page, finished):
    _, result, _ = finished
    text = " ".join("".join(page[1].text).split())
    for row in study.rows(result):
        for cell in row:
            assert cell in text
    assert study.finding(result) in text
    assert "gapjax study x" in text
    assert result.config["run"]["jax"] in text


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


def test_points_are_the_seeds(finished):
    from matplotlib.figure import Figure

    _, result, _ = finished
    axis = Figure().add_subplot()
    _figures.plot_accuracy(result, axis)
    drawn = [c.get_offsets()[:, 0] for c in axis.collections if len(c.get_offsets()) == 3]
    for points, regime in zip(drawn, result.regimes.values(), strict=True):
        np.testing.assert_allclose(points, 100 * np.array(regime["test_accuracy"]["values"]))


def test_laws_are_drawn_as_they_were_fitted(finished):
    from matplotlib.figure import Figure

    _, result, _ = finished
    axis = Figure().add_subplot()
    _figures.plot_distance(result, axis)
    found = result.regimes["SB"]["diffusion"]
    assert result.regimes["LB"]["diffusion"] is None  # two updates: nothing to fit
    _, log, power = axis.lines[:3]
    for line in (log, power):
        np.testing.assert_allclose(line.get_xdata()[[0, -1]], found["updates"])
    mean, (first, last) = found["mean_curve"], found["updates"]
    factor = last / first
    np.testing.assert_allclose(np.ptp(log.get_ydata()), mean["log_slope"] * np.log(factor))
    np.testing.assert_allclose(
        power.get_ydata()[-1] / power.get_ydata()[0], factor ** mean["power_exponent"]
    )


def test_half_a_study_has_a_report_too(finished, tmp_path):
    _, result, _ = finished
    part = study.StudyResult(
        result.config, {"SB": result.regimes["SB"]}, {"SB": result.history["SB"]}
    )
    study.write_report(part, tmp_path / "part.html")
    assert "Without both SB and LB" in (tmp_path / "part.html").read_text()


def test_no_share_of_the_gap_is_drawn_where_there_is_none(finished, page, tmp_path):
    _, result, _ = finished
    assert "share of the gap" in page[0]
    two = ({n: part[n] for n in ("SB", "LB")} for part in (result.regimes, result.history))
    study.write_report(study.StudyResult(result.config, *two), tmp_path / "two.html")
    text = (tmp_path / "two.html").read_text()
    assert "share of the" not in text and "From batch 16 to 640" in text


def test_accuracy_of_networks_that_diverged_is_not_drawn():
    history = {"update": [1, 2], "test_accuracy": [[0.5, 0.7], [0.0, 0.9]]}
    history["test_loss"] = [[1.0, 1.0], [None, 0.5]]
    _, mean, _ = _figures._over_seeds(history, "test_accuracy")
    np.testing.assert_allclose(mean, [0.6, 0.9])
