"""What the regimes of a study share: data, network, and how a network is looked at."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax import data, models, training
from gapjax.study._population._each import for_each_member
from gapjax.study._population._evaluate import Evaluator
from gapjax.study._study import Study
from gapjax.study._task import Task


class Setup(NamedTuple):
    """What the regimes of a study share.

    Attributes:
        study: the study.
        network: the network.
        train: the training examples.
        test: the test examples.
        normalizer: what the inputs go through, fitted to all training examples.
        augment: ``(keys, batch) -> batch``, of training; None where nothing is augmented.
        start: ``start_of`` for all members, compiled once.
        evaluator: measures members over a split, compiled once.
        devices_per_member: over how many devices the batch of a member is split.
    """

    study: Study
    network: models.Network
    train: Any
    test: Any
    normalizer: data.Normalizer
    augment: Callable[[jax.Array, Any], Any] | None
    start: Callable[[Any, Any], Any]
    evaluator: Evaluator
    devices_per_member: int = 1

    @property
    def task(self) -> Task:
        """The task, as it is evaluated."""
        return self.study.task

    @property
    def num_examples(self) -> int:
        """How many training examples there are."""
        return count(self.train)

    def inputs(self, batch: Any) -> Any:
        """What the network is given of a batch."""
        return _inputs(self.normalizer, self.task, batch)

    def start_of(self, seed: Any, examples: Any) -> tuple[jax.Array, Any, Any]:
        """Where a seed starts, in every regime: the key of its run, parameters, model state."""
        return _start(self.network, self.inputs, seed, examples)

    def sample(self, size: int = 2) -> Any:
        """A few training examples, for the shapes."""
        return jax.tree.map(lambda x: x[:size], self.train)


def make_setup(study: Study, dataset: data.Dataset, devices_per_member: int = 1) -> Setup:
    """The setup of a study on a data set; nothing is computed but the statistics of its inputs.

    Raises:
        ValueError: inputs that cannot be normalized as the data set says, or an unknown network.
    """
    network, task = study.make_network(dataset), study.task
    normalizer = data.fit_normalizer(task.select(dataset.train), dataset.normalize)
    inputs = functools.partial(_inputs, normalizer, task)
    return Setup(
        study,
        network,
        dataset.train,
        dataset.test,
        normalizer,
        data.make_augment(study.augment) if study.augment else None,
        for_each_member(functools.partial(_start, network, inputs), jit=training.jit_once),
        Evaluator(network, task, inputs),
        devices_per_member,
    )


def _inputs(normalizer: data.Normalizer, task: Task, batch: Any) -> Any:
    return normalizer(task.select(batch))


def _start(
    network: models.Network, inputs: Callable[[Any], Any], seed: Any, examples: Any
) -> tuple[jax.Array, Any, Any]:
    start_key, run_key = jax.random.split(jax.random.key(seed))
    return run_key, *network.init(start_key, inputs(examples))


def count(split: Any) -> int:
    """How many examples a split has."""
    return len(jax.tree.leaves(split)[0])


def rows_of(split: Any, rows: np.ndarray) -> Any:
    """Some examples of a split on the host."""
    return jax.tree.map(lambda x: x[rows], split)
