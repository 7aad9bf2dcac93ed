"""Curvature times a vector on one batch: what is compiled, once for each kind and space.

The kernels compare by value, so operators made anew at other parameters share the program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gapjax.landscape._space import Vector, VectorSpace


@dataclasses.dataclass(frozen=True)
class HessianProduct:
    """Forward over reverse: the derivative of the gradient along the vector."""

    space: VectorSpace

    def __call__(self, batch: Any, loss_fn: Any, params: Any, vector: Vector) -> Vector:
        def loss(leaves: list[jax.Array]) -> jax.Array:
            return loss_fn(self.space.replace(params, leaves), batch)

        at, along = self.space.select(params), self.space.tangents(vector)
        return self.space.as_vector(jax.jvp(jax.grad(loss), (at,), (along,))[1])


@dataclasses.dataclass(frozen=True)
class OutputProduct:
    """J^T C J v, with J of the network's outputs and C the curvature `of_outputs`."""

    space: VectorSpace
    of_outputs: Callable[..., jax.Array]

    def __call__(
        self, batch: Any, apply_fn: Any, output_loss: Any, params: Any, vector: Vector
    ) -> Vector:
        def network(leaves: list[jax.Array]) -> jax.Array:
            return apply_fn(self.space.replace(params, leaves), batch)

        # linearize evaluates the network once; its transpose serves the way back.
        outputs, push = jax.linearize(network, self.space.select(params))
        along = push(self.space.tangents(vector))
        bent = self.of_outputs(output_loss, batch, outputs, along)
        (back,) = jax.linear_transpose(push, self.space.select(params))(bent)
        return self.space.as_vector(back)


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
    examples, features = outputs.shape[0], tuple(range(1, outputs.ndim))
    own = examples * jax.grad(lambda out: output_loss(out, batch))(outputs)
    return own * jnp.sum(own * along, axis=features, keepdims=True) / examples


@dataclasses.dataclass(frozen=True)
class DisplacedLoss:
    """The loss at params + vector."""

    space: VectorSpace

    def __call__(self, batch: Any, loss_fn: Any, params: Any, vector: Vector) -> jax.Array:
        moved = [
            (leaf.astype(self.space.dtype) + step).astype(leaf.dtype)
            for leaf, step in zip(self.space.select(params), vector, strict=True)
        ]
        loss = loss_fn(self.space.replace(params, moved), batch)
        return jnp.asarray(loss).astype(self.space.dtype)


@dataclasses.dataclass(frozen=True)
class DisplacedGradient:
    """The loss at params + vector, and its gradient in the vector."""

    space: VectorSpace

    def __call__(
        self, batch: Any, loss_fn: Any, params: Any, vector: Vector
    ) -> tuple[jax.Array, Vector]:
        def loss(v: Vector) -> jax.Array:
            return DisplacedLoss(self.space)(batch, loss_fn, params, v)

        value, slope = jax.value_and_grad(loss)(vector)
        return value, self.space.as_vector(slope)
