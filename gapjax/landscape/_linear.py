"""What the products of an operator with all vectors share, computed once and kept.

The activations of a network and its gradient do not depend on the vector that its Hessian is taken
along; without them a product costs a gradient less.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gapjax.landscape._data import Batches, lower_mean
from gapjax.landscape._space import Vector, VectorSpace

KEPT = 2**30  # bytes for one operator


@dataclasses.dataclass(frozen=True)
class Linearized:
    """A product whose `linear` was kept, with the weight of its batch beside it."""

    space: VectorSpace

    def __call__(self, kept: tuple[Callable[[Any], Any], Any], vector: Vector) -> Vector:
        return self.space.as_vector(kept[0](self.space.tangents(vector)))


def linearized(kernel: Any, batches: Batches, *args: Any) -> Batches | None:
    """The products as functions of the vector alone, batch by batch; None where they are not kept.

    Data that come anew at each pass stay out of memory, and so does what takes more than `KEPT`,
    or belongs to weights that no device has whole.
    """
    if not _may_keep(kernel, batches):
        return None
    needed = 0
    for batch, _ in batches:
        needed += sum(map(_num_bytes, jax.tree.leaves(_linearize.eval_shape(kernel, batch, *args))))
        if needed > KEPT:
            return None
    linear = [(_linearize(kernel, batch, *args), np.float64(weight)) for batch, weight in batches]
    return Batches(linear, lambda pair: pair[1])


def lower_product(kernel: Any, space: VectorSpace, batches: Batches, *args: Any) -> None:
    """Traces and lowers what a product will run on the first batch, which is not done again."""
    batch, vector = batches.first, space.abstract
    if not _may_keep(kernel, batches):
        lower_mean(kernel, vector, batch, *args, vector)
        return
    _linearize.lower(kernel, batch, *args)
    linear = _linearize.eval_shape(kernel, batch, *args)
    lower_mean(Linearized(space), vector, (linear, np.float64(1)), vector)


def _may_keep(kernel: Any, batches: Batches) -> bool:
    # Of sharded weights the compiler would keep whole ones, gathered for the activations.
    sharded = any(
        place is not None and not place.is_fully_replicated for place in kernel.space.shardings
    )
    return batches.fixed and hasattr(kernel, "linear") and not sharded


@functools.partial(jax.jit, static_argnums=0)
def _linearize(kernel: Any, batch: Any, *args: Any) -> Callable[[Any], Any]:
    """``kernel.linear`` of a batch: a function that is a tree of arrays."""
    return kernel.linear(batch, *args)


def _num_bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize
