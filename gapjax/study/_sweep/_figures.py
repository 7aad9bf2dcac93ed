"""Figures of a sweep: updates and examples against batch size, and one against the other."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gapjax.study._findings._intervals import Interval
from gapjax.study._report._figures._style import GRID, INK, MUTED, color
from gapjax.study._results._names import figure_text
from gapjax.study._sweep._findings import SizePoint, SweepLine, SweepResult
from gapjax.study._sweep._words import regimes_of


class SweepFigure(NamedTuple):
    """A figure of a sweep.

    Attributes:
        name: of its file, and of its place on the page.
        draw: ``(result, axis)``.
        caption: a title, and what it shows.
    """

    name: str
    draw: Callable[[SweepResult, Any], None]
    caption: tuple[str, str]


def plot_steps(result: SweepResult, axis: Any) -> None:
    """Updates to the target against batch size, with the hyperbola and the line of perfect scaling.

    Shaded, of the first curve: perfect scaling, diminishing returns, no more returns. The knee is
    its critical batch size, a bar from end to end of its interval.

    Args:
        result: the sweep's result.
        axis: a matplotlib axis to draw on.
    """
    lines = list(result.lines.values())
    _shade(axis, lines[0])
    for i, line in enumerate(lines):
        _curve(axis, line, color(i), lambda point: point.steps, figure_text(line.remedy))
        if line.fit is None or not line.reached:
            continue
        fit = line.fit
        sizes = _span(line)
        if 0 < fit.critical_batch < np.inf:
            axis.plot(sizes, fit.min_steps * (1 + fit.critical_batch / sizes), color=color(i))
            _knee(axis, line, color(i), 2 * fit.min_steps)
        if i == 0:
            first, steps = fit.batch_sizes[0], fit.steps[0]
            axis.plot(
                sizes, steps * first / sizes, color=MUTED, ls=(0, (4, 3)), lw=1, label="perfect"
            )
    _log(axis, lines, "updates to the target")
    means = [point.steps.mean for line in lines for point in line.reached if point.steps.mean]
    if means:  # perfect scaling goes on below them all; the top stays as it is
        axis.set_ylim(0.5 * min(means), axis.get_ylim()[1])


def plot_examples(result: SweepResult, axis: Any) -> None:
    """Examples to the target against batch size, with the hyperbola.

    Args:
        result: the sweep's result.
        axis: a matplotlib axis to draw on.
    """
    lines = list(result.lines.values())
    _shade(axis, lines[0])
    for i, line in enumerate(lines):
        _curve(axis, line, color(i), lambda point: point.examples, figure_text(line.remedy))
        fit = line.fit
        if fit is not None and 0 < fit.critical_batch < np.inf:
            sizes = _span(line)
            axis.plot(sizes, fit.min_steps * (sizes + fit.critical_batch), color=color(i))
            _knee(axis, line, color(i), 2 * fit.min_examples)
    _log(axis, lines, "examples to the target")


def plot_pareto(result: SweepResult, axis: Any) -> None:
    """Examples against updates to the target, a point for each size: the price of fewer updates.

    Args:
        result: the sweep's result.
        axis: a matplotlib axis to draw on.
    """
    lines = list(result.lines.values())
    for i, line in enumerate(lines):
        points = line.reached
        steps = np.array([point.steps.mean for point in points], np.float64)
        examples = np.array([point.examples.mean for point in points], np.float64)
        axis.plot(steps, examples, "o", ms=5, color=color(i), label=figure_text(line.remedy))
        for point, x, y in zip(points, steps, examples, strict=True):
            axis.annotate(
                f"{point.batch_size}",
                (x, y),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
            )
        fit = line.fit
        if fit is not None and 0 < fit.critical_batch < np.inf:
            sizes = _span(line)
            axis.plot(
                fit.min_steps * (1 + fit.critical_batch / sizes),
                fit.min_steps * (sizes + fit.critical_batch),
                color=color(i),
            )
    _log(axis, lines, "examples to the target", x="updates to the target")


SWEEP_FIGURES = (
    SweepFigure(
        "steps",
        plot_steps,
        (
            "Updates to the target.",
            "Points: the geometric mean over seeds at the best rate, with its interval. Lines: the "
            "hyperbola; dashed, perfect scaling from the smallest size. The bar is the critical "
            "batch size with its interval. Shaded, from dark to light: perfect scaling (up to the "
            "20% batch), diminishing returns, and where no more than a sixth of the updates is "
            "left to save.",
        ),
    ),
    SweepFigure(
        "examples",
        plot_examples,
        ("Examples to the target.", "The same in examples: what fewer updates cost."),
    ),
    SweepFigure(
        "pareto",
        plot_pareto,
        (
            "Examples against updates.",
            "A point for each batch size. Along the curve updates are traded for examples; at the "
            "critical batch size both are twice what is least.",
        ),
    ),
)


def _curve(
    axis: Any, line: SweepLine, tint: str, value: Callable[[SizePoint], Interval], label: str
) -> None:
    for at, point in enumerate(line.reached):
        found = value(point)
        if found.mean is None:
            continue
        bars = None
        if found.low is not None and found.high is not None:
            bars = [[found.mean - found.low], [found.high - found.mean]]
        axis.errorbar(
            point.batch_size,
            found.mean,
            yerr=bars,
            fmt="o",
            ms=5,
            lw=1.2,
            capsize=2,
            color=tint,
            label=label if at == 0 else None,
        )


def _knee(axis: Any, line: SweepLine, tint: str, height: float) -> None:
    """The critical batch with its interval, at twice the least."""
    assert line.fit is not None
    fit, sizes = line.fit, _span(line)
    low, high = np.clip(fit.critical_batch_interval, sizes[0] / 2, 2 * sizes[-1])
    axis.plot([low, high], [height, height], color=tint, lw=5, alpha=0.35, solid_capstyle="butt")
    axis.plot([fit.critical_batch], [height], "|", ms=14, mew=1.6, color=tint)


def _shade(axis: Any, line: SweepLine) -> None:
    """The three regimes of Shallue et al. as bands."""
    if line.fit is None or not 0 < line.fit.critical_batch < np.inf:
        return
    sizes = _span(line)
    ends = np.clip([sizes[0], *regimes_of(line.fit), sizes[-1]], sizes[0], sizes[-1])
    for low, high, alpha in zip(ends, ends[1:], (0.9, 0.45, 0.0), strict=False):
        if high > low and alpha:
            axis.axvspan(low, high, color=GRID, alpha=alpha, lw=0, zorder=0)


def _span(line: SweepLine) -> np.ndarray:
    sizes = [point.batch_size for point in line.reached]
    return np.geomspace(0.8 * sizes[0], 1.25 * sizes[-1], 100)


def _log(axis: Any, lines: list[SweepLine], y: str, x: str | None = None) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylabel(y)
    axis.set_xlabel(x or "batch size, examples")
    _plain(axis.yaxis)
    if x is not None:
        _plain(axis.xaxis)
    else:
        sizes = sorted({point.batch_size for line in lines for point in line.points})
        axis.set_xticks(sizes, [f"{size}" for size in sizes])
        axis.minorticks_off()
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, labelcolor=INK)


def _plain(axis: Any) -> None:
    """Ticks at 1, 2, 5 of every decade, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def figures_of(result: SweepResult) -> Iterator[SweepFigure]:
    """The figures that there is something to draw in."""
    if any(line.reached for line in result.lines.values()):
        yield from SWEEP_FIGURES
