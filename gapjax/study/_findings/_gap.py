"""The gap of the headline metric, what closes it, and every regime beside both ends of it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gapjax.study._controls import MORE
from gapjax.study._findings._intervals import (
    LEVEL,
    Interval,
    holm,
    paired_difference,
    seeds_to_resolve,
    share_of_gap,
)
from gapjax.study._results._records import Config, RegimeRecord

Examples = Mapping[str, Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A regime beside an end of the gap or a control, paired by seed and by test example.

    Attributes:
        regime: which.
        baseline: beside which.
        difference: of the headline metric, the regime's less the baseline's.
        p_adjusted: the p value adjusted for all comparisons of the study (Holm); None without one.
        seeds_needed: seeds that would tell this difference from none with a power of 80%; None
            where none would, with these test examples.
    """

    regime: str
    baseline: str
    difference: Interval
    p_adjusted: float | None
    seeds_needed: int | None

    @property
    def resolved(self) -> bool:
        """Whether the difference is significant, all comparisons of the study counted."""
        return self.p_adjusted is not None and self.p_adjusted < 1 - LEVEL


@dataclasses.dataclass(frozen=True)
class GapFindings:
    """What a study says of the generalization gap, in one choice of learning rates.

    Attributes:
        gap: of the headline metric, what the small batch has less what the large has; None where
            one of them is missing or diverged in every seed.
        shares: regime -> the share of the gap it closes; all None where the large batch is not
            significantly worse: there is no gap to close then.
        simultaneous: the same, all intervals right at once at 95%.
        comparisons: every regime beside both ends, and those that saw more examples than the small
            batch beside the control.
        control: the regime that is the small batch with as many examples; None where there is none.
    """

    gap: Interval | None
    shares: dict[str, Interval]
    simultaneous: dict[str, Interval]
    comparisons: list[Comparison]
    control: str | None

    def beside(self, regime: str, baseline: str) -> Comparison | None:
        """A regime beside another, where the two were compared."""
        pair = (regime, baseline)
        return next((c for c in self.comparisons if (c.regime, c.baseline) == pair), None)

    def is_clear(self, maximize: bool) -> bool:
        """Whether the large batch is significantly worse."""
        return _is_clear(self.gap, maximize)


NO_SHARE = Interval(None)


def _is_clear(gap: Interval | None, maximize: bool) -> bool:
    return gap is not None and gap.side_of(0.0) == (1 if maximize else -1)


def find_gap(
    records: Mapping[str, RegimeRecord], examples: Examples, config: Config, which: str = "run"
) -> GapFindings:
    """The gap and its shares.

    Args:
        records: the regimes that are done.
        examples: per regime what every test example gave, see ``read_examples``.
        config: of the study.
        which: ``"run"``, or ``"rule"`` for the rates of the rules where others were tuned.
    """
    small, large = config.baseline
    tables = {
        name: of_run(examples[name], config.task.headline, which, record)
        for name, record in records.items()
        # Tuned, two rules of one algorithm are one.
        if which == "rule" or record.same_as is None or name in (small, large)
    }
    weight = weight_of(examples, config)
    others = [name for name in tables if name not in (small, large)]
    gap, shares, together = None, {}, {}
    if small in tables and large in tables and tables[small].shape == tables[large].shape:
        found = paired_difference(tables[small], tables[large], weight=weight)
        gap = found if found.mean is not None else None
        clear, level = _is_clear(gap, config.task.maximize), 1 - (1 - LEVEL) / max(len(others), 1)
        for name in others:
            three = tables[name], tables[small], tables[large]
            shares[name] = together[name] = NO_SHARE
            if clear and len({table.shape for table in three}) == 1:
                shares[name] = share_of_gap(*three, weight=weight)
                together[name] = share_of_gap(*three, weight=weight, level=level)
    control = control_of({name: records[name] for name in tables}, small)
    pairs = [
        (name, end)
        for end in (small, large)
        for name in tables
        if end in tables and name != end
        if not (name == small and end == large)  # the same as the other way round
    ]
    if control is not None:
        more = [name for name in sees_more(records, small) if name in tables]
        pairs += [(name, control) for name in more if name != control]
    comparisons = [
        Comparison(
            name,
            end,
            paired_difference(tables[name], tables[end], weight=weight),
            None,
            seeds_to_resolve(tables[name], tables[end], weight=weight),
        )
        for name, end in pairs
        if tables[name].shape == tables[end].shape
    ]
    return GapFindings(gap, shares, together, _adjusted(comparisons), control)


def weight_of(examples: Examples, config: Config) -> np.ndarray | None:
    """What every test example counts, ``[n]``; None where they count alike."""
    if not config.task.weighted:
        return None
    return next((found["weight"] for found in examples.values()), None)


def sees_more(records: Mapping[str, RegimeRecord], small: str) -> list[str]:
    """The regimes that see more examples than the small batch."""
    if small not in records:
        return []
    return [n for n, r in records.items() if r.examples > MORE * records[small].examples]


def control_of(records: Mapping[str, RegimeRecord], small: str) -> str | None:
    """The regime that is the small batch with as many examples as the regime that sees most."""
    for name in sees_more(records, small):
        remedies, base = records[name].remedies, records[small]
        alike = set(remedies) - {"LONG"} <= set(base.remedies)
        if "LONG" in remedies and alike and records[name].batch_size == base.batch_size:
            return name
    return None


def of_run(
    examples: Mapping[str, np.ndarray], measure: str, which: str, record: RegimeRecord
) -> np.ndarray:
    """A measure of every test example, ``[S, n]``; seeds that diverged are NaN."""
    name = f"rule/{measure}" if which == "rule" and record.rule is not None else measure
    table = np.array(examples[name], np.float64)
    table[:, np.asarray(examples.get("weight", 1.0)) == 0] = 0.0  # whatever was measured there
    lost = record.at(which).run.lost
    table[[seed in lost for seed in record.seeds]] = np.nan
    return table


def _adjusted(comparisons: list[Comparison]) -> list[Comparison]:
    """With p values adjusted for their number."""
    told = [c for c in comparisons if c.difference.p_value is not None]
    adjusted = iter(holm([c.difference.p_value or 0.0 for c in told]))
    return [
        dataclasses.replace(c, p_adjusted=next(adjusted)) if c.difference.p_value is not None else c
        for c in comparisons
    ]
