"""One member of a regime: its start and its updates, pure in its seed and hyperparameters."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from gapjax import data, training
from gapjax.study._errors import naming
from gapjax.study._optimizers import make_optimizer
from gapjax.study._plan import Plan
from gapjax.study._population._each import for_each_member
from gapjax.study._population._evaluate import Weights
from gapjax.study._population._setup import Setup

# How the arguments of a population lie on its mesh, by leading axes.
MEMBERS = ("member",)  # states, hyperparameters
ROWS = (None, "member", "data")  # the rows of a segment's batches
_NO_HYPERPARAMETERS = ("seed", "learning_rate", "warmup", "going")


class Member(NamedTuple):
    """Who is trained: a seed, and the hyperparameters that may differ between members.

    Attributes:
        seed: of its start, of the order of its examples, and of all that it draws.
        learning_rate: the rate before any decay.
        hyper: others by name, the same names for all members of a population.
    """

    seed: int
    learning_rate: float
    hyper: Mapping[str, float] = {}


def as_arrays(members: Sequence[Member]) -> dict[str, np.ndarray]:
    """Seeds and hyperparameters of members as arrays, ``[P]`` each."""
    return {
        "seed": np.array([member.seed for member in members], np.uint32),
        "learning_rate": np.array([member.learning_rate for member in members], np.float32),
        **{
            name: np.array([member.hyper[name] for member in members], np.float32)
            for name in members[0].hyper
        },
    }


class Population(NamedTuple):
    """What trains a regime, for P members at once.

    Attributes:
        mesh: the devices it lies on.
        init: ``(members, examples) -> states``, leading axis P.
        advance: a segment of updates, see ``training.make_advance``.
        weights: ``(states, split) -> Weights``, what is evaluated.
        loop: ``"scan"``, ``"turns"`` or ``"host"``, how updates are made.
        by_turns: whether members take turns, each in a program of one.
        one: the shapes of the state of one member.
    """

    mesh: Mesh
    init: Callable[..., training.TrainState]
    advance: Any
    weights: Callable[[training.TrainState, Any], Weights]
    loop: str
    by_turns: bool
    one: Any


def make_population(setup: Setup, plan: Plan, members: int) -> Population:
    """What trains so many members in a regime; nothing is computed yet."""
    step, init = member_functions(setup, plan)
    _, state = one_member(setup, plan, init)
    loop = training.loop_for(state.params, jax.default_backend())
    devices = None
    if loop == "host" and setup.devices_per_member == jax.process_count() == 1:
        devices = jax.devices()[:1]  # where members take turns, each on all cores
    mesh = training.population_mesh(
        members, devices_per_member=setup.devices_per_member, devices=devices
    )
    advance = training.make_advance(step, loop=loop, mesh=mesh, take=_take)
    begin = for_each_member(lambda both: init(*both), jit=training.jit_once)

    def starts(members: Any, examples: Any) -> training.TrainState:
        return begin((members, setup.start(members["seed"], examples)))

    by_turns = getattr(advance, "by_turns", False)
    return Population(mesh, starts, advance, _evaluated(setup, plan), loop, by_turns, state)


def one_member(
    setup: Setup, plan: Plan, init: Callable[..., Any]
) -> tuple[dict[str, Any], training.TrainState]:
    """A member of a plan, and the shapes of the state that it starts from; nothing is computed."""
    member = jax.tree.map(lambda x: x[0], as_arrays([Member(0, plan.rate)]))
    start = jax.eval_shape(setup.start_of, member["seed"], setup.sample())
    return member, jax.eval_shape(init, member, start)


def member_functions(setup: Setup, plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """One update ``(state, member, (batch, rows))``, and the state of a member from its start."""

    def optimizer(member: Mapping[str, Any]) -> optax.GradientTransformation:
        # The regime's schedule, its height and its warm-up traced numbers: both are vmapped axes.
        traced = {k: v for k, v in member.items() if k not in _NO_HYPERPARAMETERS}
        scale = member["learning_rate"] / plan.rate
        schedule = plan.schedule(member.get("warmup"))
        tx = make_optimizer(
            plan.optimizer,
            lambda count: scale * schedule(count),
            {**plan.hyper, **traced},
            setup.study.clip_norm,
        )
        # Those that keep weights of their own come last: they see the updates that are made.
        for remedy in sorted(plan.regime.remedies, key=lambda own: own.weights is not None):
            if remedy.optimizer is not None:
                with naming(f"optimizer of remedy {remedy.name}"):
                    tx = remedy.optimizer(tx, plan)
        return tx

    loss_fn = loss_function(setup, plan)
    strategies = [remedy.gradient for remedy in plan.regime.remedies if remedy.gradient is not None]
    gradient = strategies[0](plan) if strategies else None

    def step(state: training.TrainState, member: Mapping[str, Any], taken: Any) -> Any:
        batch, rows = taken
        if setup.augment is not None:
            keys = data.example_keys(member["seed"], rows["epoch"], rows["example"])
            batch = setup.augment(keys, batch)
        update = training.make_train_step(
            loss_fn,
            optimizer(member),
            gradient=gradient,
            weight_fn=lambda batch: jnp.sum(plan.task.weights(batch)),
            on_fault="stop",
        )
        after, metrics = update(state, batch)
        if "going" in member:  # one that is done stays as it is
            after = jax.tree.map(lambda a, b: jnp.where(member["going"], a, b), after, state)
        return after, metrics

    def init(member: Mapping[str, Any], start: tuple[Any, Any, Any]) -> training.TrainState:
        key, params, model_state = start
        return training.init_state(params, optimizer(member), key=key, model_state=model_state)

    return step, init


def loss_function(setup: Setup, plan: Plan) -> Callable[..., Any]:
    """The training loss of a regime, with its network and its weights of examples."""
    task = plan.task
    apply: Callable[..., Any] = setup.network.apply
    for remedy in plan.regime.remedies:
        if remedy.network is not None:
            apply = remedy.network(apply, plan)

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        network_key, loss_key = jax.random.split(key)
        outputs, model_state = apply(
            params,
            model_state,
            setup.inputs(batch),
            train=True,
            key=network_key,
            ghost_size=plan.ghost_size,
        )
        losses, weights = task.losses(outputs, batch), task.weights(batch)
        for place, remedy in enumerate(one for one in plan.regime.remedies if one.loss is not None):
            own_key = jax.random.fold_in(loss_key, place) if place else loss_key
            with naming(f"loss of remedy {remedy.name}"):
                losses = _checked(remedy, remedy.loss(losses, batch, own_key, plan), losses)
        if task.weight is None:
            return losses.mean(), (model_state, {})
        total = jnp.sum(weights)
        mean = jnp.sum(jnp.where(weights > 0, losses * weights, 0.0)) / jnp.maximum(total, 1e-30)
        return mean, (model_state, {})

    return loss_fn


def _checked(remedy: Any, losses: Any, before: Any) -> Any:
    if getattr(losses, "shape", None) != before.shape:
        raise ValueError(
            f"loss of remedy {remedy.name} gives {getattr(losses, 'shape', losses)!r} for losses "
            f"of shape {list(before.shape)}: give one number per example."
        )
    return losses


def _take(examples: Any, rows: Any) -> tuple[Any, Any]:
    """A batch by its rows: the examples, and which they are."""
    return jax.tree.map(lambda x: x[rows["example"]], examples), rows


def _evaluated(setup: Setup, plan: Plan) -> Callable[[training.TrainState, Any], Weights]:
    """What of a state is evaluated: its own weights, or those of a remedy or of the optimizer."""
    hooks = [remedy.weights for remedy in plan.regime.remedies if remedy.weights is not None]

    def other(state: training.TrainState) -> Any:
        params = training.evaluation_params(state.opt_state, state.params)
        for hook in hooks:
            params = hook(state._replace(params=params), plan)
        return params

    compute = jax.jit(jax.vmap(other))

    plainly: bool | None = None

    def weights(states: training.TrainState, split: Any) -> Weights:
        nonlocal plainly
        if plainly is None:  # the same for all states of a regime
            plainly = not hooks and _evaluates_its_own(states)
        own = Weights(states.params, states.model_state)
        if plainly:
            return own
        # Statistics on the path of training are not those of weights that never were on it.
        changed = own._replace(params=compute(states))
        return setup.evaluator.with_precise_statistics(changed, split)

    return weights


def _evaluates_its_own(states: training.TrainState) -> bool:
    """Whether the optimizer has no other weights to evaluate than those it trains."""
    same = False

    def look(states: training.TrainState) -> int:
        nonlocal same
        evaluated = training.evaluation_params(states.opt_state, states.params)
        same = all(map(operator.is_, jax.tree.leaves(evaluated), jax.tree.leaves(states.params)))
        return 0

    jax.eval_shape(look, states)
    return same
