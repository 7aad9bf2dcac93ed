"""What a regime does with a data set: its updates, its schedule, and where it is looked at."""

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np
import optax

from gapjax import diffusion, growth
from gapjax.study._regimes import Regime
from gapjax.study._study import Study


@dataclasses.dataclass(frozen=True)
class Plan:
    """A regime on a data set of a known size.

    Attributes:
        regime: the regime.
        batch_sizes: update -> examples per update.
        ghost_size: examples per ghost, or None.
        updates: how many updates are made.
        epochs: how many passes over the data that is.
        learning_rate: the rate of the regime's rule before any decay.
        schedule: update -> learning rate, by the regime's rule.
        boundaries: the updates at which the rate drops.
        marks: the updates after which the distance is measured, log-spaced, the last one included.
        evaluations: the marks after which losses and accuracies are measured too.
        noise_std: of the weights of per-example losses; 0 for none.
        pace: updates of the small batch that one update stands for, epoch by epoch.
    """

    regime: Regime
    batch_sizes: growth.StepwiseBatch
    ghost_size: int | None
    updates: int
    epochs: float
    learning_rate: float
    schedule: optax.Schedule
    boundaries: tuple[int, ...]
    marks: tuple[int, ...]
    evaluations: frozenset[int]
    noise_std: float
    pace: float

    @property
    def batch_size(self) -> int:
        """The largest number of examples per update."""
        return max(self.batch_sizes.sizes())

    @property
    def budget(self) -> str:
        """The budget that is held fixed against the small batch."""
        return "same epochs" if self.regime.keep == "epochs" else "same updates"


def make_plan(study: Study, regime: Regime, num_examples: int) -> Plan:
    """The plan of a regime.

    Raises:
        ValueError: a batch larger than the data, or a ghost size that does not fit the batch.
    """
    base_updates = max(1, math.ceil(study.epochs * num_examples / study.small_batch))
    drops = {max(1, round(f * base_updates)): study.decay_factor for f in study.decay_at}
    if regime.batch == "grow":
        schedule, sizes = _growing(study, regime, drops)
        boundaries, updates = sizes.boundaries, _updates(sizes, study.epochs * num_examples)
    else:
        named = {"small": study.small_batch, "large": study.large_batch}
        batch = named[regime.batch] if isinstance(regime.batch, str) else regime.batch
        sizes = growth.constant_batch(batch)
        schedule = diffusion.adapt_regime(
            _decaying(study.learning_rate, drops),
            batch_size=batch,
            base_batch_size=study.small_batch,
            rule=regime.rule,
            keep=regime.keep,
        )
        stretch = study.small_batch / batch if regime.keep == "epochs" else 1.0
        boundaries = tuple(math.ceil(u * stretch) for u in drops)
        updates = max(1, math.ceil(base_updates * stretch))
    for size in sizes.sizes():
        _check_size(study, regime, size, num_examples)
    evenly = {round(u) for u in np.linspace(0, updates, study.evaluations + 1)} - {0}
    evaluations = evenly | set(
        diffusion.log_spaced(updates, per_decade=4)
    )  # the early ones count on log axes
    largest = max(sizes.sizes())
    return Plan(
        regime=regime,
        batch_sizes=sizes,
        ghost_size=study.ghost_size if regime.ghost else None,
        updates=updates,
        epochs=sum(map(sizes, range(updates))) / num_examples,
        learning_rate=float(schedule(0)),
        schedule=schedule,
        boundaries=boundaries,
        marks=tuple(sorted(set(diffusion.log_spaced(updates)) | evaluations)),
        evaluations=frozenset(evaluations),
        noise_std=diffusion.noise_std(largest, study.small_batch) if regime.noise else 0.0,
        pace=largest / study.small_batch if regime.keep == "epochs" else 1.0,
    )


def _decaying(rate: float, drops: Mapping[int, float]) -> optax.Schedule:
    """The rate, multiplied by a factor at each drop."""
    rates = list(itertools.accumulate(drops.values(), lambda r, factor: r * factor, initial=rate))
    return optax.join_schedules([optax.constant_schedule(r) for r in rates], list(drops))


def _growing(
    study: Study, regime: Regime, drops: Mapping[int, float]
) -> tuple[optax.Schedule, growth.StepwiseBatch]:
    """The first drops of the rate as growth of the batch; those after them stay drops."""
    count = len(drops) if regime.growths is None else regime.growths
    grown = dict(list(drops.items())[:count])
    schedule, sizes = growth.grow_instead_of_decay(
        study.learning_rate,
        grown,
        batch_size=study.small_batch,
        maximum=study.large_batch,
        keep="epochs",
    )
    later = {_updates(sizes, u * study.small_batch): f for u, f in list(drops.items())[count:]}
    scale = _decaying(1.0, later)
    return lambda update: schedule(update) * scale(update), sizes


def _updates(sizes: growth.StepwiseBatch, num_examples: float) -> int:
    """How many updates it takes to see so many examples."""
    first = 0
    for size, end in zip(sizes.values, sizes.boundaries, strict=False):
        if num_examples <= (end - first) * size:
            return first + math.ceil(num_examples / size)
        num_examples -= (end - first) * size
        first = end
    return first + max(1, math.ceil(num_examples / sizes.values[-1]))


def _check_size(study: Study, regime: Regime, batch: int, num_examples: int) -> None:
    if batch > num_examples:
        raise ValueError(
            f"regime {regime.name}: a batch of {batch} is larger than the {num_examples} training "
            f"examples: use at most {num_examples}."
        )
    if regime.ghost and batch % study.ghost_size:
        fits = [g for g in range(2, batch + 1) if batch % g == 0]
        nearest = sorted(fits, key=lambda g: abs(g - study.ghost_size))[:3]
        raise ValueError(
            f"regime {regime.name}: a batch of {batch} is not a multiple of "
            f"ghost_size={study.ghost_size}: use {' or '.join(map(str, sorted(nearest)))}."
        )
