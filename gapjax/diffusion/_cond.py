"""A conditional that stays one under `vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def cond_any(
    predicate: jax.Array, when: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any
) -> Any:
    """`jax.lax.cond`, whose branch is still skipped in a batch where no predicate holds.

    Under `vmap` a `lax.cond` with a batched predicate becomes a select: both branches run for
    every member, always. Here a batch runs `when` only if any of its members asks for it (then
    for all, keeping the results of those that asked). Members of a population that ask at the
    same steps thus pay as if they were one. No gradients flow through the operands.
    """

    @custom_vmap
    def call(predicate: jax.Array, operands: Any) -> Any:
        return jax.lax.cond(predicate, when, otherwise, *operands)

    @call.def_vmap
    def batched(size: int, is_batched: Any, predicate: jax.Array, operands: Any) -> Any:
        def spread(x: jax.Array, batched: bool) -> jax.Array:
            return x if batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))

        predicates, operands = jax.tree.map(spread, (predicate, operands), tuple(is_batched))

        def when_any(predicates: jax.Array, *operands: Any) -> Any:
            def one(predicate: jax.Array, *operands: Any) -> Any:
                select = lambda new, old: jnp.where(predicate, new, old)  # noqa: E731
                return jax.tree.map(select, when(*operands), otherwise(*operands))

            return jax.vmap(one)(predicates, *operands)

        def when_none(predicates: jax.Array, *operands: Any) -> Any:
            return jax.vmap(otherwise)(*operands)

        # The same again, so that a second vmap around the first keeps the branch too.
        result = cond_any(jnp.any(predicates), when_any, when_none, predicates, *operands)
        return result, jax.tree.map(lambda _: True, result)

    return call(predicate, jax.lax.stop_gradient(operands))
