"""Training one regime: a population of seeds and rates, in segments, looked at between them."""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import data, diffusion, growth, models, training
from gapjax.study._plan import Plan
from gapjax.study._study import Study

_MAX_INDICES = 4_000_000  # of one segment, in int32: 16 MB
_EVAL_ROWS = 8192  # examples of one evaluation batch, over all members


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
            ``test_loss``, ``test_accuracy`` (NaN between evaluations), ``distance``, each [T, P].
        diverged: the update (from 1) at which the loss was first seen not finite, else 0, ``[P]``.
        states: the final ``TrainState`` of every member, leading axis P.
    """

    history: dict[str, np.ndarray]
    diverged: np.ndarray
    states: training.TrainState


class Setup(NamedTuple):
    """What every regime of a study shares, compiled once.

    Attributes:
        study: the study.
        network: the network.
        train: the training examples.
        test: the test examples.
        prepare: standardizes images, see ``preparer``.
        evaluate: mean loss and accuracy of every member over a split.
        distance: ``||w_t - w_0||`` of every member.
    """

    study: Study
    network: models.Network
    train: data.Split
    test: data.Split
    prepare: Callable[[jax.Array], jax.Array]
    evaluate: Callable[[training.TrainState, data.Split], tuple[np.ndarray, np.ndarray]]
    distance: Callable[[Any, Any], jax.Array]


def make_setup(study: Study, network: models.Network, train: data.Split, test: data.Split) -> Setup:
    """The setup of a study on these examples."""
    prepare = preparer(train.images)
    distance = jax.jit(jax.vmap(_distance))
    return Setup(study, network, train, test, prepare, _evaluator(network, prepare), distance)


def preparer(images: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """The function that standardizes images by the mean and deviation of all training pixels.

    Args:
        images: the training images, uint8 or float32.

    Returns:
        A function from images of the same type to float32.
    """
    sample = images[:10_000].astype(np.float64)
    mean, std = float(sample.mean()), float(max(sample.std(), 1e-8))
    return lambda x: (x.astype(jnp.float32) - mean) / std


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

    Returns:
        The ``Outcome``.
    """
    step, init = member_functions(setup, plan, reference)
    rates = jnp.asarray([rate for _, rate in members], jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.asarray([seed for seed, _ in members], jnp.uint32))
    states = jax.jit(jax.vmap(init, (0, 0, None)))(keys, rates, jnp.asarray(train_split.images[:2]))
    start = jax.tree.map(jnp.copy, states.params)
    loop = training.loop_for(jax.tree.map(lambda x: x[0], start), jax.default_backend())
    advance = training.make_advance(step, loop=loop)
    on_device = jax.device_put(train_split)

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
            states, segment = advance(states, rates, on_device, indices, count)
            bad = np.asarray(segment.diverged)  # waits: one segment is in flight at a time
            examples = count * size * len(members)
            if size in compiled:
                clock.tock(examples)
            compiled.add(size)
            diverged = np.where((diverged == 0) & (bad > 0), bad, diverged)
            update, left = update + count, left - examples
            progress(update, clock.speed, left / clock.speed if clock.speed else None)
        row = {"update": update, "distance": np.asarray(setup.distance(start, states.params))}
        if update in plan.evaluations:
            for name, split in (("train", train_split), ("test", test_split)):
                loss, accuracy = setup.evaluate(states, split)
                row |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        rows.append(row)
    history = _stack(rows, len(members))
    # The last update's own damage shows only afterwards.
    lost = (diverged == 0) & ~np.isfinite(history["train_loss"][-1])
    return Outcome(history, np.where(lost, plan.updates, diverged), states)


def member_functions(
    setup: Setup, plan: Plan, reference: diffusion.DiffusionRecord | None = None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """One update and the start of one member, pure in its seed and its learning rate."""

    def optimizer(rate: jax.Array) -> optax.GradientTransformation:
        # The regime's schedule, its height a traced number: rates are a vmapped axis.
        scale = rate / plan.learning_rate
        chain = setup.study.make_optimizer(lambda count: scale * plan.schedule(count))
        if reference is None:
            return chain
        follow = diffusion.match_diffusion(reference, steps_per_update=plan.pace)
        return optax.chain(chain, follow)

    def loss_fn(params: Any, model_state: Any, batch: data.Split, key: jax.Array) -> Any:
        network_key, noise_key = jax.random.split(key)
        logits, model_state = setup.network.apply(
            params,
            model_state,
            setup.prepare(batch.images),
            train=True,
            key=network_key,
            ghost_size=plan.ghost_size,
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        if plan.noise_std:
            losses *= diffusion.example_weights(noise_key, len(batch), plan.noise_std)
        return losses.mean(), (model_state, {})

    def step(state: training.TrainState, rate: jax.Array, batch: data.Split) -> Any:
        return training.make_train_step(loss_fn, optimizer(rate))(state, batch)

    def init(key: jax.Array, rate: jax.Array, images: jax.Array) -> training.TrainState:
        start_key, run_key = jax.random.split(key)
        params, model_state = setup.network.init(start_key, setup.prepare(images))
        return training.init_state(params, optimizer(rate), key=run_key, model_state=model_state)

    return step, init


def _evaluator(
    network: models.Network, prepare: Callable[[jax.Array], jax.Array]
) -> Callable[[training.TrainState, data.Split], tuple[np.ndarray, np.ndarray]]:
    """Mean loss and accuracy of every member over a whole split, in evaluation mode."""

    def values(params: Any, model_state: Any, batch: dict[str, Any]) -> dict[str, jax.Array]:
        split = batch["split"]
        logits, _ = network.apply(params, model_state, prepare(split.images), train=False)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, split.labels)
        # A network that diverged is right by accident on class 0: argmax of NaNs is 0.
        right = (logits.argmax(-1) == split.labels) & jnp.isfinite(losses)
        return {"loss": losses, "accuracy": right}

    step = jax.jit(jax.vmap(training.make_eval_step(values), (0, None)))

    def evaluate(states: training.TrainState, split: data.Split) -> tuple[np.ndarray, np.ndarray]:
        members = len(states.step)
        size = max(1, min(len(split), _EVAL_ROWS // members))
        sums: dict[str, Any] = {}
        for first in range(0, len(split), size):
            rows = np.arange(first, first + size)
            mask = rows < len(split)  # the last batch is padded to the size that is compiled
            batch = jax.tree.map(lambda x, rows=rows: x[np.minimum(rows, len(split) - 1)], split)
            part = step(states, {"split": batch, "mask": mask.astype(np.float32)})
            sums = jax.tree.map(jnp.add, sums, part) if sums else part
        count = np.asarray(sums["count"], np.float64)
        return np.asarray(sums["loss"]) / count, np.asarray(sums["accuracy"]) / count

    return evaluate


def _distance(start: Any, params: Any) -> jax.Array:
    """``||w_t - w_0||``, over all parameters."""
    return optax.tree.norm(jax.tree.map(lambda a, b: (b - a).astype(jnp.float32), start, params))


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


def _stack(rows: list[dict[str, Any]], members: int) -> dict[str, np.ndarray]:
    """The rows as columns; what was not measured at a mark is NaN."""
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "distance")
    blank = np.full(members, np.nan)
    columns = {name: np.stack([row.get(name, blank) for row in rows]) for name in names}
    return {"update": np.array([row["update"] for row in rows]), **columns}
