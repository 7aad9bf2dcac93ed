"""How far the weights have travelled, recorded inside the optimizer's state."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax._checks import positive_int
from gapjax._varying import varying_like
from gapjax.diffusion._cond import cond_any
from gapjax.diffusion._distance import distance, geometric, norm

LAST_STEP = 2**31 - 2  # the counter is an int32, and must be able to pass the last recorded step


class TrackDiffusionState(NamedTuple):
    """State of :func:`track_diffusion`; :func:`diffusion_record` reads it."""

    start: Any  # the parameters at init, in their own dtype
    num_updates: jax.Array  # updates made so far; shape=(), dtype=jnp.int32
    recorded: jax.Array  # valid entries of the buffers; shape=(), dtype=jnp.int32
    step: jax.Array  # shape=(capacity,), dtype=jnp.int32
    distance: jax.Array  # shape=(capacity,), dtype=jnp.float32
    update_norm: jax.Array  # shape=(capacity,), dtype=jnp.float32


class DiffusionRecord(NamedTuple):
    """What :func:`track_diffusion` recorded, on the host.

    Attributes:
        step: updates made, log-spaced from 1, shape [n].
        distance: Euclidean distance of the parameters from where they started after that many
            updates, shape [..., n].
        update_norm: Euclidean norm of what passed through the tracker at the next update, shape
            [..., n]. Behind the optimizer in the chain, it is the length of the step taken from
            there.
    """

    step: np.ndarray
    distance: np.ndarray
    update_norm: np.ndarray


@functools.cache
def steps_to_record(capacity: int) -> np.ndarray:
    """Up to `capacity` log-spaced steps from 1 to LAST_STEP, as many as there are.

    With 256 a point follows the last by a factor of 1.08: 30 points to the decade, whatever the
    length of the run. All runs share these steps, so their records compare point by point.
    """
    low, high = capacity, LAST_STEP  # how many points to ask for, before they are rounded
    while low + 1 < high:
        middle = min((low + high) // 2, 2 * low)
        fits = len(geometric(LAST_STEP, middle)) <= capacity
        low, high = (middle, high) if fits else (low, middle)
    return np.asarray(geometric(LAST_STEP, low), np.int32)


def track_diffusion(
    capacity: int = 256, *, measure_updates: bool = True
) -> optax.GradientTransformationExtraArgs:
    r"""Records :math:`\lVert w_t - w_0 \rVert` at log-spaced steps; leaves the updates alone.

    The distance is that of the parameters the optimizer is given, after the updates made so far,
    so it is right wherever in a chain the tracker stands, and it is computed in float32 or better.
    :math:`w_0` is what ``init`` saw. Put the tracker last, and the norm recorded beside the
    distance is that of the whole step.

    The state holds one copy of the parameters and three buffers of ``capacity`` numbers. They
    never fill: steps are log-spaced, every one at first, up to :math:`2^{31}` updates. The grid
    depends on ``capacity`` alone, so runs of any length and batch size share their steps. Between
    two recorded steps nothing is computed, also under ``jax.vmap`` over a population whose members
    count alike.

    Args:
        capacity: the number of buffer entries, at least 8. 256 gives about 30 a decade.
        measure_updates: whether to record the norm of the updates too; NaN if not. It makes the
            compiler write the updates to memory at every step, where it would have folded them
            into the new parameters: by far the larger part of what tracking costs.

    Returns:
        A transform that is the identity on updates.

    Raises:
        ValueError: for a capacity below 8, or an ``update`` without ``params``.

    Example:
        >>> optimizer = optax.chain(optax.sgd(0.1), track_diffusion())
        >>> params = {"w": jnp.zeros(3)}
        >>> state = optimizer.init(params)
        >>> for _ in range(4):
        ...     updates, state = optimizer.update({"w": jnp.ones(3)}, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> record = diffusion_record(state)
        >>> record.step, record.distance.round(3)
        (array([1, 2, 3], dtype=int32), array([0.173, 0.346, 0.52 ], dtype=float32))

    .. note::
       Inside ``shard_map``, where a function sees its own shard only, the norms are those of the
       shard. Under ``jit`` with sharded parameters they are those of the whole.

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, figure 2: distance against iterations.
    """
    capacity = positive_int("capacity", capacity)
    if capacity < 8:
        raise ValueError(f"capacity={capacity} is too few points to fit a law to; give 8 or more.")
    grid = steps_to_record(capacity)

    def init_fn(params: Any) -> TrackDiffusionState:
        return TrackDiffusionState(
            # A copy: a training step that donates its state must not find one buffer twice.
            start=jax.tree.map(jnp.copy, params),
            num_updates=jnp.zeros((), jnp.int32),
            recorded=jnp.zeros((), jnp.int32),
            step=jnp.zeros(grid.shape, jnp.int32),
            distance=varying_like(jnp.zeros(grid.shape, jnp.float32), params),
            update_norm=varying_like(jnp.zeros(grid.shape, jnp.float32), params),
        )

    def update_fn(
        updates: Any, state: TrackDiffusionState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, TrackDiffusionState]:
        del extra_args
        if params is None:
            raise ValueError(
                "track_diffusion measures the parameters: call update(updates, state, params)."
            )

        def record(log: Any, at: Any, params: Any, start: Any, updates: Any) -> Any:
            index, count = at
            length = norm(updates) if measure_updates else jnp.full((), jnp.nan, jnp.float32)
            now = count, distance(params, start), length
            log = tuple(buffer.at[index].set(x) for buffer, x in zip(log, now, strict=True))
            return log, one(index)

        def skip(log: Any, at: Any, *_: Any) -> Any:
            return log, one(at[0])

        def one(index: jax.Array) -> jax.Array:
            return (index >= 0).astype(jnp.float32)

        # In shard_map the norms of a shard vary, and so do the buffers that they go into.
        norms = [varying_like(x, (params, updates)) for x in (state.distance, state.update_norm)]
        log, at = (state.step, *norms), (state.recorded, state.num_updates)
        due = state.num_updates == jnp.asarray(grid)[state.recorded]
        (step, travelled, update_norm), factor = cond_any(
            due,
            record,
            skip,
            log,
            at,
            params,
            state.start,
            updates if measure_updates else (),
        )
        # A factor of 1 that the compiler cannot see through. It says that the branch has read the
        # parameters before the updates change them in place; without it they are copied every time.
        updates = jax.tree.map(lambda u: u * factor.astype(jnp.result_type(u)), updates)
        return updates, TrackDiffusionState(
            start=state.start,
            num_updates=optax.safe_increment(state.num_updates),
            recorded=state.recorded + due.astype(jnp.int32),
            step=step,
            distance=travelled,
            update_norm=update_norm,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def only_state(opt_state: Any, kind: type, maker: str) -> Any:
    """The one state of a kind within an optimizer's state."""
    leaves = jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=lambda x: isinstance(x, kind))
    found = {
        "opt_state" + jax.tree_util.keystr(path): leaf
        for path, leaf in leaves
        if isinstance(leaf, kind)
    }
    if not found:
        raise ValueError(
            f"This optimizer state has no {maker} in it. Put {maker}() into the chain: "
            f"optax.chain(..., {maker}())."
        )
    if len(found) > 1:
        raise ValueError(
            f"This optimizer state has {len(found)} of {maker}: {', '.join(found)}. Pass the one "
            "you mean instead of the whole state (optax.named_chain lets you choose its name)."
        )
    return next(iter(found.values()))


def diffusion_record(opt_state: Any) -> DiffusionRecord:
    """Reads what :func:`track_diffusion` recorded, the valid entries only, on the host.

    Args:
        opt_state: the state of an optimizer with one tracker anywhere in it, or of the tracker
            itself. The state of a population (from ``jax.vmap``) keeps its leading axes.

    Returns:
        Steps of shape [n], distances and update norms of shape [..., n]; n is 0 before the second
        update. Members of a population share the steps.

    Raises:
        ValueError: when the state has no tracker or several, or when the members of a population
            have made different numbers of updates.

    Example:
        >>> optimizer = optax.named_chain(("sgd", optax.sgd(0.1)), ("tracker", track_diffusion()))
        >>> population = jax.vmap(optimizer.init)(jnp.zeros((5, 3)))
        >>> diffusion_record(population["tracker"]).distance.shape
        (5, 0)
    """
    state = only_state(opt_state, TrackDiffusionState, "track_diffusion")
    recorded = np.unique(np.asarray(state.recorded))
    if recorded.size != 1:
        raise ValueError(
            "The members of this population have made different numbers of updates (from "
            f"{np.min(state.num_updates)} to {np.max(state.num_updates)}). Read one at a time: "
            "diffusion_record(jax.tree.map(lambda x: x[0], opt_state))."
        )
    valid = slice(0, int(recorded[0]))
    step = np.asarray(state.step).reshape(-1, np.shape(state.step)[-1])[0, valid]
    return DiffusionRecord(
        step, np.asarray(state.distance)[..., valid], np.asarray(state.update_norm)[..., valid]
    )
