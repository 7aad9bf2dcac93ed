"""Measuring members over a split: exact means, over ragged batches, and every example alone."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax import ghost, models, training
from gapjax.study._population._each import for_each_member
from gapjax.study._task import Task

_ROWS = 8192  # examples of one batch, over all members
_BYTES = 2**23  # and of their outputs: a batch that fits the cache is faster
_INPUT_BYTES = 2**27  # and of their inputs, which a ResNet holds 25 times over: large images


class Weights(NamedTuple):
    """What of a member is evaluated: leading axis P."""

    params: Any
    model_state: Any


class Evaluator:
    """Measures members over a split in evaluation mode; every program is compiled once.

    Args:
        network: the network.
        task: what is measured.
        inputs: ``batch -> what the network is given``.
    """

    def __init__(self, network: models.Network, task: Task, inputs: Callable[[Any], Any]):
        def outputs(weights: Weights, batch: Any) -> Any:
            return network.apply(*weights, inputs(batch), train=False)[0]

        def each(weights: Weights, batch: Any) -> dict[str, jax.Array]:
            return task.measure(outputs(weights, batch), batch)

        def sums(weights: Weights, batch: Any, mask: jax.Array) -> dict[str, jax.Array]:
            counted = task.weights(batch) * mask
            total = {
                name: jnp.sum(jnp.where(counted > 0, values * counted, 0.0))
                for name, values in each(weights, batch).items()
            }
            return {**total, "weight": jnp.sum(counted)}

        def statistics(weights: Weights, batch: Any) -> Any:
            return network.batch_statistics(*weights, inputs(batch))

        self._inputs, self._outputs = inputs, outputs
        self._rows: int | None = None
        self._sums = for_each_member(sums)
        self._each = for_each_member(each)
        self._statistics = for_each_member(statistics)
        self._weights_of = jax.jit(task.weights)

    def means(self, weights: Weights, split: Any) -> dict[str, np.ndarray]:
        """The mean loss and metrics of every member over a split, float64, ``[P]`` each."""
        total: dict[str, Any] = {}
        for batch, mask in _batches(split, self._size(weights, split)):
            part = self._sums(weights, batch, mask)
            total = jax.tree.map(jnp.add, total, part) if total else part
        found = {name: x.astype(np.float64) for name, x in training.to_host(total).items()}
        weight = found.pop("weight")
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: values / weight for name, values in found.items()}

    def examples(self, weights: Weights, split: Any) -> dict[str, np.ndarray]:
        """The loss and metrics of every example: float32, ``[P, n]`` each, and their weights."""
        parts = [
            jax.tree.map(
                lambda x, m=mask: x[:, m > 0], training.to_host(self._each(weights, batch))
            )
            for batch, mask in _batches(split, self._size(weights, split))
        ]
        return {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}

    def example_weights(self, split: Any) -> np.ndarray:
        """What every example counts, ``[n]``."""
        return np.asarray(self._weights_of(split))

    def with_precise_statistics(self, weights: Weights, split: Any) -> Weights:
        """The members with the statistics of their batch norms taken anew over a split."""
        if not ghost.batch_norms(weights.model_state):
            return weights
        size = self._size(weights, split)
        # Whole batches alone: a padded one would count some examples twice.
        length = len(jax.tree.leaves(split)[0])
        cuts = [(first, min(first + size, length)) for first in range(0, length, size)]
        batches = [jax.tree.map(lambda x, c=cut: x[slice(*c)], split) for cut in cuts]
        found = ghost.precise_statistics(
            lambda own, batch: self._statistics(own, batch), weights, batches
        )
        return weights._replace(model_state=ghost.with_statistics(weights.model_state, found))

    def _size(self, weights: Weights, split: Any) -> int:
        """Examples of a batch: fewer where an example has many outputs, as a sequence has."""
        if self._rows is None:  # examples are alike in all splits
            one = jax.eval_shape(
                lambda own, examples: self._outputs(jax.tree.map(lambda x: x[0], own), examples),
                weights,
                jax.tree.map(lambda x: x[:1], split),
            )
            most = min(_ROWS, _BYTES // max(_num_bytes(one), 1))
            self._rows = rows_that_fit(self._inputs, split, most)
        return max(1, self._rows // len(jax.tree.leaves(weights.params)[0]))


def rows_that_fit(inputs: Callable[[Any], Any], split: Any, most: int) -> int:
    """So many examples at once, or fewer where the inputs of one are large, as images may be."""
    one = jax.eval_shape(inputs, jax.tree.map(lambda x: x[:1], split))
    return min(most, max(1, _INPUT_BYTES // max(_num_bytes(one), 1)))


def _num_bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _batches(split: Any, size: int) -> Iterator[tuple[Any, np.ndarray]]:
    """A split in as few batches as may be of one size; rows that fill up the last do not count."""
    length = len(jax.tree.leaves(split)[0])
    size = -(-length // -(-length // size))  # no larger than it has to be, for that many
    for first in range(0, length, size):
        rows = np.arange(first, first + size)
        real = rows < length
        batch = jax.tree.map(lambda x, r=rows: x[np.minimum(r, length - 1)], split)
        yield batch, real.astype(np.float32)
