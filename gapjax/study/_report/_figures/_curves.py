"""Figures of training: what was measured on the way, batches, distance."""

from typing import Any

import numpy as np

from gapjax import _checks
from gapjax.study._findings._result import StudyResult
from gapjax.study._report._figures._style import color
from gapjax.study._results._names import figure_text
from gapjax.study._results._records import RegimeRecord

AXES = {"updates": "updates", "examples": "examples", "flops": "FLOPs", "seconds": "seconds"}


def plot_curves(result: StudyResult, axis: Any, *, name: str, against: str = "updates") -> None:
    """What was measured on the way: its mean, a band of one deviation over seeds.

    Args:
        result: the study's result.
        axis: to draw on.
        name: a column of ``history.csv``, such as ``test_accuracy``.
        against: ``"updates"``, ``"examples"``, ``"flops"`` (of one seed) or ``"seconds"`` (of
            training all seeds at once).

    Raises:
        ValueError: a name or an axis that is none, or one that was not measured.
    """
    _checks.one_of("against", against, AXES)
    measured = {n: None for record in result.regimes.values() for n in record.curves.values}
    _checks.one_of("name", name, tuple(measured))
    task = result.config.task
    measure = name.partition("_")[2]
    percent = measure in task.percent
    scale = task.scale(measure)
    found = {regime: over_members(record, name) for regime, record in result.regimes.items()}
    seen = [mean for _, mean, _ in found.values() if mean.size]
    log = not percent and bool(seen) and all((mean > 0).all() for mean in seen)
    for i, (regime, (update, mean, deviation)) in enumerate(found.items()):
        if not update.size:
            continue
        record = result.regimes[regime]
        at = _spent(record, against)[np.isin(record.curves.update, update)]
        mean, deviation = scale * mean, scale * deviation
        # A logarithmic axis has no room for what is not above 0.
        low = np.maximum(mean - deviation, 0.5 * mean) if log else mean - deviation
        _band(axis, at, low, mean + deviation, i, regime)
        axis.plot(at, mean, color=color(i), label=figure_text(regime))
    _against(axis, name.replace("_", " ") + (", %" if percent else ""), AXES[against])
    if log:
        axis.set_yscale("log")


def plot_growth(result: StudyResult, axis: Any) -> None:
    """Batch size against epochs as steps; dotted, the gradient noise scale where it was measured.

    A circle is where a controller let the batch grow.
    The noise scale ``tr(Sigma) / |G|^2`` is the mean over seeds of the one over that of the other.

    Args:
        result: the study's result.
        axis: a matplotlib axis to draw on.
    """
    for i, (name, record) in enumerate(result.regimes.items()):
        own = figure_text(name)
        firsts, sizes = zip(*record.batch_sizes, strict=True)
        ends = [*firsts[1:], record.updates]
        lengths = np.array(ends) - np.array(firsts)
        examples = np.concatenate([[0], np.cumsum(lengths * np.array(sizes))])
        epoch = examples / record.examples * record.epochs
        axis.step(epoch, [*sizes, sizes[-1]], where="post", color=color(i), label=own)
        grown = [decision for decision in record.decisions if decision.grows]
        if grown:
            at = np.array([decision.examples for decision in grown])
            axis.plot(
                at / record.examples * record.epochs,
                [decision.after for decision in grown],
                "o",
                ms=5,
                color=color(i),
                label=f"_{own}, grown by the controller",
            )
        if "gradient_noise" not in record.curves.values:
            continue
        # A seed that diverged has none, and takes nothing from the others.
        update, noise, _ = over_members(record, "gradient_noise")
        _, norm, _ = over_members(record, "gradient_norm")
        rows = np.isin(record.curves.update, update)
        at = np.array(record.curves.examples)[rows] / record.examples * record.epochs
        clear = norm > 0  # an unbiased estimate of a square may be negative near the end
        # What has no place on a log axis is marked at its top, not dropped.
        top = axis.get_xaxis_transform()
        axis.plot(
            at[~clear],
            np.ones(np.count_nonzero(~clear)),
            "^",
            ms=4,
            mfc="none",
            color=color(i),
            transform=top,
            clip_on=False,
        )
        ratio = (noise / norm)[clear]
        told = f"_{own}, noise scale"
        axis.plot(at[clear], ratio, ".", ms=3, color=color(i), alpha=0.8, label=told)
    axis.set_yscale("log")
    axis.set_xlabel("epochs")
    axis.set_ylabel("examples")


def plot_distance(result: StudyResult, axis: Any) -> None:
    """Distance from the start against updates; early laws: log t dashed, power law dotted.

    The laws have the slope and exponent that were fitted, and lie where they suit the mean best:
    residuals that wander leave the level open.

    Args:
        result: the study's result.
        axis: a matplotlib axis to draw on.
    """
    for i, (name, record) in enumerate(result.regimes.items()):
        update, mean, deviation = over_members(record, "distance")
        if not update.size:
            continue
        _band(axis, update, mean - deviation, mean + deviation, i, name)
        axis.plot(update, mean, color=color(i), label=figure_text(name))
        found = result.travel[name]
        if found is None:
            continue
        first, last = found.updates
        inside = (update >= first) & (update <= last)
        t, x, y = np.geomspace(first, last, 60), update[inside], mean[inside]
        slope, exponent = found.log_slope.mean or 0.0, found.power_exponent.mean or 0.0
        log = slope * np.log(t) + (y - slope * np.log(x)).mean()
        power = t**exponent * (y @ x**exponent) / np.sum(x ** (2 * exponent))
        for law, values, dashes in (("log t", log, (4, 2)), ("power law", power, (1, 1.5))):
            told = f"_{figure_text(name)}, {law}"
            axis.plot(t, values, color=color(i), ls=(0, dashes), lw=1.2, label=told)
    _against(axis, "distance from the start")


def _spent(record: RegimeRecord, against: str) -> np.ndarray:
    """What was spent at every mark of the curves, ``[T]``."""
    spent = getattr(record.curves, "update" if against == "updates" else against)
    if not spent or None in spent:
        raise ValueError(f"the {AXES[against]} of regime {record.name} were not measured.")
    return np.array(spent, np.float64)


def axes_of(result: StudyResult) -> tuple[str, ...]:
    """The axes that every regime was measured on."""
    spent = {"updates": "update"}
    return tuple(
        axis
        for axis in AXES
        for curves in [[getattr(r.curves, spent.get(axis, axis)) for r in result.regimes.values()]]
        if all(one and None not in one for one in curves)
    )


def _band(axis: Any, at: Any, low: Any, high: Any, i: int, name: str) -> None:
    told = f"_{figure_text(name)}"
    axis.fill_between(at, low, high, color=color(i), alpha=0.18, lw=0, label=told)


def _against(axis: Any, label: str, against: str = "updates") -> None:
    """Label the axes; what was spent is on a log axis where there is anything to see."""
    axis.set_xlabel(against)
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
