"""Keskar's sharpness, in the full space or in a random subspace."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._checks import boolean, positive_float, positive_int, random_key
from gapjax.landscape._ascent import Objective, Sharpness, box_starts, highest_in_box
from gapjax.landscape._data import Batches, Data, num_examples
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._space import (
    Vector,
    VectorSpace,
    Where,
    inner,
    rows_combined,
    space_of,
    widened,
)

# Entries of a random matrix that exist at a time, on each device.
CHUNK = 2**22
# Entries up to which a matrix stays, on each device: 1 GiB. To draw them takes 20 times a product.
KEPT = 2**28


class Columns:
    """A matrix A of independent standard normal entries, ``[size, dim]``; its columns are vectors.

    It is drawn from its key some columns at a time. A matrix of at most `KEPT` entries stays, a
    larger one is drawn anew at each use and never stored. With `normalize` every column is divided
    by its length (about sqrt(size) otherwise).
    """

    def __init__(self, key: jax.Array, space: VectorSpace, dim: int, normalize: bool):
        """`key`: of the entries."""
        self.keys, self.space, self.dim = jax.random.split(key, dim), space, dim
        self.at_once = min(max(CHUNK // space.size_per_device, 1), dim)
        self.scale = np.ones(dim)
        self.kept: list[tuple[slice, Vector]] | None = None
        if dim * space.size_per_device <= KEPT:
            self.kept = list(self._drawn())
        if normalize:
            squares = [_squares(block) for _, block in self._blocks()]
            self.scale = 1 / np.sqrt(np.concatenate(squares).astype(np.float64))

    def _blocks(self) -> Iterator[tuple[slice, Vector]]:
        """Some columns after the other, as rows."""
        return self._drawn() if self.kept is None else iter(self.kept)

    def _drawn(self) -> Iterator[tuple[slice, Vector]]:
        for start in range(0, self.dim, self.at_once):
            some = slice(start, start + self.at_once)
            yield some, self.space.normal(self.keys[some])

    def expand(self, y: np.ndarray) -> Vector:
        """``A y``."""
        total = self.space.zeros()
        for some, block in self._blocks():
            total = _added(total, np.asarray(y * self.scale, self.space.dtype)[some], block)
        return total

    def reduce(self, vector: Vector) -> np.ndarray:
        """``A^T vector``, ``[dim]`` float64."""
        parts = [_products(block, vector) for _, block in self._blocks()]
        return np.concatenate(parts).astype(np.float64) * self.scale

    def coordinates(self, vector: Vector) -> np.ndarray:
        """``A^+ vector``, ``[dim]``: the least-squares coordinates of a vector.

        Columns of many more entries than there are columns are all but orthogonal, and conjugate
        gradients on the normal equations take few steps.
        """
        from scipy.sparse.linalg import LinearOperator, cg

        gram = LinearOperator(
            (self.dim, self.dim), matvec=lambda y: self.reduce(self.expand(y)), dtype=np.float64
        )
        return cg(gram, self.reduce(vector), rtol=1e-7)[0]


_products = jax.jit(inner)


@jax.jit
def _squares(block: Vector) -> jax.Array:
    """The squared length of each row."""
    return jax.tree.reduce(
        jnp.add, [jnp.sum(jnp.square(rows), axis=range(1, rows.ndim)) for rows in block]
    )


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Vector, weights: jax.Array, block: Vector) -> Vector:
    return jax.tree.map(jnp.add, total, rows_combined(weights, block))


def keskar_sharpness(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Data,
    *,
    epsilon: float = 1e-3,
    subspace_dim: int | None = None,
    key: jax.Array | None = None,
    maxiter: int = 10,
    num_starts: int = 3,
    normalize_columns: bool = False,
    where: Where | None = None,
    weight_fn: Callable[[Any], float] = num_examples,
    check: bool = True,
    progress: bool | Callable[[Progress], None] = True,
) -> Sharpness:
    r"""Keskar's sharpness: the highest loss in a small box, relative to the loss.

    .. math::
        C_\epsilon &= \{ y \in R^p : |y_i| \le \epsilon\, (|(A^+ x)_i| + 1) \} \\
        \phi &= 100 \, \frac{\max_{y \in C_\epsilon} f(x + A y) - f(x)}{1 + f(x)}

    (Keskar et al. 2017, metric 2.1), with x the parameters, f the mean loss over the data, and A
    the identity or a random matrix of `subspace_dim` columns. As in the paper the maximum is
    sought by `maxiter` iterations of bound-constrained L-BFGS, so it is a lower bound. The paper
    leaves four things open, settled here as follows.

    * The start. A solution is close to stationary, where an ascent would stay. The first start is
      the middle of the way to the corner that the gradient points to (where it is not zero), the
      others are uniform in the box; the best counts, and `values` keeps them all.
    * The entries of A: independent standard normal.
    * The length of its columns: as drawn, about the root of the number of parameters, or 1 with
      `normalize_columns`. The subspace metric depends on it so strongly that only ratios between
      solutions, measured alike, can be compared with the paper.
    * The mode of batch norm and dropout: what `loss_fn` does.

    It is made for losses that are never negative: 1 + f is the scale of the rise, so a constant
    added to the loss changes the metric, and there is none for f <= -1.

    The "+ 1" makes the box about as wide for weights near 0 as for large ones, so the metric
    depends on how the network is parametrized (Dinh et al. 2017): see `adaptive_sharpness`.

    Args:
        loss_fn: ``loss_fn(params, batch) -> mean loss``, in evaluation mode.
        params: the solution. It is never changed.
        data: the training data, as in `hessian`.
        epsilon: half the box, per unit of 1 + the size of the coordinate.
        subspace_dim: p, the number of columns of A (the paper takes 100); None for the full space.
            A stays in memory up to 1 GiB on each device; a larger one is drawn anew at each use,
            some columns at a time.
        key: of the starts, and of A; needed for a subspace. Starts of the full space use key 0
            otherwise.
        maxiter: iterations of L-BFGS-B.
        num_starts: starts.
        normalize_columns: columns of A of length 1.
        where: move only these parameters, as in `hessian`.
        weight_fn: as in `hessian`.
        check: as in `hessian`.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        A `Sharpness`; `value` is phi.

    Raises:
        ValueError: an epsilon that is not above 0, a subspace without a key or larger than the
            space, a loss of -1 or less, or what `hessian` refuses.
        FloatingPointError: a loss that is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> def loss(w, batch):
        ...     return jnp.mean((batch @ w) ** 2)
        >>> found = landscape.keskar_sharpness(loss, jnp.zeros(2), [jnp.eye(2)], epsilon=0.5)
        >>> round(found.value, 4), found.loss, found.loss_max
        (25.0, 0.0, 0.25)
    """
    positive_float("epsilon", epsilon)
    positive_int("maxiter", maxiter)
    positive_int("num_starts", num_starts)
    boolean("normalize_columns", normalize_columns)
    if key is not None:
        random_key("key", key)
    params = widened(params)
    space = space_of(params, where)
    if subspace_dim is not None:
        positive_int("subspace_dim", subspace_dim)
        if key is None:
            raise ValueError(
                "a random subspace is drawn from a key: pass key=jax.random.key(0), the same for "
                "all solutions that are compared."
            )
        if subspace_dim > space.size:
            raise ValueError(
                f"subspace_dim is {subspace_dim} and there are {space.size} parameters: "
                "leave it out for the full space."
            )
    objective = Objective(loss_fn, params, space, Batches(data, weight_fn), check)
    start_key, column_key = jax.random.split(jax.random.key(0) if key is None else key)
    if subspace_dim is None:
        maps: tuple[Any, Any] = space.split, space.flat
        coordinates = space.flat(objective.point)
    else:
        columns = Columns(column_key, space, subspace_dim, normalize_columns)
        maps = columns.expand, columns.reduce
        coordinates = columns.coordinates(objective.point)
    half_width = epsilon * (np.abs(coordinates) + 1)
    with Tracker(progress, "sharpness", num_starts * (maxiter + 2)) as tracker:
        objective.tracker = tracker
        loss, slope = objective.gradient(space.zeros())
        if loss <= -1:
            raise ValueError(
                f"the loss is {loss:.4g}, and Keskar's sharpness divides by 1 + loss, which must "
                "be above 0: measure a loss that is never negative (add a constant, the same for "
                "all that are compared), or take adaptive_sharpness, a difference of losses."
            )
        toward = maps[1](slope)
        peaks = [
            highest_in_box(objective, half_width, start, maxiter, *maps)
            for start in box_starts(start_key, toward, num_starts)
        ]
    values = np.array([100 * max(peak - loss, 0) / (1 + loss) for peak in peaks])
    return Sharpness(float(values.max()), loss, max(loss, *peaks), 0.0, values, objective.passes)
