"""How often the intervals that a study prints cover the truth, by simulation.

`python -m benchmarks.coverage [--quick]` draws studies whose truth is known: results of every test
example, crossed with seeds, normal or right-or-wrong (logit-normal seeds and examples). Of each it
takes the intervals that a study takes, and counts those that hold the truth; and, where no regime
differs from another, how often any comparison of the table is called resolved. Kept in
`benchmarks/results/coverage.json`. Bars: intervals of 95% cover 93 to 97%, shares of several
regimes at once and rank correlations within groups at least 93%, and a table without any effect is
called one at most 5.5% of the time. Of 10,000 examples 2,000 studies are drawn, whose figures are
known to half a percent; of fewer, which are quickly drawn, five times as many (0.2%); of curves
over log t a quarter of that.
"""

import argparse
import concurrent.futures
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtr

from benchmarks.speed.timing import RESULTS, machine
from gapjax import diffusion
from gapjax.study import paired_difference, share_of_gap
from gapjax.study._findings._crossed import Covariance, covariance
from gapjax.study._findings._intervals import (
    Interval,
    fieller,
    geometric_ratio,
    holm,
    jackknife,
    mean_interval,
    ratio_of_means,
    student,
)
from gapjax.study._findings._ranks import _granulated, _tau, rank_interval

_QUICK = 5  # times as many draws of what is quickly drawn
_LEAST = ("at once", "psi")  # these may cover more than they say
SEEDS, EXAMPLES = (3, 5, 8, 16), (500, 10_000)
SIZES = (None, *EXAMPLES)
BAR, AT_ONCE, FAMILY = (0.93, 0.97), 0.93, 0.055
# The headline metric of the two ends of the gap and of three more regimes.
MEANS = {"SB": 0.98, "LB": 0.90, "A": 0.96, "B": 0.975, "C": 0.92}
Table = np.ndarray  # [S, n]
World = Callable[[np.random.Generator, int, int, tuple[float, ...]], list[Table]]
Hits = Mapping[str, bool]


def normal(rng: np.random.Generator, seeds: int, examples: int, means: Any) -> list[Table]:
    """Effects of seeds, of examples (some of it shared by all regimes), and of both."""
    shared = 0.2 * rng.standard_normal((1, examples))
    return [
        mean
        + 0.006 * rng.standard_normal((seeds, 1))
        + shared
        + 0.1 * rng.standard_normal((1, examples))
        + 0.15 * rng.standard_normal((seeds, examples), dtype=np.float32)
        for mean in means
    ]


_OF_SEEDS, _SHARED, _OWN = 0.12, 3.0, 1.0  # deviations of logits


def bernoulli(rng: np.random.Generator, seeds: int, examples: int, means: Any) -> list[Table]:
    """Right or wrong, with logits that have effects of seeds and of examples."""
    shared = _SHARED * rng.standard_normal((1, examples))
    return [
        rng.random((seeds, examples), dtype=np.float32)
        < expit(
            _middle(mean)
            + _OF_SEEDS * rng.standard_normal((seeds, 1))
            + shared
            + _OWN * rng.standard_normal((1, examples))
        )
        for mean in means
    ]


@functools.cache
def _middle(mean: float) -> float:
    """The logit about which the share of right answers is ``mean``."""
    at, weight = np.polynomial.hermite_e.hermegauss(80)
    spread = math.sqrt(_OF_SEEDS**2 + _SHARED**2 + _OWN**2)

    def excess(middle: float) -> float:
        return float(weight @ expit(middle + spread * at) / weight.sum()) - mean

    return brentq(excess, logit(mean) - 10, logit(mean) + 10)


WORLDS: dict[str, World] = {"normal": normal, "right or wrong": bernoulli}


def _holds(found: Interval, truth: float) -> bool:
    """Whether an interval holds the truth; where it has no bound, all of the line is in it."""
    low = -math.inf if found.low is None else found.low
    high = math.inf if found.high is None else found.high
    return low <= truth <= high


class Drawn:
    """Tables of one simulated study, whose variances are taken once."""

    def __init__(self, tables: list[Table]):
        self.tables = [np.asarray(table, np.float64) for table in tables]
        self.means = [float(table.mean()) for table in self.tables]
        self.all = covariance(*self.tables)

    def _of(self, factors: np.ndarray) -> Covariance:
        parts = [factors @ part @ factors.T for part in self.all[:3]]
        return Covariance(*parts, *self.all[3:])

    def contrast(self, *factors: float) -> Interval:
        of = np.array([factors])
        return student(float((of @ self.means).item()), self._of(of).of(1.0))

    def difference(self, a: int, b: int) -> Interval:
        factors = np.zeros(len(self.tables))
        factors[[a, b]] = 1, -1
        return self.contrast(*factors)

    def share(self, a: int, level: float) -> Interval:
        of = np.zeros((2, len(self.tables)))
        of[0, [a, 1]] = 1, -1
        of[1, [0, 1]] = 1, -1
        top, bottom = self.means[a] - self.means[1], self.means[0] - self.means[1]
        return fieller(top, bottom, self._of(of), level)

    def check(self) -> None:
        """That these are the intervals of the study."""
        a, b, c = self.tables[2], self.tables[0], self.tables[1]
        pairs = (
            (self.difference(2, 0), paired_difference(a, b)),
            (self.share(2, 0.95), share_of_gap(a, b, c)),
        )
        for own, wanted in pairs:
            np.testing.assert_allclose([own.low, own.high], [wanted.low, wanted.high], rtol=1e-6)


def crossed(drawn: Drawn) -> Hits:
    """The gap, a difference, the share of the gap, and all shares at once."""
    means, others = list(MEANS.values()), range(2, len(MEANS))
    gap = means[0] - means[1]
    at_once = [drawn.share(a, 1 - 0.05 / len(others)) for a in others]
    return {
        "the gap": _holds(drawn.difference(0, 1), gap),
        "difference to SB": _holds(drawn.difference(2, 0), means[2] - means[0]),
        "share of the gap": _holds(drawn.share(2, 0.95), (means[2] - means[1]) / gap),
        "shares of all regimes at once": all(
            _holds(share, (means[a] - means[1]) / gap)
            for a, share in zip(others, at_once, strict=True)
        ),
    }


# All combinations of two remedies: neither, one, the other, both.
COMBINED = (0.90, 0.93, 0.92, 0.97)


def factorial(drawn: Drawn) -> Hits:
    """A main effect and an interaction, as of ``find_effects``."""
    signs = {"main effect": (-0.5, 0.5, -0.5, 0.5), "interaction": (1.0, -1.0, -1.0, 1.0)}
    return {
        name: _holds(drawn.contrast(*factors), float(np.dot(factors, COMBINED)))
        for name, factors in signs.items()
    }


def no_effect(drawn: Drawn) -> Hits:
    """Whether any comparison of a table without effects is called resolved."""
    count = len(drawn.tables)
    pairs = [(a, end) for end in (0, 1) for a in range(count) if a != end and (a, end) != (0, 1)]
    p_values = [drawn.difference(*pair).p_value or 0.0 for pair in pairs]
    return {"any difference where there is none": min(holm(p_values)) < 0.05}


def over_seeds(rng: np.random.Generator, seeds: int) -> Hits:
    """Intervals of one number per seed, or of one curve."""
    start = rng.standard_normal(seeds)
    top, bottom = (m + 0.1 * (start + rng.standard_normal(seeds)) for m in (1.0, 2.0))
    ends = np.linspace(1, 2, 12)[:, None]
    scale = 1 + 0.05 * rng.standard_normal((1, seeds))
    base, curve = ends * scale, 1.3 * ends * (scale + 0.05 * rng.standard_normal((1, seeds)))

    def apart(curve: np.ndarray, base: np.ndarray) -> float:
        return float(np.sqrt(np.mean((curve.mean(axis=1) / base.mean(axis=1) - 1) ** 2)))

    return {
        "mean over seeds": _holds(mean_interval(top), 1.0),
        "ratio of slopes": _holds(ratio_of_means(top, bottom), 0.5),
        "ratio of sharpness": _holds(
            geometric_ratio(np.exp(rng.normal(1, 1, seeds)), np.exp(rng.normal(0, 1, seeds))),
            math.e,
        ),
        "difference of curves": _holds(jackknife(apart, curve, base, least=0.0), 0.3),
    }


_APART = 2.0  # regimes, in deviations of a run, in sharpness and gap alike
_REGIMES = 4


def _ranked(rng: np.random.Generator, seeds: int) -> tuple[Table, Table]:
    middle = _APART * np.linspace(0, 1, _REGIMES)[:, None]
    x, y = (middle + rng.standard_normal((_REGIMES, seeds)) for _ in range(2))
    return x, y


@functools.cache
def _true_ranks() -> tuple[float, float]:
    """Kendall's tau of runs of any seeds, and within the runs of one: the chance of each pair."""
    middle = _APART * np.linspace(0, 1, _REGIMES)
    agree = (2 * ndtr((middle[:, None] - middle) / math.sqrt(2)) - 1) ** 2
    pairs = np.triu_indices(_REGIMES, 1)
    # Of two independent runs: of the same regime, the same chance either way.
    return float(agree.mean()), float(agree[pairs].mean())


def ranks(rng: np.random.Generator, seeds: int) -> Hits:
    """Rank correlations of sharpness with the gap over all runs, and within groups of a seed."""
    x, y = _ranked(rng, seeds)
    tau, psi = _true_ranks()
    return {
        "Kendall's tau": _holds(_tau(x, y), tau),
        "psi": _holds(rank_interval(_granulated(x, y, [range(_REGIMES)])), psi),
    }


def log_t(rng: np.random.Generator, seeds: int) -> Hits:
    """The slope of the log-t law, where what a curve is off by is white, OU or a random walk."""
    step = np.unique(np.geomspace(50, 5000, 24).round())
    x = np.log(step)
    hits = {}
    for kind, length in (("white", 1e-3), ("OU", 1.5), ("Brownian", 1e3)):
        kernel = np.exp(-np.abs(x[:, None] - x) / length) * max(length, 1.0)
        noise = rng.multivariate_normal(np.zeros(len(x)), 0.01 * kernel, seeds, method="cholesky")
        slopes = 1.0 + 0.05 * rng.standard_normal((seeds, 1))
        fit = diffusion.fit_diffusion(step, 10 + slopes * x + noise)
        hits[f"slope of log t, {kind} residuals"] = fit.log_interval[0] <= 1 <= fit.log_interval[1]
    return hits


def simulate(
    rng: np.random.Generator, draw: Callable[[np.random.Generator], Hits], count: int
) -> dict[str, float]:
    """How often each is true."""
    found = [draw(rng) for _ in range(count)]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def within(name: str, share: float, error: float = 0.0) -> bool:
    """Whether a figure is inside its bar, give or take an error."""
    if name.startswith("any difference"):
        return share <= FAMILY + error
    if any(kind in name for kind in _LEAST):
        return share >= AT_ONCE - error
    return BAR[0] - error <= share <= BAR[1] + error


class Task(NamedTuple):
    """One share of the work: so many seeds, and a world of so many examples, or none."""

    seeds: int
    examples: int | None
    world: str
    count: int


def work(task: Task) -> dict[str, float]:
    """The figures of one share of the work."""
    seeds, examples, name, count = task
    rng = np.random.default_rng([seeds, examples or 0, len(name)])
    if examples is None:
        found = simulate(rng, functools.partial(over_seeds, seeds=seeds), count)
        found |= simulate(rng, functools.partial(ranks, seeds=seeds), count)
        return found | simulate(rng, functools.partial(log_t, seeds=seeds), count // 4)
    draw = functools.partial(WORLDS[name], seeds=seeds, examples=examples)
    means = tuple(MEANS.values())
    Drawn(draw(rng, means=means)).check()
    found = simulate(rng, lambda rng: crossed(Drawn(draw(rng, means=means))), count)
    found |= simulate(rng, lambda rng: factorial(Drawn(draw(rng, means=COMBINED))), count)
    alike = (0.95,) * len(means)
    return found | simulate(rng, lambda rng: no_effect(Drawn(draw(rng, means=alike))), count)


def draws(count: int, examples: int | None) -> int:
    """How many studies are drawn: more where each takes little time."""
    return count if examples and examples > 1000 else _QUICK * count


def run(seeds: Any, examples: Any, count: int, processes: int) -> dict[str, Any]:
    """All figures, by what is estimated, its world, seeds and examples."""
    worlds = [(n, name) for n in examples for name in WORLDS]
    tasks = [
        Task(s, n, name, draws(count, n))
        for s in seeds
        for n, name in ((None, "one per seed"), *worlds)
    ]
    figures: dict[str, Any] = {}
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        for task, found in zip(tasks, pool.map(work, tasks), strict=True):
            where = f"S={task.seeds}" + (f", n={task.examples}" if task.examples else "")
            for name, share in found.items():
                figures.setdefault(name, {}).setdefault(task.world, {})[where] = share
                flag = "" if within(name, share) else "  <- outside"
                print(f"{name}, {task.world}, {where}: {share:.4f}{flag}", flush=True)
    return figures


def outside(figures: Mapping[str, Any], error: float = 0.0) -> list[str]:
    """Which figures are not within their bars."""

    def look(at: Any, path: tuple[str, ...]) -> list[str]:
        if isinstance(at, Mapping):
            return [text for key, value in at.items() for text in look(value, (*path, key))]
        return [] if within(path[0], at, error) else [f"{', '.join(path)}: {at:.4f}"]

    return look(figures, ())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="500 examples, 300 draws; not kept")
    parser.add_argument("--draws", type=int, default=2000, help="of 10,000 examples")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    if given.quick:
        figures = run(SEEDS, EXAMPLES[:1], 300 // _QUICK, given.processes)
        failed = outside(figures, 0.03)  # what 300 draws tell
    else:
        figures = run(SEEDS, EXAMPLES, given.draws, given.processes)
        failed = outside(figures)
        RESULTS.mkdir(exist_ok=True)
        kept = {
            "machine": machine(),
            "draws": {f"n={n}" if n else "one per seed": draws(given.draws, n) for n in SIZES},
            "coverage": figures,
            "outside": failed,
        }
        (RESULTS / "coverage.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(f"\noutside their bars: {'; '.join(failed) if failed else 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
