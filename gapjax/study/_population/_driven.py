"""A batch that its controller drives: what is measured at a look, and what is decided there.

What a controller is shown stands in the curves, and it is pure. So the decisions of a run that was
interrupted are made again from its curves, and are the same.
"""

import dataclasses
import math
import types
from typing import Any, NamedTuple

import numpy as np

from gapjax import growth
from gapjax.study._plan import Plan
from gapjax.study._population._branches import HIGH, LOW
from gapjax.study._results._records import Decision


class Driven(NamedTuple):
    """The plan with all that was decided so far.

    Attributes:
        plan: it.
        state: what the controller remembers, None where there is none.
    """

    plan: Plan
    state: Any


def start(plan: Plan) -> Driven:
    """Before the first look."""
    return Driven(plan.start, None if plan.controller is None else plan.controller.init())


def look(driven: Driven, curves: Any, row: int) -> Driven:
    """Ask the controller, where a row of the curves is an evaluation and training goes on.

    Raises:
        ValueError: it proposes a size that it did not name, or a smaller one.
    """
    plan, controller = driven.plan, driven.plan.controller
    update = int(curves.update[row])
    if controller is None or update not in plan.evaluations or update >= plan.updates:
        return driven
    if plan.branches and np.isnan(curves.values[LOW][row, 0]):
        return driven  # no branches were trained here
    mean = {name: _mean(column[row]) for name, column in curves.values.items()}
    trace, norm = mean["gradient_noise"], mean["gradient_norm"]
    # Means come before the ratio; where noise hides the gradient it has no bound.
    ratio = math.inf if norm <= 0 else trace / norm
    shown: Any = growth.NoiseScale(trace, norm, ratio, math.nan)
    if plan.branches:
        shown = types.SimpleNamespace(
            low=curves.values[LOW][row, 0], high=curves.values[HIGH][row, 0]
        )
    proposal, state = controller.update(
        driven.state,
        shown,
        loss=mean["train_loss"],
        learning_rate=float(plan.schedule()(update)),
    )
    size, after = plan.batch_sizes(update), int(proposal.size)
    if after not in controller.sizes() or after < size:
        raise ValueError(
            f"regime {plan.name}: at update {update} the controller proposes a batch of {after} "
            f"after {size}: it may propose the sizes that sizes() names, from there on."
        )
    seen = plan.batch_sizes.examples_before(update)
    decision = Decision(update, seen, size, after, str(proposal.reason))
    return Driven(dataclasses.replace(plan, decisions=(*plan.decisions, decision)), state)


def _mean(values: np.ndarray) -> float:
    """The mean over the members that go on, NaN where none does."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if there.size else math.nan
