"""Budgets: what is held fixed against the small batch, and training until the loss says stop."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gapjax import _checks

FIXED = ("epochs", "updates", "longest")
# Rates that end at 0 leave a loss where it is: a budget of the loss would never end.
_END_AT_ZERO = ("cosine", "linear", "wsd")


class Budget(NamedTuple):
    """What is held fixed, and how it is said.

    Attributes:
        kind: ``"epochs"``, ``"updates"``, ``"longest"``, ``"loss"`` or ``"plateau"``.
        level: the training loss at which training stops, of ``"loss"``.
    """

    kind: str
    level: float | None = None

    @property
    def said(self) -> str:
        """In words, behind a comma."""
        return {
            "longest": "most examples",
            "loss": f"same training loss ({self.level:g})" if self.level else "",
            "plateau": "until the training loss stops improving",
        }.get(self.kind, f"same {self.kind}")

    @property
    def stops(self) -> bool:
        """Whether the loss decides when training ends."""
        return self.kind in ("loss", "plateau")


def round_up(number: float) -> int:
    """The next whole number; what lies above one by the rounding of floats alone is that one.

    Example:
        >>> 0.1 * 3 * 80, round_up(0.1 * 3 * 80), round_up(24.5)
        (24.000000000000004, 24, 25)
    """
    return math.ceil(number * (1 - 1e-12)) if isinstance(number, float) else number


def parse_keep(name: str, text: Any) -> Budget:
    """A budget by its text: ``"epochs"``, ``"updates"``, ``"plateau"``, or ``"loss=0.01"``.

    Raises:
        ValueError: anything else, by name.

    Example:
        >>> parse_keep("keep", "loss=0.01")
        Budget(kind='loss', level=0.01)
    """
    if isinstance(text, str) and text.startswith("loss="):
        try:
            level = float(text.removeprefix("loss="))
        except ValueError:
            raise ValueError(
                f"{name} must be loss=NUMBER, such as loss=0.01, not {text!r}."
            ) from None
        return Budget("loss", _checks.number(f"{name}=loss", level, above=0))
    if not isinstance(text, str) or text not in (*FIXED, "plateau"):
        near = _checks.near_matches(text, ("epochs", "updates", "plateau"))
        raise ValueError(
            f"{name} must be one of epochs, updates, plateau or loss=NUMBER (the training loss at "
            f"which to stop, such as loss=0.01), not {text!r}.{near}"
        )
    return Budget(text)


def check_keep(name: str, text: Any) -> str:
    """Refuse what is no budget of a study."""
    found = parse_keep(name, text)
    if found.kind == "longest":
        raise ValueError(
            f"{name} cannot be 'longest' for all regimes: name LONG in those that are to see as "
            "many examples as the one that sees most."
        )
    return text


def check_stops(study: Any, name: str, text: str) -> None:
    """Refuse what leaves the loss nothing to decide where it says when training ends.

    Args:
        study: the study.
        name: of the budget, for the error.
        text: the budget.

    Raises:
        ValueError: a schedule that ends at a rate of 0, or a plateau longer than the longest
            training.
    """
    budget = parse_keep(name, text)
    if budget.stops and study.schedule in _END_AT_ZERO:
        raise ValueError(
            f"{name}={text!r} trains until the loss says stop, and schedule="
            f"{study.schedule!r} ends at a rate of 0 after {study.epochs:g} epochs: use constant "
            "or step."
        )
    if budget.kind == "plateau" and study.plateau_epochs >= study.maximum * study.epochs:
        raise ValueError(
            f"{name}={text!r} stops after plateau_epochs={study.plateau_epochs:g} without "
            f"improvement, and training ends after {study.maximum * study.epochs:g} epochs "
            "(maximum times epochs) in any case: use fewer plateau_epochs, or a larger maximum."
        )


def stopping(study: Any, budget: Budget, num_examples: int) -> Callable[..., np.ndarray] | None:
    """When members stop: ``(losses [T, P], examples [T]) -> [P]``, the evaluation, -1 for none yet.

    Args:
        study: the study, for what counts as no more improvement.
        budget: of the regime.
        num_examples: of the training set.
    """
    if budget.kind == "loss":
        return lambda losses, examples: first(losses <= budget.level)
    if budget.kind == "plateau":
        window = study.plateau_epochs * num_examples
        return lambda losses, examples: first(
            is_flat(losses, examples, study.plateau_factor, window)
        )
    return None


def is_flat(losses: np.ndarray, examples: np.ndarray, factor: float, window: float) -> np.ndarray:
    """Whether the best loss so far is no better than ``factor`` times the best of a while ago.

    Of losses that may be negative: no better by ``1 - factor`` times the size of that best.

    Args:
        losses: one row per evaluation, ``[T, P]``.
        examples: how many had been seen by then, ``[T]``.
        factor: of which the loss has to fall below its earlier best.
        window: over how many examples.

    Returns:
        ``[T, P]``.

    Example:
        >>> losses = np.array([[1.0], [0.5], [0.499], [0.498]])
        >>> is_flat(losses, np.array([10, 20, 30, 40]), 0.99, 20)[:, 0].tolist()
        [False, False, False, True]
    """
    best = np.fmin.accumulate(losses, axis=0)
    before = np.searchsorted(examples, examples - window, side="right") - 1
    known = before >= 0
    earlier = best[np.maximum(before, 0)]
    needed = np.where(earlier > 0, factor, 2 - factor) * earlier
    return known[:, None] & ((best > needed) | (best == earlier))


def first(reached: np.ndarray) -> np.ndarray:
    """The first row in which each column is true, -1 for none.

    Example:
        >>> first(np.array([[False, False], [True, False]])).tolist()
        [1, -1]
    """
    return np.where(reached.any(axis=0), reached.argmax(axis=0), -1)
