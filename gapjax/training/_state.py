"""The state of training: one pytree that a pure step takes and gives."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gapjax._checks import random_key
from gapjax.training._optimizers import check_transform, kept_by, strong, without_aliases


class TrainState(NamedTuple):
    """All that changes while a network trains.

    Attributes:
        step: updates made so far, int32, shape ``()``.
        params: what the gradient is taken of.
        model_state: what the network keeps but does not train (running statistics); ``{}`` if
            there is none.
        opt_state: the optimizer's state.
        key: the random key of the run. It never changes: the key of an update is
            ``fold_in(key, step)``, so a run that goes on from a checkpoint draws the same numbers.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    key: jax.Array


def refuse_deleted(name: str, leaves: Iterable[Any]) -> None:
    """Refuse arrays whose memory a donating step took, with what to do; none may be traced."""
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves):
        raise ValueError(
            f"{name} was handed to a step before, which took its memory for the new state: go on "
            "with the state that step returned, or compile with compile_step(..., donate=False)."
        )


def init_state(
    params: Any, tx: optax.GradientTransformation, *, key: jax.Array, model_state: Any = None
) -> TrainState:
    """The state before the first update.

    Args:
        params: the parameters.
        tx: the optimizer, any optax chain.
        key: the random key of the run.
        model_state: running statistics and the like; none by default.

    Returns:
        A ``TrainState`` at step 0. No array is in it twice (some optimizers start with the
        parameters themselves in their state), and none but the parameters and the model state is
        anyone else's (a learning rate that the optimizer was made with, the key), so that it may be
        donated.

    Raises:
        ValueError: arrays whose memory an earlier step took, no optax transformation, or no key.

    Example:
        >>> import jax, optax
        >>> state = init_state({"w": jax.numpy.ones(3)}, optax.sgd(0.1), key=jax.random.key(0))
        >>> int(state.step)
        0
    """
    check_transform(tx)
    random_key("key", key)
    model_state = {} if model_state is None else model_state
    given = jax.tree.leaves((params, model_state))
    for name, leaves in (("params or model_state", given), ("key", [key])):
        refuse_deleted(name, (x for x in leaves if not isinstance(x, jax.core.Tracer)))
    own = without_aliases(strong((jnp.zeros((), jnp.int32), params, model_state)))
    fresh = without_aliases(strong((tx.init(params), key)), (own, kept_by(tx, params), key))
    return TrainState(*own, *fresh)
