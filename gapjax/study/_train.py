"""Training one regime: a population of seeds and rates, in segments, looked at between them."""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gapjax import data, diffusion, growth, training
from gapjax.study import _folder
from gapjax.study._levels import AtEvaluation
from gapjax.study._members import Setup, member_functions, noise_meter
from gapjax.study._plan import Plan
from gapjax.study._regimes import as_regime

_MAX_INDICES = 4_000_000  # of one segment, in int32: 16 MB


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
        diverged: the update (from 1) at which the loss was first seen not finite, else 0, ``[P]``.
        states: the final ``TrainState`` of every member, leading axis P.
    """

    history: dict[str, np.ndarray]
    diverged: np.ndarray
    states: training.TrainState


class Stream:
    """A seed's stream of examples, that of ``growth.GrowingBatches``: shuffled epochs in a row.

    The order depends on the seed alone, not on the batch size; a batch may span two epochs.
    """

    def __init__(self, seed: int, num_examples: int):
        orders = (growth.epoch_order(seed, epoch, num_examples) for epoch in itertools.count())
        self._orders, self._left = orders, np.empty(0, np.int32)

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
        at_evaluation: called with the rows of the history so far and the states.

    Returns:
        The ``Outcome``.
    """
    step, init = member_functions(setup, plan, reference)
    mesh = training.population_mesh(len(members), devices_per_member=setup.devices_per_member)
    seeds = np.array([seed for seed, _ in members], np.uint32)
    rates = training.lay_out(mesh, np.array([r for _, r in members], np.float32), "member")

    def start_one(seed: jax.Array, rate: jax.Array, images: jax.Array) -> training.TrainState:
        return init(jax.random.key(seed), rate, images)

    states = jax.jit(
        jax.vmap(start_one, (0, 0, None)),
        out_shardings=NamedSharding(mesh, PartitionSpec("member")),
    )(seeds, rates, train_split.images[:2])
    start = jax.jit(lambda params: jax.tree.map(jnp.copy, params))(states.params)
    loop = training.loop_for(jax.eval_shape(_first, start), jax.default_backend())
    advance = training.make_advance(step, loop=loop)
    on_device = training.lay_out(mesh, train_split)

    grows = "grow" in {as_regime(regime).batch for regime in setup.study.regimes}
    noise = noise_meter(setup, plan) if grows else None
    streams = {seed: Stream(seed, len(train_split)) for seed, _ in members}
    widest = int(np.diff((0, *plan.marks)).max())
    diverged = np.zeros(len(members), np.int64)
    rows: list[dict[str, Any]] = []
    clock, compiled, update = _Clock(), set[int](), 0
    left = sum(map(plan.batch_sizes, range(plan.updates))) * len(members)
    for mark in plan.marks:
        while update < mark:
            size = plan.batch_sizes(update)
            longest = max(1, min(widest, _MAX_INDICES // (len(members) * size)))
            stop = next((b for b in plan.batch_sizes.boundaries if b > update), plan.updates)
            count = min(longest, mark - update, stop - update)
            indices = _indices(streams, members, count, longest, size)
            clock.tick()
            laid = training.lay_out(mesh, indices, None, "member", "data")
            states, segment = advance(states, rates, on_device, laid, count)
            bad = training.to_host(segment.diverged)  # waits: one segment at a time is in flight
            examples = count * size * len(members)
            if size in compiled:
                clock.tock(examples)
            compiled.add(size)
            diverged = np.where((diverged == 0) & (bad > 0), bad, diverged)
            update, left = update + count, left - examples
            progress(update, clock.speed, left / clock.speed if clock.speed else None)
        row: dict[str, Any] = {
            "update": update,
            "distance": training.to_host(setup.distance(start, states.params)),
        }
        if update in plan.evaluations:
            for name, split in (("train", train_split), ("test", test_split)):
                loss, accuracy = setup.evaluate(states, split)
                row |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
            if noise is not None:
                row |= training.to_host(noise(states, on_device))
        rows.append(row)
        if update in plan.evaluations:
            at_evaluation(rows, states)
    history = _stack(rows, len(members))
    # The last update's own damage shows only afterwards.
    lost = (diverged == 0) & ~np.isfinite(history["train_loss"][-1])
    return Outcome(history, np.where(lost, plan.updates, diverged), states)


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


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def _stack(rows: list[dict[str, Any]], members: int) -> dict[str, np.ndarray]:
    """The rows as columns; what was not measured at a mark is NaN."""
    names = _folder.HISTORY_COLUMNS[3:]
    blank = np.full(members, np.nan)
    columns = {name: np.stack([row.get(name, blank) for row in rows]) for name in names}
    return {"update": np.array([row["update"] for row in rows]), **columns}
