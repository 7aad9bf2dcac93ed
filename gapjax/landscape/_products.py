"""Curvature times a vector on one batch: what is compiled, once for each kind and layout.

The kernels compare by value, so operators made anew at other parameters share the program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gapjax.landscape._trees import Layout


@dataclasses.dataclass(frozen=True)
class HessianProduct:
    """Forward over reverse: the derivative of the gradient along the vector."""

    layout: Layout

    def __call__(self, batch: Any, loss_fn: Any, params: Any, vector: jax.Array) -> jax.Array:
        def loss(leaves: list[jax.Array]) -> jax.Array:
            return loss_fn(self.layout.replace(params, leaves), batch)

        at, along = self.layout.select(params), self.layout.split(vector)
        return self.layout.join(jax.jvp(jax.grad(loss), (at,), (along,))[1])


@dataclasses.dataclass(frozen=True)
class OutputProduct:
    """J^T C J v, with J of the network's outputs and C the curvature `of_outputs`."""

    layout: Layout
    of_outputs: Callable[..., jax.Array]

    def __call__(
        self, batch: Any, apply_fn: Any, output_loss: Any, params: Any, vector: jax.Array
    ) -> jax.Array:
        def network(leaves: list[jax.Array]) -> jax.Array:
            return apply_fn(self.layout.replace(params, leaves), batch)

        # linearize evaluates the network once; its transpose serves the way back.
        outputs, push = jax.linearize(network, self.layout.select(params))
        along = push(self.layout.split(vector))
        bent = self.of_outputs(output_loss, batch, outputs, along)
        (back,) = jax.linear_transpose(push, self.layout.select(params))(bent)
        return self.layout.join(back)


def loss_curvature(output_loss: Any, batch: Any, outputs: Any, along: Any) -> Any:
    """The Hessian of the loss in the outputs, times a direction."""
    return jax.jvp(jax.grad(lambda out: output_loss(out, batch)), (outputs,), (along,))[1]


def softmax_curvature(output_loss: Any, batch: Any, outputs: Any, along: Any) -> jax.Array:
    """(diag(p) - p p^T) per example, over the number of examples."""
    p = jax.nn.softmax(outputs)
    examples = outputs.size // outputs.shape[-1]
    return (p * along - p * jnp.sum(p * along, axis=-1, keepdims=True)) / examples


def gradient_curvature(output_loss: Any, batch: Any, outputs: Any, along: Any) -> jax.Array:
    """Per example r r^T, r the gradient of its own loss; over the number of examples."""
    examples = outputs.shape[0]
    own = examples * jax.grad(lambda out: output_loss(out, batch))(outputs)
    inner = jnp.sum((own * along).reshape(examples, -1), axis=1)
    return own * inner.reshape(-1, *[1] * (outputs.ndim - 1)) / examples


@dataclasses.dataclass(frozen=True)
class DisplacedLoss:
    """The loss at params + vector."""

    layout: Layout

    def __call__(self, batch: Any, loss_fn: Any, params: Any, vector: jax.Array) -> jax.Array:
        moved = self.layout.move(params, vector)
        return jnp.asarray(loss_fn(moved, batch)).astype(self.layout.dtype)


@dataclasses.dataclass(frozen=True)
class DisplacedGradient:
    """The loss at params + vector, and its gradient in the vector."""

    layout: Layout

    def __call__(
        self, batch: Any, loss_fn: Any, params: Any, vector: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def loss(v: jax.Array) -> jax.Array:
            return DisplacedLoss(self.layout)(batch, loss_fn, params, v)

        return jax.value_and_grad(loss)(vector)
