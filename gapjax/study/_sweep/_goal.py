"""The target of a sweep: what it is a target of, and when a curve reaches it."""

from typing import Any, NamedTuple

import numpy as np

from gapjax import _checks
from gapjax.study._results._records import TaskFacts

WATCHED = ("validation", "train")


class Goal(NamedTuple):
    """What is to be reached.

    Attributes:
        name: of the target, in words.
        curve: the curve that reaches it.
        value: of the cost.
        offset: the cost is this, less or plus what is measured.
        sign: 1 where less of what is measured is better.
    """

    name: str
    curve: str
    value: float
    offset: float
    sign: float

    def cost(self, measured: Any) -> np.ndarray:
        """What has to fall to the target; NaN where nothing was measured."""
        return self.offset + self.sign * np.asarray(measured, np.float64)

    def shown(self, cost: float) -> float:
        """A cost as it is shown: of what more is better, what was measured."""
        return self.sign * cost if self.offset == 0 else cost

    @property
    def target(self) -> float:
        """The target as it was given."""
        return self.shown(self.value)

    @property
    def text(self) -> str:
        """The target in words, with its value."""
        return f"{self.name} of {self.target:g}"

    def is_known(self, update: Any, measured: Any, rates: int) -> bool:
        """Whether curves tell which rate is first at it; see ``is_certain``.

        Args:
            update: the updates of the evaluations, rising, ``[T]``.
            measured: what was measured at each, rates times seeds, ``[T, P]``.
            rates: how many rates there are.
        """
        steps = reached(np.asarray(update), self.cost(measured), self.value)
        return is_certain(steps, int(update[-1]), rates)

    def check_not_met(self, at_start: np.ndarray) -> None:
        """Refuse a target that networks meet before their first update.

        Args:
            at_start: the cost of each network there.

        Raises:
            ValueError: one of them is no higher than the target.
        """
        if (at_start <= self.value).any():
            raise ValueError(
                f"the target, a {self.text}, is met before the first update: the networks start "
                f"at {self.shown(float(at_start.min())):.4g}. Give a harder --target."
            )


def make_goal(facts: TaskFacts, target: float | None, watch: str) -> Goal:
    """The target of a task.

    Of a headline that is a fraction of which more is better (an accuracy) the target is of the
    error, 1 less the fraction; of any other, of the headline itself; of the training loss where
    that is watched.

    Raises:
        ValueError: a number that no error can be.

    Example:
        >>> facts = TaskFacts("x", "accuracy", True, ["loss", "accuracy"], ["accuracy"], False)
        >>> make_goal(facts, 0.1, "validation").text
        'validation error (1 - accuracy) of 0.1'
    """
    if target is None:
        what = "training loss" if watch == "train" else facts.headline.replace("_", " ")
        raise ValueError(
            f"a sweep needs a target, which for this task is of the {what}: --target 2.5, say."
        )
    if watch == "train":
        value = _checks.number("target", target)
        return Goal("training loss", "train_loss", value, 0.0, 1.0)
    headline = facts.headline
    curve = f"validation_{headline}"
    if not facts.maximize:
        value = _checks.number("target", target)
        return Goal(curve.replace("_", " "), curve, value, 0.0, 1.0)
    if headline not in facts.percent:
        value = _checks.number("target", target)
        return Goal(curve.replace("_", " "), curve, -value, 0.0, -1.0)
    try:
        value = _checks.number("target", target, above=0, below=1)
    except ValueError as error:
        raise ValueError(
            f"{error} It is an error, 1 - {headline}: 0.1 for an {headline} of 90%."
        ) from None
    return Goal(f"validation error (1 - {headline})", curve, value, 1.0, -1.0)


def reached(update: np.ndarray, cost: np.ndarray, value: float) -> np.ndarray:
    """The update at which each curve first falls to a value, between two evaluations in a line.

    Args:
        update: the updates of the evaluations, rising, ``[T]``.
        cost: at each, ``[T, P]``; NaN where it diverged.
        value: to fall to.

    Returns:
        ``[P]``, infinite where it never does.

    Example:
        >>> cost = np.array([[0.9, 0.9], [0.5, 0.8], [0.1, np.nan]])
        >>> reached(np.array([0, 10, 20]), cost, 0.3).tolist()
        [15.0, inf]
    """
    below = cost <= value
    found = np.full(cost.shape[1], np.inf)
    for member in np.flatnonzero(below.any(axis=0)):
        at = int(below[:, member].argmax())
        found[member] = update[at]
        before = cost[at - 1, member] if at else np.nan
        if np.isfinite(before):
            share = (before - value) / (before - cost[at, member])
            found[member] = update[at - 1] + share * (update[at] - update[at - 1])
    return found


def is_certain(steps: np.ndarray, now: int, rates: int) -> bool:
    """Whether the rate that is first at the target is known: no other can still overtake it.

    Args:
        steps: the updates to the target of every member, rates times seeds; infinite: not yet.
        now: the updates that were made.
        rates: how many rates there are.
    """
    by_rate = steps.reshape(rates, -1)
    there = np.isfinite(by_rate).all(axis=1)
    if not there.any():
        return False
    # A seed that is not there takes at least until now.
    least = np.log(np.minimum(by_rate, now)).mean(axis=1)
    return bool((least[~there] >= least[there].min()).all())
