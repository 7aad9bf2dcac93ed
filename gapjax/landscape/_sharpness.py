"""Sharpness of a solution: SAM's one step, and the adaptive measures."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gapjax._checks import boolean, one_of, positive_float, positive_int, random_key
from gapjax.landscape._ascent import (
    Objective,
    Sharpness,
    box_starts,
    highest_in_ball,
    highest_in_box,
)
from gapjax.landscape._data import Batches, Data, num_examples
from gapjax.landscape._estimate import stderr_of_mean
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._space import (
    Vector,
    Where,
    l2_norm,
    magnitudes,
    scaled,
    space_of,
    times,
    widened,
)


def sam_sharpness(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Data,
    *,
    rho: float = 0.05,
    per_batch: bool = False,
    where: Where | None = None,
    weight_fn: Callable[[Any], float] = num_examples,
    check: bool = True,
    progress: bool | Callable[[Progress], None] = True,
) -> Sharpness:
    r"""The rise of the loss over one step along the gradient, as SAM takes it.

    .. math:: L(w + \rho \, g / \|g\|_2) - L(w), \qquad g = \nabla L(w)

    (Foret et al. 2021, eq. 2, the ball's maximum to first order). Negative values are possible
    where the loss bends down within the step, and at a gradient of zero there is no step, and no
    rise. The ball is one of absolute size: scaling weights without a change of the function moves
    the measure, see `adaptive_sharpness`.

    Args:
        loss_fn: as in `hessian`.
        params: the solution. It is never changed.
        data: as in `hessian`.
        rho: length of the step.
        per_batch: take the gradient of each batch alone and average the rises: m-sharpness, with m
            the size of the batches.
        where: move only these parameters.
        weight_fn: as in `hessian`.
        check: as in `hessian`.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        A `Sharpness`; with `per_batch` its `stderr` is over batches.

    Raises:
        ValueError: a rho that is not above 0, or what `hessian` refuses.
        FloatingPointError: a loss that is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> def loss(w, batch):
        ...     return jnp.mean((batch @ w) ** 2) / 2
        >>> found = landscape.sam_sharpness(loss, jnp.array([2.0, 0.0]), [jnp.eye(2)], rho=1.0)
        >>> found.value
        1.25
    """
    positive_float("rho", rho)
    boolean("per_batch", per_batch)
    params, batches = widened(params), Batches(data, weight_fn)
    space = space_of(params, where)
    whole = Objective(loss_fn, params, space, batches, check)

    def measure(objective: Objective, part: int) -> tuple[float, list[float]]:
        del part
        loss, slope = objective.gradient(space.zeros())
        length = float(l2_norm(slope))
        return loss, [objective.value(scaled(slope, rho / length)) if length else loss]

    with Tracker(progress, "SAM sharpness", 2) as tracker:
        return _measured(measure, whole, per_batch, tracker, np.mean)


def adaptive_sharpness(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Data,
    *,
    rho: float = 0.05,
    norm: str = "l2",
    mode: str = "worst",
    key: jax.Array | None = None,
    maxiter: int = 20,
    num_starts: int = 1,
    num_draws: int = 16,
    per_batch: bool = False,
    where: Where | None = None,
    weight_fn: Callable[[Any], float] = num_examples,
    check: bool = True,
    progress: bool | Callable[[Progress], None] = True,
) -> Sharpness:
    r"""The rise of the loss near a solution, each weight moved in proportion to its size.

    .. math::
        S_{\max} &= \max_{\| \delta / |w| \|_p \le \rho} L(w + \delta) - L(w) \\
        S_{\mathrm{avg}} &= E_{\delta \sim N(0, \rho^2 \mathrm{diag}(w^2))} L(w + \delta) - L(w)

    (Kwon et al. 2021; Andriushchenko et al. 2023). Both stay as they are when weights are scaled
    without a change of the function (one ReLU layer up and the next down, or weights before a
    batch norm; Dinh et al. 2017), unlike every measure here that takes weights by their absolute
    size. For small rho they are rho^2 / 2 times the top eigenvalue and the trace of ``|w| H |w|``.

    Args:
        loss_fn: as in `hessian`.
        params: the solution. It is never changed.
        data: as in `hessian`.
        rho: the relative size of the region.
        norm: for the worst case, ``"l2"`` (Frank-Wolfe steps on the sphere) or ``"linf"``, a box
            (L-BFGS-B, as in `keskar_sharpness`).
        mode: ``"worst"`` or ``"average"``.
        key: of random starts and draws; needed for the average and for more than one start.
        maxiter: ascent steps.
        num_starts: for the worst case; the first follows the gradient where there is one, the
            others are random.
        num_draws: for the average; each is taken with both signs, which cancels the slope.
        per_batch: measure on each batch alone and average: m-sharpness, with m the batches' size.
        where: move only these parameters.
        weight_fn: as in `hessian`.
        check: as in `hessian`.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        A `Sharpness`. The average comes with its standard error over draws, a `per_batch` one with
        that over batches, each of which has draws of its own.

    Raises:
        ValueError: a rho that is not above 0, an unknown norm or mode, a missing key, or what
            `hessian` refuses.
        FloatingPointError: a loss that is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> def loss(w, batch):
        ...     return jnp.mean((batch @ w) ** 2) / 2
        >>> found = landscape.adaptive_sharpness(loss, jnp.array([2.0, 0.0]), [jnp.eye(2)], rho=0.5)
        >>> found.value
        1.25
    """
    positive_float("rho", rho)
    one_of("norm", norm, ["l2", "linf"])
    one_of("mode", mode, ["worst", "average"])
    boolean("per_batch", per_batch)
    for name, count in (("maxiter", maxiter), ("num_starts", num_starts)):
        positive_int(name, count)
    if positive_int("num_draws", num_draws) < 2:
        raise ValueError("num_draws must be at least 2: one draw has no standard error.")
    if key is None and (mode == "average" or num_starts > 1):
        raise ValueError("random draws and starts come from a key: pass key=jax.random.key(0).")
    if key is not None:
        random_key("key", key)
    params, batches = widened(params), Batches(data, weight_fn)
    space = space_of(params, where)
    whole = Objective(loss_fn, params, space, batches, check)
    size = magnitudes(whole.point)
    chance = jax.random.key(0) if key is None else key

    def draw(index: int) -> Vector:
        return space.normal(jax.random.fold_in(chance, index))

    def average(objective: Objective, part: int) -> tuple[float, list[float]]:
        nearby = []
        # With draws of their own, batches scatter as much as the draws are wrong.
        for index in range(part * num_draws, (part + 1) * num_draws):
            step = times(size, scaled(draw(index), rho))
            both = objective.value(step), objective.value(scaled(step, -1))
            nearby.append(sum(both) / 2)
        return objective.value(space.zeros()), nearby

    def worst(objective: Objective, part: int) -> tuple[float, list[float]]:
        del part
        loss, slope = objective.gradient(space.zeros())
        # In units of the weights; one that is 0 does not move, whatever its gradient.
        slope = times(size, slope)
        if norm == "linf":
            half_width, maps = rho * space.flat(size), (space.split, space.flat)
            starts = box_starts(chance, space.flat(slope), num_starts)
            peaks = [highest_in_box(objective, half_width, s, maxiter, *maps) for s in starts]
        else:
            # A gradient of zero points nowhere: a random direction does in its place.
            first = slope if float(l2_norm(slope)) else draw(0)
            slopes = [first, *(draw(index) for index in range(1, num_starts))]
            peaks = [highest_in_ball(objective, size, rho, s, maxiter) for s in slopes]
        return loss, [max(peak, loss) for peak in peaks]

    passes = 2 * num_draws + 1 if mode == "average" else num_starts * (maxiter + 1)
    with Tracker(progress, "adaptive sharpness", passes) as tracker:
        if mode == "average":
            return _measured(average, whole, per_batch, tracker, np.mean)
        return _measured(worst, whole, per_batch, tracker, np.max)


def _measured(
    measure: Callable[[Objective, int], tuple[float, list[float]]],
    whole: Objective,
    per_batch: bool,
    tracker: Tracker,
    combine: Callable[[Any], Any],
) -> Sharpness:
    """A measure on the whole data, or on each batch alone with the mean over batches."""
    if not per_batch:
        whole.tracker = tracker
        loss, nearby = measure(whole, 0)
        values = np.array(nearby) - loss
        drawn = combine is np.mean and len(values) > 1
        stderr = float(stderr_of_mean(values)) if drawn else 0.0
        peak = float(combine(nearby))
        return Sharpness(peak - loss, loss, peak, stderr, values, whole.passes)
    rows, shares, passes = [], [], 0.0
    tracker.total *= sum(1 for _ in whole.batches)
    for part, (batch, weight) in enumerate(whole.batches):
        alone = Objective(
            whole.loss_fn,
            whole.params,
            whole.space,
            Batches([batch], whole.batches.weight_fn),
            check=False,
        )
        alone.tracker = tracker
        loss, nearby = measure(alone, part)
        rows.append((loss, float(combine(nearby))))
        shares.append(weight)
        passes += alone.passes
    mean = np.average(rows, axis=0, weights=shares)
    values = np.diff(rows, axis=1)[:, 0]
    value, count = float(mean[1] - mean[0]), len(rows)
    share = np.array(shares) / np.sum(shares)
    # The error of a weighted mean of independent batches; none can be told from a single one.
    spread = np.sum(share**2 * (values - value) ** 2)
    stderr = float(np.sqrt(spread * count / (count - 1))) if count > 1 else float("nan")
    return Sharpness(value, float(mean[0]), float(mean[1]), stderr, values, passes / count)
