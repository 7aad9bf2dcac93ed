"""The worst loss near a point: in a box by L-BFGS-B, in a ball by Frank-Wolfe steps."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax.landscape._data import (
    Batches,
    check_repeatable,
    loss_kernel,
    on_batch,
    refuse_no_scalar,
    weighted_mean,
)
from gapjax.landscape._products import DisplacedGradient, DisplacedLoss
from gapjax.landscape._program import as_partial
from gapjax.landscape._progress import Tracker
from gapjax.landscape._space import Vector, VectorSpace, l2_norm, scaled, times


class Sharpness(NamedTuple):
    """How much the loss rises nearby.

    Attributes:
        value: the sharpness, as its function defines it; never negative where it is a maximum.
        loss: the loss at the parameters.
        loss_max: the highest loss found nearby, a lower bound of the true maximum; the mean loss
            nearby where the sharpness is an average.
        stderr: standard error where the sharpness is an average over draws or batches, else 0;
            NaN for a single batch.
        values: the sharpness from each start, draw or batch.
        num_gradients: passes over the data, with or without a gradient.
    """

    value: float
    loss: float
    loss_max: float
    stderr: float
    values: np.ndarray
    num_gradients: float


class Objective:
    """The mean loss over the data at params + vector; counts its passes."""

    def __init__(
        self, loss_fn: Callable, params: Any, space: VectorSpace, batches: Batches, check: bool
    ):
        """`check`: refuse a loss that two passes do not agree on."""
        self.loss_fn, self.params, self.space = as_partial(loss_fn), params, space
        if check:
            (self.loss_fn,) = check_repeatable([self.loss_fn], params, batches)
        else:
            out = on_batch.eval_shape(loss_kernel, batches.first, self.loss_fn, params)
            refuse_no_scalar(out)
        self.zeros = space.zeros_maker()
        self.batches, self.passes = batches, 0
        self.tracker: Tracker | None = None

    @property
    def point(self) -> Vector:
        """The parameters themselves."""
        return self.space.vector(self.params)

    def value(self, vector: Vector) -> float:
        """The loss."""
        return self._seen(float(self._loss(vector)))

    def _loss(self, vector: Vector) -> jax.Array:
        zero = jnp.zeros((), self.space.dtype)
        kernel = DisplacedLoss(self.space)
        return weighted_mean(kernel, zero, self.batches, self.loss_fn, self.params, vector)

    def gradient(self, vector: Vector) -> tuple[float, Vector]:
        """The loss and its gradient."""
        zeros = jnp.zeros((), self.space.dtype), self.zeros()
        kernel = DisplacedGradient(self.space)
        loss, slope = weighted_mean(kernel, zeros, self.batches, self.loss_fn, self.params, vector)
        return self._seen(float(loss)), slope

    def _seen(self, loss: float) -> float:
        """Counts a pass; refuses a loss that is not finite."""
        self.passes += 1
        if self.tracker:
            self.tracker.step()
        if not math.isfinite(loss):
            own = float(self._loss(self.zeros()))
            if not math.isfinite(own):
                raise FloatingPointError(
                    f"the loss is {own} at the parameters themselves: they have diverged, or the "
                    "data or the loss overflow."
                )
            raise FloatingPointError(
                f"the loss is {loss} at a perturbation inside the region: the region reaches "
                "where the loss overflows; make it smaller."
            )
        return loss


def highest_in_box(
    objective: Objective,
    half_width: np.ndarray,
    start: np.ndarray,
    maxiter: int,
    expand: Callable[[np.ndarray], Vector],
    reduce: Callable[[Vector], np.ndarray],
) -> float:
    """The highest loss that bound-constrained L-BFGS meets in ``|y| <= half_width``.

    Args:
        objective: the loss of a displacement ``expand(y)``.
        half_width: ``[p]``, half the box.
        start: ``[p]`` in units of the half width, within [-1, 1].
        maxiter: iterations.
        expand: y, float64 on the host, to the displacement of the parameters; linear.
        reduce: its transpose, for gradients.

    Returns:
        The highest loss over all points that were evaluated.
    """
    # Imported here: scipy.optimize takes a while to load.
    from scipy.optimize import Bounds, minimize

    highest, unit = -math.inf, 0.0

    def negative(u: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal highest, unit
        loss, slope = objective.gradient(expand(u * half_width))
        highest = max(highest, loss)
        rise = half_width * reduce(slope)
        # In units of the box and of the mean slope the first step, which L-BFGS-B limits to one
        # gradient, crosses the box instead of crawling.
        unit = unit or max(float(np.abs(rise).mean()), float(np.finfo(np.float32).tiny))
        return -loss / unit, -rise / unit

    minimize(
        negative,
        np.asarray(start, np.float64),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(-np.ones(len(half_width)), np.ones(len(half_width))),
        options={"maxiter": maxiter, "ftol": 0.0, "gtol": 0.0},
    )
    return highest


def box_starts(key: jax.Array, slope: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Starts in units of the box: towards the corner of its gradient in them, then uniform.

    Where the gradient is zero and points nowhere, all are uniform.
    """
    if slope.any():
        yield 0.5 * np.sign(slope)
    for index in range(int(slope.any()), count):
        drawn = jax.random.uniform(jax.random.fold_in(key, index), slope.shape, minval=-1, maxval=1)
        yield np.asarray(drawn, np.float64)


def highest_in_ball(
    objective: Objective, scale: Vector, radius: float, slope: Vector, maxiter: int
) -> float:
    """The highest loss met in ``||delta / scale|| <= radius`` by full Frank-Wolfe steps.

    Each step goes to the point of the sphere that the gradient points to, ``radius s g / ||s g||``
    in units of the scale s; on a convex loss it never descends (Journee et al. 2010), and on a
    quadratic one it is the power method.

    Args:
        objective: the loss of a displacement.
        scale: at least 0.
        radius: of the ball.
        slope: the direction to start along, in units of the scale.
        maxiter: steps.

    Returns:
        The highest loss over all points that were evaluated; minus infinity for a slope of 0.
    """
    highest = -math.inf
    for step in range(maxiter):
        length = float(l2_norm(slope))
        if not length:
            break
        displacement = times(scale, scaled(slope, radius / length))
        if step == maxiter - 1:
            return max(highest, objective.value(displacement))
        loss, gradient = objective.gradient(displacement)
        highest, slope = max(highest, loss), times(scale, gradient)
    return highest
