"""The table of a study, the same rows in the terminal, in the report and as plain text."""

import math
from typing import Any, NamedTuple

from gapjax.study._result import StudyResult


class Column(NamedTuple):
    """A column: its heading, and whether its cells are numbers (set to the right)."""

    title: str
    numeric: bool = True


COLUMNS = (
    Column("regime", numeric=False),
    Column("held fixed", numeric=False),
    Column("batch"),
    Column("updates"),
    Column("epochs"),
    Column("rate"),
    Column("test acc %"),
    Column("gap closed % [95%]"),
    Column("train acc %"),
    Column("gap"),
    Column("train loss"),
    Column("test loss"),
    Column("distance"),
)


def rows(result: StudyResult, part: str | None = None) -> list[list[str]]:
    """A row of text per regime.

    Args:
        result: the study's result.
        part: ``"tuned"`` for the numbers at the tuned rates, None for the rules'.
    """
    table = []
    compared = {"SB", "LB"} <= set(result.regimes)
    for name, regime in result.regimes.items():
        numbers = regime[part] if part else regime
        ghost = f" / {regime['ghost_size']}" if regime["ghost_size"] else ""
        table.append(
            [
                name + ("*" if numbers["diverged"] else ""),
                regime["budget"].removeprefix("same "),
                "→".join(dict.fromkeys(str(size) for _, size in regime["batch_sizes"])) + ghost,
                f"{regime['updates']}",
                f"{regime['epochs']:.4g}",
                f"{numbers['learning_rate']:.3g}",
                plus_minus(numbers["test_accuracy"], 2, 100),
                interval(numbers["gap_closed"]) if compared and name not in ("SB", "LB") else "",
                plus_minus(numbers["train_accuracy"], 2, 100),
                plus_minus(numbers["gap"], 2, 100),
                plus_minus(numbers["train_loss"], 3),
                plus_minus(numbers["test_loss"], 3),
                plus_minus(numbers["distance"], 2),
            ]
        )
    return table


def plus_minus(value: dict[str, Any], digits: int, scale: float = 1.0) -> str:
    """Mean and standard deviation over seeds.

    Example:
        >>> plus_minus({"mean": 0.98765, "std": 0.0012}, 2, 100)
        '98.77 ± 0.12'
    """
    if value["mean"] is None:
        return "diverged"
    return f"{scale * value['mean']:.{digits}f} ± {scale * value['std']:.{digits}f}"


def interval(closed: dict[str, float | None]) -> str:
    """A share with its interval, in per cent.

    Example:
        >>> interval({"mean": 0.914, "low": 0.78, "high": 1.021})
        '91 [78, 102]'
    """
    mean, low, high = closed["mean"], closed["low"], closed["high"]
    if mean is None or low is None or high is None:
        return "no gap to close"
    return f"{100 * mean:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def finding(result: StudyResult) -> str:
    """What the study found, in one or two sentences."""
    small, large = result.regimes.get("SB"), result.regimes.get("LB")
    if small is None or large is None:
        return "Without both SB and LB there is no gap to speak of."
    means = [small["test_accuracy"]["mean"], large["test_accuracy"]["mean"]]
    if None in means:
        return "SB or LB diverged in every seed: there is no gap to speak of."
    gap = 100 * (means[0] - means[1])
    error = 100 * math.hypot(*(_standard_error(r["test_accuracy"]) for r in (small, large)))
    change = f"batch {small['batch_size']} to {large['batch_size']}, {large['budget']}"
    text = (
        f"From {change}, test accuracy {'falls' if gap > 0 else 'rises'} by {abs(gap):.2f} points "
        + (
            f"(standard error {error:.2f}, {len(small['seeds'])} seeds)."
            if len(small["seeds"]) > 1
            else "(one seed: chance alone may do that)."
        )
    )
    closed = {
        name: regime["gap_closed"]
        for name, regime in result.regimes.items()
        if name not in ("SB", "LB") and regime["gap_closed"]["mean"] is not None
    }
    if len(small["seeds"]) < 2:
        return text
    if gap <= 2 * error or not closed:
        return text + (" That is within two standard errors." if gap <= 2 * error else "")
    best = max(closed, key=lambda name: closed[name]["mean"])
    share = closed[best]
    return (
        f"{text} {best} closes {100 * share['mean']:.0f}% of the gap "
        f"(95% interval {100 * share['low']:.0f}% to {100 * share['high']:.0f}%)."
    )


def notes(result: StudyResult) -> list[str]:
    """What a reader of the table must know."""
    lines = [
        "Mean ± standard deviation over seeds. gap: train minus test accuracy, in points. "
        "distance: ‖w − w₀‖ over all parameters. gap closed: (acc − acc_LB) / (acc_SB − acc_LB), "
        "with a 95% bootstrap interval over seeds. batch: examples per update / ghost size.",
        "held fixed against SB: epochs (as many examples seen, so a larger batch makes fewer "
        "updates), or updates (as many updates, so a larger batch sees more examples).",
    ]
    for name, regime in result.regimes.items():
        for part, which in ((regime, "rule"), (regime["tuned"], "tuned")):
            if part and part["diverged"]:
                where = ", ".join(map(_fault, part["diverged"]))
                lines.append(
                    f"* {name} ({which} rate): loss or gradient was no longer finite in {where}; "
                    "these seeds count in no mean."
                )
    return lines


def _fault(entry: dict[str, Any]) -> str:
    """Where and when a seed diverged, in words."""
    where = entry.get("where") or "weights"  # damage of the last update shows in them alone
    what = where if where in ("loss", "weights") else f"gradient of {where}"
    return f"seed {entry['seed']} at update {entry['update']} ({what})"


def _standard_error(value: dict[str, Any]) -> float:
    finite = [v for v in value["values"] if v is not None]
    return value["std"] / math.sqrt(len(finite)) if finite else math.inf
