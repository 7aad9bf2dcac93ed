"""What was found at the solutions of a study and between them, as records."""

import dataclasses
from typing import Any

from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._ranks import Rank
from gapjax.study._results._records import OverSeeds


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve over seeds: its points, the mean and the deviation."""

    mean: list[float | None]
    std: list[float | None]


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of the training set that was measured on.

    Attributes:
        examples: how many, drawn at random.
        of: how many there are.
        parts: in how many disjoint parts they were measured on besides, for the sampling error.
    """

    examples: int
    of: int
    parts: int


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What was measured at the solutions of one regime.

    Attributes:
        seeds: which.
        numbers: every number of ``MEASURES``, over seeds.
        errors: what each leaves open by itself, the largest over seeds; of those that say.
        unresolved: of counts, how many eigenvalues cannot be told from the threshold, the most of
            any seed.
        sampling: half of a 95% interval of the mean over seeds over the choice of the examples; of
            the numbers that are compared, where a part of the training set was measured on.
        still_falling: by how much the training loss fell over the last quarter of the updates.
        density: of the first seed: ``grid``, ``density``, and its 95% interval, ``low``, ``high``.
        line: ``t`` and the mean over seeds of what was evaluated on it.
    """

    seeds: list[int]
    numbers: dict[str, OverSeeds]
    errors: dict[str, float]
    unresolved: dict[str, float]
    sampling: dict[str, float]
    still_falling: OverSeeds
    density: dict[str, list[float]]
    line: dict[str, Curve]
    t: list[float]


@dataclasses.dataclass(frozen=True)
class Level:
    """The regimes at equal training loss, on their way down.

    Attributes:
        loss: the level.
        regimes: per regime its numbers over seeds, and the update at which it came there.
        ratios: of the large batch to the small.
    """

    loss: float
    regimes: dict[str, dict[str, OverSeeds]]
    ratios: dict[str, Interval]


@dataclasses.dataclass(frozen=True)
class Between:
    """The straight way from the small batch's solutions to the large batch's.

    Attributes:
        alpha: where on it, 0 the small batch, 1 the large.
        curves: means over seeds of what was evaluated on it.
        barrier: by how much the training loss rises above the chord between its ends.
        test_barrier: likewise the test loss.
        higher_end: the training loss at the higher end.
    """

    alpha: list[float]
    curves: dict[str, Curve]
    barrier: Interval
    test_barrier: Interval
    higher_end: Interval


@dataclasses.dataclass(frozen=True)
class Observations:
    """The observations of Keskar et al. (2017, section 2.1), over seeds, of the two ends.

    Attributes:
        train_difference: of the headline metric on the training set, large less small; on the test
            set that is the gap.
        below_own_peak: how far the large batch ends from the best of its own test curve.
        smallest_to_largest: per end, the smallest eigenvalue over the largest.
        negative_mass: per end, the negative share of the absolute spectrum.
        distance_ratio: how much further from the start the small batch ends.
    """

    train_difference: Interval
    below_own_peak: Interval
    smallest_to_largest: dict[str, Interval]
    negative_mass: dict[str, Interval]
    distance_ratio: Interval


@dataclasses.dataclass(frozen=True)
class LandscapeFindings:
    """What ``landscape.json`` holds.

    Attributes:
        mode: how batch norms are evaluated.
        regimes: by name.
        ratios: of the large batch to the small, of the numbers that are compared.
        levels: at equal loss.
        between: from the small batch to the large; None where one is missing.
        observations: likewise.
        ranks: whether sharpness goes with the gap, over all runs.
        part: the part of the training set that was measured on; None for all of it.
        environment: how it was measured the last time, which need not be how training ran.
    """

    mode: str
    regimes: dict[str, Surroundings]
    ratios: dict[str, Interval]
    levels: list[Level]
    between: Between | None
    observations: Observations | None
    ranks: list[Rank] = dataclasses.field(default_factory=list)
    part: Part | None = None
    environment: dict[str, Any] | None = None
