"""How the batch and the rate of a regime run over its updates."""

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import optax

from gapjax import diffusion, growth
from gapjax.study._budget import round_up
from gapjax.study._optimizers import rule_of
from gapjax.study._schedules import at_fractions, course, piecewise

if TYPE_CHECKING:
    from gapjax.study._plan import Plan


class Ramp(NamedTuple):
    """Batches and rates over the updates of a regime, before any warm-up.

    Where a controller drives the batch, the rates are those over the updates of the small batch.
    """

    batch_sizes: growth.StepwiseBatch
    schedule: optax.Schedule
    updates: int
    boundaries: tuple[int, ...]


def ramp_of(plan: "Plan") -> Ramp:
    """The ramp of a regime; where a controller drives it, as far as it is decided.

    Raises:
        ValueError: a schedule by which the batch cannot grow.
    """
    if plan.controller is not None:
        return _driven(plan, plan.controller)
    make = {"grow": _growing, "hybrid": _growing, "seesaw": _seesaw}
    return make.get(plan.regime.batch, _constant)(plan)


def base_updates(plan: "Plan") -> int:
    """Updates of the small batch: what the schedule is written for."""
    wanted = plan.study.epochs * plan.num_examples if plan.longest is None else plan.longest
    return max(1, round_up(wanted / plan.small_batch))


def _constant(plan: "Plan") -> Ramp:
    named = {"small": plan.study.small_batch, "large": plan.study.large_batch}
    batch = named.get(plan.regime.batch, plan.regime.batch)
    updates = base_updates(plan)
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
    return Ramp(
        growth.constant_batch(batch),
        schedule,
        max(1, round_up(updates * stretch * plan.times)),
        at_fractions(base.boundaries, stretch),
    )


def _driven(plan: "Plan", controller: growth.Controller) -> Ramp:
    """The batch as its controller let it grow so far; the last size is there to stay."""
    updates, small = base_updates(plan), plan.small_batch
    base = course(plan.study, updates, plan.peak)
    grown = [decision for decision in plan.decisions if decision.grows]
    sizes = growth.StepwiseBatch(
        tuple(decision.update for decision in grown),
        (controller.sizes()[0], *(decision.after for decision in grown)),
    )
    total = round_up(updates * plan.times) * small
    drops = (updates_for(sizes, update * small) for update in base.boundaries)
    return Ramp(
        sizes,
        base.schedule,
        updates_for(sizes, total),
        tuple(sorted({*sizes.boundaries, *drops})),
    )


def _growing(plan: "Plan") -> Ramp:
    """The first drops of the rate as growth of the batch; those after them stay drops."""
    study, updates = plan.study, base_updates(plan)
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
    later = dict[int, float]()
    for update, factor in itertools.islice(drops.items(), count, None):
        at = updates_for(sizes, update * study.small_batch)
        later[at] = later.get(at, 1.0) * factor  # the updates of two drops may now be one
    scale = piecewise(1.0, later)
    total = study.epochs * plan.num_examples if plan.longest is None else plan.longest
    return Ramp(
        sizes,
        lambda update: schedule(update) * scale(update),
        updates_for(sizes, total * plan.times),
        (*sizes.boundaries, *later),
    )


def _seesaw(plan: "Plan") -> Ramp:
    return _traded(plan, rule_of(plan.optimizer))


def _traded(plan: "Plan", rule: str) -> Ramp:
    """The fall of the rate as growth of the batch, by a rule of the noise."""
    study, updates = plan.study, base_updates(plan)
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
    if max(sizes.values) <= small:
        raise ValueError(
            f"regime {plan.name}: the batch grows where the rate would halve, and schedule="
            f"{study.schedule!r} never lets it: use schedule='cosine', say."
        )
    # What is left over of the examples makes a first update of its own, of less than the small
    # batch: the batch does not grow where that ends.
    grows = (update for update in sizes.boundaries if sizes(update - 1) >= small)
    return Ramp(sizes, schedule, updates_for(sizes, total * plan.times), tuple(grows))


def updates_for(sizes: growth.StepwiseBatch, num_examples: float) -> int:
    """How many updates it takes to see so many examples."""
    return sizes.update_at(max(round_up(num_examples), 1) - 1) + 1
