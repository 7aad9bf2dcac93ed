"""The critical batch on the way: the members of a population as branches, at a few of its looks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax import growth, training
from gapjax._batch_rules import rule_factor
from gapjax.study._plan import Plan
from gapjax.study._population._evaluate import Weights
from gapjax.study._population._keep import Snapshot
from gapjax.study._population._member import Member, member_functions
from gapjax.study._population._setup import Setup, count
from gapjax.study._population._splits import hold_out, num_left

LOW, HIGH = "critical_low", "critical_high"  # the interval of the critical batch, in the curves

_MULTIPLES = (1, 2, 4)  # of the batch in force
_PARTS = 8  # of training; branches are trained between them
_SHARE = 1 / 32  # of the examples of training that a branch sees, at least
_UPDATES = 8  # that the largest branch makes, at least


class _Branch(NamedTuple):
    """A member on a branch.

    Attributes:
        state: of the member.
        rate: what the rule multiplies.
        seed: of the member, for what it draws.
    """

    state: training.TrainState
    rate: Any
    seed: Any


def window(plan: Plan, size: int) -> int:
    """How many examples each branch from a batch size sees, whole updates of every one."""
    largest = _MULTIPLES[-1] * size
    return largest * max(_UPDATES, round(plan.start.examples * _SHARE / largest))


def branch_updates(plan: Plan) -> frozenset[int]:
    """The updates after which branches are trained: evaluations that leave room, evenly spaced.

    None once the batch is the largest.
    """
    total, seen = plan.start.examples, plan.batch_sizes.examples_before
    looks = sorted(plan.evaluations)
    parts = (total * part / _PARTS for part in range(1, _PARTS))
    found = {next(look for look in looks if seen(look) >= part) for part in parts}

    def has_room(update: int) -> bool:
        size = plan.batch_sizes(update)
        return size < plan.batch_size and seen(update) + window(plan, size) <= total

    return frozenset(filter(has_room, found))


def check_branches(setup: Setup, plan: Plan) -> None:
    """Refuse branches that could not be trained, or would tell nothing.

    Raises:
        ValueError: too few examples, seeds or processes, or a rate that does not follow the batch.
    """
    study, where = setup.study, f"regime {plan.name}: controller branching"
    if plan.rule == "none":
        raise ValueError(
            f"{where} asks whether a larger batch trains as well at the rate that suits it; say by "
            "which rule that is: GROW+LINEAR for SGD, GROW+LR for Adam."
        )
    if study.seeds < 2:
        raise ValueError(f"{where} compares branches over seeds; use at least 2, not 1.")
    if jax.process_count() > 1:
        raise ValueError(f"{where} runs in one process, not {jax.process_count()}.")
    left, widest = num_left(study, plan.num_examples), 2 * plan.sizes[-2]
    if widest > left:
        raise ValueError(
            f"{where} tries batches of up to {widest}, and validation={study.validation:g} leaves "
            f"{left} examples to branches: use a large_batch of at most {left // 2}."
        )
    if not branch_updates(plan):
        raise ValueError(
            f"{where} leaves too few examples: each branch from a batch of {plan.sizes[0]} sees "
            f"{window(plan, plan.sizes[0])} of the {plan.examples} of training: use more epochs, "
            "or another controller."
        )


def branch_meter(
    setup: Setup, plan: Plan, train_split: Any
) -> Callable[[Plan, Snapshot, Sequence[Member]], dict[str, float]]:
    """What trains branches from the states of a population: ``(plan, at, members)``.

    Each member is a seed of the paired test: it is trained on with 1, 2 and 4 times the batch, on
    as many examples of a part of the training set, at the rate of the moment, held, by the rule of
    its regime, and judged by its loss on the rest of the training set. The test set is not looked
    at.

    Returns:
        The function that gives the two ends of the interval, NaN where fewer than two members go
        on or the branch of the smallest batch diverges.
    """
    part, held = hold_out(setup.study, train_split)
    # The rate is told at every update, so its schedule is constant.
    study = dataclasses.replace(setup.study, schedule="constant")
    regime = dataclasses.replace(plan.regime, batch="small")
    flat = dataclasses.replace(plan.start, study=study, regime=regime, rule="none", warmup=0.0)
    member_step, _ = member_functions(setup, flat)

    @jax.jit
    def step(branch: _Branch, batch: Any) -> tuple[_Branch, Any]:
        factor = rule_factor(len(batch.example) / plan.small_batch, plan.rule)
        member = {"seed": branch.seed, "learning_rate": branch.rate * factor}
        rows = {"example": batch.example, "epoch": batch.epoch}
        state, metrics = member_step(branch.state, member, (batch.data, rows))
        return branch._replace(state=state), metrics["loss"]

    def loss(branch: _Branch) -> float:
        own = Weights(branch.state.params, branch.state.model_state)
        weights = jax.tree.map(lambda x: x[None], own)
        return setup.evaluator.means(weights, held)["loss"].item()

    def measure(now: Plan, at: Snapshot, members: Sequence[Member]) -> dict[str, float]:
        places = {members[i].seed: i for i in range(len(members)) if at.diverged[i] == 0}
        if len(places) < 2:
            return {LOW: np.nan, HIGH: np.nan}
        size = now.batch_sizes(at.update)
        rate = float(now.schedule()(at.update))
        base = rate / rule_factor(size / now.small_batch, now.rule)

        def start(states: training.TrainState, seed: int) -> _Branch:
            own = jax.tree.map(lambda x: x[places[seed]], states)
            state = jax.device_put(own, jax.local_devices()[0])
            return _Branch(state, np.float32(base), np.uint32(seed))

        batches = growth.GrowingBatches(
            part, growth.constant_batch(size), seed=0, with_index=True, ghost_size=now.ghost_size
        )
        try:
            found = growth.branched_critical_batch(
                at.states,
                step,
                batches,
                evaluate=loss,
                multiples=[k for k in _MULTIPLES if k * size <= count(part)],
                examples=window(now, size),
                seeds=list(places),
                reseed=start,
            )
        except FloatingPointError:  # a branch that was to be compared with
            return {LOW: np.nan, HIGH: np.nan}
        return {LOW: float(found.low), HIGH: found.high}

    return measure
