"""A measurement at a solution: what it is of, how it is made, and which numbers become of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from gapjax import landscape

OnStep = Callable[[Any], None]


class Solution(NamedTuple):
    """Where one seed of one regime ended, with the loss around it.

    Attributes:
        params: the weights.
        loss_fn: ``loss_fn(params, batch) -> mean loss``, in evaluation mode.
        evaluate: ``evaluate(params) -> {name: mean}`` by ``"train"`` and ``"test"``.
        batches: the training examples that are measured on.
        weight_fn: what a batch counts.
        hessian: of the training loss.
        searches: how many starts a search for the highest loss nearby has. One will do for a part:
            what counts there is how the parts differ.
        parts: the same weights on disjoint parts of these examples, where they are themselves a
            part of the training set; none where they are all of it.
    """

    params: Any
    loss_fn: Callable[[Any, Any], jax.Array]
    evaluate: Mapping[str, Callable[..., Any]]
    batches: list[Any]
    weight_fn: Callable[[Any], float]
    hessian: landscape.Operator
    searches: int = 2
    parts: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Number:
    """One number of a measurement.

    Attributes:
        name: what the JSON calls it.
        title: its column.
        get: from what was measured to the number.
        scale: what it is multiplied by where it is shown.
        error: from what was measured to what it leaves open by itself (a residual, or half of a
            95% interval over probes and steps), shown as the largest over seeds; None where it is
            exact.
        unresolved: from what was measured to how many eigenvalues a count cannot tell from its
            threshold; None where it is no count.
        compared: whether the two ends of the gap are compared by it.
        on_the_way: whether it is measured at equal loss, too.
    """

    name: str
    title: str
    get: Callable[[Mapping[str, Any]], float]
    scale: float = 1.0
    error: Callable[[Mapping[str, Any]], float] | None = None
    unresolved: Callable[[Mapping[str, Any]], float] | None = None
    compared: bool = False
    on_the_way: bool = False


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measurement of a solution.

    Attributes:
        name: what files call it.
        compute: ``(solution, on_step) -> JSON-able values``.
        numbers: what becomes of it.
        note: what a reader of the table must know, in a sentence or two.
    """

    name: str
    compute: Callable[[Any, OnStep], dict[str, Any]]
    numbers: tuple[Number, ...] = ()
    note: str = ""

    @property
    def on_the_way(self) -> bool:
        """Whether any of its numbers is measured at equal loss, too."""
        return any(number.on_the_way for number in self.numbers)

    @property
    def over_parts(self) -> bool:
        """Whether it is measured on parts of the examples, too, for its sampling error."""
        return any(number.compared for number in self.numbers)
