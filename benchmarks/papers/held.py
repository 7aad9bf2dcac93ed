"""What held: claims of the papers against kept results, each number with its interval.

A verdict follows from the interval alone: held, did not, or cannot tell.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.papers import figures
from benchmarks.papers.kept import comparison, gap_is_clear, table, told
from gapjax import study

Kept = Mapping[str, Any]
Interval = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, and the number that decides it.

    Attributes:
        text: what is claimed.
        source: who claims it.
        runs: the kept results that can decide it.
        number: from a kept result to ``{"mean", "low", "high"}``; None where it has none.
        within: the bounds between which the claim holds.
        shown: how the number is told, with ``{}`` for it.
        scale: what it is multiplied by.
        budget: what was held fixed.
    """

    text: str
    source: str
    runs: tuple[str, ...]
    number: Callable[[Kept], Interval | None]
    within: tuple[float, float]
    shown: str
    scale: float = 1.0
    budget: str = "same epochs"


def verdict(claim: Claim, found: Interval) -> str:
    """Held: the interval lies within the claim's bounds; did not hold: outside; or cannot tell.

    An end that has no bound is infinitely far.
    """
    low = -np.inf if found["low"] is None else found["low"]
    high = np.inf if found["high"] is None else found["high"]
    least, most = claim.within
    if high <= least or low >= most:
        return "did not hold"
    above, below = low > least or np.isinf(least), high < most or np.isinf(most)
    return "held" if above and below else "cannot tell"


def _share(regime: str) -> Callable[[Kept], Interval | None]:
    """Of the gap closed, where there is one."""

    def get(kept: Kept) -> Interval | None:
        return (kept["regimes"].get(regime) or {}).get("gap_closed") if gap_is_clear(kept) else None

    return get


def _difference(regime: str, end: int) -> Callable[[Kept], Interval | None]:
    """Of the headline metric, a regime less one of the two ends."""

    def get(kept: Kept) -> Interval | None:
        found = comparison(kept, regime, end)
        return found and found["difference"]

    return get


def _paired(regime: str, other: str) -> Callable[[Kept], Interval | None]:
    """Of the headline metric, a regime less another, paired by seeds; of these alone it tells."""

    def get(kept: Kept) -> Interval | None:
        name = f"test_{kept['task']['headline']}"
        values = [(kept["regimes"].get(one) or {}).get(name) for one in (regime, other)]
        if None in values:
            return None
        columns = [np.array(one["values"], np.float64)[:, None] for one in values if one]
        return dataclasses.asdict(study.paired_difference(*columns))

    return get


def _seen(*path: str) -> Callable[[Kept], Interval | None]:
    def get(kept: Kept) -> Interval | None:
        found = kept["landscape"]
        for key in path:
            found = found and found.get(key)
        return found

    return get


def _at_equal_loss(measure: str) -> Callable[[Kept], Interval | None]:
    """A ratio where the training losses are the same, at the lowest level that both reached."""

    def get(kept: Kept) -> Interval | None:
        levels = (kept["landscape"] or {}).get("levels") or []
        there = [level for level in levels if level["ratios"].get(measure)]
        lowest = min(there, key=lambda level: level["loss"], default=None)
        return lowest and lowest["ratios"][measure]

    return get


def _slope(kept: Kept) -> Interval | None:
    """Of the distance on log t, of the small batch, before its rate first falls."""
    found = kept["regimes"][kept["baseline"][0]].get("diffusion") or {}
    # Where a power law fits better the slope decides nothing.
    return found.get("log_slope") if found.get("better") == "log" else None


_DIGITS = ("digits", "digits-tuned", "hoffer-f1-mnist", "hoffer-f1-mnist-small")
_DIGITS += ("hoffer-c1-cifar10-small", "hoffer-resnet44-cifar10-small", "hoffer-vgg-cifar10-small")
_SHARP = ("keskar-digits", "keskar-f2-mnist-small", "keskar-f1-small")
_SHARP += ("keskar-c1-small", "keskar-c2-small")
_ALONG = (*_SHARP, "keskar-f2-mnist-small-subspace")
_TUNED = ("remedies-digits", "remedies-mnist", "remedies-cifar10")
_CUT = ("hoffer-f1-mnist-2-epochs", "budgets-epochs")  # too short for what is asked of minima
_FIGURES = ("warm_starts-digits", "warm_starts-mnist")
_RULES = ("goyal-digits", "goyal-digits-640")
_HOFFER, _KESKAR, _SMITH = "Hoffer et al. 2017", "Keskar et al. 2017", "Smith et al. 2018"
_GOYAL = "Goyal et al. 2017"

_GAP = Claim(
    "A large batch generalizes worse.",
    f"{_KESKAR}; {_HOFFER}",
    (*_DIGITS, *_TUNED, *_SHARP, *_CUT),
    lambda kept: kept["gap"],
    (0, np.inf),
    "the gap is {} points",
    100.0,
)

CLAIMS = (
    _GAP,
    dataclasses.replace(
        _GAP,
        runs=(
            "budgets-loss",
            "remedies-digits-loss-0.01",
            "remedies-mnist-loss-0.15",
            "remedies-cifar10-loss-2.0",
        ),
        budget="same training loss",
    ),
    dataclasses.replace(
        _GAP,
        runs=(
            "budgets-updates",
            "remedies-digits-updates",
            "remedies-mnist-updates",
            "remedies-cifar10-updates",
        ),
        budget="same updates, more examples",
    ),
    Claim(
        "A rate that grows with the root of the batch closes some of it.",
        _HOFFER,
        _DIGITS,
        _share("LB+LR"),
        (0, np.inf),
        "{}% closed",
        100.0,
    ),
    Claim(
        "Such a rate and ghosts close some of it.",
        _HOFFER,
        (*_DIGITS, *_TUNED, *_CUT),
        _share("LB+LR+GBN"),
        (0, np.inf),
        "{}% closed",
        100.0,
    ),
    Claim(
        "Ghosts close more of it than such a rate alone.",
        _HOFFER,
        _DIGITS,
        _paired("LB+LR+GBN", "LB+LR"),
        (0, np.inf),
        "{} points above the rate alone (over seeds alone)",
        100.0,
    ),
    Claim(
        "With as many updates, all of it: there is no inherent gap.",
        _HOFFER,
        (*_DIGITS, *_TUNED),
        _difference("LB+LR+GBN+RA", 0),
        (-0.002, np.inf),
        "{} points above the small batch (held: not 0.2 below)",
        100.0,
        "same updates, more examples",
    ),
    Claim(
        "It is not over-fitting: the test curve of the large batch does not peak and fall.",
        _KESKAR,
        _SHARP,
        _seen("observations", "below_own_peak"),
        (-np.inf, 0.005),
        "{} points below its own peak at the end (held: less than 0.5)",
        100.0,
    ),
    Claim(
        "Both fit the training set.",
        _KESKAR,
        _SHARP,
        _seen("observations", "train_difference"),
        (-0.005, 0.005),
        "training accuracy of the large batch less the small: {} points (held: within 0.5)",
        100.0,
    ),
    Claim(
        "The large batch is not caught at a saddle: its smallest eigenvalue is small.",
        _KESKAR,
        _SHARP,
        _seen("observations", "smallest_to_largest", "LB"),
        (-0.05, np.inf),
        "smallest over largest eigenvalue {} (held: above -0.05)",
    ),
    Claim(
        "The small batch travels farther.",
        f"{_KESKAR} (3 to 10 times); {_HOFFER}",
        (*_SHARP, *_CUT),
        _seen("observations", "distance_ratio"),
        (1, np.inf),
        "{} times as far",
    ),
    Claim(
        "They are different minima, with a barrier between them.",
        _KESKAR,
        _SHARP,
        _seen("between", "barrier"),
        (0.01, np.inf),
        "the training loss rises by {} on the line (held: more than 0.01)",
    ),
    Claim(
        "Large batches end in sharper minima (Keskar's measure, at the end of training).",
        _KESKAR,
        _ALONG,
        _seen("ratios", "keskar_0.001"),
        (1, np.inf),
        "{} times as sharp",
    ),
    Claim(
        "The same, along 100 random directions.",
        _KESKAR,
        _ALONG,
        _seen("ratios", "keskar_subspace"),
        (1, np.inf),
        "{} times as sharp",
    ),
    Claim(
        "The same, by the largest eigenvalue of the Hessian.",
        _KESKAR,
        _SHARP,
        _seen("ratios", "top"),
        (1, np.inf),
        "{} times as sharp",
    ),
    Claim(
        "The same where the training losses are equal (Keskar's measure).",
        f"asked of {_KESKAR}",
        _ALONG,
        _at_equal_loss("keskar_0.001"),
        (1, np.inf),
        "{} times as sharp",
        budget="same training loss",
    ),
    Claim(
        "The same where the training losses are equal (100 random directions).",
        f"asked of {_KESKAR}",
        _ALONG,
        _at_equal_loss("keskar_subspace"),
        (1, np.inf),
        "{} times as sharp",
        budget="same training loss",
    ),
    Claim(
        "The same where the training losses are equal (largest eigenvalue).",
        f"asked of {_KESKAR}",
        _SHARP,
        _at_equal_loss("top"),
        (1, np.inf),
        "{} times as sharp",
        budget="same training loss",
    ),
    Claim(
        "The larger the batch, the worse it generalizes (the largest tried against the smallest).",
        f"{_KESKAR}, figure 4",
        _FIGURES,
        figures.lost,
        (-np.inf, 0),
        "{} points above the smallest (over seeds alone)",
        100.0,
    ),
    Claim(
        "The larger the batch, the sharper the minimum (the largest tried against the smallest).",
        f"{_KESKAR}, figure 4",
        _FIGURES,
        figures.sharpened,
        (1, np.inf),
        "{} times as sharp",
    ),
    Claim(
        "From where the small batch ended the large one ends better than from scratch.",
        f"{_KESKAR}, figure 5",
        _FIGURES,
        figures.gained,
        (0, np.inf),
        "{} points above from scratch (over seeds alone)",
        100.0,
        budget="same epochs of the large batch",
    ),
    Claim(
        "From where the small batch ended the large one ends less sharp than from scratch.",
        f"{_KESKAR}, figure 5",
        _FIGURES,
        figures.sharper,
        (0, 1),
        "{} times as sharp as from scratch",
        budget="same epochs of the large batch",
    ),
    Claim(
        "The distance from the start grows like log t (where that fits better than a power of t).",
        _HOFFER,
        _DIGITS,
        _slope,
        (0, np.inf),
        "{} farther each time t grows e-fold",
        budget="before the rate first falls",
    ),
    Claim(
        "A batch that grows where the rate would fall does as well, with fewer updates.",
        _SMITH,
        ("smith-digits",),
        _difference("GROW", 0),
        (-0.005, np.inf),
        "{} points above the small batch (held: not 0.5 below)",
        100.0,
    ),
    Claim(
        "With the linear rule, a warm-up and ghosts of its size a large batch does as well.",
        f"{_GOYAL} (up to 32 times the batch)",
        _RULES,
        _difference("LB+LINEAR+WARMUP+GBN", 0),
        (-0.005, np.inf),
        "{} points above the small batch (held: not 0.5 below)",
        100.0,
    ),
    Claim(
        "The root rule in its place does worse.",
        _GOYAL,
        _RULES,
        _paired("LB+LR+WARMUP+GBN", "LB+LINEAR+WARMUP+GBN"),
        (-np.inf, 0),
        "{} points above the linear rule (over seeds alone)",
        100.0,
    ),
    Claim(
        "Without its warm-up it does worse.",
        _GOYAL,
        _RULES,
        _paired("LB+LINEAR+GBN", "LB+LINEAR+WARMUP+GBN"),
        (-np.inf, 0),
        "{} points above it with one (over seeds alone)",
        100.0,
    ),
    Claim(
        "Seesaw ends at the loss of the cosine that it stands for, with fewer updates.",
        "Meterez et al. 2025",
        ("pydoc-lm",),
        _difference("SEESAW", 0),
        (-np.inf, 0.02),
        "{} nats per byte above the small batch's cosine (held: less than 0.02)",
        budget="same tokens",
    ),
)


def page(kept: Mapping[str, Kept]) -> str:
    """The page: how often each claim held, then a row for every kept result that can decide it."""
    verdicts = ("held", "did not hold", "cannot tell")
    heads = ["claim", "source", "run", "budget", "our number [95%]", "verdict"]
    short_heads = ["claim", "budget", *verdicts]
    rows, short = [heads, ["---"] * len(heads)], [short_heads, ["---", "---", *["---:"] * 3]]
    for claim in CLAIMS:
        told_of = collections.Counter[str]()
        for run in claim.runs:
            found = claim.number(kept[run]) if run in kept else None
            if not found or found.get("mean") is None:
                continue
            tuned = ", tuned" if kept[run]["settings"].get("tune") else ""
            number, said = claim.shown.format(told(found, claim.scale)), verdict(claim, found)
            rows.append([claim.text, claim.source, run, claim.budget + tuned, number, said])
            told_of[said] += 1
        if told_of:
            counts = [str(told_of[one] or "") for one in verdicts]
            short.append([claim.text, claim.budget, *counts])
    return "\n".join(
        [
            "# What held",
            "",
            "Each claim of the papers against what was run here, on small data and few seeds, "
            "which decide little about large ones. In how many runs it held, by 95% intervals:",
            "",
            *table(short),
            "",
            "## Run by run",
            "",
            "Our number with its 95% interval over seeds (and test examples, where it is a "
            "difference or share of test accuracy), at a named budget. *Held*: the whole interval "
            "agrees; *did not hold*: none of it; *cannot tell*: some of it. Shares of a gap are "
            "told where the gap itself is. CIFAR-10 is from JPEG throughout.",
            "",
            *table(rows),
            "",
        ]
    )
