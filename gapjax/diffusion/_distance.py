"""How far the weights are from where they started, and at which updates to look."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._checks import positive_float, positive_int
from gapjax._precision import widen


def distance(params: Any, start: Any) -> jax.Array:
    r"""The Euclidean distance of the parameters from where they started, over all leaves.

    .. math:: \lVert w - w_0 \rVert = \sqrt{\sum_i (w_i - w_{0,i})^2}

    Differences and their squares are taken in float32, or in the type of the leaves where that is
    wider, so distances of bfloat16 parameters are not rounded away.

    Args:
        params: any pytree of arrays.
        start: one of the same structure and shapes.

    Returns:
        The distance, a float32 scalar.

    Raises:
        ValueError: for trees of different structure or shapes.

    Example:
        >>> start = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(1)}
        >>> params = {"w": jnp.ones((2, 2)), "b": jnp.full(1, 2 * 3**0.5)}
        >>> float(distance(params, start))
        4.0

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, section 3.
    """
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, start):
        raise ValueError(
            "params and start must be trees of one structure with leaves of the same shapes, not "
            f"{jax.tree.map(jnp.shape, params)} and {jax.tree.map(jnp.shape, start)}."
        )
    return norm(jax.tree.map(lambda a, b: widen(a) - widen(b), params, start))


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of a tree, summed in float32 or better, as a float32 scalar."""

    def square(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jnp.abs(widen(x)))).astype(jnp.float32)

    return jnp.sqrt(sum(map(square, jax.tree.leaves(tree)), start=jnp.zeros((), jnp.float32)))


def log_spaced(last: int, *, per_decade: float = 20) -> list[int]:
    """Whole numbers from 1 to ``last``, evenly spaced on a log axis where they are dense enough.

    Geometric from 1 to ``last``, rounded, each number once: every one at first, then by a fixed
    ratio. These are the updates at which a curve on a log axis is to be measured.

    Args:
        last: the last number, at least 1.
        per_decade: how many there are to a factor of 10, at least.

    Returns:
        The numbers, rising; 1 and ``last`` are among them.

    Raises:
        ValueError: for a ``last`` below 1 or a density that is not above 0.

    Example:
        >>> log_spaced(10, per_decade=4)
        [1, 2, 3, 6, 10]
    """
    last = positive_int("last", last)
    density = positive_float("per_decade", per_decade)
    return geometric(last, max(2, math.ceil(density * math.log10(max(last, 2))) + 1))


def geometric(last: int, count: int) -> list[int]:
    """At most `count` whole numbers, geometric from 1 to `last`."""
    return sorted({round(number) for number in np.geomspace(1, last, count)})
