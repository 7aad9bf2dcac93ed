"""The figures of the report: functions that take a result and an axis."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gapjax.study import _measure, _table
from gapjax.study._result import StudyResult

# Colours as they are on paper; on a page each is a CSS variable, so one drawing is right in light,
# dark and print.
INK, MUTED, GRID = "#1c1f24", "#646b76", "#e3e6ea"
PALETTE = (
    "#2f5fd0",
    "#cc3d4a",
    "#b87a00",
    "#2a8f45",
    "#7d4cc4",
    "#0b8793",
    "#c2508b",
    "#75644f",
)


def color(index: int) -> str:
    """The colour of the regime at ``index``."""
    return PALETTE[index % len(PALETTE)]


def to_svg(draw: Callable[[Any], None], *, width: float = 5.2, height: float = 3.5) -> str:
    """What ``draw`` puts on an axis, as SVG that follows the colours of the page it is in."""
    import matplotlib

    style: Any = {
        "font.family": "sans-serif",
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "gapjax",
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.linewidth": 1.6,
    }
    with matplotlib.rc_context(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axis = figure.add_subplot()
        axis.patch.set_alpha(0)
        draw(axis)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    names = {INK: "ink", MUTED: "muted", GRID: "grid"}
    names |= {paper: f"c{i}" for i, paper in enumerate(PALETTE)}
    for paper, name in names.items():
        svg = svg.replace(paper, f"var(--{name})")
    # Lines and labels without a colour of their own are black in SVG, invisible in the dark.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 fill="var(--ink)"', svg, count=1)


def plot_accuracy(result: StudyResult, axis: Any) -> None:
    """Test accuracy of every seed as a point; above them the mean with its 95% interval."""
    names = list(result.regimes)
    for i, name in enumerate(names):
        values = _numbers(result.regimes[name]["test_accuracy"]["values"])
        values = 100 * values[np.isfinite(values)]
        if not values.size:
            axis.text(
                0.5, i, "every seed diverged", ha="center", transform=axis.get_yaxis_transform()
            )
            continue
        spread = np.linspace(-0.14, 0.14, values.size) if values.size > 1 else np.zeros(1)
        axis.scatter(values, i + spread, s=20, color=color(i), alpha=0.75, linewidths=0)
        found = _measure.with_interval(values)
        if found["low"] is not None:
            half = found["high"] - found["mean"]
            axis.errorbar(
                found["mean"], i - 0.3, xerr=half, fmt="|", color=INK, ms=9, capsize=2, lw=1.2
            )
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.6)
    axis.set_xlabel("test accuracy, %")
    axis.grid(axis="y", visible=False)


def plot_gap_closed(result: StudyResult, axis: Any) -> None:
    """The share of the gap each regime closes, with its 95% interval, where there is one."""
    shares = _table.shares(result)
    everyone = list(result.regimes)
    for i, (name, share) in enumerate(shares.items()):
        low, mean, high = (100 * share[k] for k in ("low", "mean", "high"))
        axis.plot([low, high], [i, i], color=color(everyone.index(name)), lw=3, alpha=0.45)
        axis.plot(mean, i, "o", color=color(everyone.index(name)), ms=8)
        axis.annotate(
            f"{mean:.0f}%", (mean, i), (0, 9), textcoords="offset points", ha="center", color=INK
        )
    for place, label in ((0, "LB"), (100, "SB")):
        axis.axvline(place, color=MUTED, lw=1, ls=":")
        axis.annotate(
            label, (place, -0.5), (3, -2), textcoords="offset points", color=MUTED, va="top"
        )
    axis.set_yticks(range(len(shares)), list(shares))
    axis.set_ylim(len(shares) - 0.5, -0.6)
    axis.set_xlabel("share of the generalization gap closed, %")
    axis.grid(axis="y", visible=False)


def plot_curves(result: StudyResult, axis: Any, *, metric: str) -> None:
    """A metric of ``history.csv`` against updates: its mean, a band of one deviation over seeds."""
    percent = metric.endswith("accuracy")
    for i, history in enumerate(result.history.values()):
        update, mean, deviation = _over_seeds(history, metric)
        if not update.size:
            continue
        if percent:
            mean, deviation = 100 * mean, 100 * deviation
        low = mean - deviation if percent else np.maximum(mean - deviation, 0.5 * mean)
        axis.fill_between(update, low, mean + deviation, color=color(i), alpha=0.18, lw=0)
        axis.plot(update, mean, color=color(i), label=list(result.history)[i])
    _against_updates(axis, metric.replace("_", " ") + (", %" if percent else ""))
    if not percent and axis.lines:
        axis.set_yscale("log")


def plot_growth(result: StudyResult, axis: Any) -> None:
    """Batch size against epochs as steps; dotted, the gradient noise scale where it was measured.

    The noise scale tr(Sigma) / |G|^2 is the mean over seeds of the one over that of the other.
    """
    examples = result.regimes.values()
    for i, (regime, history) in enumerate(zip(examples, result.history.values(), strict=True)):
        per_epoch = regime["epochs"] / regime["updates"]
        update = np.arange(regime["updates"] + 1)
        firsts, sizes = zip(*regime["batch_sizes"], strict=True)
        size = np.array(sizes)[np.searchsorted(firsts, update[:-1], side="right") - 1]
        epoch = np.concatenate([[0], np.cumsum(size)])
        epoch = epoch / epoch[-1] * per_epoch * regime["updates"]
        axis.step(epoch, [*size, size[-1]], where="post", color=color(i))
        at, noise, _ = _over_seeds(history, "gradient_noise")
        _, norm, _ = _over_seeds(history, "gradient_norm")
        clear = norm > 0  # an unbiased estimate of a square may be negative near the end
        axis.plot(epoch[at[clear]], (noise / norm)[clear], ".", ms=3, color=color(i), alpha=0.8)
    axis.set_yscale("log")
    axis.set_xlabel("epochs")
    axis.set_ylabel("examples")


def plot_distance(result: StudyResult, axis: Any) -> None:
    """Distance from the start against updates; early laws: log t dashed, power law dotted."""
    for i, (name, history) in enumerate(result.history.items()):
        update, mean, deviation = _over_seeds(history, "distance")
        if not update.size:
            continue
        axis.fill_between(
            update, mean - deviation, mean + deviation, color=color(i), alpha=0.18, lw=0
        )
        axis.plot(update, mean, color=color(i))
        found = result.regimes[name]["diffusion"]
        if found is None:
            continue
        fit, (first, last) = found["mean_curve"], found["updates"]
        t = np.geomspace(first, last, 60)
        log = fit["log_intercept"] + fit["log_slope"] * np.log(t)
        power = fit["power_factor"] * t ** fit["power_exponent"]
        axis.plot(t, log, color=color(i), ls=(0, (4, 2)), lw=1.2)
        axis.plot(t, power, color=color(i), ls=(0, (1, 1.5)), lw=1.2)
    _against_updates(axis, "distance from the start")


def _against_updates(axis: Any, label: str) -> None:
    """Label the axes; updates are on a log axis where there is anything to see."""
    axis.set_xlabel("updates")
    axis.set_ylabel(label)
    if axis.lines:
        axis.set_xscale("log")
    else:
        axis.text(0.5, 0.5, "every seed diverged", ha="center", transform=axis.transAxes)


def _over_seeds(history: dict[str, Any], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Updates at which a metric was measured, its mean and deviation over seeds still finite."""
    values = _numbers(history[metric])
    # The accuracy of a network that diverged is 0, a number; its loss is none.
    finite = np.isfinite(values) & np.isfinite(
        _numbers(history[metric.replace("accuracy", "loss")])
    )
    keep = finite.any(axis=1)
    count = finite[keep].sum(axis=1)
    mean = np.where(finite, values, 0.0)[keep].sum(axis=1) / count
    squares = np.where(finite[keep], (values[keep] - mean[:, None]) ** 2, 0.0)
    return np.array(history["update"])[keep], mean, np.sqrt(squares.sum(axis=1) / count)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """Values that may be None as float64 with NaN."""
    return np.array(values, dtype=np.float64)
