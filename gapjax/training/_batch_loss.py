"""The loss of one batch at any parameters: its gradient and its value, over all of its parts."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gapjax._examples import count_examples, effective_examples, noise_sizes
from gapjax._means import (
    Weight,
    average,
    combine,
    first_device,
    guarded,
    mean_in_turn,
    mean_metrics,
    mean_of_devices,
    mean_of_parts,
    settle,
    share,
    spread,
    varying,
)
from gapjax._precision import widen
from gapjax.training._gradients import Gradient, GradientStrategy, ValueAndGrad
from gapjax.training._losses import Batch
from gapjax.training._optimizers import trained


@dataclasses.dataclass(frozen=True)
class BatchLoss:
    """The mean loss of a batch, a function of the parameters.

    Attributes:
        value_and_grad: of the examples that are at hand at once.
        microbatched: whether the batch comes in microbatches.
        model_state: before the batch.
        batch: the examples that lie on this device.
        key: their random key.
    """

    value_and_grad: ValueAndGrad
    microbatched: bool
    model_state: Any
    batch: Batch
    key: jax.Array

    def gradient(self, params: Any, strategy: GradientStrategy) -> tuple[Gradient, dict[str, Any]]:
        """Gradient, model state and metrics; and, of microbatches, their sizes and squared norm."""
        params, axis = trained(params), self.value_and_grad.axis_name
        here = varying((params, self.model_state), axis)
        if self.microbatched:
            result, weights, norms = self._accumulate(strategy, *here)
            weight = None if weights is None else jnp.sum(weights)
        else:
            result = strategy(self.value_and_grad, here[0], here[1], self.batch, self.key)
            weight = self.value_and_grad.weigh(self.batch)
        mean = mean_of_devices(weight, axis)
        first = functools.partial(first_device, axis=axis)
        grads, after, metrics = combine(result, params, self.model_state, mean=mean, first=first)
        grads = jax.tree.map(lambda g, w: g.astype(w.dtype), grads, params)
        parts: dict[str, Any] = {}
        if self.microbatched and len(norms) > 1:  # one part alone says nothing of the noise
            zero = jnp.zeros((), jnp.float32)
            norm = mean(mean_of_parts(weights, len(norms))(norms, zero), zero)
            parts = {"part_squared_norm": norm, **self._sizes(weights, len(norms))}
        return (grads, after, metrics), parts

    def value(self, params: Any) -> jax.Array:
        """The loss; it may be differentiated."""
        weigh, axis = self.value_and_grad.weigh, self.value_and_grad.axis_name
        params = spread(trained(params), axis)

        def of_part(state: Any, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
            weight = weigh(batch)
            loss, (after, _) = self.value_and_grad.loss_fn(
                guarded(params, weight), state, batch, key
            )
            return _kept(after, state, weight), (share(loss, weight), weight)

        state = varying(self.model_state, axis)
        if self.microbatched:

            @jax.checkpoint  # or its gradient would hold the activations of the whole batch
            def of_microbatch(state: Any, numbered: tuple[jax.Array, Batch]) -> Any:
                return of_part(state, numbered[1], jax.random.fold_in(self.key, numbered[0]))

            _, parts = jax.lax.scan(of_microbatch, state, (self._numbers(), self.batch))
            total, weight = jax.tree.map(jnp.mean, parts)
        else:
            _, (total, weight) = of_part(state, self.batch, self.key)
        total = average(total, axis)
        if weight is None:
            return total
        return settle(total, average(weight, axis), jnp.zeros_like(total))

    def batch_size(self) -> Any:
        """Examples of the whole batch, padding counted: those that schedules speak of.

        Where the leaves of a batch share no axis of examples, it is as large as its weight.
        """
        axis = self.value_and_grad.axis_name
        try:
            size = count_examples(self.batch, leading=1 + self.microbatched)
        except ValueError:
            weigh = self.value_and_grad.weigh
            weight = (jax.vmap(weigh) if self.microbatched else weigh)(self.batch)
            if weight is None:
                raise
            weight = jnp.sum(weight)
            return weight if axis is None else jax.lax.psum(weight, axis)
        return size if axis is None else size * jax.lax.axis_size(axis)

    def _accumulate(
        self, strategy: GradientStrategy, params: Any, model_state: Any
    ) -> tuple[Gradient, Weight, jax.Array]:
        """The mean gradient over microbatches, in the memory of one; their weights and norms."""
        weights = jax.vmap(self.value_and_grad.weigh)(self.batch)

        def of_part(state: Any, numbered: tuple[jax.Array, Batch], weight: Weight) -> Any:
            number, batch = numbered
            key = jax.random.fold_in(self.key, number)
            grads, after, metrics = strategy(self.value_and_grad, params, state, batch, key)
            norm = optax.tree.norm(jax.tree.map(widen, grads), squared=True)
            return grads, _kept(after, state, weight), (metrics, norm)

        parts, axis = (self._numbers(), self.batch), self.value_and_grad.axis_name
        grads, after, (metrics, norms) = mean_in_turn(
            of_part, model_state, parts, weights, params, axis
        )
        metrics = mean_metrics(metrics, mean=mean_of_parts(weights, len(norms)))
        return (grads, after, metrics), weights, norms

    def _sizes(self, weights: Weight, count: int) -> dict[str, Any]:
        """Examples of a part, and of all of them where that is not what the batch holds."""
        axis = self.value_and_grad.axis_name
        if weights is None:
            devices = 1 if axis is None else jax.lax.axis_size(axis)
            return {"part_size": self.batch_size() / (count * devices)}
        try:
            counts = jax.vmap(lambda batch: widen(effective_examples(batch)))(self.batch)
        except ValueError:  # no axis of examples
            counts = weights

        def total(x: jax.Array) -> jax.Array:
            return jnp.sum(x) if axis is None else jax.lax.psum(jnp.sum(x), axis)

        part_size, effective_size = noise_sizes(weights, counts, total)
        return {"part_size": part_size, "effective_size": effective_size}

    def _numbers(self) -> jax.Array:
        """Of the microbatches, which are the leading axis of a batch."""
        return jnp.arange(count_examples(self.batch))


def _kept(after: Any, before: Any, weight: Weight) -> Any:
    """The model state after a part of the batch: as it was, if that has no weight."""
    if weight is None:
        return after
    return jax.tree.map(lambda new, old: jnp.where(weight > 0, new, old), after, before)
