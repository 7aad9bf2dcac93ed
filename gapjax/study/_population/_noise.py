"""The noise of the gradient at every evaluation, from small batches of training examples."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gapjax import growth, training
from gapjax._precision import widen
from gapjax.study._plan import Plan
from gapjax.study._population._each import for_each_member
from gapjax.study._population._member import loss_function
from gapjax.study._population._setup import Setup

_PARTS = 32  # small batches that the noise is estimated from


def noise_meter(setup: Setup, plan: Plan) -> Callable[[training.TrainState, Any], Any]:
    """The noise of the gradient of all members: ``(states, examples) -> {name: [P]}``."""
    return for_each_member(noise_function(setup, plan))


def noise_function(setup: Setup, plan: Plan) -> Callable[[training.TrainState, Any], Any]:
    """The noise of the gradient (McCandlish et al. 2018), from small batches of training examples.

    The same first examples for every member and mark, so the curve over time is theirs. They are
    drawn without replacement from a set that the weights are fitted to, which is corrected for:
    the noise is that of the training set. Both parts are kept apart, with their sign: means over
    seeds come before the ratio, whose estimate is biased.

    Returns:
        ``(state, examples) -> {"gradient_noise", "gradient_norm"}`` of one member.
    """
    loss_fn = loss_function(setup, plan)
    size = plan.small_batch
    if plan.ghost_size is not None:  # whole ghosts
        size = plan.ghost_size * math.ceil(size / plan.ghost_size)
    parts = max(2, min(_PARTS, plan.num_examples // size))

    def member(state: training.TrainState, examples: Any) -> dict[str, jax.Array]:
        def gradient(rows: jax.Array, part: jax.Array) -> Any:
            batch = jax.tree.map(lambda x: x[rows], examples)
            # Chance of its own for every part, or what dropout adds would look like the gradient.
            key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), part)
            grads = jax.grad(lambda p: loss_fn(p, state.model_state, batch, key)[0])(state.params)
            # The noise is what is left of two norms, and bfloat16 rounds either.
            return jax.tree.map(widen, grads)

        def add(sums: tuple[Any, jax.Array], of: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            part = gradient(*of)
            return (
                jax.tree.map(jnp.add, sums[0], part),
                sums[1] + optax.tree.norm(part, squared=True),
            ), None

        rows = jnp.arange(parts * size).reshape(parts, size) % plan.num_examples
        start = (jax.tree.map(lambda w: jnp.zeros_like(widen(w)), state.params), jnp.zeros(()))
        (total, squares), _ = jax.lax.scan(add, start, (rows, jnp.arange(parts)))
        found = growth.gradient_noise_scale(
            squares / parts,
            optax.tree.norm(total, squared=True) / parts**2,
            part_size=size,
            batch_size=parts * size,
            num_examples=plan.num_examples if parts * size <= plan.num_examples else None,
        )
        return {"gradient_noise": found.trace, "gradient_norm": found.squared_norm}

    return member
