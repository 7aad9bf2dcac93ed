"""The table of a study, the same rows in the terminal, in the report and as plain text."""

import math
from collections.abc import Mapping
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

_NO_GAP, _TOO_FEW = "no clear gap", "too few seeds"
_WHY_NOT = {
    _NO_GAP: "SB is not above LB by two standard errors, and a share of nothing means nothing.",
    _TOO_FEW: "an interval takes two that went through in SB, in LB and in the regime.",
}


def rows(result: StudyResult, part: str | None = None) -> list[list[str]]:
    """A row of text per regime.

    Args:
        result: the study's result.
        part: ``"tuned"`` for the numbers at the tuned rates, None for the rules'.
    """
    table = []
    shares = closed(result, part)
    for name, regime in result.regimes.items():
        numbers = _part(regime, part)
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
                shares.get(name, ""),
                plus_minus(numbers["train_accuracy"], 2, 100),
                plus_minus(numbers["gap"], 2, 100),
                plus_minus(numbers["train_loss"], 3),
                plus_minus(numbers["test_loss"], 3),
                plus_minus(numbers["distance"], 2),
            ]
        )
    return table


def plus_minus(value: Mapping[str, Any], digits: int, scale: float = 1.0) -> str:
    """Mean and standard deviation over seeds; of a single seed the number alone.

    Example:
        >>> plus_minus({"mean": 0.98765, "std": 0.0012, "values": [0.9868, 0.9885]}, 2, 100)
        '98.77 ± 0.12'
    """
    if value["mean"] is None:
        return "diverged"
    mean, deviation = (f"{scale * value[key]:.{digits}f}" for key in ("mean", "std"))
    return f"{mean} ± {deviation}" if count(value) > 1 else mean


def count(value: Mapping[str, Any]) -> int:
    """How many seeds count in a mean."""
    return sum(number is not None for number in value["values"])


class Gap(NamedTuple):
    """What test accuracy the large batch loses, as a fraction.

    Attributes:
        mean: SB's mean over seeds less LB's.
        error: its standard error, None where SB or LB has a single seed.
        seeds: how many count in the mean of the one that has fewer.
    """

    mean: float
    error: float | None
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether it is told from nothing; a share of nothing means nothing."""
        return self.mean > 2 * (self.error or 0.0)


def gap(result: StudyResult, part: str | None = None) -> Gap | None:
    """The gap of a study, None where SB or LB is missing or diverged in every seed."""
    if not {"SB", "LB"} <= set(result.regimes):
        return None
    small, large = (_part(result.regimes[name], part)["test_accuracy"] for name in ("SB", "LB"))
    if None in (small["mean"], large["mean"]):
        return None
    seeds = min(count(small), count(large))
    error = math.hypot(*(value["std"] / math.sqrt(count(value)) for value in (small, large)))
    return Gap(small["mean"] - large["mean"], error if seeds > 1 else None, seeds)


def shares(result: StudyResult, part: str | None = None) -> dict[str, Mapping[str, float]]:
    """Remedy -> the share of the gap it closes, of those for which there is one to tell."""
    found = gap(result, part)
    if found is None or not found.clear:
        return {}
    each = {name: _part(regime, part)["gap_closed"] for name, regime in _remedies(result).items()}
    return {name: share for name, share in each.items() if share["mean"] is not None}


def closed(result: StudyResult, part: str | None = None) -> dict[str, str]:
    """Remedy -> the share of the gap it closes, in per cent, or why there is none to tell."""
    found = gap(result, part)
    if found is None:
        return {}
    there = {name: interval(share) for name, share in shares(result, part).items()}
    why_not = _TOO_FEW if found.clear else _NO_GAP
    return {name: there.get(name, why_not) for name in _remedies(result)}


def interval(share: Mapping[str, float]) -> str:
    """A share with its interval, in per cent.

    Example:
        >>> interval({"mean": 0.914, "low": 0.78, "high": 1.021})
        '91 [78, 102]'
    """
    low, mean, high = (round(100 * share[key]) for key in ("low", "mean", "high"))
    return f"{mean} [{low}, {high}]"


def finding(result: StudyResult) -> str:
    """What the study found, in one or two sentences."""
    found = gap(result)
    if found is None:
        if {"SB", "LB"} <= set(result.regimes):
            return "SB or LB diverged in every seed: there is no gap to speak of."
        return "Without both SB and LB there is no gap to speak of."
    small, large = result.regimes["SB"], result.regimes["LB"]
    points = f"{100 * abs(found.mean):.2f}"
    verb = "falls" if found.mean > 0 else "rises"
    text = (
        f"From batch {small['batch_size']} to {large['batch_size']}, {large['budget']}, "
        f"test accuracy {verb if float(points) else 'changes'} by {points} points "
    )
    if found.error is None:
        return f"{text}(one seed: nothing tells how much of that is chance)."
    text += f"(standard error {100 * found.error:.2f}, {found.seeds} seeds)."
    if not found.clear:
        within = abs(found.mean) <= 2 * found.error
        why = "That is within two standard errors." if within else "There is no gap to close."
        return f"{text} {why}"
    remedies = shares(result)
    if not remedies:
        return text
    best, share = max(remedies.items(), key=lambda item: item[1]["mean"])
    return (
        f"{text} {best} closes {100 * share['mean']:.0f}% of the gap "
        f"(95% interval {100 * share['low']:.0f}% to {100 * share['high']:.0f}%)."
    )


def notes(result: StudyResult) -> list[str]:
    """What a reader of the table must know."""
    alone = max(len(regime["seeds"]) for regime in result.regimes.values()) == 1
    over = (
        "One seed: nothing has an error bar." if alone else "Mean ± standard deviation over seeds."
    )
    lines = [
        f"{over} gap: train minus test accuracy, in points. distance: ‖w − w₀‖ over all "
        "parameters. batch: examples per update / ghost size.",
        "held fixed against the small batch: epochs (as many examples seen, so a larger batch "
        "makes fewer updates), or updates (as many updates, so a larger batch sees more examples).",
    ]
    tuned = all(regime["tuned"] for regime in result.regimes.values())
    parts = (None, "tuned") if tuned else (None,)
    cells = {text for part in parts for text in closed(result, part).values()}
    if cells:
        share = (
            "gap closed: (acc − acc_LB) / (acc_SB − acc_LB), with a 95% bootstrap interval over "
            "seeds."
        )
        why = [f"{text}: {meaning}" for text, meaning in _WHY_NOT.items() if text in cells]
        lines.insert(1, " ".join([share, *why]))
    if "start" in result.config.get("study", {}):
        lines.append(
            "The network was built beforehand, and its weights are the start of every seed: seeds "
            "differ only in the order of the examples (and in noise and dropout, where there are "
            "any), not in the start."
        )
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


def _part(regime: Mapping[str, Any], part: str | None) -> Mapping[str, Any]:
    return regime[part] if part else regime


def _remedies(result: StudyResult) -> dict[str, dict[str, Any]]:
    return {name: regime for name, regime in result.regimes.items() if name not in ("SB", "LB")}
