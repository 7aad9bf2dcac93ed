"""Figures of the gap: every seed, and the share of it that each regime closes."""

from typing import Any

import numpy as np

from gapjax.study._findings._intervals import Interval, mean_interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._figures._style import INK, MUTED, color, label
from gapjax.study._results._names import figure_text


def plot_headline(result: StudyResult, axis: Any) -> None:
    """The headline metric on the test set, every seed a point; above them mean and interval."""
    task = result.config.task
    scale, names = task.scale(task.headline), list(result.regimes)
    for i, name in enumerate(names):
        values = scale * result.regimes[name].run.values[f"test_{task.headline}"].array
        values = values[np.isfinite(values)]
        if not values.size:
            axis.text(
                0.5, i, "every seed diverged", ha="center", transform=axis.get_yaxis_transform()
            )
            continue
        spread = np.linspace(-0.14, 0.14, values.size) if values.size > 1 else np.zeros(1)
        told = f"_{figure_text(name)}"
        axis.scatter(values, i + spread, s=20, color=color(i), alpha=0.75, lw=0, label=told)
        _whisker(axis, mean_interval(values), i - 0.3, f"{told}, mean and interval")
    _rows(axis, names)
    axis.set_xlabel(f"test {label(result, task.headline)}")


def _whisker(axis: Any, found: Interval, place: float, label: str) -> None:
    if found.mean is not None and found.low is not None and found.high is not None:
        ends = [found.low, found.mean, found.high]
        axis.plot(ends, [place] * 3, "|-", color=INK, ms=5, lw=1.2, label=label)


def _rows(axis: Any, names: list[str]) -> None:
    """A row per name, the first on top."""
    axis.set_yticks(range(len(names)), [figure_text(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.6)
    axis.grid(axis="y", visible=False)


def plot_gap_closed(result: StudyResult, axis: Any) -> None:
    """The share of the gap each regime closes: its interval, and thin the simultaneous one."""
    found = result.gap
    small, large = result.config.baseline
    everyone = list(result.regimes)
    bounded = {name: share for name, share in found.shares.items() if share.is_bounded}
    for i, (name, share) in enumerate(bounded.items()):
        own = color(everyone.index(name))
        told = f"_{figure_text(name)}"
        together = found.simultaneous[name]
        if together.low is not None and together.high is not None:
            ends = [100 * together.low, 100 * together.high]
            axis.plot(ends, [i, i], color=own, lw=1.2, alpha=0.8, label=f"{told}, simultaneous")
        low, mean, high = (100 * (end or 0.0) for end in (share.low, share.mean, share.high))
        axis.plot([low, high], [i, i], color=own, lw=4, alpha=0.45, label=f"{told}, interval")
        axis.plot(mean, i, "o", color=own, ms=8, label=f"{told}, mean")
        axis.annotate(
            f"{mean:.0f}%",
            (mean, i),
            (0, 9),
            textcoords="offset points",
            ha="center",
            color=INK,
        )
    for place, name in ((0, large), (100, small)):
        axis.axvline(place, color=MUTED, lw=1, ls=":")
        axis.annotate(
            figure_text(name),
            (place, -0.5),
            (3, -2),
            textcoords="offset points",
            color=MUTED,
            va="top",
        )
    _rows(axis, list(bounded))
    axis.set_xlabel("share of the generalization gap closed, %")
