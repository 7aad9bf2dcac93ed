"""Curves of low loss between two solutions (mode connectivity)."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._checks import number, one_of, positive_int, random_key
from gapjax.landscape._data import Batches, Data, check_scalar_loss, counts
from gapjax.landscape._program import as_partial
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._space import check_match, combination, space_of, widened


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve through parameter space; see `curve_point`.

    Attributes:
        kind: ``"bezier"`` or ``"polychain"``.
        points: the control points, the two solutions first and last.
        losses: ``[num_updates]``, the loss at a random point of the curve at each update.
    """

    kind: str
    points: tuple[Any, ...]
    losses: np.ndarray


def _weights(kind: str, count: int, t: Any) -> list[Any]:
    """The weight of each of `count` control points at t."""
    last = count - 1
    if kind == "polychain":
        piece = jnp.clip(jnp.floor(t * last), 0, last - 1)
        share = t * last - piece
        ends = [jnp.where(k == piece, 1 - share, 0.0) for k in range(count)]
        return [e + jnp.where(k == piece + 1, share, 0.0) for k, e in enumerate(ends)]
    return [math.comb(last, k) * t**k * (1.0 - t) ** (last - k) for k in range(count)]


def curve_point(curve: Curve, t: float) -> Any:
    """The parameters at t of a curve, 0 at its start and 1 at its end.

    Args:
        curve: from `fit_curve`.
        t: in [0, 1]. Beyond, a chain goes on along its outer pieces, and a Bezier curve as the
            polynomial that it is.

    Returns:
        A tree of parameters. Batch statistics there are nobody's: rebuild them, as in `along`.

    Raises:
        ValueError: a t that is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> curve = landscape.Curve("bezier", (jnp.zeros(1), jnp.ones(1), jnp.zeros(1)), None)
        >>> landscape.curve_point(curve, 0.5).tolist()
        [0.5]
    """
    return combination(curve.points, _weights(curve.kind, len(curve.points), number("t", float(t))))


def fit_curve(
    loss_fn: Callable[[Any, Any], jax.Array],
    start: Any,
    end: Any,
    data: Data,
    key: jax.Array,
    *,
    kind: str = "bezier",
    num_bends: int = 1,
    optimizer: Any = None,
    num_updates: int = 1000,
    progress: bool | Callable[[Progress], None] = True,
) -> Curve:
    r"""Bends a curve between two solutions until the loss along it is low.

    Minimizes :math:`E_{t \sim U(0, 1)} L(\phi(t))` over the control points between the ends
    (Garipov et al. 2018, eq. 2), one random t and one batch an update.

    Args:
        loss_fn: ``loss_fn(params, batch) -> mean loss``; with batch norm, in training mode.
        start: the solution at 0. The curve is at least in float32, and passes over integers and
            keys.
        end: the solution at 1.
        data: as in `hessian`; walked again and again.
        key: of the random points.
        kind: ``"bezier"``, or ``"polychain"`` of straight pieces.
        num_bends: control points between the ends, which start out on the straight line.
        optimizer: an optax transformation; Adam at 1e-3 by default.
        num_updates: updates.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        A `Curve`. ``along(evaluate, lambda t: curve_point(curve, t), coords)`` walks it.

    Raises:
        ValueError: trees that do not match (the path is named), a loss that is no scalar, no data.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from gapjax import landscape
        >>> def ring(w, batch):  # low on the unit circle
        ...     return jnp.mean(batch) * (jnp.sum(w**2) - 1) ** 2
        >>> ends, key = (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])), jax.random.key(0)
        >>> sgd = optax.sgd(0.1)
        >>> curve = landscape.fit_curve(ring, *ends, [jnp.ones(1)], key, optimizer=sgd)
        >>> float(ring(landscape.curve_point(curve, 0.5), jnp.ones(1))) < 0.01
        True
    """
    import optax

    one_of("kind", kind, ["bezier", "polychain"])
    positive_int("num_bends", num_bends)
    positive_int("num_updates", num_updates)
    random_key("key", key)
    check_match(start, end, "the end")
    batches = Batches(data, counts)
    check_scalar_loss([as_partial(loss_fn)], start, batches)
    tx = optax.adam(1e-3) if optimizer is None else optimizer
    if not hasattr(tx, "update"):
        raise ValueError(f"optimizer must be an optax transform, not {tx!r}.")
    shares = np.linspace(0, 1, num_bends + 2)[1:-1]
    start, end = widened(start), widened(end)
    space = space_of(start)
    # Only weights are bent; what is no number stays out of the optimizer's sight.
    bends = tuple(space.only(combination([start, end], [1 - s, s])) for s in shares)

    @jax.jit
    def update(
        bends: Any, state: Any, index: jax.Array, batch: Any, start: Any, end: Any
    ) -> tuple[Any, Any, jax.Array]:
        t = jax.random.uniform(jax.random.fold_in(key, index))

        def loss(bends: Any) -> jax.Array:
            points = (space.only(start), *bends, space.only(end))
            at = combination(points, _weights(kind, len(points), t))
            return loss_fn(space.replace(start, jax.tree.leaves(at)), batch)

        value, slope = jax.value_and_grad(loss)(bends)
        with jax.numpy_dtype_promotion("standard"):  # the chains of optax mix types
            change, state = tx.update(slope, state, bends)
        return optax.apply_updates(bends, change), state, value

    state, losses = tx.init(bends), []
    with Tracker(progress, "curve", num_updates) as tracker:
        for index, batch in zip(range(num_updates), _forever(batches), strict=False):
            bends, state, value = update(bends, state, np.int32(index), batch, start, end)
            losses.append(value)
            if len(losses) % 50 == 0:
                # Waiting now and then keeps the clock of the progress bar honest.
                value.block_until_ready()
            tracker.step()
    points = (space.replace(start, jax.tree.leaves(bend)) for bend in bends)
    return Curve(kind, (start, *points, end), np.asarray(losses, np.float64))


def _forever(batches: Batches) -> Iterator[Any]:
    """Pass after pass over the data."""
    for _ in itertools.count():
        for batch, _ in batches:
            yield batch
