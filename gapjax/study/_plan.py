"""What a regime does with a data set: its batches, its rates, its budget, where it is looked at."""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import diffusion, growth
from gapjax.study._budget import Budget, check_stops, parse_keep, stopping
from gapjax.study._optimizers import is_adam, rule_of, taken_by
from gapjax.study._schedules import at_fractions, course, piecewise, warmed_up
from gapjax.study._task import Task


class _Run(NamedTuple):
    """Batches and rates over the updates of a regime, before any warm-up."""

    batch_sizes: growth.StepwiseBatch
    schedule: optax.Schedule
    updates: int
    boundaries: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A regime on a data set of a known size; what remedies change, and what follows from it.

    Attributes:
        study: the study.
        regime: the regime.
        num_examples: how many examples there are to train on.
        task: what is trained for; a remedy may change its training loss.
        optimizer: the name of an optimizer, or a function from a schedule to an optax chain.
        hyper: the hyperparameters of the optimizer that are not its defaults.
        peak: the rate of the small batch before any decay.
        rule: how the rate follows the batch size: ``"none"``, ``"sqrt"`` or ``"linear"``.
        keep: what is held fixed against the small batch: ``"epochs"`` (as many examples, so fewer
            updates), ``"updates"`` (as many updates, so more examples), ``"longest"`` (as many
            examples as the regime that sees most), ``"loss=0.01"`` (until the training loss first
            falls to that) or ``"plateau"`` (until it no longer improves).
        warmup: the share of the updates over which the rate rises in a line.
        ghost_size: examples per ghost of batch norms, or None.
        follows: the regime whose distance from the start this one follows, or None.
        reference: how far that regime travelled; before it is trained, a curve of the same size.
        longest: the examples that the regime sees which sees most, for ``keep="longest"``.
        looks: the updates after which metrics are measured, where they are not the study's.
        grows_from: the share of the examples before which the batch of ``SEESAW`` does not grow.
    """

    study: Any
    regime: Any
    num_examples: int
    task: Task
    optimizer: Any
    hyper: Mapping[str, float]
    peak: float
    rule: str = "none"
    keep: str = "epochs"
    warmup: float = 0.0
    ghost_size: int | None = None
    follows: str | None = None
    reference: diffusion.DiffusionRecord | None = None
    longest: int | None = None
    looks: tuple[int, ...] | None = None
    grows_from: float = 0.0

    @property
    def name(self) -> str:
        """The name of the regime."""
        return self.regime.name

    @property
    def small_batch(self) -> int:
        """The batch that schedules and rules start from."""
        return self.study.small_batch

    @functools.cached_property
    def _run(self) -> _Run:
        make = {"grow": _growing, "hybrid": _growing, "seesaw": _seesaw}
        return make.get(self.regime.batch, _constant)(self)

    @property
    def batch_sizes(self) -> growth.StepwiseBatch:
        """Update -> examples per update."""
        return self._run.batch_sizes

    @property
    def batch_size(self) -> int:
        """The largest number of examples per update."""
        return max(self.batch_sizes.sizes())

    @property
    def updates(self) -> int:
        """How many updates are made."""
        return self._run.updates

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The updates at which the rate drops or starts to fall (or the batch grows instead)."""
        return self._run.boundaries

    @functools.cached_property
    def examples(self) -> int:
        """How many examples are seen."""
        return self.batch_sizes.examples_before(self.updates)

    @property
    def epochs(self) -> float:
        """How many passes over the data that is."""
        return self.examples / self.num_examples

    @property
    def rate(self) -> float:
        """The rate by the rule, before any decay."""
        return diffusion.scale_learning_rate(
            self.peak,
            batch_size=self.batch_size,
            base_batch_size=self.small_batch,
            rule=self.rule,
        )

    def schedule(self, warmup: Any = None) -> optax.Schedule:
        """Update -> rate, by the rule; with another warm-up than the plan's where one is given."""
        share = self.warmup if warmup is None else warmup
        return warmed_up(self._run.schedule, self._updates_of(share))

    def _updates_of(self, share: Any) -> Any:
        """The updates in which a share of the examples is seen, a number or a traced array."""
        ends = (0, *self.batch_sizes.boundaries, self.updates)
        seen = [float(self.batch_sizes.examples_before(end)) for end in ends]
        interp = jnp.interp if isinstance(share, jax.Array) else np.interp
        return interp(share * self.examples, np.array(seen), np.array(ends, np.float64))

    @property
    def budget(self) -> Budget:
        """The budget that is held fixed against the small batch."""
        return parse_keep(f"keep of regime {self.name}", self.keep)

    @functools.cached_property
    def stopping(self) -> Callable[..., np.ndarray] | None:
        """When members stop, where the loss decides; see ``stopping``. None where it does not."""
        return stopping(self.study, self.budget, self.num_examples)

    @property
    def _times(self) -> float:
        """How many times its epochs a regime may go on for, where the loss decides."""
        return self.study.maximum if self.budget.stops else 1.0

    @property
    def pace(self) -> float:
        """Updates of the small batch that one update stands for, epoch by epoch."""
        return 1.0 if self.keep == "updates" else self.batch_size / self.small_batch

    @functools.cached_property
    def evaluations(self) -> frozenset[int]:
        """The updates after which metrics are measured: evenly spaced, and early ones."""
        if self.looks is not None:
            return frozenset(self.looks)
        points = math.ceil(self.study.evaluations * self._times)
        evenly = {round(u) for u in np.linspace(0, self.updates, points + 1)} - {0}
        return frozenset(evenly | set(diffusion.log_spaced(self.updates, per_decade=4)))

    @functools.cached_property
    def marks(self) -> tuple[int, ...]:
        """The updates after which the distance is measured: log-spaced, and the evaluations."""
        return tuple(sorted({*diffusion.log_spaced(self.updates), *self.evaluations}))

    def hyper_of(self, optimizer: Any) -> dict[str, float]:
        """The hyperparameters that the study names and an optimizer takes."""
        given = self.study.hyperparameters
        return {name: given[name] for name in taken_by(optimizer) if name in given}


def make_plan(study: Any, regime: Any, num_examples: int, longest: int | None = None) -> Plan:
    """The plan of a regime.

    Args:
        study: the study.
        regime: one of its regimes.
        num_examples: how many examples there are to train on.
        longest: the examples of the regime that sees most; where it is not known, a regime that
            wants as many is planned as if there were no other.

    Returns:
        The plan.

    Raises:
        ValueError: a batch larger than the data, or a hook of a remedy that gives no plan.

    Example:
        >>> from gapjax import study
        >>> plan = make_plan(study.Study(), study.Regime.parse("LB+LR"), 1280)
        >>> plan.batch_size, plan.updates, round(plan.rate, 3)
        (640, 40, 0.316)
    """
    plan = Plan(
        study,
        regime,
        num_examples,
        task=study.task,
        optimizer=study.optimizer,
        hyper=study.hyperparameters,
        peak=study.learning_rate,
        keep=study.keep,
        warmup=study.warmup,
        longest=longest,
    )
    for remedy in regime.remedies:
        if remedy.plan is not None:
            plan = remedy.plan(plan)
            if not isinstance(plan, Plan):
                raise ValueError(
                    f"plan of remedy {remedy.name} must give a plan, not {plan!r}: write "
                    "plan=lambda plan: dataclasses.replace(plan, ...)."
                )
    _check(plan)
    return plan


def make_plans(study: Any, regimes: Sequence[Any], num_examples: int) -> dict[str, Plan]:
    """The plans of several regimes, by name, in an order in which they can be trained.

    A regime that follows another comes after it; one that is to see as many examples as the longest
    is planned with the others known.
    """
    plans = {regime.name: make_plan(study, regime, num_examples) for regime in regimes}
    # Where the loss decides, nobody knows yet.
    fixed = [plan for plan in plans.values() if not plan.budget.stops]
    others = [plan.examples for plan in fixed if plan.keep != "longest"]
    for name, plan in plans.items():
        if plan.keep == "longest":
            longest = max(others, default=plan.examples)
            plans[name] = make_plan(study, plan.regime, num_examples, longest)
    for name, plan in plans.items():
        if plan.follows is not None and plan.follows not in plans:
            raise ValueError(
                f"regime {name} follows {plan.follows}, which must be among the regimes of the "
                f"study: {', '.join(plans)}."
            )
        if plan.follows == name:
            raise ValueError(f"regime {name} cannot follow itself; see baseline.")
    return dict(sorted(plans.items(), key=lambda item: item[1].follows is not None))


def _base_updates(plan: Plan) -> int:
    """Updates of the small batch: what the schedule is written for."""
    wanted = plan.study.epochs * plan.num_examples if plan.longest is None else plan.longest
    return max(1, math.ceil(wanted / plan.small_batch))


def _constant(plan: Plan) -> _Run:
    named = {"small": plan.study.small_batch, "large": plan.study.large_batch}
    batch = named.get(plan.regime.batch, plan.regime.batch)
    updates = _base_updates(plan)
    base = course(plan.study, updates, plan.peak)
    keep = "updates" if plan.keep == "updates" else "epochs"
    schedule = diffusion.adapt_regime(
        base.schedule,
        batch_size=batch,
        base_batch_size=plan.small_batch,
        rule=plan.rule,
        keep=keep,
    )
    stretch = 1.0 if keep == "updates" else plan.small_batch / batch
    return _Run(
        growth.constant_batch(batch),
        schedule,
        max(1, math.ceil(updates * stretch * plan._times)),
        at_fractions(base.boundaries, stretch),
    )


def _growing(plan: Plan) -> _Run:
    """The first drops of the rate as growth of the batch; those after them stay drops."""
    study, updates = plan.study, _base_updates(plan)
    drops: Any = course(study, updates, plan.peak).boundaries
    if not drops or None in drops.values():
        if plan.regime.batch == "grow":  # a rate that falls smoothly drops wherever it has halved
            return _traded(plan, "linear")
        raise ValueError(
            f"regime {plan.name}: the batch grows at the first drop of the rate, and schedule="
            f"{study.schedule!r} has no drops: use schedule='step' with decay_at."
        )
    count = 1 if plan.regime.batch == "hybrid" else len(drops)
    schedule, sizes = growth.grow_instead_of_decay(
        plan.peak,
        dict(itertools.islice(drops.items(), count)),
        batch_size=study.small_batch,
        maximum=study.large_batch,
        keep="epochs",
    )
    rest = itertools.islice(drops.items(), count, None)
    later = {_updates_for(sizes, u * study.small_batch): factor for u, factor in rest}
    scale = piecewise(1.0, later)
    total = study.epochs * plan.num_examples if plan.longest is None else plan.longest
    return _Run(
        sizes,
        lambda update: schedule(update) * scale(update),
        _updates_for(sizes, total * plan._times),
        (*sizes.boundaries, *later),
    )


def _seesaw(plan: Plan) -> _Run:
    return _traded(plan, rule_of(plan.optimizer))


def _traded(plan: Plan, rule: str) -> _Run:
    """The fall of the rate as growth of the batch, by a rule of the noise."""
    study, updates = plan.study, _base_updates(plan)
    base, small = course(study, updates, plan.peak).schedule, study.small_batch
    total = updates * small
    try:
        schedule, sizes = growth.seesaw(
            lambda examples: base(examples / small),
            total_examples=total,
            batch_size=small,
            maximum=study.large_batch,
            multiple=plan.ghost_size or 1,
            start=plan.grows_from,
            rule=rule,
        )
    except ValueError as error:
        raise ValueError(f"regime {plan.name}: {error}") from None
    if not sizes.boundaries:
        raise ValueError(
            f"regime {plan.name}: the batch grows where the rate would halve, and schedule="
            f"{study.schedule!r} never lets it: use schedule='cosine', say."
        )
    return _Run(sizes, schedule, sizes.update_at(total), sizes.boundaries)


def _updates_for(sizes: growth.StepwiseBatch, num_examples: float) -> int:
    """How many updates it takes to see so many examples."""
    return sizes.update_at(max(math.ceil(num_examples), 1) - 1) + 1


def _check(plan: Plan) -> None:
    check_stops(plan.study, f"keep of regime {plan.name}", plan.keep)
    for size in plan.batch_sizes.sizes():
        if size > plan.num_examples:
            raise ValueError(
                f"regime {plan.name}: a batch of {size} is larger than the {plan.num_examples} "
                f"training examples: use at most {plan.num_examples}."
            )
        ghost = plan.ghost_size
        if ghost is not None and size % ghost:
            fits = [g for g in range(2, size + 1) if size % g == 0]
            nearest = sorted(fits, key=lambda g: abs(g - ghost))[:3]
            raise ValueError(
                f"regime {plan.name}: a batch of {size} is not a multiple of ghost_size={ghost}: "
                f"use {' or '.join(map(str, sorted(nearest)))}."
            )


def warn_of_rules(plan: Plan) -> None:
    """Say where Adam, whose updates have a length of their own, follows the rule of SGD."""
    if not is_adam(plan.optimizer):
        return
    instead = {"grow": "SEESAW", "hybrid": "SEESAW"}.get(plan.regime.batch)
    if plan.rule == "linear":
        instead = "LR"
    if instead is not None:
        warnings.warn(
            f"regime {plan.name} ties the rate of {plan.optimizer} to the batch as for SGD, by "
            f"rate / batch; the noise of {plan.optimizer} goes with rate / sqrt(batch), which is "
            f"what {instead} keeps."
        )
