r"""Does sharpness go with the gap? Kendall's rank correlations over the runs of a study.

:math:`\tau` is taken over all runs, every regime and seed. What varies between regimes may make
both sharpness and gap, so beside it stands the granulated :math:`\psi` of Jiang et al.: the mean
:math:`\tau` within groups of runs, of one seed, that differ in a single hyperparameter.

Seeds of a regime are alike, so runs are no independent evidence of an association: regimes are.
Whether :math:`\tau` is significant is an exact test, which gives the regimes' gaps to one
another in every order, seeds left as they are. It holds whatever regimes and seeds do to either
side alone, and few regimes have few orders: then nothing is told.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from gapjax.study._findings._intervals import (
    LEVEL,
    Interval,
    clipped,
    holm,
    mean_interval,
    pseudo_values,
)
from gapjax.study._results._records import OverSeeds, RegimeRecord

HYPER = ("batch", "rate")
_ALL_ORDERS, _DRAWN = 7, 5000  # regimes up to which all orders are taken; beyond, how many


@dataclasses.dataclass(frozen=True)
class Rank:
    """How a measure of sharpness and the gap between training and test rank the runs.

    Attributes:
        number: the measure.
        tau: Kendall's rank correlation over all runs, -1 to 1. Its interval is over seeds, the
            regimes given, and covers more than 95% rather than less; its p value is over regimes.
        psi: by ``"batch"`` and ``"rate"`` the mean tau within groups of runs that differ in it
            alone; its interval is over seeds, and covers more than 95% rather than less. None
            where no two runs do.
        runs: how many there are.
        p_adjusted: the p value of tau adjusted for all measures (Holm).

    References:
        Jiang, Neyshabur, Mobahi, Krishnan, Bengio, `Fantastic generalization measures and where to
        find them <https://arxiv.org/abs/1912.02178>`_, 2020, equations 2 and 7.
    """

    number: str
    tau: Interval
    psi: dict[str, Interval]
    runs: int
    p_adjusted: float | None = None

    @property
    def resolved(self) -> bool:
        """Whether sharpness is told to go with the gap or against it, all measures counted."""
        return self.p_adjusted is not None and self.p_adjusted < 1 - LEVEL


def find_ranks(
    numbers: Mapping[str, Mapping[str, OverSeeds]],
    seeds: Mapping[str, Sequence[int]],
    records: Mapping[str, RegimeRecord],
    names: Iterable[str],
) -> list[Rank]:
    """The rank correlations of measures of sharpness with the gap of the headline metric.

    Args:
        numbers: regime -> measure -> of every seed.
        seeds: regime -> which seeds these are.
        records: the regimes.
        names: of the measures.
    """
    regimes = list(numbers)
    common = [s for s in next(iter(seeds.values()), ()) if all(s in own for own in seeds.values())]
    if len(regimes) < 2 or not common:
        return []
    gap = np.array([_of(records[name].run.gap, records[name].seeds, common) for name in regimes])
    found = []
    for name in names:
        values = np.array([_of(numbers[r][name], seeds[r], common) for r in regimes])
        fine = np.isfinite(values).all(axis=0) & np.isfinite(gap).all(axis=0)
        if not fine.any():
            continue
        sharp, apart = values[:, fine], gap[:, fine]
        psi = {
            axis: rank_interval(_granulated(sharp, apart, _groups(records, regimes, axis)))
            for axis in HYPER
        }
        found.append(Rank(name, _tau(sharp, apart), psi, sharp.size))
    adjusted = holm([one.tau.p_value or 0.0 for one in found])
    return [dataclasses.replace(o, p_adjusted=p) for o, p in zip(found, adjusted, strict=True)]


def _of(values: OverSeeds, have: Sequence[int], want: Sequence[int]) -> np.ndarray:
    return values.array[[list(have).index(seed) for seed in want]]


def tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-a: the share of pairs ranked alike less that of pairs ranked the other way.

    Example:
        >>> tau(np.array([1, 2, 3]), np.array([10, 30, 20]))
        0.3333333333333333
    """
    i, j = np.triu_indices(len(x), 1)
    return float(np.mean(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])))


def _pooled(x: np.ndarray, y: np.ndarray) -> float:
    return tau(x.ravel(), y.ravel())


def _tau(x: np.ndarray, y: np.ndarray) -> Interval:
    """Kendall's tau over all runs, with its interval over seeds and its p value over regimes."""
    found = rank_interval(pseudo_values(_pooled, x, y))
    return dataclasses.replace(found, p_value=_p_value(x, y))


def _p_value(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided, that tau over all runs comes by chance: by exchanging the regimes of one side.

    Args:
        x: of every regime and seed, ``[R, S]``.
        y: likewise.
    """
    count = len(x)
    alike = (_signs(x) @ _signs(y).T).reshape((count,) * 4)  # of two pairs of regimes
    orders, (i, j) = _orders(count), np.indices((count, count))
    found = alike[i, j, orders[:, i], orders[:, j]].sum(axis=(1, 2))
    tails = np.mean(found >= found[0]), np.mean(found <= found[0])
    return min(1.0, 2 * float(min(tails)))


def _signs(x: np.ndarray) -> np.ndarray:
    """Which run is the larger, of every pair of regimes and of seeds: ``[R * R, S * S]``."""
    found = np.sign(x[:, None, :, None] - x[None, :, None, :])
    return found.reshape(len(x) ** 2, -1)


@functools.lru_cache(maxsize=4)
def _orders(count: int) -> np.ndarray:
    """Orders of so many regimes, the one that is there first: all, or of many a draw."""
    if count <= _ALL_ORDERS:
        return np.array(list(itertools.permutations(range(count))))
    own = np.arange(count)
    drawn = np.random.default_rng(0).permuted(np.tile(own, (_DRAWN - 1, 1)), axis=1)
    return np.vstack([own, drawn])


def fewest_regimes(measures: int) -> int:
    """How many regimes it takes to tell that one of so many measures goes with the gap.

    Example:
        >>> fewest_regimes(1), fewest_regimes(8)
        (5, 6)
    """
    return next(n for n in itertools.count(2) if 2 * measures / math.factorial(n) < 1 - LEVEL)


def _granulated(x: np.ndarray, y: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """The mean tau within groups of regimes, of each seed; empty without groups."""
    if not groups:
        return np.zeros(0)
    return np.array(
        [
            np.mean([tau(a[list(group)], b[list(group)]) for group in groups])
            for a, b in zip(x.T, y.T, strict=True)
        ]
    )


def rank_interval(values: np.ndarray) -> Interval:
    """The mean of one rank correlation per seed, with an interval that no agreement makes a point.

    Few seeds that all agree have no spread, and Student's interval of them would be certain. Two
    seeds are added for it, of which one agrees wholly and one not at all: the spread that the
    values could have had. So it takes five seeds that all agree to tell an agreement.

    Args:
        values: of every seed, from -1 to 1.

    Example:
        >>> found = rank_interval(np.ones(5))
        >>> found.mean, round(found.low, 2), found.high
        (1.0, 0.02, 1.0)

    References:
        Agresti, Coull, Approximate is better than "exact" for interval estimation of binomial
        proportions, Am. Stat. 52, 1998, who add two of each to shares.
    """
    found = mean_interval(values)
    if not found.is_bounded or found.mean is None:
        return found
    wider = mean_interval([*values, -1.0, 1.0])
    return clipped(dataclasses.replace(wider, mean=found.mean), -1.0, 1.0)


def _groups(
    records: Mapping[str, RegimeRecord], names: Sequence[str], axis: str
) -> list[list[int]]:
    """Regimes that differ in one hyperparameter alone, at least two to a group."""

    def others(name: str) -> Hashable:
        record = records[name]
        kept = frozenset(record.remedies) - {"LR", "LINEAR"}  # these are the rate
        return kept, of(name)["rate" if axis == "batch" else "batch"], record.budget

    def of(name: str) -> dict[str, Hashable]:
        record = records[name]
        sizes = tuple(size for _, size in record.batch_sizes)  # one that grows is no large one
        tuned = tuple(sorted(record.run.hyper.items()))
        return {"batch": sizes, "rate": (record.run.learning_rate, tuned)}

    groups: dict[Hashable, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(others(name), []).append(place)
    return [
        group for group in groups.values() if len({of(names[place])[axis] for place in group}) > 1
    ]
