"""The figures of the report: a new one is an entry here."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from gapjax.study._findings._result import StudyResult
from gapjax.study._report._figures._curves import plot_curves, plot_distance, plot_growth
from gapjax.study._report._figures._gap import (
    plot_gap_closed,
    plot_headline,
    plot_pareto,
    plot_travelled,
)
from gapjax.study._report._figures._landscape import (
    measured,
    plot_lines,
    plot_spectrum,
    plot_way,
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        name: what files call it.
        section: where on the page: ``"gap"``, ``"curves"``, ``"travel"`` or ``"landscape"``.
        draw: ``(result, axis)``.
        caption: what it shows: a bold title, then a sentence.
        height: in inches, or a function of the result.
        when: whether there is anything to draw.
        switch: whether it can be drawn against other axes than updates, as ``against=``.
    """

    name: str
    section: str
    draw: Callable[[StudyResult, Any], None]
    caption: tuple[str, str]
    height: Callable[[StudyResult], float] = lambda result: 3.5
    when: Callable[[StudyResult], bool] = lambda result: True
    switch: bool = False


def _by_regime(result: StudyResult) -> float:
    return 1.2 + 0.42 * len(result.regimes)


def _curves(name: str, caption: tuple[str, str]) -> Figure:
    draw = functools.partial(plot_curves, name=name)
    return Figure(name, "curves", draw, caption, switch=True)


def _pareto(against: str, caption: tuple[str, str]) -> Figure:
    draw = functools.partial(plot_pareto, against=against)
    return Figure(f"pareto_{against}", "gap", draw, caption)


FIGURES: tuple[Figure, ...] = (
    Figure(
        "headline",
        "gap",
        plot_headline,
        (
            "Every seed on the test set.",
            "A point is a seed; the bar above is the mean with its 95% interval, Student's t over "
            "seeds.",
        ),
        _by_regime,
    ),
    Figure(
        "closed",
        "gap",
        plot_gap_closed,
        (
            "The share of the gap that each regime closes.",
            "Thick: its 95% interval over seeds and test examples; thin: intervals that hold for "
            "all at once, across the whole figure where they have no bound. The dotted lines are "
            "the two ends of the gap.",
        ),
        _by_regime,
        lambda result: any(share.is_bounded for share in result.gap.shares.values()),
    ),
    _pareto(
        "examples",
        (
            "What it costs in work:",
            "every regime against the examples it saw, means with 95% intervals over seeds. The "
            "line joins the regimes that none beats with as few examples.",
        ),
    ),
    _pareto(
        "updates",
        (
            "What more parallelism buys:",
            "the same against updates, which is time where every batch fits on the devices there "
            "are.",
        ),
    ),
    _curves("train_loss", ("Training loss", "in evaluation mode over the training set.")),
    _curves("test_loss", ("Test loss", "likewise over the test set.")),
    Figure(
        "distance",
        "curves",
        plot_distance,
        (
            "Distance from the start,",
            "‖w − w₀‖, against updates on a log axis; up to the first drop of the learning rate, "
            "where they could be fitted, the log-t law dashed and the power law dotted.",
        ),
    ),
    Figure(
        "travelled",
        "travel",
        plot_travelled,
        (
            "Does travelling further go with closing the gap?",
            "Every regime: how far its weights went against the share of the gap it closes, with "
            "95% intervals. Were distance the mechanism, the points would rise from left to right.",
        ),
        when=lambda result: any(share.is_bounded for share in result.gap.shares.values()),
    ),
    Figure(
        "growth",
        "curves",
        plot_growth,
        (
            "Batch size against epochs,",
            "and as points the gradient noise scale, tr Σ / |G|², where it was measured: the mean "
            "over seeds of one over that of the other. A triangle at the top: the estimate of |G|² "
            "is not above 0 there, and the scale has no bound. It need not be near the critical "
            "batch: on language models it was found lower by orders of magnitude (Merrill et al. "
            "2025). A circle: a controller let the batch grow there, by what was measured.",
        ),
        when=lambda result: any(
            len(r.batch_sizes) > 1 or r.decisions for r in result.regimes.values()
        ),
    ),
    Figure(
        "landscape_spectrum",
        "landscape",
        plot_spectrum,
        (
            "Spectrum of the Hessian",
            "at the first seed of each regime; smoothed by a hundredth of its range, band: its 95% "
            "interval.",
        ),
        when=lambda result: all(found.density for found in measured(result).values()),
    ),
    Figure(
        "landscape_way",
        "landscape",
        plot_way,
        (
            "From one end of the gap to the other in a straight line",
            "and beyond, mean over seeds: training solid, test dashed; loss on the left, the "
            "headline metric on the right.",
        ),
        when=lambda result: result.landscape is not None and result.landscape.between is not None,
    ),
    Figure(
        "landscape_lines",
        "landscape",
        plot_lines,
        (
            "Training (solid) and test loss (dashed)",
            "on one filter-normalized line through each solution, mean over seeds. Were sharp "
            "minima to generalize worse for their sharpness, the test curve would be the training "
            "curve shifted, and a shift would cost most where the curve is steep.",
        ),
        when=lambda result: all(found.line for found in measured(result).values()),
    ),
)


def figures_of(result: StudyResult, section: str) -> list[Figure]:
    """The figures of a section that there is anything to draw in, the headline's curve first."""
    there = [figure for figure in FIGURES if figure.section == section and figure.when(result)]
    if section == "curves":
        task = result.config.task
        if task.headline != "loss":
            name = task.headline.replace("_", " ")
            first = _curves(
                f"test_{task.headline}",
                (f"Test {name}.", "Band: one standard deviation over seeds."),
            )
            there.insert(0, first)
    return there
