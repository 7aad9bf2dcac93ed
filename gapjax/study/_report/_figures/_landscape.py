"""Figures of the solutions: spectra, lines through them, the way between the two ends."""

from typing import Any, NamedTuple

import numpy as np

from gapjax import landscape
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._figures._style import MUTED, PALETTE, color, label
from gapjax.study._results._names import figure_text


class _Density(NamedTuple):
    """What is kept of a spectral density, as it is drawn."""

    grid: np.ndarray
    density: np.ndarray
    interval: tuple[np.ndarray, np.ndarray]


def plot_spectrum(result: StudyResult, axis: Any) -> None:
    """The spectral density of the first seed of each regime, with its 95% interval.

    Args:
        result: the study's result.
        axis: a matplotlib axis to draw on.
    """
    for name, found in measured(result, "density").items():
        columns = ("grid", "density", "low", "high")
        grid, middle, low, high = (np.array(found.density[k], np.float64) for k in columns)
        landscape.plot_density(
            _Density(grid, middle, (low, high)),
            axis,
            floor=1e-4,
            color=color(list(result.regimes).index(name)),
            label=figure_text(name),
        )


def plot_lines(result: StudyResult, axis: Any) -> None:
    """Training (solid) and test loss (dashed) along one line through each solution.

    Args:
        result: the study's result.
        axis: a matplotlib axis to draw on.
    """
    for name, found in measured(result, "line").items():
        own = color(list(result.regimes).index(name))
        for split, style in (("train", "-"), ("test", "--")):
            told = figure_text(name) if split == "train" else f"_{figure_text(name)}, {split}"
            values = found.line[f"{split}/loss"].mean
            axis.plot(found.t, values, color=own, ls=style, lw=1.4, label=told)
    _log_where_positive(axis)
    axis.set_ylabel("mean loss")
    axis.set_xlabel("position on the line, in lengths of the filters")


def plot_way(result: StudyResult, axis: Any) -> None:
    """Loss (left) and headline metric (right) from end to end, training solid, test dashed.

    Args:
        result: the study's result.
        axis: a matplotlib axis to draw on.
    """
    measured(result)
    between = result.landscape.between if result.landscape else None
    if between is None:
        raise ValueError("the ends of the gap were not both measured: there is no way to draw.")
    task, (small, large) = result.config.task, result.config.baseline
    other = axis.twinx() if task.headline != "loss" else None
    for split, style in (("train", "-"), ("test", "--")):
        loss = between.curves[f"{split}/loss"].mean
        axis.plot(between.alpha, loss, color=PALETTE[0], ls=style, label=f"_{split}")
        if other is not None:
            values = np.array(between.curves[f"{split}/{task.headline}"].mean, np.float64)
            scaled = task.scale(task.headline) * values
            other.plot(between.alpha, scaled, color=PALETTE[1], ls=style, lw=1.2, label=f"_{split}")
    _log_where_positive(axis)
    for place, name in ((0, small), (1, large)):
        axis.axvline(place, color=MUTED, lw=1, ls=":")
        axis.annotate(
            figure_text(name),
            (place, 1),
            (4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=MUTED,
            va="top",
        )
    axis.set_ylabel("mean loss", color=PALETTE[0])
    axis.set_xlabel(figure_text(f"α: (1 − α) {small} + α {large}"))
    if other is not None:
        other.set_ylabel(label(result, task.headline), color=PALETTE[1])
        other.grid(visible=False)
        other.spines["right"].set_visible(True)


def _log_where_positive(axis: Any) -> None:
    """A loss that may be negative has no logarithm."""
    drawn = [np.asarray(line.get_ydata(), np.float64) for line in axis.lines]
    if drawn and all((values[np.isfinite(values)] > 0).all() for values in drawn):
        axis.set_yscale("log")


def measured(result: StudyResult, *needed: str) -> dict[str, Any]:
    """What was measured at the solutions of each regime; an error where it, or a part, was not."""
    if result.landscape is None or not result.landscape.regimes:
        raise ValueError(
            "this study has no landscape: run it again with landscape=True (--landscape)."
        )
    for name in needed:
        if not all(getattr(found, name) for found in result.landscape.regimes.values()):
            raise ValueError(
                f"{name} was not measured in this study: run it again with {name} among its "
                "landscape_measures, or with none named, which is all."
            )
    return result.landscape.regimes
