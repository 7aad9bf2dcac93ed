"""What held: claims of the papers against kept results, each number with its interval.

Which runs decide a claim is a rule, and not a choice: all kept ones of the presets that it is
about, of its budget, that have its number. A verdict follows from the interval alone: held, did
not, or cannot tell.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.papers import figures
from benchmarks.papers.kept import comparison, gap_is_clear, stops, table, told
from gapjax import study

Kept = Mapping[str, Any]
Interval = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, and the number that decides it.

    Attributes:
        text: what is claimed.
        source: who claims it.
        runs: how the names of the kept results begin that can decide it.
        number: from a kept result to ``{"mean", "low", "high"}``; None where it has none.
        within: the bounds between which the claim holds.
        shown: how the number is told, with ``{}`` for it.
        scale: what it is multiplied by.
        keep: what those studies held fixed: ``"epochs"``, ``"loss"`` or ``"updates"``.
        budget: how that is told, where not by its own name.
        beside: what a reader should see beside the number.
        seeds: over how many seeds the number is.
        judge: the verdict, where it does not follow from the interval.
    """

    text: str
    source: str
    runs: tuple[str, ...]
    number: Callable[[Kept], Interval | None]
    within: tuple[float, float]
    shown: str
    scale: float = 1.0
    keep: str = "epochs"
    budget: str = ""
    beside: Callable[[Kept], str] = lambda kept: ""
    seeds: Callable[[Kept], int] = lambda kept: kept["settings"]["seeds"]
    judge: Callable[[Kept], str] | None = None

    def decided_by(self, name: str, kept: Kept) -> bool:
        """Whether a kept result is one of those that can decide it."""
        held_fixed = kept["settings"].get("keep", "epochs").partition("=")[0]
        return name.startswith(self.runs) and held_fixed == self.keep

    def held_fixed(self, kept: Kept) -> str:
        """The budget, in words; where no seed of an end met a loss, that was not what was held."""
        tuned = ", tuned" * bool(kept["settings"].get("tune"))
        if self.keep == "loss":
            ends = [stops(kept["regimes"][name]) for name in kept["baseline"]]
            if any(met and set(met) == {None} for met in ends):
                return f"most epochs allowed, the loss not met{tuned}"
        return (self.budget or _BUDGETS[self.keep]) + tuned


_BUDGETS = {
    "epochs": "same epochs",
    "loss": "same training loss",
    "updates": "same updates, more examples",
}


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
        found = kept["regimes"].get(regime)
        if not found or found.get("same_as") or not gap_is_clear(kept):
            return None
        return found["gap_closed"]

    return get


def _difference(regime: str, beside: int | str) -> Callable[[Kept], Interval | None]:
    """Of the headline metric, a regime less another, or less one of the two ends."""

    def get(kept: Kept) -> Interval | None:
        found = comparison(kept, regime, beside)
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


def _lowest_level(kept: Kept, measure: str) -> Any:
    """The lowest training loss that both ends got to, with what was measured there."""
    levels = (kept["landscape"] or {}).get("levels") or []
    there = [
        level for level in levels if (level["ratios"].get(measure) or {}).get("mean") is not None
    ]
    return min(there, key=lambda level: level["loss"], default=None)


def _at_equal_loss(measure: str) -> Callable[[Kept], Interval | None]:
    """A ratio where the training losses are the same."""

    def get(kept: Kept) -> Interval | None:
        lowest = _lowest_level(kept, measure)
        return lowest and lowest["ratios"][measure]

    return get


def _equal_losses(measure: str) -> Callable[[Kept], str]:
    """At which losses that was: looks now and then come close to the same one."""

    def get(kept: Kept) -> str:
        found = _lowest_level(kept, measure)["regimes"]
        small, large = (found[name]["train_loss"]["mean"] for name in kept["baseline"])
        return f"; training losses {small:.2g} and {large:.2g}"

    return get


def _slope(kept: Kept) -> Interval | None:
    """Of the distance on log t, of the small batch, before its rate first falls."""
    return _travel(kept).get("log_slope")


def _travel(kept: Kept) -> Any:
    return kept["regimes"][kept["baseline"][0]].get("diffusion") or {}


def _law(kept: Kept) -> str:
    """Held where log t fits better than a power of t, and there is enough of the curve to tell."""
    found = _travel(kept)
    if found["note"] or found["better"] == "neither":
        return "cannot tell"
    return "held" if found["better"] == "log" else "did not hold"


def _laws(kept: Kept) -> str:
    found = _travel(kept)
    told = f"; the AIC of a power of t less that of log t: {found['delta_aic']:.3g}"
    return told + (f"; {found['note']}" if found["note"] else "")


def _farther(kept: Kept) -> Interval | None:
    """The distance of the small batch over that of the large one, at the end."""
    return figures.ratio(*(kept["regimes"][end]["distance"]["values"] for end in kept["baseline"]))


def _losses(kept: Kept) -> str:
    """What both ends made of the training set, without which a gap says little."""
    small, large = (kept["regimes"][name] for name in kept["baseline"])
    ends = (f"{end['train_loss']['mean']:.2g}" for end in (small, large))
    stopped = stops(small, large)
    missed = f", not met by {stopped.count(None)} of {len(stopped)}" if None in stopped else ""
    return f"; training losses {' and '.join(ends)}{missed}"


def _measured_at(measure: str) -> Callable[[Kept], int]:
    """Of how many seeds at the lowest loss that both ends got to."""

    def get(kept: Kept) -> int:
        found = _lowest_level(kept, measure)["regimes"]
        return min(len(found[name]["train_loss"]["values"]) for name in kept["baseline"])

    return get


def _measured(kept: Kept) -> int:
    """Of how many seeds the solutions were measured."""
    return min(len(end["seeds"]) for end in kept["landscape"]["regimes"].values())


# How the names begin of all that classify.
_STUDIES = ("budgets", "digits", "goyal", "hoffer", "keskar", "remedies", "smith")
_KESKARS = ("keskar",)  # trained until they fit, as what is asked of minima needs
_FIGURES = ("warm_starts",)
_RULES = ("goyal",)
_HOFFER, _KESKAR, _SMITH = "Hoffer et al. 2017", "Keskar et al. 2017", "Smith et al. 2018"
_GOYAL = "Goyal et al. 2017"

_GAP = Claim(
    "A large batch generalizes worse.",
    f"{_KESKAR}; {_HOFFER}",
    _STUDIES,
    lambda kept: kept["gap"],
    (0, np.inf),
    "the gap is {} points",
    100.0,
    beside=_losses,
)

CLAIMS = (
    _GAP,
    dataclasses.replace(_GAP, keep="loss"),
    dataclasses.replace(_GAP, keep="updates"),
    Claim(
        "Square-root scaling of the learning rate closes some of the gap.",
        _HOFFER,
        _STUDIES,
        _share("LB+LR"),
        (0, np.inf),
        "{}% closed",
        100.0,
    ),
    Claim(
        "Square-root scaling with ghost batch norm closes some of the gap.",
        _HOFFER,
        _STUDIES,
        _share("LB+LR+GBN"),
        (0, np.inf),
        "{}% closed",
        100.0,
    ),
    Claim(
        "Ghost batch norm closes more of the gap than square-root scaling alone.",
        _HOFFER,
        _STUDIES,
        _paired("LB+LR+GBN", "LB+LR"),
        (0, np.inf),
        "{} points above the rate alone (over seeds alone)",
        100.0,
    ),
    Claim(
        "With as many updates the whole gap closes: there is no inherent gap.",
        _HOFFER,
        _STUDIES,
        _difference("LB+LR+GBN+RA", 0),
        (-0.002, np.inf),
        "{} points above the small batch (held: not 0.2 below)",
        100.0,
        budget="same updates, more examples",
    ),
    Claim(
        "It closes beside a small batch that sees as many examples, too.",
        f"asked of {_HOFFER}",
        _STUDIES,
        _difference("LB+LR+GBN+RA", "SB+LONG"),
        (-0.002, np.inf),
        "{} points above that small batch (held: not 0.2 below)",
        100.0,
        budget="same examples",
    ),
    Claim(
        "It is not over-fitting: the test curve of the large batch does not peak and fall.",
        _KESKAR,
        _KESKARS,
        _seen("observations", "below_own_peak"),
        (-np.inf, 0.005),
        "{} points below its own peak at the end (held: less than 0.5)",
        100.0,
    ),
    Claim(
        "Both fit the training set.",
        _KESKAR,
        _KESKARS,
        _seen("observations", "train_difference"),
        (-0.005, 0.005),
        "training accuracy of the large batch less the small: {} points (held: within 0.5)",
        100.0,
    ),
    Claim(
        "The large batch is not caught at a saddle: its smallest eigenvalue is small.",
        _KESKAR,
        _KESKARS,
        _seen("observations", "smallest_to_largest", "LB"),
        (-0.05, np.inf),
        "smallest over largest eigenvalue {} (held: above -0.05)",
        seeds=_measured,
    ),
    Claim(
        "The small batch travels farther.",
        f"{_KESKAR} (3 to 10 times); {_HOFFER}",
        _STUDIES,
        _farther,
        (1, np.inf),
        "{} times as far",
    ),
    Claim(
        "They are different minima, with a barrier between them.",
        _KESKAR,
        _KESKARS,
        _seen("between", "barrier"),
        (0.01, np.inf),
        "the training loss rises by {} on the line (held: more than 0.01)",
        beside=_losses,
        seeds=_measured,
    ),
    Claim(
        "Large batches end in sharper minima (Keskar's measure, at the end of training).",
        _KESKAR,
        _KESKARS,
        _seen("ratios", "keskar_0.001"),
        (1, np.inf),
        "{} times as sharp",
        seeds=_measured,
    ),
    Claim(
        "Large batches end in sharper minima (Keskar's measure in 100 random directions).",
        _KESKAR,
        _KESKARS,
        _seen("ratios", "keskar_subspace"),
        (1, np.inf),
        "{} times as sharp",
        seeds=_measured,
    ),
    Claim(
        "Large batches end in sharper minima (largest eigenvalue of the Hessian).",
        _KESKAR,
        _KESKARS,
        _seen("ratios", "top"),
        (1, np.inf),
        "{} times as sharp",
        seeds=_measured,
    ),
    Claim(
        "Large batches are sharper at equal training loss, too (Keskar's measure).",
        f"asked of {_KESKAR}",
        _KESKARS,
        _at_equal_loss("keskar_0.001"),
        (1, np.inf),
        "{} times as sharp",
        budget="same training loss",
        beside=_equal_losses("keskar_0.001"),
        seeds=_measured_at("keskar_0.001"),
    ),
    Claim(
        "Large batches are sharper at equal training loss, too (100 random directions).",
        f"asked of {_KESKAR}",
        _KESKARS,
        _at_equal_loss("keskar_subspace"),
        (1, np.inf),
        "{} times as sharp",
        budget="same training loss",
        beside=_equal_losses("keskar_subspace"),
        seeds=_measured_at("keskar_subspace"),
    ),
    Claim(
        "Large batches are sharper at equal training loss, too (largest eigenvalue).",
        f"asked of {_KESKAR}",
        _KESKARS,
        _at_equal_loss("top"),
        (1, np.inf),
        "{} times as sharp",
        budget="same training loss",
        beside=_equal_losses("top"),
        seeds=_measured_at("top"),
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
        "The distance of the small batch grows like log t (held: better than like a power of t).",
        _HOFFER,
        ("digits", "hoffer", "remedies"),  # SGD; the others train one of these small batches
        _slope,
        (0, np.inf),
        "{} farther each time t grows e-fold",
        budget="before the rate first falls",
        beside=_laws,
        judge=_law,
    ),
    Claim(
        "A batch that grows where the rate would fall does as well, with fewer updates.",
        _SMITH,
        ("smith",),
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
        ("pydoc",),
        _difference("SEESAW", 0),
        (-np.inf, 0.02),
        "{} nats per byte above the small batch's cosine (held: less than 0.02)",
        budget="same tokens",
    ),
)


VERDICTS = ("held", "did not hold", "cannot tell")


def decided(kept: Mapping[str, Kept]) -> list[list[str]]:
    """A row for every claim and kept result that can decide it; the last cell is the verdict."""
    rows = []
    for claim in CLAIMS:
        for name, run in kept.items():
            found = claim.number(run) if claim.decided_by(name, run) else None
            if not found or found.get("mean") is None:
                continue
            budget = claim.held_fixed(run)
            number = claim.shown.format(told(found, claim.scale)) + claim.beside(run)
            said = claim.judge(run) if claim.judge else verdict(claim, found)
            seeds = str(claim.seeds(run))
            rows.append([claim.text, claim.source, name, budget, seeds, number, said])
    return rows


def counts(rows: Sequence[Sequence[str]]) -> dict[tuple[str, str], collections.Counter[str]]:
    """How often each claim held at each budget, and how often not."""
    found = dict[tuple[str, str], collections.Counter[str]]()
    for text, _, _, budget, _, _, said in rows:
        found.setdefault((text, budget), collections.Counter())[said] += 1
    return found


def _of_training(kept: Mapping[str, Kept]) -> str:
    """Of the gaps that were told, how many are gaps of training as well."""
    told_worse = [
        [run["regimes"][name]["train_loss"]["mean"] for name in run["baseline"]]
        for name, run in kept.items()
        if _GAP.decided_by(name, run) and gap_is_clear(run)
    ]
    higher = sum(large > small for small, large in told_worse)
    return (
        f"Of the {len(told_worse)} runs at the same epochs in which the large batch is told to be "
        f"worse, its training loss is the higher one in {higher}, in some of them near that of "
        "chance (2.3 for ten classes): there the gap is one of training before it is one of "
        "generalization."
    )


def page(kept: Mapping[str, Kept]) -> str:
    """The page: how often each claim held, then a row for every kept result that can decide it."""
    rows = decided(kept)
    heads = ["claim", "source", "run", "budget", "seeds", "our number [95%]", "verdict"]
    dashes = ["---", "---", "---", "---", "---:", "---", "---"]
    short = [
        [claim, budget, *(str(of[one] or "") for one in VERDICTS)]
        for (claim, budget), of in counts(rows).items()
    ]
    return "\n".join(
        [
            "# What held",
            "",
            "Each claim of the papers against what was run here, on small data and few seeds, "
            "which decide little about large ones. In how many runs it held, by 95% intervals; "
            "runs of one data set share it, and some of them seeds, so that they are no "
            "independent votes:",
            "",
            *table([["claim", "budget", *VERDICTS], ["---", "---", *["---:"] * 3], *short]),
            "",
            _of_training(kept),
            "",
            "## Run by run",
            "",
            "Our number with its 95% interval over seeds (and test examples, where it is a "
            "difference or share of test accuracy), at a named budget; every kept run that a claim "
            "is about and that has the number: claims about minima are about Keskar's presets, "
            "which train until they fit. *Held*: the whole interval agrees; *did not hold*: none "
            "of it; *cannot tell*: some of it. Shares of a gap are told where the gap itself is. "
            "CIFAR-10 is from JPEG throughout: no copy of the original was at hand, and "
            "compression costs accuracy.",
            "",
            *table([heads, dashes, *rows]),
            "",
        ]
    )
