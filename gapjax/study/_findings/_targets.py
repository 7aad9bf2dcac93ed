"""What it takes to reach a level of the headline metric on the test set."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gapjax.study._results._records import OverSeeds, RegimeRecord, TaskFacts, over_seeds

COSTS = ("examples", "update", "seconds", "flops")


@dataclasses.dataclass(frozen=True)
class Target:
    """What every regime takes until an evaluation first finds the level of an end of the gap.

    Attributes:
        end: the regime whose level it is, after its last update.
        level: the headline metric on the test set, its mean over seeds.
        costs: regime -> what -> of every seed, None of one that never gets there; what is
            ``examples``, ``update``, ``seconds`` (of training all seeds) and ``flops``.
    """

    end: str
    level: float
    costs: dict[str, dict[str, OverSeeds]]


def find_targets(
    records: Mapping[str, RegimeRecord], baseline: tuple[str, str], task: TaskFacts
) -> list[Target]:
    """The levels of both ends of the gap, and what every regime takes to get there."""
    found = []
    for end in reversed(baseline):
        if end not in records:
            continue
        level = records[end].run.values[f"test_{task.headline}"].mean
        if level is not None:
            costs = {name: _costs(one, level, task) for name, one in records.items()}
            found.append(Target(end, level, costs))
    return found


def _costs(record: RegimeRecord, level: float, task: TaskFacts) -> dict[str, OverSeeds]:
    curves = record.curves
    rows, values = curves.measured(f"test_{task.headline}")
    reached = values >= level if task.maximize else values <= level
    lost = [place for place, s in enumerate(record.seeds) if s in record.run.lost]
    reached[:, lost] = False
    first = np.where(reached.any(axis=0), reached.argmax(axis=0), -1)
    costs = {}
    for name in COSTS:
        spent = np.array(getattr(curves, name) or [None] * len(curves.update), np.float64)
        costs[name] = over_seeds(np.where(first < 0, np.nan, spent[rows][first]))
    return costs
