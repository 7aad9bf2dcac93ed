"""Tuning: hyperparameters tried on a validation split; the test set chooses nothing.

The rate alone is a grid around the regime's rule, which grows by itself where the best lies at its
edge. With other axes (momentum, weight decay, warm-up) all are drawn at random, the same draws for
every regime, about the same rule. Regimes that differ only in their rule are one algorithm: they
are tuned over the union of their grids, once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gapjax.study._axes import as_axis
from gapjax.study._optimizers import OPTIMIZERS
from gapjax.study._plan import Plan, make_plans
from gapjax.study._population._keep import Keeper
from gapjax.study._population._member import Member
from gapjax.study._population._setup import Setup
from gapjax.study._population._train import Advance, Watch, train
from gapjax.study._remedies import REMEDIES
from gapjax.study._results._records import Trial, Tuning, over_seeds

FACTOR = 2.0  # between the rates of a grid
MOST_EXTENSIONS = 10
SEEDS = 4  # that a trial is judged by, at most
_RULES = ("LR", "LINEAR")  # remedies that only say where the grid lies


def one_algorithm(plans: Mapping[str, Plan], name: str) -> list[str]:
    """The regimes that differ from one only in the rule of the rate, itself among them.

    For Adam and its kin there are none: the rule changes more than the rate.
    """
    own = _algorithm(plans[name])
    return [other for other, plan in plans.items() if _algorithm(plan) == own]


def _algorithm(plan: Plan) -> Any:
    rules = [REMEDIES[name] for name in _RULES]
    kept = [remedy for remedy in plan.regime.remedies if remedy not in rules]
    others = plan.optimizer, tuple(sorted(plan.hyper.items())), plan.keep, plan.warmup
    return plan.regime.batch, tuple(map(id, kept)), plan.ghost_size, others


def rule_hyper(plan: Plan) -> dict[str, float]:
    """The tuned axes of a regime as they are without tuning."""
    study = plan.study
    own = OPTIMIZERS[plan.optimizer].defaults if isinstance(plan.optimizer, str) else {}
    given = {**own, **plan.hyper, "warmup": plan.warmup}
    names = [as_axis("tune_also", text).name for text in study.tune_also]
    return {name: float(given[name]) for name in names if name in given}


def first_trials(plans: Sequence[Plan]) -> list[tuple[float, dict[str, float]]]:
    """What is tried at first, over the grids of all plans: rates, and other hyperparameters."""
    study = plans[0].study
    low = -(study.tune // 2)
    powers = range(low, low + study.tune)
    if not study.tune_also:
        rates = [plan.rate * FACTOR**power for plan in plans for power in powers]
        return [(rate, {}) for rate in _distinct(rates)]
    reach = FACTOR ** max(study.tune // 2, 1)
    return [trial for plan in plans for trial in random_trials(plan, plan.rate, study.tune, reach)]


def random_trials(
    plan: Plan, rate: float, count: int, reach: float
) -> list[tuple[float, dict[str, float]]]:
    """A rate with the rest as it is, and draws of all that is tuned: rates within that factor.

    The draws are the same for every plan of a study.
    """
    study = plan.study
    axes = [as_axis("tune_also", text) for text in study.tune_also]
    by_rule = rule_hyper(plan)
    shares = np.random.default_rng([study.first_seed, count]).uniform(size=(count, 1 + len(axes)))
    trials = [(rate, by_rule)]
    for of_rate, *of_axes in shares[1:]:
        drawn = {axis.name: float(axis.draw(x)) for axis, x in zip(axes, of_axes, strict=True)}
        at = float(rate * reach ** (2 * of_rate - 1))
        trials.append((at, {name: drawn[name] for name in by_rule}))
    return trials


def _distinct(rates: Iterable[float]) -> list[float]:
    """Rates in order, each once; grids of several centres meet up to rounding."""
    found: list[float] = []
    for rate in sorted(rates):
        if not found or rate > found[-1] * (1 + 1e-6):
            found.append(rate)
    return found


def tune(
    setup: Setup,
    plans: Sequence[Plan],
    train_split: Any,
    validation: Any,
    *,
    report: Callable[[Advance], None],
    keeper: Callable[[str, list[Member]], Keeper | None],
) -> Tuning:
    """The best of what was tried, judged by the headline metric on the validation split.

    Args:
        setup: of the study.
        plans: of the regimes that are one algorithm; the first is trained.
        train_split: what to train on.
        validation: what judges.
        report: of the progress.
        keeper: what keeps the members of a stage, by its name.
    """
    study = setup.study
    left = len(jax.tree.leaves(train_split)[0])
    own = plans[0]
    # Planned with all others, as a regime that sees as many examples as the longest has to be.
    planned = make_plans(study, study.all_regimes, left)[own.regime.name]
    plan = dataclasses.replace(planned, reference=own.reference)

    # A loss that ends training is looked at on the way; what only judges, where it ends.
    on_the_way = None if plan.stopping else frozenset[int]()
    watched = [
        Watch("train", train_split, on_the_way, at_end=True),
        Watch("test", validation, frozenset(), at_end=True),
    ]

    def judge(trials: Sequence[tuple[float, dict[str, float]]], stage: int) -> list[Trial]:
        members = [
            Member(seed, rate, hyper) for rate, hyper in trials for seed in study.all_seeds[:SEEDS]
        ]
        outcome = train(
            setup,
            plan,
            train_split,
            validation,
            members,
            watched=watched,
            progress=report,
            keeper=keeper(f"tune{stage}", members),
        )
        values = outcome.final(f"test_{study.task.headline}").reshape(len(trials), -1)
        return [
            Trial(rate, hyper, over_seeds(row))
            for (rate, hyper), row in zip(trials, values, strict=True)
        ]

    choose = functools.partial(_choose, maximize=study.task.maximize, grid=not study.tune_also)
    tuning = choose(judge(first_trials(plans), 0), extended=0)
    while tuning.at_edge and tuning.extended < MOST_EXTENSIONS:
        more = judge([(rate, {}) for rate in _beyond(tuning, study.tune)], tuning.extended + 1)
        tuning = choose([*tuning.trials, *more], extended=tuning.extended + 1)
    return tuning


def _beyond(tuning: Tuning, count: int) -> list[float]:
    """Rates past the edge at which the best lies."""
    rate = tuning.trials[tuning.best].learning_rate
    step = FACTOR if tuning.best > 0 else 1 / FACTOR
    return [rate * step**power for power in range(1, extension(count) + 1)]


def extension(count: int) -> int:
    """By how many rates a grid of so many grows where the best lies at its edge."""
    return max(count // 2, 1)


def _choose(trials: list[Trial], maximize: bool, extended: int, grid: bool = True) -> Tuning:
    """The best of what was tried; random draws, which are no grid, have no edge.

    Of several that are as good it is the one farthest from the edges.
    """
    trials = sorted(trials, key=lambda trial: trial.learning_rate)
    # One of whose seeds one diverged is none to recommend.
    values = np.array([trial.validation.array.mean() for trial in trials])
    signed = np.where(np.isfinite(values), values if maximize else -values, -np.inf)
    tied = np.flatnonzero(signed == signed.max())
    inner = tied[np.abs(tied - (len(trials) - 1) / 2).argmin()]
    best = int(inner) if np.isfinite(signed[inner]) else 0  # all diverged: try smaller rates
    at_edge = grid and len(trials) > 1 and best in (0, len(trials) - 1)
    return Tuning(trials, best, at_edge, extended)
