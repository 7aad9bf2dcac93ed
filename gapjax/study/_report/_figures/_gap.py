"""Figures of the gap: every seed, and the share of it that each regime closes."""

from typing import Any

import numpy as np

from gapjax.study._findings._intervals import Interval, mean_interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._figures._style import INK, MUTED, color, label, name_points
from gapjax.study._results._names import figure_text


def plot_headline(result: StudyResult, axis: Any) -> None:
    """The headline metric on the test set, every seed a point; above them mean and interval.

    Args:
        result: the study's result.
        axis: a matplotlib axis to draw on.
    """
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
    """The share of the gap each regime closes: its interval, and thin the simultaneous one.

    Args:
        result: the study's result.
        axis: a matplotlib axis to draw on.
    """
    found = result.gap
    small, large = result.config.baseline
    everyone = list(result.regimes)
    bounded = {name: share for name, share in found.shares.items() if share.is_bounded}
    if not bounded:
        why = "no share of the gap has an interval with two ends"
        axis.text(0.5, 0.5, why, transform=axis.transAxes, ha="center", color=MUTED)
        axis.set(xticks=[], yticks=[])
        return
    for i, (name, share) in enumerate(bounded.items()):
        own = color(everyone.index(name))
        told = f"_{figure_text(name)}"
        together = found.simultaneous[name]
        if together.low is not None and together.high is not None:
            ends = [100 * together.low, 100 * together.high]
            axis.plot(ends, [i, i], color=own, lw=1.2, alpha=0.8, label=f"{told}, simultaneous")
        else:
            axis.axhline(i, color=own, lw=1.2, alpha=0.8, label=f"{told}, simultaneous, no bound")
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
    axis.set_xlabel("share of the gap closed, %")


def plot_travelled(result: StudyResult, axis: Any) -> None:
    """The share of the gap closed against how far the weights went, every regime a point."""
    small, large = result.config.baseline
    ends = {large: Interval(0.0), small: Interval(1.0)}
    names: list[tuple[str, tuple[float, float]]] = []
    for i, (name, record) in enumerate(result.regimes.items()):
        far = mean_interval(record.run.values["distance"].array)
        share = {**result.gap.shares, **ends}.get(name)  # none of a regime that is one with another
        if far.mean is None or share is None or share.mean is None:
            continue
        at = far.mean, 100 * share.mean
        told, look = f"_{figure_text(name)}", {"color": color(i), "alpha": 0.45, "lw": 1.5}
        if far.low is not None and far.high is not None:
            axis.plot([far.low, far.high], [at[1]] * 2, label=f"{told}, interval", **look)
        if share.low is not None and share.high is not None:
            span = [100 * share.low, 100 * share.high]
            axis.plot([at[0]] * 2, span, label=f"{told}, interval", **look)
        axis.plot(*at, "o", color=color(i), ms=7, label=told)
        names.append((figure_text(name), at))
    axis.set_xlabel("distance from the start, at the end")
    axis.set_ylabel("share of the gap closed, %")
    name_points(axis, names)


def plot_pareto(result: StudyResult, axis: Any, *, against: str = "examples") -> None:
    """The headline metric on the test set against what it took; the line joins what none beats.

    Args:
        result: the study's result.
        axis: to draw on.
        against: ``"examples"`` (work), or ``"updates"`` (time, with enough devices).
    """
    task = result.config.task
    scale = task.scale(task.headline)
    points, names = [], []
    for i, (name, record) in enumerate(result.regimes.items()):
        found = mean_interval(scale * record.run.values[f"test_{task.headline}"].array)
        if found.mean is None:
            continue
        at = getattr(record, against), found.mean
        points.append(at)
        told = f"_{figure_text(name)}"
        if found.low is not None and found.high is not None:
            ends, own = [found.low, found.high], f"{told}, interval"
            axis.plot([at[0]] * 2, ends, color=color(i), alpha=0.45, lw=1.5, label=own)
        axis.plot(*at, "o", color=color(i), ms=7, label=told)
        names.append((figure_text(name), at))
    front, best = [], -np.inf
    for spent, value in sorted(points, key=lambda p: (p[0], -p[1] if task.maximize else p[1])):
        if (value if task.maximize else -value) > best:
            best = value if task.maximize else -value
            front.append((spent, value))
    axis.plot(
        *np.array(front).reshape(-1, 2).T, color=MUTED, lw=1, ls=":", zorder=0, label="_front"
    )
    if points:
        axis.set_xscale("log")
    axis.set_xlabel(against)
    axis.set_ylabel(f"test {label(result, task.headline)}")
    name_points(axis, names)
