"""Transforms that scale the updates: by the batch size, or so that the distance follows a curve."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gapjax._batch_rules import RULES, rule_factor
from gapjax._checks import one_of, positive_float, positive_int
from gapjax._precision import widen
from gapjax.diffusion._fit import FEWEST, fit_diffusion
from gapjax.diffusion._track import DiffusionRecord, only_state


def scale_by_batch_size(
    base_batch_size: int, rule: str = "sqrt"
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the updates by the rule of :func:`scale_learning_rate`, for a batch that changes.

    .. math:: u \to \sqrt{B / B_\mathrm{base}}\; u

    (or :math:`B / B_\mathrm{base}` with ``rule="linear"``), where B is what ``update`` is told at
    each call. Behind the optimizer in the chain this scales its learning rate; the batch may be a
    traced number, so a growing batch does not compile anything anew on its account.

    Args:
        base_batch_size: the batch size the learning rate was tuned for.
        rule: "sqrt", "linear" or "none".

    Returns:
        A transform whose ``update`` needs ``batch_size=``; it keeps no state.

    Raises:
        ValueError: for a size that is not positive, an unknown rule, or an ``update`` that is not
            told the batch size.

    Example:
        >>> optimizer = optax.chain(optax.sgd(0.1), scale_by_batch_size(128))
        >>> state = optimizer.init(jnp.zeros(2))
        >>> updates, state = optimizer.update(jnp.ones(2), state, batch_size=512)
        >>> updates
        Array([-0.2, -0.2], dtype=float32)

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017.
    """
    base = float(positive_int("base_batch_size", base_batch_size))
    one_of("rule", rule, RULES)

    def update_fn(
        updates: Any,
        state: optax.EmptyState,
        params: Any = None,
        *,
        batch_size: ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[Any, optax.EmptyState]:
        del params, extra_args
        if batch_size is None:
            raise ValueError(
                "scale_by_batch_size has to be told the batch size: call "
                "update(updates, state, params, batch_size=...)."
            )
        if not isinstance(batch_size, jax.Array):
            single = isinstance(batch_size, np.ndarray) and batch_size.ndim == 0
            positive_int("batch_size", batch_size.item() if single else batch_size)  # type: ignore[union-attr, arg-type]
        ratio = jnp.asarray(batch_size, jnp.float32) / base
        return _scaled(updates, rule_factor(ratio, rule)), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)


class MatchDiffusionState(NamedTuple):
    """State of :func:`match_diffusion`; :func:`diffusion_match` reads it."""

    start: Any  # the parameters at init, in their own dtype
    num_updates: jax.Array  # updates made so far; shape=(), dtype=jnp.int32
    square: jax.Array  # mean of |u|^2 over a horizon; shape=(), dtype=jnp.float32
    along: jax.Array  # mean of <w - w_0, u> over a horizon; shape=(), dtype=jnp.float32
    scale: jax.Array  # of the last update; shape=(), dtype=jnp.float32
    distance: jax.Array  # before the last update; shape=(), dtype=jnp.float32
    target: jax.Array  # what the distance should have been; shape=(), dtype=jnp.float32
    at_bound: jax.Array  # updates whose scale was at a bound; shape=(), dtype=jnp.int32
    extrapolated_from: jax.Array  # the last update the reference covers; shape=(), dtype=jnp.int32


class DiffusionMatch(NamedTuple):
    """How well :func:`match_diffusion` follows its reference, on the host.

    Attributes:
        scale: what the last update was multiplied by.
        distance: from the start, before that update.
        target: what the reference asked for there.
        at_bound: the fraction of updates so far whose scale was at one of its bounds.
        extrapolated_from: up to this update the target is the reference's own; past it, its
            log-t fit.
    """

    scale: np.ndarray
    distance: np.ndarray
    target: np.ndarray
    at_bound: np.ndarray
    extrapolated_from: int


def match_diffusion(
    reference: DiffusionRecord,
    *,
    min_scale: float = 0.05,
    max_scale: float = 20.0,
    gain: float = 40.0,
    steps_per_update: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the updates so that the distance from the start follows a reference curve.

    Give it the record of a small-batch run, put it last in the chain of a large-batch run, and
    the large batch diffuses like the small one, with no learning rate tuned. With the offset
    :math:`x_t = w_t - w_0`, the update :math:`u_t` and the target :math:`r_t`, the scale s that
    brings the distance to the target is the root of

    .. math:: s^2\, \overline{\lVert u \rVert^2} + 2 s\, \overline{\langle x, u \rangle}
        = \frac{r_{t+h}^2 - \lVert x_t \rVert^2}{h}, \qquad h = \max(1, t / k),

    where the bars are running means over h updates: a random walk grows in the square of its
    distance, each update adding what it has along the offset and what it has of its own. Up to
    update k it is the scale that hits the target exactly, in one update; later an error is
    answered within 1/k of an e-fold of updates, since diffusion is a process in log t. Where no
    scale reaches the target, the one that comes nearest is taken. The first update is left as it
    is: nothing is known of the run before it.

    The target is the reference, linear in log t between its points. Past its last point it goes
    on from there with the slope of the log-t law fitted to its last decade (flat, if that slope is
    0 or negative); :func:`diffusion_match` says from which update on.

    A run pressed against a bound does not follow, whatever the controller: without weight decay a
    large batch that fits its data exactly has no gradient left to scale. ``at_bound`` of
    :func:`diffusion_match` tells.

    The state holds one copy of the parameters, which each update reads once, and the
    updates once more.

    Args:
        reference: from :func:`diffusion_record`, at least 5 points. The curves of a population
            are averaged, without those that diverged.
        min_scale: lower bound of the scale.
        max_scale: upper bound of the scale. The defaults are the square-root rule for a batch 400
            times as large and its inverse.
        gain: k. Larger follows more tightly, and less smoothly.
        steps_per_update: how many updates of the reference one update here corresponds to. 1
            compares after equally many updates; ``batch_size / base_batch_size`` after equally
            many epochs.

    Returns:
        A transform of the updates.

    Raises:
        ValueError: for bounds that are not, a reference of fewer than 5 points or one that does
            not move, or an ``update`` without ``params``.

    Example:
        >>> step = 2 ** np.arange(10)
        >>> reference = DiffusionRecord(step, np.log1p(step), np.ones(10))
        >>> optimizer = optax.chain(optax.sgd(0.01), match_diffusion(reference))
        >>> params = jnp.zeros(3)
        >>> state = optimizer.init(params)
        >>> for _ in range(200):
        ...     updates, state = optimizer.update(jnp.ones(3), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> match = diffusion_match(state)
        >>> bool(abs(match.distance / match.target - 1) < 0.03), match.extrapolated_from
        (True, 512)

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017: the large batch generalizes once it diffuses
        like the small one. The controller is this library's.
    """
    if positive_float("min_scale", min_scale) >= positive_float("max_scale", max_scale):
        raise ValueError(f"min_scale={min_scale} must be below max_scale={max_scale}.")
    gain = positive_float("gain", gain)
    target_at, end = _target(reference, positive_float("steps_per_update", steps_per_update))

    def init_fn(params: Any) -> MatchDiffusionState:
        # Each its own array, the parameters copied: a training step that donates its state must
        # not find one buffer twice.
        return MatchDiffusionState(
            start=jax.tree.map(jnp.copy, params),
            num_updates=jnp.zeros((), jnp.int32),
            square=jnp.zeros((), jnp.float32),
            along=jnp.zeros((), jnp.float32),
            scale=jnp.ones((), jnp.float32),
            distance=jnp.zeros((), jnp.float32),
            target=jnp.zeros((), jnp.float32),
            at_bound=jnp.zeros((), jnp.int32),
            extrapolated_from=jnp.asarray(end, jnp.int32),
        )

    def update_fn(
        updates: Any, state: MatchDiffusionState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, MatchDiffusionState]:
        del extra_args
        if params is None:
            raise ValueError(
                "match_diffusion measures the parameters: call update(updates, state, params)."
            )
        count = state.num_updates.astype(jnp.float32)
        horizon = jnp.maximum(1.0, count / gain)
        offset = jax.tree.map(lambda a, b: widen(a) - widen(b), params, state.start)
        wide = jax.tree.map(widen, updates)

        def dot(a: Any, b: Any) -> jax.Array:
            return jnp.real(optax.tree.vdot(a, b)).astype(jnp.float32)

        square = state.square + (dot(wide, wide) - state.square) / horizon
        along = state.along + (dot(offset, wide) - state.along) / horizon
        squared_distance = dot(offset, offset)
        missing = (target_at(count + horizon) ** 2 - squared_distance) / horizon
        # The larger root: outward. Where there is none, the nearest point is where the slope is 0,
        # or the least scale. In either form nothing cancels.
        tiny = jnp.finfo(jnp.float32).tiny
        reach = jnp.sqrt(jnp.maximum(along**2 + square * missing, 0.0)) + jnp.abs(along)
        outward = missing / jnp.maximum(reach, tiny)
        wanted = jnp.where(along > 0, outward, reach / jnp.maximum(square, tiny))
        scale = jnp.where(count == 0, 1.0, jnp.clip(wanted, min_scale, max_scale))
        bound = (count > 0) & ((wanted <= min_scale) | (wanted >= max_scale))
        return _scaled(updates, scale), MatchDiffusionState(
            start=state.start,
            num_updates=optax.safe_increment(state.num_updates),
            square=square,
            along=along,
            scale=scale,
            distance=jnp.sqrt(squared_distance),
            target=target_at(count),
            at_bound=state.at_bound + bound.astype(jnp.int32),
            extrapolated_from=state.extrapolated_from,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def diffusion_match(opt_state: Any) -> DiffusionMatch:
    """Reads the scale :func:`match_diffusion` chose, and how close it came, on the host.

    Args:
        opt_state: the state of an optimizer with one ``match_diffusion`` anywhere in it. The state
            of a population (from ``jax.vmap``) keeps its leading axes.

    Returns:
        Scale, distance and target of the last update, and where the extrapolation starts.

    Raises:
        ValueError: when the state has no ``match_diffusion``, or several.
    """
    state = only_state(opt_state, MatchDiffusionState, "match_diffusion")
    return DiffusionMatch(
        np.asarray(state.scale),
        np.asarray(state.distance),
        np.asarray(state.target),
        np.asarray(state.at_bound) / np.maximum(np.asarray(state.num_updates), 1),
        int(np.ravel(state.extrapolated_from)[0]),
    )


def _scaled(updates: Any, scale: jax.Array) -> Any:
    """Updates times a float32 scale, each in its own dtype again."""

    def one(update: ArrayLike) -> jax.Array:
        wide = widen(update)
        return (wide * scale.astype(wide.dtype)).astype(jnp.result_type(update))

    return jax.tree.map(one, updates)


def _target(reference: DiffusionRecord, steps_per_update: float) -> tuple[Any, int]:
    """The reference as a function of the update, and the last update it covers."""
    if not (hasattr(reference, "step") and hasattr(reference, "distance")):
        raise ValueError(
            f"reference must be a DiffusionRecord, with steps and distances, not {reference!r}."
        )
    step, curves = np.asarray(reference.step), np.asarray(reference.distance, np.float64)
    if step.ndim != 1 or curves.shape[-1:] != step.shape:
        raise ValueError(
            "reference must have steps of shape [n] and distances of shape [..., n], not "
            f"{step.shape} and {curves.shape}."
        )
    order = np.argsort(step, kind="stable")
    step, curves = step[order].astype(np.float64), curves[..., order]
    curves = curves.reshape(math.prod(curves.shape[:-1]), step.size)
    sound = np.isfinite(curves[:, step >= 1]).all(axis=1)
    distance = (curves[sound] if sound.any() else curves).mean(axis=0)
    used = (step >= 1) & np.isfinite(distance) & (distance > 0)
    step, distance = step[used], distance[used]
    if step.size < FEWEST:
        raise ValueError(
            f"The reference has {step.size} usable points (steps from 1, finite distances above "
            f"0); following it needs at least {FEWEST}. Take it from a longer run."
        )
    last_decade = step >= step[-1] / 10
    enough = np.unique(step[last_decade]).size >= FEWEST
    # One that has saturated goes on flat; one that never moves at all is no reference.
    flat = enough and np.ptp(distance[last_decade]) == 0 < np.ptp(distance)
    first = math.ceil(step[-1] / 10) if enough else 1
    slope = 0.0 if flat else max(fit_diffusion(step, distance, first=first).log_slope, 0.0)
    # Python's number where 64 bits are on: NumPy's would widen the state.
    begin = float(step[0])
    log_step = jnp.asarray(np.log(step), jnp.float32)
    curve = jnp.asarray(distance, jnp.float32)

    def target_at(update: jax.Array) -> jax.Array:
        at = jnp.log(jnp.maximum(update * steps_per_update, 1.0))
        inside = jnp.interp(at, log_step, curve) + slope * jnp.maximum(at - log_step[-1], 0)
        # Before the first point: in proportion to the updates made, as for one constant step.
        return inside * jnp.minimum(update * steps_per_update / begin, 1.0)

    return target_at, math.floor(step[-1] / steps_per_update)
