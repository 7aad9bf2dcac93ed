"""Training one regime: a population of seeds and rates, in segments, looked at between them."""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax import data, diffusion, growth, training
from gapjax.study._keep import Keeper, Position, columns
from gapjax.study._levels import AtEvaluation
from gapjax.study._members import MEMBERS, ROWS, Setup, make_population, noise_meter
from gapjax.study._plan import Plan
from gapjax.study._regimes import as_regime

_MAX_INDICES = 4_000_000  # of one segment, in int32: 16 MB
_SEGMENT_SECONDS = 10.0  # about; then it is asked whether to save or to leave


class Progress(NamedTuple):
    """Where a running study is; handed to ``run_study``'s ``progress`` function.

    Attributes:
        regime: which regime trains.
        phase: ``"train"``, ``"tune"`` or ``"landscape"``, whose updates are per cent.
        update: updates made.
        updates: updates of the whole regime.
        examples_per_second: examples trained on per second, over all members, 0 at the start.
        seconds_left: for this regime, None while unknown.
    """

    regime: str
    phase: str
    update: int
    updates: int
    examples_per_second: float
    seconds_left: float | None


class Outcome(NamedTuple):
    """What training a population of P members gave, on the host.

    Attributes:
        history: one row per mark: ``update``, and per member ``train_loss``, ``train_accuracy``,
            ``test_loss``, ``test_accuracy``, ``distance`` and, where some regime's batch grows,
            ``gradient_noise`` and ``gradient_norm``, each [T, P], NaN where not measured.
        diverged: the update (from 1) at which loss or gradient was first not finite, else 0,
            ``[P]``.
        fault: what of it was, see ``training.fault_path``; -1: the weights, after the last update.
        states: the final ``TrainState`` of every member, leading axis P.
    """

    history: dict[str, np.ndarray]
    diverged: np.ndarray
    fault: np.ndarray
    states: training.TrainState


class Stream:
    """A seed's stream of examples, that of ``growth.GrowingBatches``: shuffled epochs in a row.

    The order depends on the seed alone, not on the batch size; a batch may span two epochs.

    Args:
        seed: fixes the order.
        num_examples: of one epoch.
        start: how many examples were taken before.
    """

    def __init__(self, seed: int, num_examples: int, start: int = 0):
        first, offset = divmod(start, num_examples)
        epochs = itertools.count(first)
        self._orders = (growth.epoch_order(seed, epoch, num_examples) for epoch in epochs)
        self._left = next(self._orders)[offset:]

    def take(self, size: int) -> np.ndarray:
        """The rows of the next ``size`` examples."""
        while len(self._left) < size:
            self._left = np.concatenate([self._left, next(self._orders)])
        batch, self._left = self._left[:size], self._left[size:]
        return batch


class _Clock:
    """Examples per second, without the segments that compile."""

    def __init__(self) -> None:
        self.examples, self.seconds, self.start = 0, 0.0, 0.0

    def tick(self) -> None:
        self.start = time.perf_counter()

    def tock(self, examples: int) -> None:
        self.examples += examples
        self.seconds += time.perf_counter() - self.start

    def most(self, size: int, members: Sequence[Any]) -> int:
        """How many updates a segment may have, by the time that updates took so far."""
        per_second = self.speed / (size * len(members))
        return training.from_first(
            max(1, int(_SEGMENT_SECONDS * per_second)) if per_second else _MAX_INDICES
        )

    @property
    def speed(self) -> float:
        return self.examples / self.seconds if self.examples else 0.0


def train(
    setup: Setup,
    plan: Plan,
    train_split: data.Split,
    test_split: data.Split,
    members: list[tuple[int, float]],
    *,
    reference: diffusion.DiffusionRecord | None = None,
    progress: Callable[[int, float, float | None], None] = lambda *_: None,
    keeper: Keeper | None = None,
    at_evaluation: AtEvaluation = lambda *_: None,
) -> Outcome:
    """Train a population in one regime.

    Args:
        setup: what the regimes share.
        plan: the plan of the regime.
        train_split: what to train on.
        test_split: what to measure on: the test set, or a validation split while tuning.
        members: a (seed, learning rate) each.
        reference: the distance curve to follow, of a regime that matches another.
        progress: called as ``progress(update, examples_per_second, seconds_left)``.
        keeper: where to keep what is needed to go on, and to go on from.
        at_evaluation: called with the rows of the history so far and the states.

    Returns:
        The ``Outcome``.

    Raises:
        Preempted: SIGTERM came, and the keeper has saved.
    """
    population = make_population(setup, plan, len(members), reference)
    seeds, given = zip(*members, strict=True)
    rates = training.lay_out(population.mesh, np.array(given, np.float32), *MEMBERS)
    states = population.init(np.array(seeds, np.uint32), rates, train_split.images[:2])
    start = jax.jit(lambda params: jax.tree.map(jnp.copy, params))(states.params)
    on_device = training.lay_out(population.mesh, train_split)

    grows = "grow" in {as_regime(regime).batch for regime in setup.study.regimes}
    noise = noise_meter(setup, plan) if grows else None
    none = np.zeros(len(members), np.int32)
    at = Position(0, states, none, none - 1, [])
    if keeper is not None:
        at = keeper.restore(at)
    del states  # they are donated to the first segment
    taken = sum(map(plan.batch_sizes, range(at.update)))
    streams = {seed: Stream(seed, len(train_split), taken) for seed, _ in members}
    clock, compiled = _Clock(), set[int]()
    left = sum(map(plan.batch_sizes, range(at.update, plan.updates))) * len(members)

    def measure(states: training.TrainState, update: int) -> dict[str, Any]:
        distance = setup.distance(start, states.params)
        row: dict[str, Any] = {"update": update, "distance": training.to_host(distance)}
        if update in plan.evaluations:
            for name, split in (("train", train_split), ("test", test_split)):
                loss, accuracy = setup.evaluate(states, split)
                row |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
            if noise is not None:
                row |= training.to_host(noise(states, on_device))
        return row

    with (
        training.leave_on_sigterm(keeper is not None) as told_to_leave,
        keeper or contextlib.nullcontext(),
    ):
        for mark in plan.marks[len(at.rows) :]:
            while at.update < mark:
                size = plan.batch_sizes(at.update)
                longest = segment_length(plan, len(members), size)
                stop = next((b for b in plan.batch_sizes.boundaries if b > at.update), plan.updates)
                count = min(longest, mark - at.update, stop - at.update, clock.most(size, members))
                indices = _indices(streams, members, count, longest, size)
                clock.tick()
                laid = training.lay_out(population.mesh, indices, *ROWS)
                states, segment = population.advance(at.states, rates, on_device, laid, count)
                # Waits: one segment at a time in flight.
                bad, fault = training.to_host((segment.diverged, segment.fault))
                examples = count * size * len(members)
                if size in compiled:
                    clock.tock(examples)
                compiled.add(size)
                new = (at.diverged == 0) & (bad > 0)
                diverged, fault = np.where(new, (bad, fault), (at.diverged, at.fault))
                at = Position(at.update + count, states, diverged, fault, at.rows)
                left -= examples
                progress(at.update, clock.speed, left / clock.speed if clock.speed else None)
                if keeper is not None and at.update < plan.updates:
                    keeper.save(at, told_to_leave=told_to_leave(at.update))
            at.rows.append(measure(at.states, at.update))
            if at.update in plan.evaluations:
                at_evaluation(at.rows, at.states)
    history = {"update": np.array(plan.marks), **columns(at.rows, len(members))}
    # The last update's own damage shows only afterwards.
    lost = (at.diverged == 0) & ~np.isfinite(history["train_loss"][-1])
    return Outcome(history, np.where(lost, plan.updates, at.diverged), at.fault, at.states)


def segment_length(plan: Plan, members: int, batch_size: int) -> int:
    """The most updates between two looks at the host."""
    widest = int(np.diff((0, *plan.marks)).max())
    return max(1, min(widest, _MAX_INDICES // (members * batch_size)))


def _indices(
    streams: dict[int, Stream],
    members: list[tuple[int, float]],
    count: int,
    length: int,
    batch_size: int,
) -> np.ndarray:
    """The rows of the next updates, ``[length, P, B]``; those past ``count`` stay unused."""
    indices = np.zeros((length, len(members), batch_size), np.int32)
    for i in range(count):
        rows = {seed: stream.take(batch_size) for seed, stream in streams.items()}
        for j, (seed, _) in enumerate(members):
            indices[i, j] = rows[seed]
    return indices
