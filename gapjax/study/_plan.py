"""What a regime does with a data set: its batches, its rates, its budget, where it is looked at."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import diffusion, growth
from gapjax.study._budget import Budget, check_stops, parse_keep, round_up, stopping
from gapjax.study._controllers import BRANCHING, make_controller
from gapjax.study._optimizers import is_adam, taken_by
from gapjax.study._ramp import Ramp, base_updates, ramp_of, updates_for
from gapjax.study._results._records import Decision
from gapjax.study._schedules import warmed_up
from gapjax.study._task import Task


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
        decisions: what the controller of ``GROW`` has said so far, where one drives the batch. The
            plan is then that of a run whose batch keeps its last size: as many examples, but how
            many updates is known at the end alone.
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
    decisions: tuple[Decision, ...] = ()

    @property
    def name(self) -> str:
        """The name of the regime."""
        return self.regime.name

    @property
    def small_batch(self) -> int:
        """The batch that schedules and rules start from."""
        return self.study.small_batch

    @functools.cached_property
    def controller(self) -> growth.Controller | None:
        """What drives the batch by what is measured on the way; None where it is known ahead."""
        return make_controller(self.study) if self.regime.batch == "grow" else None

    @property
    def branches(self) -> bool:
        """Whether branches of the run say how the batch grows, not the noise."""
        return self.controller is not None and self.study.controller == BRANCHING

    @functools.cached_property
    def start(self) -> "Plan":
        """The plan before its controller has said anything."""
        return dataclasses.replace(self, decisions=()) if self.decisions else self

    @functools.cached_property
    def _ramp(self) -> Ramp:
        return ramp_of(self)

    @property
    def batch_sizes(self) -> growth.StepwiseBatch:
        """Update -> examples per update."""
        return self._ramp.batch_sizes

    @property
    def sizes(self) -> tuple[int, ...]:
        """Every number of examples per update that there may be, rising."""
        return (self.controller or self.batch_sizes).sizes()

    @property
    def batch_size(self) -> int:
        """The largest number of examples per update that there may be."""
        return max(self.sizes)

    @property
    def updates(self) -> int:
        """How many updates are made."""
        return self._ramp.updates

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The updates at which the rate drops or starts to fall (or the batch grows instead)."""
        return self._ramp.boundaries

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
        """The rate by the rule, before any decay; of a driven batch, that of the small one."""
        return diffusion.scale_learning_rate(
            self.peak,
            batch_size=self.batch_size if self.controller is None else self.small_batch,
            base_batch_size=self.small_batch,
            rule=self.rule,
        )

    def schedule(self, warmup: Any = None) -> optax.Schedule:
        """Update -> rate, by the rule; with another warm-up than the plan's where one is given."""
        share = self.warmup if warmup is None else warmup
        if self.controller is None:
            return warmed_up(self._ramp.schedule, self._updates_of(share))
        small = self.small_batch
        written = warmed_up(self._ramp.schedule, share * base_updates(self))
        return growth.by_examples(
            lambda examples: written(examples / small),
            self.batch_sizes,
            rule=self.rule,
            base_batch_size=small,
        )

    def _updates_of(self, share: Any) -> Any:
        """The updates in which a share of the examples is seen, a number or a traced array.

        The examples are those that the schedule is written for, and not how many there may be where
        the loss decides.
        """
        ends = (0, *self.batch_sizes.boundaries, self.updates)
        seen = [float(self.batch_sizes.examples_before(end)) for end in ends]
        interp = jnp.interp if isinstance(share, jax.Array) else np.interp
        return interp(
            share * self.examples / self.times, np.array(seen), np.array(ends, np.float64)
        )

    @property
    def budget(self) -> Budget:
        """The budget that is held fixed against the small batch."""
        return parse_keep(f"keep of regime {self.name}", self.keep)

    @functools.cached_property
    def stopping(self) -> Callable[..., np.ndarray] | None:
        """When members stop, where the loss decides; see ``stopping``. None where it does not."""
        return stopping(self.study, self.budget, self.num_examples)

    @property
    def times(self) -> float:
        """How many times its epochs a regime may go on for, where the loss decides."""
        return self.study.maximum if self.budget.stops else 1.0

    @property
    def pace(self) -> float:
        """Updates of the small batch that one update stands for, epoch by epoch."""
        return 1.0 if self.keep == "updates" else self.batch_size / self.small_batch

    @functools.cached_property
    def evaluations(self) -> frozenset[int]:
        """The updates after which metrics are measured, evenly spaced, and early ones."""
        if self.looks is not None:
            return frozenset(look for look in self.looks if look <= self.updates)
        points, updates = round_up(self.study.evaluations * self.times), self.start.updates
        evenly = {round(u) for u in np.linspace(0, updates, points + 1)} - {0}
        early = diffusion.log_spaced(updates, per_decade=4)
        # No more of them than there are points: a look at a large network costs many updates.
        chosen = np.linspace(0, len(early) - 1, min(points, len(early))).round().astype(int)
        return self._as_many_examples({*evenly, *(early[i] for i in chosen)})

    @functools.cached_property
    def marks(self) -> tuple[int, ...]:
        """The updates after which the distance is measured, log-spaced, and the evaluations."""
        distances = self._as_many_examples(diffusion.log_spaced(self.start.updates))
        return tuple(sorted(distances | self.evaluations))

    def _as_many_examples(self, updates: Iterable[int]) -> frozenset[int]:
        """The updates that have seen as many examples as those of a batch that did not grow."""
        before = self.start.batch_sizes.examples_before
        return frozenset(
            min(updates_for(self.batch_sizes, before(update)), self.updates) for update in updates
        )

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

    def place(item: tuple[str, Plan]) -> tuple[bool, bool]:
        # Of regimes that are tuned as one the first is trained: an end of the gap, if it is there.
        return item[1].follows is not None, item[0] not in study.baseline

    return dict(sorted(plans.items(), key=place))


def _check(plan: Plan) -> None:
    check_stops(plan.study, f"keep of regime {plan.name}", plan.keep)
    if plan.regime.batch == "grow" and plan.controller is None and plan.rule != "none":
        raise ValueError(
            f"regime {plan.name}: a rate that follows the batch does not go with GROW, whose batch "
            "takes the place of the rate's drops: leave LR or LINEAR out, or let a controller "
            "drive the batch, controller='noise-scale', say."
        )
    for size in plan.sizes:
        if size > plan.num_examples:
            raise ValueError(
                f"regime {plan.name}: a batch of {size} is larger than the {plan.num_examples} "
                f"training examples: use at most {plan.num_examples}."
            )
        ghost = plan.ghost_size
        if ghost is not None and size % ghost:
            fits = [g for g in range(2, size + 1) if size % g == 0]
            nearest = sorted(fits, key=lambda g: abs(g - ghost))[:3]
            use = " or ".join(map(str, sorted(nearest))) or "a larger batch, or leave GBN out"
            raise ValueError(
                f"regime {plan.name}: a batch of {size} is not a multiple of ghost_size={ghost}: "
                f"use {use}."
            )


def warn_of_rules(plan: Plan) -> None:
    """Say where Adam, whose updates have a length of their own, follows the rule of SGD."""
    if not is_adam(plan.optimizer):
        return
    instead = None
    if plan.controller is None:
        instead = {"grow": "SEESAW", "hybrid": "SEESAW"}.get(plan.regime.batch)
    if plan.rule == "linear":
        instead = "LR"
    if instead is not None:
        warnings.warn(
            f"regime {plan.name} ties the rate of {plan.optimizer} to the batch as for SGD, by "
            f"rate / batch; the noise of {plan.optimizer} goes with rate / sqrt(batch), which is "
            f"what {instead} keeps."
        )
