"""Training a regime: a population in segments, looked at between them."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax import diffusion, training
from gapjax.study._plan import Plan
from gapjax.study._population import _driven
from gapjax.study._population._branches import HIGH, LOW, branch_meter, branch_updates
from gapjax.study._population._evaluate import Weights
from gapjax.study._population._keep import Keeper, Snapshot
from gapjax.study._population._member import (
    MEMBERS,
    ROWS,
    Member,
    Population,
    as_arrays,
    make_population,
)
from gapjax.study._population._noise import noise_meter
from gapjax.study._population._rows import MOST_ROWS, segment_length, segment_rows
from gapjax.study._population._setup import Setup, count

# Compiled once for all regimes.
_copy = jax.jit(lambda params: jax.tree.map(jnp.copy, params))
_distances = jax.jit(jax.vmap(diffusion.distance))

_SEGMENT_SECONDS = 10.0  # about; then it is asked whether to save or to leave


class Curves(NamedTuple):
    """What was measured of P members while they trained, on the host.

    Attributes:
        update: the updates after which it was measured, ``[T]``.
        seconds: of training until then, compilation and measuring not counted, ``[T]``.
        values: ``distance``, ``train_`` and ``test_`` loss and metrics and, where they were asked
            for, ``gradient_noise`` and ``gradient_norm``: ``[T, P]`` each, NaN where not measured.
    """

    update: np.ndarray
    seconds: np.ndarray
    values: dict[str, np.ndarray]


class Outcome(NamedTuple):
    """What training P members gave, on the host.

    Attributes:
        curves: what was measured on the way; the last row is after the last update.
        diverged: the update (from 1) at which loss or gradient was first not finite, else 0,
            ``[P]``.
        fault: what of it was, see ``training.fault_path``; -1: the weights, after the last update.
        states: the final ``TrainState`` of every member, leading axis P.
        weights: what of it is evaluated.
        examples: the loss and metrics of every test example, ``[P, n]`` each.
        stopped: where the loss decides, the row of the curves at which each member stopped, -1 of
            one that never did, ``[P]``; from there on it stays as it is.
        plan: the plan as it was carried out, with what its controller decided on the way.
    """

    curves: Curves
    diverged: np.ndarray
    fault: np.ndarray
    states: training.TrainState
    weights: Any
    examples: dict[str, np.ndarray]
    stopped: np.ndarray | None
    plan: Plan

    def final(self, name: str) -> np.ndarray:
        """A value after the last update, NaN for members that diverged, ``[P]``."""
        return np.where(self.diverged > 0, np.nan, self.curves.values[name][-1])


class Watch(NamedTuple):
    """A split on which loss and metrics are measured on the way.

    Attributes:
        name: what they are called by: ``test`` gives ``test_loss``.
        split: the examples.
        updates: the updates after which they are measured, some of the plan's evaluations; None:
            all of them.
        at_end: whether they are measured where training ends, too.
    """

    name: str
    split: Any
    updates: frozenset[int] | None = None
    at_end: bool = False

    def is_due(self, update: int) -> bool:
        """Whether it is measured after so many updates, an evaluation of the plan."""
        return self.updates is None or update in self.updates


class Advance(NamedTuple):
    """How far a regime is, for a progress function.

    Attributes:
        update: updates made.
        updates: of the whole regime, as far as it is known.
        examples_per_second: over all members; 0 at the start.
        seconds_left: for this regime, None while unknown.
        metrics: what was measured last, the mean over members, by name; empty between evaluations.
    """

    update: int
    updates: int
    examples_per_second: float
    seconds_left: float | None
    metrics: dict[str, float]


class _Clock:
    """Examples per second, without the segments that compile."""

    def __init__(self, done: float) -> None:
        self.examples, self.timed, self.start = 0, 0.0, 0.0
        self.seconds = done  # of training, segments that compile counted as if they did not
        self._untimed = 0

    def tick(self) -> None:
        self.start = time.perf_counter()

    def tock(self, examples: int, compiled: bool) -> None:
        if not compiled:
            self._untimed += examples
            return
        took = time.perf_counter() - self.start
        self.examples += examples
        self.timed += took
        self.seconds += took
        if self._untimed:  # now it is known what they would have taken
            self.seconds += self._untimed * self.timed / self.examples
            self._untimed = 0

    def most(self, size: int, members: int) -> int:
        """How many updates a segment may have, by the time that updates took so far."""
        per_second = self.speed / (size * members)
        return training.from_first(
            max(1, int(_SEGMENT_SECONDS * per_second)) if per_second else MOST_ROWS
        )

    @property
    def speed(self) -> float:
        return self.examples / self.timed if self.timed else 0.0


def measured_names(setup: Setup, watched: Sequence[str] = ("train", "test")) -> tuple[str, ...]:
    """The names of all that is measured of a member on its way."""
    splits = tuple(f"{split}_{name}" for split in watched for name in setup.task.measures)
    noise = ("gradient_noise", "gradient_norm") if setup.study.measures_noise else ()
    return ("distance", *splits, *noise)


def train(
    setup: Setup,
    plan: Plan,
    train_split: Any,
    test_split: Any,
    members: Sequence[Member],
    *,
    watched: Sequence[Watch] | None = None,
    enough: Callable[[Curves], bool] = lambda _: False,
    progress: Callable[[Advance], None] = lambda _: None,
    keeper: Keeper | None = None,
    at_evaluation: Callable[[Curves, Callable[[], Weights]], None] = lambda *_: None,
    populate: Callable[[Plan], Population] | None = None,
) -> Outcome:
    """Train a population in one regime.

    Args:
        setup: what the regimes share.
        plan: the plan of the regime.
        train_split: what to train on.
        test_split: what to measure on: the test set, or a validation split while tuning.
        members: who is trained.
        watched: what to measure on the way, the first of it the loss that tells who diverged; by
            default both splits at every evaluation.
        enough: asked with the curves so far after every evaluation; where it says so, training
            ends there.
        progress: called with an ``Advance`` after every segment and evaluation.
        keeper: where to keep what is needed to go on, and to go on from.
        at_evaluation: called with the curves so far and a function that gives the weights.
        populate: what gives the population of a plan, at the start and whenever its batch grows by
            a controller; one that is compiled where it first runs, by default.

    Returns:
        The ``Outcome``.

    Raises:
        Preempted: SIGTERM came, and the keeper has saved.
    """
    size_of_data, total = count(train_split), len(members)
    seeds = [member.seed for member in members]
    populate = populate or functools.partial(make_population, setup, members=total)
    population = populate(plan)
    hyper = training.lay_out(population.mesh, as_arrays(members), *MEMBERS)
    states = population.init(hyper, setup_sample(train_split))
    start = _copy(states.params)
    on_device = training.lay_out(population.mesh, train_split)
    noise = noise_meter(setup, plan) if setup.study.measures_noise else None

    if watched is None:
        watched = (Watch("train", train_split), Watch("test", test_split))
    branches = branch_meter(setup, plan, train_split) if plan.branches else None
    names = measured_names(setup, [watch.name for watch in watched])
    names += (LOW, HIGH) if plan.branches else ()
    most = len(plan.marks)  # and fewer where the batch grows
    curves = Curves(
        np.array(plan.marks, np.int64),
        np.full(most, np.nan),
        {name: np.full((most, total), np.nan) for name in names},
    )
    none = np.zeros(total, np.int32)
    at = Snapshot(0, 0, states, none, none - 1)
    if keeper is not None:
        at = keeper.restore(at, curves)
    del states  # they are donated to the first segment
    driven = _driven.start(plan)

    def decide(row: int) -> None:
        """Go on by what a row of the curves says of the batch."""
        nonlocal driven, plan, population
        driven = _driven.look(driven, curves, row)
        if driven.plan.batch_sizes != plan.batch_sizes:  # another size is another program
            population = populate(driven.plan)
        plan = driven.plan
        curves.update[: len(plan.marks)] = plan.marks

    for row in range(at.marks):  # what was decided before an interruption
        decide(row)
    clock = _Clock(float(curves.seconds[at.marks - 1]) if at.marks else 0.0)
    compiled, of_now, stopped = set[int](), None, None

    def weights() -> Weights:
        """What is evaluated now; made once, as it may take a pass over the training set."""
        nonlocal of_now
        if of_now is None or of_now[0] != at.update:
            of_now = at.update, population.weights(at.states, train_split)
        return of_now[1]

    def metrics_of(watch: Watch) -> dict[str, np.ndarray]:
        found = setup.evaluator.means(weights(), watch.split)
        return {f"{watch.name}_{name}": value for name, value in found.items()}

    def measure(mark: int) -> dict[str, float]:
        """Fill a row of the curves; what was measured, the mean over members."""
        row: dict[str, Any] = {"distance": training.to_host(_distances(at.states.params, start))}
        curves.seconds[mark] = clock.seconds
        if at.update in plan.evaluations:
            for watch in watched:
                if watch.is_due(at.update):
                    row |= metrics_of(watch)
            if noise is not None:
                row |= training.to_host(noise(at.states, on_device))
            if branches is not None and at.update in branch_updates(plan):
                row |= branches(plan, at, members)
        for name, value in row.items():
            curves.values[name][mark] = value
        with np.errstate(all="ignore"):
            return {name: float(np.mean(value)) for name, value in row.items()}

    def tell(metrics: dict[str, float]) -> None:
        left = (plan.examples - plan.batch_sizes.examples_before(at.update)) * total
        seconds = left / clock.speed if clock.speed else None
        progress(Advance(at.update, plan.updates, clock.speed, seconds, metrics))

    with (
        training.leave_on_sigterm(keeper is not None) as told_to_leave,
        keeper or contextlib.nullcontext(),
    ):
        while at.marks < len(plan.marks):
            number, mark = at.marks, plan.marks[at.marks]
            if plan.stopping is not None:
                stopped = _stopped(plan, curves, number)
                done = (stopped >= 0) | (at.diverged > 0)
                # The last row says how every member ended, so it must have been measured.
                if done.all() and at.update in plan.evaluations:
                    break
                hyper = {**hyper, "going": training.lay_out(population.mesh, ~done, *MEMBERS)}
            while at.update < mark:
                size = plan.batch_sizes(at.update)
                longest = segment_length(plan, total, size)
                stop = next((b for b in plan.batch_sizes.boundaries if b > at.update), plan.updates)
                updates = min(longest, mark - at.update, stop - at.update, clock.most(size, total))
                rows = segment_rows(setup, plan, seeds, at.update, updates, longest, size_of_data)
                clock.tick()
                laid = jax.tree.map(lambda x: training.lay_out(population.mesh, x, *ROWS), rows)
                states, segment = population.advance(at.states, hyper, on_device, laid, updates)
                # Waits: one segment at a time in flight.
                bad, fault = training.to_host((segment.diverged, segment.fault))
                clock.tock(updates * size * total, size in compiled)
                compiled.add(size)
                new = (at.diverged == 0) & (bad > 0)
                diverged, fault = np.where(new, (bad, fault), (at.diverged, at.fault))
                at = Snapshot(at.update + updates, number, states, diverged, fault)
                tell({})
                told = told_to_leave(at.update)
                if keeper is not None and (told or at.update < plan.updates):
                    keeper.save(at, curves, told_to_leave=told)
            tell(measure(number))
            at = at._replace(marks=number + 1)
            if at.update in plan.evaluations:
                at_evaluation(_first(curves, at.marks), weights)
                if enough(_first(curves, at.marks)):
                    break
            decide(number)
    if plan.stopping is not None:
        stopped = _stopped(plan, curves, at.marks)
    curves = _first(curves, at.marks)
    for watch in watched:
        if watch.at_end and not watch.is_due(at.update):
            for name, value in metrics_of(watch).items():
                curves.values[name][-1] = value
    # The last update's own damage shows only afterwards.
    lost = (at.diverged == 0) & ~np.isfinite(curves.values[f"{watched[0].name}_loss"][-1])
    examples = setup.evaluator.examples(weights(), test_split)
    diverged = np.where(lost, at.update, at.diverged)
    return Outcome(curves, diverged, at.fault, at.states, weights(), examples, stopped, plan)


def _stopped(plan: Plan, curves: Curves, marks: int) -> np.ndarray:
    """The mark at which each member stopped by its loss, -1 for none among the first marks."""
    losses = curves.values["train_loss"][:marks]
    rows = np.flatnonzero(np.isfinite(losses).any(axis=1))
    if plan.stopping is None or not rows.size:
        return np.full(losses.shape[1], -1)
    seen = [plan.batch_sizes.examples_before(int(u)) for u in curves.update[rows]]
    found = plan.stopping(losses[rows], np.array(seen))
    return np.where(found < 0, -1, rows[found])


def setup_sample(split: Any) -> Any:
    """A few examples, for what a network has to know of its inputs."""
    return jax.tree.map(lambda x: x[:2], split)


def _first(curves: Curves, count: int) -> Curves:
    """The first rows of the curves."""
    values = {name: column[:count] for name, column in curves.values.items()}
    return Curves(curves.update[:count], curves.seconds[:count], values)
