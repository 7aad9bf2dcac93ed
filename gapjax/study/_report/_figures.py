"""The figures of the report: functions that take a result and an axis, and the list of them."""

import dataclasses
import functools
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gapjax.study._findings._intervals import Interval, mean_interval
from gapjax.study._findings._result import StudyResult
from gapjax.study._results._names import figure_text
from gapjax.study._results._records import RegimeRecord

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
STYLE: Any = {
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


def color(index: int) -> str:
    """The colour of the regime at ``index``."""
    return PALETTE[index % len(PALETTE)]


def to_svg(draw: Callable[[Any], None], *, width: float = 5.2, height: float = 3.5) -> str:
    """What ``draw`` puts on an axis, as SVG that follows the colours of the page it is in."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(width, height), layout="constrained")
        canvas.patch.set_alpha(0)
        axis = canvas.add_subplot()
        axis.patch.set_alpha(0)
        draw(axis)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    names = {INK: "ink", MUTED: "muted", GRID: "grid"}
    names |= {paper: f"c{i}" for i, paper in enumerate(PALETTE)}
    svg = re.sub("|".join(names), lambda found: f"var(--{names[found[0]]})", svg)
    # Text without a colour of its own would be black, also on a dark page.
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 fill="var(--ink)"', svg, count=1)


def _label(result: StudyResult, measure: str) -> str:
    task = result.config.task
    return measure.replace("_", " ") + (", %" if measure in task.percent else "")


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
    axis.set_xlabel(f"test {_label(result, task.headline)}")


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
    for place, label in ((0, large), (100, small)):
        axis.axvline(place, color=MUTED, lw=1, ls=":")
        axis.annotate(
            figure_text(label),
            (place, -0.5),
            (3, -2),
            textcoords="offset points",
            color=MUTED,
            va="top",
        )
    _rows(axis, list(told))
    axis.set_xlabel("share of the generalization gap closed, %")


def plot_curves(result: StudyResult, axis: Any, *, name: str) -> None:
    """What was measured against updates: its mean, a band of one deviation over seeds.

    Args:
        result: the study's result.
        axis: to draw on.
        name: a column of ``history.csv``, such as ``test_accuracy``.
    """
    task = result.config.task
    measure = name.partition("_")[2]
    percent = measure in task.percent
    scale = task.scale(measure)
    for i, (regime, record) in enumerate(result.regimes.items()):
        update, mean, deviation = over_members(record, name)
        if not update.size:
            continue
        mean, deviation = scale * mean, scale * deviation
        # A logarithmic axis has no room for what is not above 0.
        low = mean - deviation if percent else np.maximum(mean - deviation, 0.5 * mean)
        axis.fill_between(update, low, mean + deviation, color=color(i), alpha=0.18, lw=0)
        axis.plot(update, mean, color=color(i), label=figure_text(regime))
    _against_updates(axis, name.replace("_", " ") + (", %" if percent else ""))
    positive = all((line.get_ydata() > 0).all() for line in axis.lines)
    if not percent and axis.lines and positive:
        axis.set_yscale("log")


def plot_growth(result: StudyResult, axis: Any) -> None:
    """Batch size against epochs as steps; dotted, the gradient noise scale where it was measured.

    The noise scale tr(Sigma) / |G|^2 is the mean over seeds of the one over that of the other.
    """
    for i, record in enumerate(result.regimes.values()):
        firsts, sizes = zip(*record.batch_sizes, strict=True)
        ends = [*firsts[1:], record.updates]
        lengths = np.array(ends) - np.array(firsts)
        examples = np.concatenate([[0], np.cumsum(lengths * np.array(sizes))])
        epoch = examples / record.examples * record.epochs
        axis.step(epoch, [*sizes, sizes[-1]], where="post", color=color(i))
        if "gradient_noise" not in record.curves.values:
            continue
        rows, noise = record.curves.measured("gradient_noise")
        norm = record.curves.array("gradient_norm")[rows].mean(axis=1)
        at = np.array(record.curves.examples)[rows] / record.examples * record.epochs
        clear = norm > 0  # an unbiased estimate of a square may be negative near the end
        axis.plot(
            at[clear], (noise.mean(axis=1) / norm)[clear], ".", ms=3, color=color(i), alpha=0.8
        )
    axis.set_yscale("log")
    axis.set_xlabel("epochs")
    axis.set_ylabel("examples")


def plot_distance(result: StudyResult, axis: Any) -> None:
    """Distance from the start against updates; early laws: log t dashed, power law dotted."""
    for i, (name, record) in enumerate(result.regimes.items()):
        update, mean, deviation = over_members(record, "distance")
        if not update.size:
            continue
        low, high = mean - deviation, mean + deviation
        axis.fill_between(update, low, high, color=color(i), alpha=0.18, lw=0)
        axis.plot(update, mean, color=color(i))
        found = result.travel[name]
        if found is None:
            continue
        t = np.geomspace(*found.updates, 60)
        fit = found.mean_curve
        log = fit.log_intercept + fit.log_slope * np.log(t)
        power = fit.power_factor * t**fit.power_exponent
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


def over_members(record: RegimeRecord, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Updates at which something was measured, its mean and deviation over seeds still finite."""
    values = record.curves.array(name)
    finite = np.isfinite(values)
    split, _, _ = name.partition("_")
    loss = f"{split}_loss"
    if loss in record.curves.values:
        # The accuracy of a network that diverged is 0, a number; its loss is none.
        finite &= np.isfinite(record.curves.array(loss))
    keep = finite.any(axis=1)
    count = finite[keep].sum(axis=1)
    mean = np.where(finite, values, 0.0)[keep].sum(axis=1) / count
    squares = np.where(finite[keep], (values[keep] - mean[:, None]) ** 2, 0.0)
    update = np.array(record.curves.update)[keep]
    return update, mean, np.sqrt(squares.sum(axis=1) / count)


def plot_spectrum(result: StudyResult, axis: Any) -> None:
    """The spectral density of the first seed of each regime, with two standard errors."""
    floor = 1e-4
    for name, found in _measured(result).items():
        own = color(list(result.regimes).index(name))
        grid, density, error = (
            np.array(found.density[k], np.float64) for k in ("grid", "density", "stderr")
        )
        low, high = (np.maximum(density + s * error, floor) for s in (-2, 2))
        axis.fill_between(grid, low, high, color=own, alpha=0.15, lw=0)
        axis.plot(grid, np.maximum(density, floor), color=own, lw=1.3)
    axis.set_yscale("log")
    axis.set_ylim(bottom=floor)
    axis.set_xlabel("eigenvalue")
    axis.set_ylabel("density")


def plot_lines(result: StudyResult, axis: Any) -> None:
    """Training (solid) and test loss (dashed) along one line through each solution."""
    for name, found in _measured(result).items():
        own = color(list(result.regimes).index(name))
        for split, style in (("train", "-"), ("test", "--")):
            axis.plot(found.t, found.line[f"{split}/loss"].mean, color=own, ls=style, lw=1.4)
    axis.set_yscale("log")
    axis.set_ylabel("mean loss")
    axis.set_xlabel("position on the line, in lengths of the filters")


def plot_way(result: StudyResult, axis: Any) -> None:
    """Loss (left) and headline metric (right) from end to end, training solid, test dashed."""
    _measured(result)
    between = result.landscape.between if result.landscape else None
    if between is None:
        raise ValueError("the ends of the gap were not both measured: there is no way to draw.")
    task, (small, large) = result.config.task, result.config.baseline
    other = axis.twinx() if task.headline != "loss" else None
    for split, style in (("train", "-"), ("test", "--")):
        loss = between.curves[f"{split}/loss"].mean
        axis.plot(between.alpha, loss, color=PALETTE[0], ls=style)
        if other is not None:
            values = np.array(between.curves[f"{split}/{task.headline}"].mean, np.float64)
            scaled = task.scale(task.headline) * values
            other.plot(between.alpha, scaled, color=PALETTE[1], ls=style, lw=1.2)
    for place, label in ((0, small), (1, large)):
        axis.axvline(place, color=MUTED, lw=1, ls=":")
        axis.annotate(
            figure_text(label),
            (place, 1),
            (4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=MUTED,
            va="top",
        )
    axis.set_yscale("log")
    axis.set_ylabel("mean loss", color=PALETTE[0])
    axis.set_xlabel(figure_text(f"α: (1 − α) {small} + α {large}"))
    if other is not None:
        other.set_ylabel(_label(result, task.headline), color=PALETTE[1])
        other.grid(visible=False)
        other.spines["right"].set_visible(True)


def _measured(result: StudyResult) -> dict[str, Any]:
    if result.landscape is None or not result.landscape.regimes:
        raise ValueError(
            "this study has no landscape: run it again with landscape=True (--landscape)."
        )
    return result.landscape.regimes


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        name: what files call it.
        section: where on the page: ``"gap"``, ``"curves"`` or ``"landscape"``.
        draw: ``(result, axis)``.
        caption: what it shows: a bold title, then a sentence.
        height: in inches, or a function of the result.
        when: whether there is anything to draw.
    """

    name: str
    section: str
    draw: Callable[[StudyResult, Any], None]
    caption: tuple[str, str]
    height: Callable[[StudyResult], float] = lambda result: 3.5
    when: Callable[[StudyResult], bool] = lambda result: True


def _by_regime(result: StudyResult) -> float:
    return 1.2 + 0.42 * len(result.regimes)


def _curves(name: str, caption: tuple[str, str]) -> Figure:
    return Figure(name, "curves", functools.partial(plot_curves, name=name), caption)


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
            "all at once. 0% is the large batch alone, 100% the small batch.",
        ),
        _by_regime,
        lambda result: any(share.is_bounded for share in result.gap.shares.values()),
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
        "growth",
        "curves",
        plot_growth,
        (
            "Batch size against epochs,",
            "and as points the gradient noise scale, tr Σ / |G|², where it was measured: the mean "
            "over seeds of one over that of the other.",
        ),
        when=lambda result: any(len(r.batch_sizes) > 1 for r in result.regimes.values()),
    ),
    Figure(
        "landscape_spectrum",
        "landscape",
        plot_spectrum,
        (
            "Spectrum of the Hessian",
            "at the first seed of each regime; smoothed by a hundredth of its range, band: two "
            "standard errors.",
        ),
        when=lambda result: all(found.density for found in _measured(result).values()),
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
        when=lambda result: all(found.line for found in _measured(result).values()),
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
                (f"Test {name}", "against updates. Band: one standard deviation over seeds."),
            )
            there.insert(0, first)
    return there
