"""Weights to evaluate with: an average over the run, beside those that are trained."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gapjax import _checks
from gapjax._precision import widen


class AverageWeightsState(NamedTuple):
    """State of ``average_weights``; ``evaluation_params`` reads it.

    Attributes:
        mean: the average, in float32 or better; before the first update the initial weights.
        mass: the sum of all weights of the average, shape ``()``; 0 before the first update.
    """

    mean: Any
    mass: jax.Array


def average_weights(
    half_life: float, *, batch_size: int | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Average the weights over the last updates; leave the updates alone.

    After t updates by batches of :math:`B_1, \dots, B_t` examples it holds the exact mean of the
    weights :math:`w_1, \dots, w_t` after each of them,

    .. math::

        \bar w_t = \frac{\sum_{i=1}^t m_i w_i}{\sum_{i=1}^t m_i}, \qquad
        m_i = \prod_{j=i+1}^t 2^{-B_j / h},

    so weights count half as much for every ``half_life`` = h examples that were seen since: the
    same average, in examples, whatever the batch, and one that follows a batch which grows. For a
    fixed batch it is the exponential moving average of decay :math:`2^{-B/h}`, without its bias
    towards the start.

    Put it last in the chain, where updates are those that are applied. ``evaluation_params`` reads
    it. Running statistics of batch norm belong to the weights that were trained: take them anew for
    the average before evaluating it.

    Args:
        half_life: h, in examples; above 0.
        batch_size: the batch size. If left out it is read from ``batch_size=`` at every update,
            which a step from ``make_train_step`` hands over.

    Returns:
        A transform that is the identity on updates. It keeps one copy of the weights.

    Raises:
        ValueError: a half-life or a batch size that is not positive; at an update, no parameters,
            or no batch size.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.chain(optax.sgd(1.0), average_weights(half_life=8, batch_size=8))
        >>> w = jnp.array(0.0)
        >>> state = tx.init(w)
        >>> for _ in range(3):  # the weights after each update are 1, 2, 3
        ...     updates, state = tx.update(jnp.array(-1.0), state, w)
        ...     w = optax.apply_updates(w, updates)
        >>> round(float(evaluation_params(state, w)), 3)  # (1/4 + 2/2 + 3) / (1/4 + 1/2 + 1)
        2.429

    References:
        Busbridge, Ramapuram, Ablin, Likhomanenko, Dhekane, Suau, Webb, `How to scale your EMA
        <https://arxiv.org/abs/2307.13813>`_, 2023: the decay to the power of the batch's ratio.
    """
    half_life = _checks.positive_float("half_life", half_life)
    if batch_size is not None:
        _checks.positive_int("batch_size", batch_size)
    own_size = batch_size

    def init(params: Any) -> AverageWeightsState:
        # Copies: a training step that donates its state must not find one buffer twice.
        mean = jax.tree.map(lambda w: jnp.array(_wide(w), copy=True), params)
        return AverageWeightsState(mean, jnp.zeros((), jnp.float32))

    def update(
        updates: Any,
        state: AverageWeightsState,
        params: Any = None,
        *,
        batch_size: Any = None,
        **extra: Any,
    ) -> tuple[Any, AverageWeightsState]:
        del extra
        size = own_size if batch_size is None or own_size is not None else batch_size
        if params is None:
            raise ValueError(
                "average_weights averages parameters: call update(updates, state, params)."
            )
        if size is None:
            raise ValueError(
                "average_weights has to be told the batch size: average_weights(half_life, "
                "batch_size=...), or update(updates, state, params, batch_size=...)."
            )
        import chex

        chex.assert_trees_all_equal_shapes(state.mean, params)  # else it would be broadcast
        decay = jnp.exp2(-jnp.asarray(size, jnp.float32) / half_life)
        mass = decay * state.mass + 1

        def move(mean: jax.Array, new: jax.Array) -> jax.Array:
            if not jnp.issubdtype(mean.dtype, jnp.inexact):
                return new
            return mean + (_wide(new) - mean) / mass.astype(mean.dtype)

        mean = jax.tree.map(move, state.mean, optax.apply_updates(params, updates))
        return updates, AverageWeightsState(mean, mass)

    return optax.GradientTransformationExtraArgs(init, update)


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """The weights to evaluate with.

    Those that ``average_weights`` or ``optax.contrib.schedule_free`` keep, wherever in the
    optimizer's state (in a chain, under ``optax.masked``, ``optax.partition`` or
    ``optax.MultiSteps``, with leading axes from ``jax.vmap``); of ``optax.LookaheadParams`` the
    slow ones; else the parameters themselves.

    Args:
        opt_state: the optimizer's state.
        params: the parameters that are trained.

    Returns:
        Weights like ``params`` in structure and type, of ``LookaheadParams`` like its ``slow``.

    Raises:
        ValueError: two such sets of weights for the same parameter.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.contrib.schedule_free_sgd(0.5, b1=0.5)
        >>> w = jnp.array(1.0)
        >>> state = tx.init(w)
        >>> for _ in range(2):
        ...     updates, state = tx.update(w, state, w)
        ...     w = optax.apply_updates(w, updates)
        >>> round(float(w), 4), round(float(evaluation_params(state, w)), 4)
        (0.3125, 0.375)
    """
    kinds = (AverageWeightsState, optax.contrib.ScheduleFreeState)
    states = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kinds))
    kept = [_kept(state, params) for state in states if isinstance(state, kinds)]

    def choose(trained: Any, *candidates: Any) -> Any:
        import chex

        values = [value for value in candidates if not _is_masked(value)]
        if len(values) > 1:
            raise ValueError(
                "this optimizer keeps two sets of weights to evaluate with. Leave one of "
                "average_weights and schedule_free out of the chain."
            )
        if not values:
            return trained
        chex.assert_equal_shape([values[0], trained])  # a state of these parameters
        return values[0].astype(trained.dtype)

    chosen = jax.tree.map(choose, params, *kept)
    return chosen.slow if isinstance(chosen, optax.LookaheadParams) else chosen


def _kept(state: Any, params: Any) -> Any:
    """The weights that a state keeps, with ``MaskedNode`` for every leaf that it does not."""
    own = state.mean if isinstance(state, AverageWeightsState) else state.z
    # A mask may end above the leaves.
    own = jax.tree.map(
        lambda x, below: jax.tree.map(lambda _: x, below) if _is_masked(x) else x,
        own,
        params,
        is_leaf=_is_masked,
    )
    if isinstance(state, AverageWeightsState):
        return own

    def at(y: Any, z: Any) -> Any:
        if _is_masked(z):
            return z
        # Of a population b1 has its axes, and optax takes it for a number.
        b1 = jnp.expand_dims(state.b1, range(jnp.ndim(state.b1), jnp.ndim(y)))
        one = state._replace(b1=b1.astype(y.dtype), z=z.astype(y.dtype))
        return optax.contrib.schedule_free_eval_params(one, y)

    return jax.tree.map(at, params, own)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _wide(w: Any) -> jax.Array:
    """In float32 or better; whole numbers as they are."""
    w = jnp.asarray(w)
    return widen(w) if jnp.issubdtype(w.dtype, jnp.inexact) else w
