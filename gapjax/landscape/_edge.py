"""Curvature as an optimizer meets it: along its step, on its batches, in its own metric."""

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._checks import one_of, positive_float, positive_int
from gapjax.landscape._ascent import Objective, Sharpness
from gapjax.landscape._crossing import find_crossing
from gapjax.landscape._data import (
    Batches,
    Data,
    check_repeatable,
    counts,
    num_examples,
    on_batch,
    refuse_single_batch,
)
from gapjax.landscape._differentiable import check_hessian_product
from gapjax.landscape._estimate import Estimate, ratio_of_means, stderr_of_mean
from gapjax.landscape._operators import Operator
from gapjax.landscape._products import HESSIAN_PRODUCTS, AlongGradient
from gapjax.landscape._program import as_partial
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._space import Vector, Where, l2_norm, scaled, space_of, times, widened


def critical_sharpness(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    updates: Any,
    data: Data,
    *,
    start: float | None = None,
    rtol: float = 0.01,
    max_passes: int = 10,
    weight_fn: Callable[[Any], float] = num_examples,
    check: bool = True,
    progress: bool | Callable[[Progress], None] = True,
) -> Sharpness:
    r"""Two over the smallest step along an update that raises the loss; forward passes only.

    .. math:: \lambda_c = 2 / \eta_c, \qquad
        \eta_c = \min \{ \eta > 0 : L(w - \eta U) > L(w) \}

    (Kalra et al. 2026). On a quadratic loss it is :math:`U^T H U / (g^T U)`, an average of
    eigenvalues weighted by the update; along the gradient a rate above :math:`\eta_c` raises the
    loss. Steps grow, or shrink, until one lowers the loss and another raises it, and secants of
    :math:`(L(w - \eta U) - L(w)) / \eta`, which is a straight line for a quadratic, close in on
    the border between them. No derivative is taken, so any kernel and any layout will do. The
    measure belongs to the optimizer as much as to the function: scaling weights without a change of
    the function moves it, as it moves the rate that is stable.

    Args:
        loss_fn: as in `hessian`.
        params: where to measure. They are never changed.
        updates: a tree like the parameters, U in ``w - eta U``: a gradient, or what an optimizer
            makes of it. The updates of an optax chain are added to the parameters: take their
            negative, and eta then counts in units of the rate that is in them.
        data: as in `hessian`.
        start: the first eta to try, such as the rate in use; by default a hundredth of the
            parameters' length.
        rtol: the border is found once it lies between two etas this close.
        max_passes: passes over the data, with that at the parameters; at least 3.
        weight_fn: as in `hessian`.
        check: as in `hessian`.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        A `Sharpness`: `value` is lambda_c, and `values` has its lowest and its highest value, by
        the etas on both sides of the border. It is 0 where no eta that was tried raises the loss,
        and not a number, with a RuntimeWarning, where none lowers it: uphill there is no such step.

    Raises:
        ValueError: updates that are zero, not finite or of another structure, or what `hessian`
            refuses.
        FloatingPointError: a loss at the parameters that is not finite. At a step it counts as a
            rise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import landscape
        >>> def loss(w, batch):
        ...     return jnp.mean((batch @ w) ** 2) / 2
        >>> w, data = jnp.array([2.0, 1.0]), [jnp.diag(jnp.array([2.0, 1.0]))]
        >>> gradient = jax.grad(loss)(w, data[0])
        >>> round(landscape.critical_sharpness(loss, w, gradient, data).value, 3)
        1.977

        In a training loop, a row every so many updates:

        >>> import optax
        >>> tx, rate = optax.sgd(1.0, momentum=0.9), 1e-2
        >>> opt_state, found = tx.init(w), []
        >>> for step in range(5):
        ...     updates, opt_state = tx.update(jax.grad(loss)(w, data[0]), opt_state)
        ...     if step % 2 == 0:
        ...         down = jax.tree.map(jnp.negative, updates)
        ...         now = landscape.critical_sharpness(loss, w, down, data, start=rate)
        ...         found.append((step, now.value))
        ...     w = optax.apply_updates(w, jax.tree.map(lambda u: rate * u, updates))
        >>> len(found)
        3

    References:
        Kalra et al., A scalable measure of loss landscape curvature for analyzing the training
        dynamics of large language models, 2026, arXiv:2601.16979.
    """
    positive_float("rtol", rtol)
    if start is not None:
        positive_float("start", start)
    if positive_int("max_passes", max_passes) < 3:
        raise ValueError(f"max_passes must be at least 3 to see a border, not {max_passes}.")
    params = widened(params)
    space = space_of(params)
    step = space.vector(updates, "updates")
    length = float(l2_norm(step))
    if not (math.isfinite(length) and length):
        raise ValueError(f"the updates have length {length}; it must be finite, not zero.")
    objective = Objective(loss_fn, params, space, Batches(data, weight_fn), check)
    start = start or 0.01 * (float(l2_norm(objective.point)) or 1.0) / length
    highest = -math.inf

    def rise(eta: float) -> float:
        nonlocal highest
        try:
            there = objective.value(scaled(step, -eta))
        except FloatingPointError:
            there = math.inf
        highest = max(highest, there)
        return there - loss

    with Tracker(progress, "critical sharpness", max_passes) as tracker:
        objective.tracker = tracker
        loss = objective.value(space.zeros())
        noise = 8 * float(jnp.finfo(space.dtype).eps) * abs(loss)
        crossing = find_crossing(rise, start, noise, rtol, max_passes - 1)
    if not crossing.falls:
        warnings.warn(
            f"no step along these updates lowers the loss ({crossing.low:.2g} < eta < "
            f"{crossing.high:.2g} was tried), so the critical sharpness is not defined here. The "
            "step is w - eta * updates: take the negative of what optax adds to the parameters.",
            RuntimeWarning,
            stacklevel=2,
        )
        ends, value = [np.nan, np.nan], np.nan
    else:
        ends, value = [2 / crossing.high, 2 / crossing.low], 2 / crossing.border
    return Sharpness(value, loss, highest, 0.0, np.array(ends), objective.passes)


def batch_sharpness(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    *,
    average: str = "ratios",
    rtol: float = 0.005,
    min_batches: int = 10,
    max_batches: int = 1000,
    where: Where | None = None,
    product: str = "forward_over_reverse",
    check: bool = True,
    progress: bool | Callable[[Progress], None] = True,
) -> Estimate:
    r"""The curvature that a step meets on its own batch, averaged over batches.

    .. math:: E_B \left[ \frac{g_B^T H_B \, g_B}{\|g_B\|^2} \right]
        \quad \text{or} \quad \frac{E_B [ g_B^T H_B \, g_B ]}{E_B \|g_B\|^2}

    with the gradient and the Hessian of the same batch B: ``average="ratios"`` is the first, the
    definition of Andreyev and Beneventano (2024, eq. 3), ``"ratio"`` the second, which they log
    beside it. A step of rate eta changes the loss of its own batch by
    :math:`-\eta \|g_B\|^2 (1 - \eta R_B / 2)` with R_B the quotient, so SGD hovers where the mean
    is near 2 / eta, as full-batch descent does with the top eigenvalue. On one batch of all the
    data it is :math:`g^T H g / \|g\|^2`. Scaling weights without a change of the function moves it,
    as it moves the rate that is stable.

    Args:
        loss_fn: ``loss_fn(params, batch) -> mean loss``, as training sees it: batch norm may use
            the statistics of the batch, dropout must be off.
        params: where to measure. They are never changed.
        batches: batches as training draws them, all of the training size: a sequence, an iterator
            (it is read as far as needed), or a callable that yields them. Batches of an epoch,
            drawn without replacement, vary a little less than the standard error takes them to.
        average: ``"ratios"`` or ``"ratio"``.
        rtol: stop once the standard error is below this share of the mean.
        min_batches: not before so many batches.
        max_batches: stop there in any case.
        where: as in `hessian`; the quotient is then that of the selected parameters.
        product: as in `hessian`.
        check: as in `hessian`, over the first batch that counts.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        An `Estimate` with Student's interval over batches, one product each. Batches whose
        gradient is zero make no step, and are left out; so are those of which no example counts by
        their mask. The standard error of a single batch is not a number.

    Raises:
        ValueError: no batch, only batches without a gradient, or what `hessian` refuses.
        FloatingPointError: a quotient that is not finite; the batch is named.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import numpy as np
        >>> from gapjax import landscape
        >>> def loss(w, batch):
        ...     return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) / 2
        >>> x = np.random.default_rng(0).normal(size=(100, 3))
        >>> ones = [{"x": x[i : i + 1], "y": np.ones(1)} for i in range(100)]
        >>> found = landscape.batch_sharpness(loss, jnp.zeros(3), ones, rtol=0.1)
        >>> low, high = found.interval  # of single examples it is the trace of the Hessian
        >>> low < np.mean(np.sum(x**2, axis=1)) < high
        np.True_

        In a training loop, a row every so many updates, to be held against 2 / rate:

        >>> w, rate = jnp.zeros(3), 0.1
        >>> rows = []
        >>> for step, batch in enumerate(ones[:4]):
        ...     if step % 2 == 0:
        ...         now = landscape.batch_sharpness(loss, w, ones)
        ...         rows.append((step, now.mean, 2 / rate))
        ...     w = w - rate * jax.grad(loss)(w, batch)
        >>> len(rows)
        2

    References:
        Andreyev and Beneventano, Edge of stochastic stability, 2024, arXiv:2412.20553, eq. 3.
    """
    one_of("average", average, ["ratios", "ratio"])
    one_of("product", product, HESSIAN_PRODUCTS)
    positive_float("rtol", rtol)
    positive_int("min_batches", min_batches)
    if positive_int("max_batches", max_batches) < min_batches:
        raise ValueError(f"max_batches is {max_batches}, below min_batches = {min_batches}.")
    refuse_single_batch("batches", batches)
    if not callable(batches) and not isinstance(batches, Iterable):
        raise ValueError(f"batches must be batches to go through, not {batches!r}.")
    params = widened(params)
    space, loss_fn = space_of(params, where), as_partial(loss_fn)
    kernel = AlongGradient(space, HESSIAN_PRODUCTS[product](space))
    quotients: list[float] = []
    squares: list[float] = []
    mean, stderr, seen, spent = np.nan, np.nan, 0, 0
    with Tracker(progress, "batch sharpness", max_batches) as tracker:
        for index, batch in enumerate(batches() if callable(batches) else batches):
            seen, counted = index + 1, counts(batch)
            if counted and not spent:
                alone = Batches([batch], counts)
                if check:
                    (loss_fn,) = check_repeatable([loss_fn], params, alone)
                check_hessian_product(product, space, alone, loss_fn, params)
            if counted:
                quotient, length = map(float, on_batch(kernel, batch, loss_fn, params))
                spent += 1
                if not (math.isfinite(quotient) and math.isfinite(length)):
                    raise FloatingPointError(
                        f"the gradient of batch {index} has length {length:.3g}, and the "
                        f"curvature along it is {quotient:.3g}: look there for inputs that are "
                        "not finite."
                    )
                if length:
                    quotients.append(quotient)
                    squares.append(length**2)
                    mean, stderr = _averaged(np.array(quotients), np.array(squares), average)
            tracker.step()
            enough = len(quotients) >= min_batches and stderr <= rtol * abs(mean)
            if enough or seen == max_batches:
                break
    if not quotients:
        none = "no example of any batch counts" if seen else "there is no batch"
        raise ValueError(
            f"{'the gradients of all batches are zero' if spent else none}: batch sharpness is an "
            "average over batches that move the parameters."
        )
    return Estimate(mean, stderr, spent, num_samples=len(quotients))


def _averaged(quotients: np.ndarray, squares: np.ndarray, average: str) -> tuple[float, float]:
    """The mean and its standard error."""
    if average == "ratio":
        return ratio_of_means(quotients * squares, squares)
    return float(quotients.mean()), float(stderr_of_mean(quotients))


def preconditioned(op: Operator, preconditioner: Any) -> Operator:
    r"""An operator in the metric of a preconditioner, :math:`P^{-1/2} H P^{-1/2}`.

    It has the eigenvalues of :math:`P^{-1} H`, the matrix that decides whether the steps
    :math:`-\eta P^{-1} g` are stable, and is symmetric. Full-batch Adam with b1 = 0.9 settles
    where the largest is near 38 / eta (Cohen et al. 2022), with
    :math:`P = \mathrm{diag}(\sqrt{v} + \epsilon)`; plain descent with P near 2 / eta.

    Args:
        op: the operator, such as a Hessian.
        preconditioner: the diagonal of P, a tree like the parameters with entries above 0; or, for
            a P that is not diagonal, a function that applies :math:`P^{-1/2}` to such a tree.

    Returns:
        An `Operator`. Where v is an eigenvector of it, :math:`P^{-1/2} v` is one of
        :math:`P^{-1} H`.

    Raises:
        ValueError: a diagonal of another structure, or with entries that are not above 0; the leaf
            is named.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from gapjax import landscape
        >>> def loss(w, batch):
        ...     return jnp.mean((batch @ w) ** 2) / 2
        >>> w, data = jnp.array([2.0, 1.0]), [jnp.diag(jnp.array([3.0, 1.0]))]
        >>> tx = optax.scale_by_rms(0.999)  # of optax.adam the state is read alike
        >>> opt_state = tx.init(w)
        >>> updates, opt_state = tx.update(jax.grad(loss)(w, data[0]), opt_state)
        >>> nu = optax.tree.get(opt_state, "nu")
        >>> scale = jax.tree.map(lambda v: jnp.sqrt(v / (1 - 0.999)) + 1e-8, nu)
        >>> op = landscape.preconditioned(landscape.hessian(loss, w, data), scale)
        >>> top = landscape.eigh_topk(op, jax.random.key(0), 1)
        >>> top.values.round(3).tolist()  # to be held against 38 / 1e-2
        [1.0]

    References:
        Cohen et al., Adaptive gradient methods at the edge of stability, 2022, arXiv:2207.14484.
    """
    space = op.space
    if callable(preconditioner):

        def root(vector: Vector) -> Vector:
            return space.vector(preconditioner(space.embed(vector)), "the preconditioned vector")

    else:
        diagonal = space.vector(preconditioner, "the preconditioner")
        for name, leaf in zip(space.names, diagonal, strict=True):
            if not bool((jnp.isfinite(leaf) & (leaf > 0)).all()):
                raise ValueError(
                    f"the preconditioner has entries from {float(leaf.min()):.3g} to "
                    f"{float(leaf.max()):.3g} at {name!r}: all must be finite and above 0. Add "
                    "the optimizer's epsilon to the root of its second moment."
                )

        inverse_root = _inverse_root(diagonal)

        def root(vector: Vector) -> Vector:
            return times(inverse_root, vector)

    return Operator(lambda vector: root(op.apply(root(vector))), space)


@jax.jit
def _inverse_root(vector: Vector) -> Vector:
    return tuple(1 / jnp.sqrt(leaf) for leaf in vector)
