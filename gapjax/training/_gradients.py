"""Gradients that a step can follow: of the loss, of its sharpest neighbour, of a penalized loss.

A strategy is a function of the step's own ``value_and_grad`` and of what that is asked for. The
step sees to microbatches, devices, types and the optimizer around it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from gapjax import _checks
from gapjax._examples import count_examples
from gapjax._means import (
    AxisName,
    Weight,
    combine,
    mean_in_turn,
    mean_metrics,
    mean_of_devices,
    mean_of_parts,
    mean_state,
    varying,
)
from gapjax._precision import widen
from gapjax.training._loops import convolves
from gapjax.training._losses import Batch, LossFn, Metrics, in_types_of

Gradient = tuple[Any, Any, Metrics]  # gradient, model state, metrics
METHODS = ("finite_difference", "exact")
_DIFFERENCE = 0.01  # how far a finite difference goes, in weight space
_ADAPTIVE_OFFSET = 0.01
_MOST_UNROLLED = 32  # groups: each takes as long to compile as the first


class GradientStrategy(Protocol):
    """What ``make_train_step`` takes as ``gradient``; a function of one's own will do.

    It is called with the mean gradient's ingredients and gives ``(gradient, model_state,
    metrics)``, each as ``value_and_grad`` gives them: for the examples of this call alone. The step
    averages over microbatches and devices.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state, make_train_step
        >>> def look_ahead(value_and_grad, params, model_state, batch, key):
        ...     grads, after, metrics = value_and_grad(params, model_state, batch, key)
        ...     grads = value_and_grad.mean(grads, batch)  # over devices, where there are several
        ...     ahead = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
        ...     grads, _, _ = value_and_grad(ahead, model_state, batch, key)
        ...     return grads, after, metrics
        >>> tx = optax.sgd(1.0)
        >>> step = make_train_step(lambda w, batch: (w**2).mean(), tx, gradient=look_ahead)
        >>> state = init_state(jax.numpy.ones(()), tx, key=jax.random.key(0))
        >>> round(float(step(state, {"x": jax.numpy.zeros(4)})[0].params), 2)
        -0.6
    """

    def __call__(
        self,
        value_and_grad: "ValueAndGrad",
        params: Any,
        model_state: Any,
        batch: Batch,
        key: jax.Array,
    ) -> Gradient:
        """The gradient to follow."""
        ...


@dataclasses.dataclass(frozen=True)
class ValueAndGrad:
    """A step's loss and its gradient, as a ``GradientStrategy`` gets them.

    Call it as ``value_and_grad(params, model_state, batch, key)``: it gives the gradient of the
    mean loss of these examples, the model state after them, and their metrics, ``"loss"`` among
    them.

    Attributes:
        loss_fn: ``(params, model_state, batch, key) -> (loss, (model_state, metrics))``.
        weigh: how much a batch counts; None where all parts of a batch count alike.
        axis_name: the mapped axis over which a batch is split; None if there is none.
        split: whether ``jit`` splits a batch over devices.
    """

    loss_fn: LossFn
    weigh: Callable[[Batch], Weight]
    axis_name: AxisName | None = None
    split: bool = False

    def __call__(self, params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Gradient:
        """Gradient, model state and metrics of the examples that lie on this device."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                raise ValueError(
                    f"params{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}, of which "
                    "there is no gradient: keep it in model_state, or bind it to the loss."
                )
        value_and_grad = jax.value_and_grad(self.loss_fn, has_aux=True)
        (loss, (after, metrics)), grads = value_and_grad(params, model_state, batch, key)
        # JAX gives the conjugate of the direction in which the loss of complex weights rises.
        return jax.tree.map(jnp.conj, grads), after, {**metrics, "loss": loss}

    def mean(self, grads: Any, batch: Batch) -> Any:
        """A gradient of this batch as its mean over all devices; as it is, if there is one."""
        mean = mean_of_devices(self.weigh(batch), self.axis_name)
        means = jax.tree.map(lambda g: mean(g, jnp.zeros_like(g)), grads)
        return varying(means, self.axis_name)

    def over_groups(
        self,
        of_group: Callable[["ValueAndGrad", Batch, jax.Array], Gradient],
        params: Any,
        model_state: Any,
        batch: Batch,
        key: jax.Array,
        group_size: int | None,
        at_once: bool | None = None,
    ) -> Gradient:
        """The mean of a gradient that every group of the batch has for itself.

        Args:
            of_group: ``(value_and_grad, batch, key) -> (gradient, model_state, metrics)``, of
                each contiguous group; each has a key of its own.
            params: what the gradient is of.
            model_state: before the batch.
            batch: the examples.
            key: their random key.
            group_size: examples of a group; None for the batch as one group, over all devices.
            at_once: all groups at once, vmapped, or one after the other, in the memory of one.
                None: as is faster.

        Raises:
            ValueError: groups that do not divide the batch.
        """
        if group_size is None:
            return of_group(self, batch, key)
        groups = _number_of_groups(group_size, count_examples(batch))
        alone = dataclasses.replace(self, axis_name=None)
        if groups == 1:
            return of_group(alone, batch, key)
        parts = jax.tree.map(lambda x: x.reshape(groups, group_size, *x.shape[1:]), batch)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(groups))
        weights = jax.vmap(self.weigh)(parts)
        mean, first = mean_of_parts(weights, groups), lambda x: x[0]
        unroll = False
        if at_once is None:
            # In turn, each device would go through the groups of all.
            at_once = jax.default_backend() != "cpu" or self.split
            if not at_once and convolves(params):
                unroll = groups <= _MOST_UNROLLED
                at_once = not unroll
        if at_once:
            results = jax.vmap(lambda batch, key: of_group(alone, batch, key))(parts, keys)
            return combine(results, params, model_state, mean=mean, first=first)

        def of_part(_: None, part: tuple[Batch, jax.Array], weight: Weight) -> Any:
            grads, after, metrics = of_group(alone, *part)
            return grads, None, (after, metrics)

        grads, _, (after, metrics) = mean_in_turn(
            of_part, None, (parts, keys), weights, params, self.axis_name, unroll=unroll
        )
        after = mean_state(after, model_state, mean=mean, first=first)
        return grads, after, mean_metrics(metrics, mean=mean)


def plain(
    value_and_grad: ValueAndGrad, params: Any, model_state: Any, batch: Batch, key: jax.Array
) -> Gradient:
    """The strategy that follows the gradient of the loss."""
    return value_and_grad(params, model_state, batch, key)


def sam(
    rho: float | jax.Array,
    *,
    adaptive: bool = False,
    group_size: int | None = None,
    at_once: bool | None = None,
) -> GradientStrategy:
    r"""Sharpness-aware minimization: the gradient at the worst of the weights nearby.

    .. math::

        g = \nabla L\Big(w + \rho\, \frac{\nabla L(w)}{\lVert \nabla L(w) \rVert}\Big)

    at the price of a second gradient. Both are taken on the same examples with the same random
    key. Metrics and the model's state (running statistics) are those of the first, at ``w``.

    How far a step sees depends on whose gradient points the way. With ``group_size=m``
    (m-sharpness) the batch is cut into contiguous groups of m examples, each perturbed along its
    own gradient, with batch-norm statistics of its own, and the second gradients are averaged. To
    first order this adds :math:`\rho\, E\lVert g_m \rVert` to the loss, whatever the batch; with
    one group the remedy itself fades as the batch grows. So keep m where the batch changes, 64 to
    128 say. Without it the perturbation is that of the whole batch, over all devices; of
    microbatches each is perturbed for itself.

    Args:
        rho: the radius :math:`\rho`, in the norm of all parameters together; at least 0. A traced
            scalar will do, so it may be a tuned hyperparameter of a population.
        adaptive: perturb by :math:`\rho\, T^2 g / \lVert T g \rVert` with
            :math:`T = |w| + 0.01` elementwise (ASAM), which does not change when a layer is scaled
            up and the next one down; then ``rho`` is about ten times larger.
        group_size: m, the examples of a group; it divides the batch (with microbatches, each of
            them; under ``pmap``, what a device holds).
        at_once: True: all groups run at once, vmapped, each with a gradient of its own in memory;
            microbatches bound that. False: one after the other, in a loop, in the memory of one;
            where ``jit`` splits a batch over devices, each of them goes through all groups. None:
            as is faster: in turn on a CPU (as fast with layers of 64, 2.8 to 4.4 times as fast with
            F1; up to 32 groups of a network with convolutions are unrolled, 4 times as fast with C1
            and in the memory of all), at once elsewhere and where ``compile_step`` splits a batch.

    Returns:
        What ``make_train_step`` takes as ``gradient``.

    Raises:
        ValueError: a radius that is negative or not finite, a group size that is not positive or,
            when called, does not divide the examples, or an ``at_once`` of another type.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state, make_train_step
        >>> def loss_fn(w, batch):
        ...     return (w**2).sum() / 2
        >>> step = make_train_step(loss_fn, optax.sgd(1.0), gradient=sam(0.5))
        >>> w = jax.numpy.array([3.0, 4.0])
        >>> state = init_state(w, optax.sgd(1.0), key=jax.random.key(0))
        >>> state, _ = step(state, {"x": jax.numpy.zeros(8)})
        >>> [round(float(x), 3) for x in w - state.params]  # w (1 + 0.5 / |w|)
        [3.3, 4.4]

    References:
        Foret, Kleiner, Mobahi, Neyshabur, `Sharpness-aware minimization
        <https://arxiv.org/abs/2010.01412>`_, 2021, equations 2 and 3, m-sharpness in section 4.1.

        Andriushchenko, Flammarion, `Towards understanding sharpness-aware minimization
        <https://arxiv.org/abs/2206.06232>`_, 2022: why smaller groups generalize better.

        Kwon, Kim, Park, Choi, `ASAM <https://arxiv.org/abs/2102.11600>`_, 2021: the adaptive form,
        with the offset of 0.01 of its code.
    """
    return _Sam(_at_least_0("rho", rho), bool(adaptive), _group_size(group_size), _at_once(at_once))


@dataclasses.dataclass(frozen=True)
class _Sam:
    rho: Any
    adaptive: bool
    group_size: int | None
    at_once: bool | None

    def __call__(
        self,
        value_and_grad: ValueAndGrad,
        params: Any,
        model_state: Any,
        batch: Batch,
        key: jax.Array,
    ) -> Gradient:
        def of_group(value_and_grad: ValueAndGrad, batch: Batch, key: jax.Array) -> Gradient:
            grads, after, metrics = value_and_grad(params, model_state, batch, key)
            uphill = jax.tree.map(widen, value_and_grad.mean(grads, batch))
            if self.adaptive:
                scales = jax.tree.map(lambda w: jnp.abs(widen(w)) + _ADAPTIVE_OFFSET, params)
                uphill = jax.tree.map(jnp.multiply, scales, uphill)
                unit = jax.tree.map(jnp.multiply, scales, _unit(uphill))
            else:
                unit = _unit(uphill)
            grads, _, _ = value_and_grad(_moved(params, unit, self.rho), model_state, batch, key)
            return grads, after, metrics

        return value_and_grad.over_groups(
            of_group, params, model_state, batch, key, self.group_size, self.at_once
        )


def penalize_gradient(
    strength: float | jax.Array,
    *,
    group_size: int | None = None,
    at_once: bool | None = None,
    method: str = "finite_difference",
) -> GradientStrategy:
    r"""The gradient of the loss and a penalty on its own squared norm.

    .. math::

        \tilde L(w) = L(w) + \lambda\, \frac1G \sum_{j=1}^G \lVert \nabla L_j(w) \rVert^2, \qquad
        \nabla \tilde L = \frac1G \sum_j \big(g_j + 2 \lambda H_j g_j\big)

    over the G contiguous groups of ``group_size`` examples of a batch, each with batch-norm
    statistics of its own.

    SGD with small batches does this by itself: an epoch at rate :math:`\eta`, shuffled, follows
    :math:`L + \frac\eta4 \frac1G \sum_j \lVert \nabla L_j \rVert^2` (Smith et al. 2021). To give a
    large batch the implicit regularizer of a small one, take the rate of the small batch over four
    as ``strength`` and its size as ``group_size``. The metrics, ``"loss"`` among them, are those of
    the loss without the penalty.

    Args:
        strength: :math:`\lambda`, at least 0. A traced scalar will do.
        group_size: the examples of a group; it divides the batch (with microbatches, each of them;
            under ``pmap``, what a device holds). None: the batch is one group, over all devices.
        at_once: as in ``sam``.
        method: ``"finite_difference"``: :math:`H g \approx (\nabla L(w + e g) - g) / e` with
            :math:`e = 0.01 / \lVert g \rVert`, one more gradient, both at parameters in float32 or
            better. ``"exact"``: forward over reverse; some more time and memory, and the network
            must know forward mode. With bfloat16 inside the loss the difference loses what rounding
            takes: use ``"exact"``.

    Returns:
        What ``make_train_step`` takes as ``gradient``.

    Raises:
        ValueError: a strength that is negative or not finite, an unknown method, a group size that
            is not positive or, when called, does not divide the examples, or an ``at_once`` of
            another type.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state, make_train_step
        >>> def loss_fn(w, batch):
        ...     return (w**2).sum()  # its Hessian is 2, its gradient 2 w
        >>> strategy = penalize_gradient(0.25, method="exact")
        >>> step = make_train_step(loss_fn, optax.sgd(1.0), gradient=strategy)
        >>> w = jax.numpy.array([3.0, 4.0])
        >>> state = init_state(w, optax.sgd(1.0), key=jax.random.key(0))
        >>> state, _ = step(state, {"x": jax.numpy.zeros(8)})
        >>> (w - state.params).tolist()  # 2 w + 2 * 0.25 * 2 * 2 w
        [12.0, 16.0]

    References:
        Smith, Dherin, Barrett, De, `On the origin of implicit regularization in stochastic gradient
        descent <https://arxiv.org/abs/2101.12176>`_, 2021, equation 1: the quarter of the rate.

        Geiping, Goldblum, Pope, Moeller, Goldstein, `Stochastic training is not necessary for
        generalization <https://arxiv.org/abs/2109.14119>`_, 2022: penalty over chunks of a full
        batch, and the finite difference.
    """
    _checks.one_of("method", method, METHODS)
    return _Penalty(
        _at_least_0("strength", strength), _group_size(group_size), _at_once(at_once), method
    )


@dataclasses.dataclass(frozen=True)
class _Penalty:
    strength: Any
    group_size: int | None
    at_once: bool | None
    method: str

    def __call__(
        self,
        value_and_grad: ValueAndGrad,
        params: Any,
        model_state: Any,
        batch: Batch,
        key: jax.Array,
    ) -> Gradient:
        def of_group(value_and_grad: ValueAndGrad, batch: Batch, key: jax.Array) -> Gradient:
            def gradient(params: Any) -> Gradient:
                grads, after, metrics = value_and_grad(params, model_state, batch, key)
                return grads, in_types_of(model_state, after), metrics

            product = _exact_product if self.method == "exact" else _difference_product
            (grads, after, metrics), curved = product(
                gradient, params, lambda grads: value_and_grad.mean(grads, batch)
            )
            twice = 2 * jnp.asarray(self.strength, jnp.float32)
            grads = jax.tree.map(lambda g, h: widen(g) + twice.astype(h.dtype) * h, grads, curved)
            return grads, after, metrics

        return value_and_grad.over_groups(
            of_group, params, model_state, batch, key, self.group_size, self.at_once
        )


Product = tuple[Gradient, Any]


def _exact_product(gradient: Callable[..., Gradient], params: Any, mean: Any) -> Product:
    """A gradient, and the Hessian of the same examples times the gradient of the whole batch."""

    def with_aux(params: Any) -> tuple[Any, tuple[Any, Metrics]]:
        grads, after, metrics = gradient(params)
        return grads, (after, metrics)

    grads, forward, (after, metrics) = jax.linearize(with_aux, params, has_aux=True)
    return (grads, after, metrics), jax.tree.map(widen, forward(mean(grads)))


def _difference_product(gradient: Callable[..., Gradient], params: Any, mean: Any) -> Product:
    """The same by a forward difference, of gradients that are both as precise as it needs."""
    params = jax.tree.map(widen, params)
    grads, after, metrics = gradient(params)
    whole = jax.tree.map(widen, mean(grads))
    ahead, _, _ = gradient(_moved(params, _unit(whole), _DIFFERENCE))
    scale = optax.tree.norm(whole) / _DIFFERENCE
    curved = jax.tree.map(
        lambda a, g: (widen(a) - widen(g)) * scale.astype(widen(g).dtype), ahead, grads
    )
    return (grads, after, metrics), curved


def _unit(tree: Any) -> Any:
    """A tree of norm 1 in the same direction; 0 of 0."""
    norm = optax.tree.norm(tree)
    factor = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), tree)


def _moved(params: Any, direction: Any, distance: Any) -> Any:
    """Parameters some way off, in float32 or better: a small step is lost in low precision."""
    return jax.tree.map(
        lambda w, d: widen(w) + jnp.asarray(distance, d.dtype) * d, params, direction
    )


def _at_least_0(name: str, value: Any) -> Any:
    if isinstance(value, jax.core.Tracer):
        return value
    if isinstance(value, jax.Array) and not value.ndim:
        value = float(value)  # arrays have no hash, which what is compiled needs
    return _checks.nonnegative_float(name, value)


def _group_size(value: Any) -> int | None:
    return None if value is None else _checks.positive_int("group_size", value)


def _at_once(value: Any) -> bool | None:
    return None if value is None else _checks.boolean("at_once", value)


def _number_of_groups(group_size: int, examples: int) -> int:
    if examples % group_size == 0:
        return max(examples // group_size, 1)
    fitting = [n for n in range(1, examples + 1) if examples % n == 0]
    below = max(n for n in fitting if n <= group_size)
    near = {below, *[n for n in fitting if n > group_size][:1]}
    raise ValueError(
        f"group_size={group_size} does not divide the {examples} examples that are at hand at "
        "once (a batch, a microbatch, or a device's share of one): use "
        f"{' or '.join(map(str, sorted(near)))}."
    )
