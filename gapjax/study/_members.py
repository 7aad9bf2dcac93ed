"""The parts of a regime's program: one update and the start of one member, and what measures it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gapjax import data, diffusion, growth, models, training
from gapjax.study._plan import Plan
from gapjax.study._study import Study

_EVAL_ROWS = 8192  # examples of one evaluation batch, over all members
_NOISE_PARTS = 32  # small batches from which the gradient noise is estimated


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
        devices_per_member: over how many devices the batch of a member is split.
    """

    study: Study
    network: models.Network
    train: data.Split
    test: data.Split
    prepare: Callable[[jax.Array], jax.Array]
    evaluate: Callable[[training.TrainState, data.Split], tuple[np.ndarray, np.ndarray]]
    distance: Callable[[Any, Any], jax.Array]
    devices_per_member: int = 1


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

    loss_fn = _loss_function(setup, plan)

    def step(state: training.TrainState, rate: jax.Array, batch: data.Split) -> Any:
        return training.make_train_step(loss_fn, optimizer(rate), on_fault="stop")(state, batch)

    def init(key: jax.Array, rate: jax.Array, images: jax.Array) -> training.TrainState:
        start_key, run_key = jax.random.split(key)
        params, model_state = setup.network.init(start_key, setup.prepare(images))
        return training.init_state(params, optimizer(rate), key=run_key, model_state=model_state)

    return step, init


# How the arguments of a population lie on its mesh, by leading axes.
MEMBERS = ("member",)  # states, rates
ROWS = (None, "member", "data")  # the rows of a segment's batches


class Population(NamedTuple):
    """What trains a regime, for P members at once.

    Attributes:
        mesh: the devices it lies on.
        init: ``(seeds [P], rates [P], images [n, ...]) -> states``, leading axis P.
        advance: a segment of updates, see ``training.make_advance``.
        loop: ``"scan"`` or ``"host"``, how it makes them.
    """

    mesh: Mesh
    init: Callable[..., training.TrainState]
    advance: Any
    loop: str


def make_population(
    setup: Setup, plan: Plan, members: int, reference: diffusion.DiffusionRecord | None = None
) -> Population:
    """What trains so many members in a regime; nothing is computed yet."""
    step, init = member_functions(setup, plan, reference)
    mesh = training.population_mesh(members, devices_per_member=setup.devices_per_member)

    def start(seed: jax.Array, rate: jax.Array, images: jax.Array) -> training.TrainState:
        return init(jax.random.key(seed), rate, images)

    state = jax.eval_shape(start, np.uint32(0), np.float32(1), setup.train.images[:2])
    loop = training.loop_for(state.params, jax.default_backend())
    at = NamedSharding(mesh, PartitionSpec(*MEMBERS))
    advance = training.make_advance(step, loop=loop, mesh=mesh)
    starts = jax.jit(jax.vmap(start, (0, 0, None)), out_shardings=at)
    return Population(mesh, starts, advance, loop)


def _loss_function(setup: Setup, plan: Plan) -> Callable[..., Any]:
    """The training loss of a regime: mean cross entropy, with its ghosts and its noise."""

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

    return loss_fn


def noise_meter(setup: Setup, plan: Plan) -> Callable[[training.TrainState, data.Split], Any]:
    """The noise of the gradient (McCandlish et al. 2018), from small batches of training examples.

    The same first examples for every member and mark, so the curve over time is theirs. Both parts
    are kept apart: means over seeds come before the ratio, whose estimate is biased.
    """
    loss_fn = _loss_function(setup, plan)
    size = setup.study.small_batch
    parts = min(_NOISE_PARTS, len(setup.train) // size)

    def member(state: training.TrainState, examples: data.Split) -> dict[str, jax.Array]:
        def gradient(rows: jax.Array) -> Any:
            batch = jax.tree.map(lambda x: x[rows], examples)
            key = jax.random.fold_in(state.key, state.step)
            return jax.grad(lambda p: loss_fn(p, state.model_state, batch, key)[0])(state.params)

        def add(sums: tuple[Any, jax.Array], rows: jax.Array) -> tuple[Any, None]:
            part = gradient(rows)
            return (
                jax.tree.map(jnp.add, sums[0], part),
                sums[1] + optax.tree.norm(part, squared=True),
            ), None

        rows = jnp.arange(parts * size).reshape(parts, size)
        start = (jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(()))
        (total, squares), _ = jax.lax.scan(add, start, rows)
        found = growth.gradient_noise_scale(
            squares / parts,
            optax.tree.norm(total, squared=True) / parts**2,
            part_size=size,
            batch_size=parts * size,
        )
        return {"gradient_noise": found.trace, "gradient_norm": found.squared_norm}

    return _where_they_lie(member)


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

    step = _where_they_lie(training.make_eval_step(values))

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
        found = {name: x.astype(np.float64) for name, x in training.to_host(sums).items()}
        return found["loss"] / found["count"], found["accuracy"] / found["count"]

    return evaluate


def _where_they_lie(function: Callable[[training.TrainState, Any], Any]) -> Callable[..., Any]:
    """A function of a member for all of them, each on its own device, compiled once per mesh."""

    @functools.cache
    def compiled(mesh: Mesh | None) -> Callable[..., Any]:
        return jax.jit(training.over_members(function, (0, None), mesh=mesh))

    def call(states: training.TrainState, shared: Any) -> Any:
        at = states.step.sharding
        return compiled(at.mesh if isinstance(at, NamedSharding) else None)(states, shared)

    return call


def _distance(start: Any, params: Any) -> jax.Array:
    """``||w_t - w_0||``, over all parameters."""
    return optax.tree.norm(jax.tree.map(lambda a, b: (b - a).astype(jnp.float32), start, params))
