"""Curvature times a vector on one batch: what is compiled, once for each kind and space.

The kernels compare by value, so operators made anew at other parameters share the program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gapjax._examples import part_weights
from gapjax._precision import widen
from gapjax.landscape._space import Vector, VectorSpace, inner, l2_norm, scaled


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradient at selected leaves."""

    space: VectorSpace

    def __call__(self, batch: Any, loss_fn: Any, params: Any) -> Vector:
        return self.space.as_vector(self.at(batch, loss_fn, params)(self.space.select(params)))

    def at(self, batch: Any, loss_fn: Any, params: Any) -> Callable[[Any], Any]:
        """The gradient as a function of the selected leaves, the rest as they are."""
        return jax.grad(lambda leaves: loss_fn(self.space.replace(params, leaves), batch))


@dataclasses.dataclass(frozen=True)
class ForwardOverReverse:
    """H v as the derivative of the gradient along the vector (Pearlmutter 1994)."""

    space: VectorSpace

    def __call__(self, batch: Any, loss_fn: Any, params: Any, vector: Vector) -> Vector:
        gradient = Gradient(self.space).at(batch, loss_fn, params)
        at, along = self.space.select(params), self.space.tangents(vector)
        return self.space.as_vector(jax.jvp(gradient, (at,), (along,))[1])

    def linear(self, batch: Any, loss_fn: Any, params: Any) -> Callable[[Any], Any]:
        """The product as a function of the vector alone, with all else computed."""
        gradient = Gradient(self.space).at(batch, loss_fn, params)
        return jax.linearize(gradient, self.space.select(params))[1]


@dataclasses.dataclass(frozen=True)
class ReverseOverReverse:
    """H v as the gradient pulled back along the vector, which is the same by symmetry."""

    space: VectorSpace

    def __call__(self, batch: Any, loss_fn: Any, params: Any, vector: Vector) -> Vector:
        gradient = Gradient(self.space).at(batch, loss_fn, params)
        _, back = jax.vjp(gradient, self.space.select(params))
        return self.space.as_vector(back(self.space.tangents(vector))[0])

    def linear(self, batch: Any, loss_fn: Any, params: Any) -> Callable[[Any], Any]:
        """As `ForwardOverReverse.linear`."""
        gradient = Gradient(self.space).at(batch, loss_fn, params)
        _, back = jax.vjp(gradient, self.space.select(params))
        return jax.tree_util.Partial(lambda back, along: back(along)[0], back)


@dataclasses.dataclass(frozen=True)
class FiniteDifference:
    """H v as a central difference of gradients.

    The cube root of eps as the step, in units of a parameter's size, balances what the gradients
    round, about eps / step, against the third derivative, about step^2.
    """

    space: VectorSpace

    def __call__(self, batch: Any, loss_fn: Any, params: Any, vector: Vector) -> Vector:
        gradient = Gradient(self.space).at(batch, loss_fn, params)
        at = self.space.select(params)
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in at)
        point, length = self.space.as_vector(at), l2_norm(vector)
        usual = l2_norm(point) / self.space.size**0.5
        step = eps ** (1 / 3) * (1 + usual) / jnp.where(length > 0, length, 1)

        def moved(sign: int) -> list[jax.Array]:
            return [
                (x + sign * step * v).astype(leaf.dtype)
                for x, v, leaf in zip(point, vector, at, strict=True)
            ]

        ends = gradient(moved(1)), gradient(moved(-1))
        return tuple(
            (up - down) / (2 * step)
            for up, down in zip(*map(self.space.as_vector, ends), strict=True)
        )


HESSIAN_PRODUCTS: dict[str, Callable[[VectorSpace], Callable[..., Vector]]] = {
    "forward_over_reverse": ForwardOverReverse,
    "reverse_over_reverse": ReverseOverReverse,
    "finite_difference": FiniteDifference,
}


@dataclasses.dataclass(frozen=True)
class AlongGradient:
    """g^T H g / g^T g and the length of g, with the gradient and the Hessian of one batch.

    The length and not its square, which float32 does not hold for gradients of 1e-20 or 1e20.
    """

    space: VectorSpace
    product: Callable[..., Vector]

    def __call__(self, batch: Any, loss_fn: Any, params: Any) -> tuple[jax.Array, jax.Array]:
        slope = Gradient(self.space)(batch, loss_fn, params)
        length = l2_norm(slope)
        unit = scaled(slope, 1 / jnp.where(length > 0, length, 1))
        return inner(unit, self.product(batch, loss_fn, params, unit)), length


@dataclasses.dataclass(frozen=True)
class OutputProduct:
    """J^T C J v, with J of the network's outputs and C the curvature `of_outputs`."""

    space: VectorSpace
    of_outputs: Callable[..., jax.Array]

    def __call__(
        self, batch: Any, apply_fn: Any, output_loss: Any, params: Any, vector: Vector
    ) -> Vector:
        linear = self.linear(batch, apply_fn, output_loss, params)
        return self.space.as_vector(linear(self.space.tangents(vector)))

    def linear(
        self, batch: Any, apply_fn: Any, output_loss: Any, params: Any
    ) -> Callable[[Any], Any]:
        """As `ForwardOverReverse.linear`."""

        def network(leaves: list[jax.Array]) -> jax.Array:
            return apply_fn(self.space.replace(params, leaves), batch)

        # linearize evaluates the network once; its transpose serves the way back.
        outputs, push = jax.linearize(network, self.space.select(params))

        def product(push: Any, outputs: Any, batch: Any, output_loss: Any, along: Any) -> Any:
            bent = self.of_outputs(output_loss, batch, outputs, push(along))
            return jax.linear_transpose(push, along)(bent)[0]

        return jax.tree_util.Partial(product, push, outputs, batch, output_loss)


def loss_curvature(output_loss: Any, batch: Any, outputs: Any, along: Any) -> Any:
    """The Hessian of the loss in the outputs, times a direction."""
    return jax.jvp(jax.grad(lambda out: output_loss(out, batch)), (outputs,), (along,))[1]


def softmax_curvature(output_loss: Any, batch: Any, outputs: Any, along: Any) -> jax.Array:
    """(diag(p) - p p^T) per example, or part of one; the mean over those that count.

    At least in float32: the shares of examples, all rounded alike, are a factor of the whole.
    """
    check_logits(outputs)
    p, along = jax.nn.softmax(widen(outputs)), widen(along)
    bent = p * along - p * jnp.sum(p * along, axis=-1, keepdims=True)
    shares = _shares(batch, outputs.shape[:-1])[..., None].astype(bent.dtype)
    return (bent * shares).astype(outputs.dtype)


def check_logits(outputs: Any) -> None:
    """Refuses outputs whose last axis is not one of classes.

    Raises:
        ValueError: outputs that are no array ``[B, ..., classes]`` of at least 2 classes.
    """
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) < 2 or shape[-1] < 2:
        told = f"a {type(outputs).__name__}" if shape is None else f"of shape {shape}"
        raise ValueError(
            "the exact Fisher takes the outputs of the network as logits, [B, ..., classes] with "
            f"at least 2 classes, and these are {told}. Of one logit z an example pass [0, z], "
            "jnp.stack([jnp.zeros_like(z), z], axis=-1), or take ggn with the sigmoid loss."
        )


def gradient_curvature(output_loss: Any, batch: Any, outputs: Any, along: Any) -> jax.Array:
    """Per example r r^T, r the gradient of its own loss; the mean over those that count."""
    examples, features = len(outputs), tuple(range(1, outputs.ndim))
    leaves, tree = jax.tree.flatten(batch)
    axes = [0 if jnp.shape(leaf)[:1] == (examples,) else None for leaf in leaves]

    def gradient(output: jax.Array, example: list[Any]) -> jax.Array:
        parts = [x if a is None else x[None] for x, a in zip(example, axes, strict=True)]
        alone = jax.tree.unflatten(tree, parts)
        return jax.grad(lambda out: output_loss(out[None], alone))(output)

    gradients = widen(jax.vmap(gradient, in_axes=(0, axes))(outputs, leaves))
    share = jnp.expand_dims(_shares(batch, (examples,)), features).astype(gradients.dtype)
    # The mean over the parts of an example of which none counts is not a number.
    own = jnp.where(share > 0, gradients, 0)
    bent = share * own * jnp.sum(own * widen(along), axis=features, keepdims=True)
    return bent.astype(outputs.dtype)


def _shares(batch: Any, shape: tuple[int, ...]) -> jax.Array:
    """The share of each example, or part, in a mean over a batch: by its mask, or the same."""
    try:
        weights = part_weights(batch)
    except ValueError as error:
        raise ValueError(
            f"{str(error).partition(':')[0]}: the Fisher matrix counts every example by it, where "
            "weight_fn= tells batches from each other. Give the entry another name, such as "
            "'attention_mask'."
        ) from error
    if weights is None:
        weights = jnp.ones(shape)
    elif weights.shape != shape[: weights.ndim]:
        weights = weights.sum(axis=tuple(range(1, weights.ndim)))
    missing = tuple(range(weights.ndim, len(shape)))
    weights = jnp.broadcast_to(jnp.expand_dims(weights, missing), shape)
    return weights / weights.sum()


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
