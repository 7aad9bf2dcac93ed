"""The losses around the solutions that a study kept, as the landscape instruments take them.

Of a large training set a part is measured on, the same for every solution: the first examples of a
fixed shuffle. Disjoint parts of that tell how far other examples would have moved the numbers.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax import ghost, growth, landscape
from gapjax.study._findings._measure import OnStep, Solution
from gapjax.study._findings._surroundings import Part
from gapjax.study._population._evaluate import rows_that_fit
from gapjax.study._population._setup import Setup, rows_of
from gapjax.study._results import _folder
from gapjax.study._results._records import RegimeRecord

_ROWS = 4096  # examples of one batch, and fewer of large images
_PARTS = 5


class Bench:
    """The losses of a study, made once so that every solution shares what is compiled."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.part = part_of(setup)
        train: Any = setup.train
        self.parts: list[list[Any]] = []
        rows = rows_that_fit(setup.inputs, setup.train, _ROWS)
        if self.part is not None:
            drawn = growth.epoch_order(0, 0, self.part.of)[: self.part.examples]
            train = rows_of(setup.train, drawn)
            self.parts = [
                _batches(rows_of(setup.train, own), rows)
                for own in np.split(drawn, self.part.parts)
            ]
        self.batches = {"train": _batches(train, rows), "test": _batches(setup.test, rows)}
        network, task = setup.network, setup.task
        # Taken beforehand: a loss is asked for very often.
        weigh = jax.jit(lambda batch: jnp.sum(task.weights(batch)))
        weights = {
            id(jax.tree.leaves(batch)[0]): float(weigh(batch))
            for batches in (*self.batches.values(), *self.parts)
            for batch in batches
        }
        self.weight_fn = lambda batch: weights[id(jax.tree.leaves(batch)[0])]

        def metrics(model_state: Any, params: Any, batch: Any) -> dict[str, jax.Array]:
            outputs, _ = network.apply(params, model_state, setup.inputs(batch), train=False)
            own = task.weights(batch)
            total = jnp.maximum(jnp.sum(own), 1e-30)
            return {
                name: jnp.sum(jnp.where(own > 0, values * own, 0.0)) / total
                for name, values in task.measure(outputs, batch).items()
            }

        def loss(model_state: Any, params: Any, batch: Any) -> jax.Array:
            outputs, _ = network.apply(params, model_state, setup.inputs(batch), train=False)
            losses = task.losses(outputs, batch)
            if task.weight is None:
                return losses.mean()
            own = task.weights(batch)
            counted = jnp.where(own > 0, losses * own, 0.0)
            return jnp.sum(counted) / jnp.maximum(jnp.sum(own), 1e-30)

        def rebuilt(params: Any, model_state: Any, batch: Any) -> dict[str, jax.Array]:
            return metrics(model_state, params, batch)

        @jax.jit
        def statistics(params: Any, model_state: Any, batch: Any) -> Any:
            return network.batch_statistics(params, model_state, setup.inputs(batch))

        self.loss, self.metrics, self.rebuilt, self.statistics = loss, metrics, rebuilt, statistics

    def _as_network(self, kept: Mapping[str, Any]) -> tuple[Any, Any]:
        """Weights and running statistics from a checkpoint, as the network holds them."""
        shapes = jax.eval_shape(
            self.setup.network.init, jax.random.key(0), self.setup.inputs(self.setup.sample())
        )
        params, model_state = map(
            _as_saved, shapes, (kept["params"], kept.get("model_state") or {})
        )
        return params, model_state

    def _end(self, folder: pathlib.Path, record: RegimeRecord, member: int) -> tuple[Any, Any]:
        """Weights and running statistics of one member at the end."""
        tree = _folder.network_path(folder, record.name)
        parts = self._as_network(_folder.load_kept(folder, record, tree))
        return jax.tree.map(lambda x: jnp.asarray(x[member]), parts)

    def solution(self, folder: pathlib.Path, record: RegimeRecord, member: int) -> Solution:
        """The solution of one member of a regime."""
        return self._around(*self._end(folder, record, member))

    def on_the_way(
        self, folder: pathlib.Path, record: RegimeRecord, weights: pathlib.Path
    ) -> Solution:
        """Where one member was when its loss reached a level."""
        parts = self._as_network(_folder.load_kept(folder, record, weights))
        return self._around(*jax.tree.map(jnp.asarray, parts))

    def _around(self, params: Any, model_state: Any) -> Solution:
        # The statistics are arguments of what is compiled, not constants in it.
        loss_fn = jax.tree_util.Partial(self.loss, model_state)
        metric_fn = jax.tree_util.Partial(self.metrics, model_state)

        def on(train: list[Any], check: bool, **more: Any) -> Solution:
            evaluate = {
                name: landscape.evaluator(metric_fn, batches, weight_fn=self.weight_fn)
                for name, batches in {**self.batches, "train": train}.items()
            }
            hessian = landscape.hessian(
                loss_fn, params, train, weight_fn=self.weight_fn, check=check
            )
            return Solution(params, loss_fn, evaluate, train, self.weight_fn, hessian, **more)

        # The same loss on fewer examples needs no second look.
        parts = tuple(on(part, check=False, searches=1) for part in self.parts)
        return on(self.batches["train"], check=True, parts=parts)

    def ends(
        self, folder: pathlib.Path, records: Sequence[RegimeRecord], member: int
    ) -> tuple[Any, Any, Any]:
        """The weights of both ends, and the statistics of the first."""
        (small, model_state), (large, _) = (self._end(folder, record, member) for record in records)
        return small, large, model_state

    def between(self, ends: tuple[Any, Any, Any], on_step: OnStep) -> dict[str, Any]:
        """Losses and metrics on the line from the small batch (at 0) to the large and beyond."""
        small, large, model_state = ends

        def rebuild(params: Any) -> Any:
            if not ghost.batch_norms(model_state):
                return model_state
            pooled = ghost.precise_statistics(
                lambda p, batch: self.statistics(p, model_state, batch),
                params,
                self.batches["train"],
            )
            return ghost.with_statistics(model_state, pooled)

        evaluate = {
            name: landscape.evaluator(self.rebuilt, batches, weight_fn=self.weight_fn)
            for name, batches in self.batches.items()
        }
        path = landscape.interpolate(evaluate, small, large, rebuild=rebuild, progress=on_step)
        return {"alpha": path.coords, **path.values, "barrier": path.barrier}


def part_of(setup: Setup) -> Part | None:
    """Which part of the training set is measured on; None for all of it."""
    asked = setup.study.landscape_examples
    if asked >= setup.num_examples:
        return None
    return Part(asked - asked % _PARTS, setup.num_examples, _PARTS)


def _batches(split: Any, rows: int) -> list[Any]:
    """A split on the device, in batches."""
    cuts = range(0, len(jax.tree.leaves(split)[0]), rows)
    return [jax.tree.map(lambda x, i=i: jnp.asarray(x[i : i + rows]), split) for i in cuts]


def _as_saved(shapes: Any, saved: Any) -> Any:
    """A checkpoint under the keys of the network, which it keeps as text."""
    if not isinstance(shapes, Mapping):
        return saved
    return {key: _as_saved(shapes[key], saved.get(key, saved.get(str(key)))) for key in shapes}
