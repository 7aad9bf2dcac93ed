"""What a regime does with a data set: its updates, its schedule, and where it is looked at."""

import dataclasses
import math

import numpy as np
import optax

from gapjax import diffusion
from gapjax.study._regimes import Regime
from gapjax.study._study import Study


@dataclasses.dataclass(frozen=True)
class Plan:
    """A regime on a data set of a known size.

    Attributes:
        regime: the regime.
        batch_size: examples per update.
        ghost_size: examples per ghost, or None.
        updates: how many updates are made.
        epochs: how many passes over the data that is.
        learning_rate: the rate of the regime's rule before any decay.
        schedule: update -> learning rate, by the regime's rule.
        boundaries: the updates at which the rate drops.
        marks: the updates after which the distance is measured, log-spaced, the last one included.
        evaluations: the marks after which losses and accuracies are measured too.
    """

    regime: Regime
    batch_size: int
    ghost_size: int | None
    updates: int
    epochs: float
    learning_rate: float
    schedule: optax.Schedule
    boundaries: tuple[int, ...]
    marks: tuple[int, ...]
    evaluations: frozenset[int]

    @property
    def budget(self) -> str:
        """The budget that is held fixed against the small batch."""
        return "same epochs" if self.regime.keep == "epochs" else "same updates"


def make_plan(study: Study, regime: Regime, num_examples: int) -> Plan:
    """The plan of a regime.

    Raises:
        ValueError: a batch larger than the data, or a ghost size that does not fit the batch.
    """
    sizes = {"small": study.small_batch, "large": study.large_batch}
    batch = sizes[regime.batch] if isinstance(regime.batch, str) else regime.batch
    if batch > num_examples:
        raise ValueError(
            f"regime {regime.name}: a batch of {batch} is larger than the {num_examples} training "
            f"examples: use at most {num_examples}."
        )
    if regime.ghost and batch % study.ghost_size:
        fits = [g for g in _divisors(batch) if g > 1]
        nearest = sorted(fits, key=lambda g: abs(g - study.ghost_size))[:3]
        raise ValueError(
            f"regime {regime.name}: a batch of {batch} is not a multiple of "
            f"ghost_size={study.ghost_size}: use {' or '.join(map(str, sorted(nearest)))}."
        )
    base_updates = max(1, math.ceil(study.epochs * num_examples / study.small_batch))
    base_boundaries = [max(1, round(f * base_updates)) for f in study.decay_at]
    rates = [study.learning_rate * study.decay_factor**k for k in range(len(base_boundaries) + 1)]
    base = optax.join_schedules([optax.constant_schedule(r) for r in rates], base_boundaries)
    schedule = diffusion.adapt_regime(
        base,
        batch_size=batch,
        base_batch_size=study.small_batch,
        rule=regime.rule,
        keep=regime.keep,
    )
    stretch = study.small_batch / batch if regime.keep == "epochs" else 1.0
    updates = max(1, math.ceil(base_updates * stretch))
    evenly = {round(u) for u in np.linspace(0, updates, study.evaluations + 1)} - {0}
    evaluations = evenly | set(
        log_spaced(updates, per_decade=4)
    )  # the early ones count on log axes
    return Plan(
        regime=regime,
        batch_size=batch,
        ghost_size=study.ghost_size if regime.ghost else None,
        updates=updates,
        epochs=updates * batch / num_examples,
        learning_rate=float(schedule(0)),
        schedule=schedule,
        boundaries=tuple(math.ceil(b * stretch) for b in base_boundaries),
        marks=tuple(sorted(set(log_spaced(updates)) | evaluations)),
        evaluations=frozenset(evaluations),
    )


def log_spaced(last: int, per_decade: int = 20) -> list[int]:
    """Whole numbers from 1 to ``last``, evenly spaced on a log axis where they are dense enough.

    Example:
        >>> log_spaced(10, per_decade=4)
        [1, 2, 3, 6, 10]
    """
    count = max(2, math.ceil(per_decade * math.log10(max(last, 2))) + 1)
    return sorted({round(u) for u in np.geomspace(1, last, count)})


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
