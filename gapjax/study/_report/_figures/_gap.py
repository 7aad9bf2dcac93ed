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
        axis.scatter(values, i + spread, s=20, color=color(i), alpha=0.75, linewidths=0)
        _whisker(axis, mean_interval(values), i - 0.3)
    _rows(axis, names)
    axis.set_xlabel(f"test {label(result, task.headline)}")


def _whisker(axis: Any, found: Interval, place: float) -> None:
    if found.mean is not None and found.high is not None:
        half = found.high - found.mean
        axis.errorbar(found.mean, place, xerr=half, fmt="|", color=INK, ms=9, capsize=2, lw=1.2)


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
    told = {name: share for name, share in found.shares.items() if share.is_bounded}
    for i, (name, share) in enumerate(told.items()):
        own = color(everyone.index(name))
        together = found.simultaneous[name]
        if together.low is not None and together.high is not None:
            ends = [100 * together.low, 100 * together.high]
            axis.plot(ends, [i, i], color=own, lw=1.2, alpha=0.8)
        low, mean, high = (100 * (end or 0.0) for end in (share.low, share.mean, share.high))
        axis.plot([low, high], [i, i], color=own, lw=4, alpha=0.45)
        axis.plot(mean, i, "o", color=own, ms=8)
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
    _rows(axis, list(told))
    axis.set_xlabel("share of the generalization gap closed, %")


def plot_travelled(result: StudyResult, axis: Any) -> None:
    """The share of the gap closed against how far the weights went, every regime a point."""
    small, large = result.config.baseline
    ends = {large: Interval(0.0), small: Interval(1.0)}
    for i, (name, record) in enumerate(result.regimes.items()):
        far = mean_interval(record.run.values["distance"].array)
        share = {**result.gap.shares, **ends}[name]
        if far.mean is None or share.mean is None:
            continue
        at = far.mean, 100 * share.mean
        for found, scale, way in ((far, 1, "xerr"), (share, 100, "yerr")):
            if found.mean is not None and found.low is not None and found.high is not None:
                below, above = found.mean - found.low, found.high - found.mean
                error = {way: [[scale * below], [scale * above]]}
                axis.errorbar(*at, **error, color=color(i), alpha=0.45, lw=1.5)
        axis.plot(*at, "o", color=color(i), ms=7)
        axis.annotate(
            figure_text(name), at, (7, 5), textcoords="offset points", color=INK, fontsize=8
        )
    axis.set_xlabel("distance from the start, at the end")
    axis.set_ylabel("share of the gap closed, %")


def plot_pareto(result: StudyResult, axis: Any, *, against: str = "examples") -> None:
    """The headline metric on the test set against what it took; the line joins what none beats.

    Args:
        result: the study's result.
        axis: to draw on.
        against: ``"examples"`` (work), or ``"updates"`` (time, with enough devices).
    """
    task = result.config.task
    scale = task.scale(task.headline)
    points = []
    for i, (name, record) in enumerate(result.regimes.items()):
        found = mean_interval(scale * record.run.values[f"test_{task.headline}"].array)
        if found.mean is None:
            continue
        at = getattr(record, against), found.mean
        points.append(at)
        if found.low is not None and found.high is not None:
            axis.plot([at[0]] * 2, [found.low, found.high], color=color(i), alpha=0.45, lw=1.5)
        axis.plot(*at, "o", color=color(i), ms=7)
        axis.annotate(
            figure_text(name), at, (7, 5), textcoords="offset points", color=INK, fontsize=8
        )
    front, best = [], -np.inf
    for spent, value in sorted(points, key=lambda p: (p[0], -p[1] if task.maximize else p[1])):
        if (value if task.maximize else -value) > best:
            best = value if task.maximize else -value
            front.append((spent, value))
    axis.plot(*np.array(front).reshape(-1, 2).T, color=MUTED, lw=1, ls=":", zorder=0)
    if points:
        axis.set_xscale("log")
    axis.set_xlabel(against)
    axis.set_ylabel(f"test {label(result, task.headline)}")
