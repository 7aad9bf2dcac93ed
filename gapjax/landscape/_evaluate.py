"""Figures of merit at many points of parameter space, resumable point by point."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax.landscape._data import Batches, Data, as_partial, num_examples, weighted_mean
from gapjax.landscape._progress import Progress, Tracker

Evaluate = Callable[..., Any] | Mapping[str, Callable[..., Any]]

GIVEN = "batch statistics: as the evaluation functions have them, none rebuilt"
REBUILT = "batch statistics: rebuilt at every point"


@dataclasses.dataclass(frozen=True)
class _Metrics:
    """The metrics of one batch, in at least float32."""

    def __call__(self, batch: Any, metric_fn: Any, params: Any, state: tuple[Any, ...]) -> Any:
        found = metric_fn(params, *state, batch)
        return jax.tree.map(lambda x: jnp.asarray(x).astype("float32"), found)


def evaluator(
    metric_fn: Callable[..., Any],
    data: Data,
    *,
    weight_fn: Callable[[Any], float] = num_examples,
) -> Callable[..., Any]:
    """Makes a function of the parameters alone: the mean of metrics over a data set.

    Args:
      metric_fn: ``metric_fn(params, batch)``, or ``metric_fn(params, state, batch)`` where batch
        statistics are rebuilt along the way: a mean over the batch, or a dict of means.
      data: as in `hessian`.
      weight_fn: as in `hessian`.

    Returns:
      ``evaluate(params)``, or ``evaluate(params, state)``: a float, or a dict of floats.

    Raises:
      ValueError: what is no data set.

    Example:
      >>> import jax.numpy as jnp
      >>> from gapjax import landscape
      >>> mean_square = landscape.evaluator(lambda w, x: jnp.mean((x * w) ** 2), [jnp.ones(3)])
      >>> mean_square(jnp.float32(2.0))
      4.0
    """
    batches, function = Batches(data, weight_fn), as_partial(metric_fn)

    def evaluate(params: Any, *state: Any) -> Any:
        batch, _ = next(iter(batches))
        shapes = jax.eval_shape(_Metrics(), batch, function, params, state)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.tree.map(
            float, weighted_mean(_Metrics(), zeros, batches, function, params, state)
        )

    return evaluate


def combination(trees: Sequence[Any], weights: Iterable[Any]) -> Any:
    """The weighted sum of trees, each leaf in its own dtype; integers come from the first."""
    weights = list(weights)

    def leaf(*leaves: Any) -> Any:
        dtype = jnp.result_type(leaves[0])
        if not jnp.issubdtype(dtype, jnp.floating):
            return leaves[0]
        wide = "float64" if dtype.itemsize > 4 else "float32"
        total = jnp.zeros(jnp.shape(leaves[0]), wide)
        for weight, x in zip(weights, leaves, strict=True):
            total = total + jnp.asarray(weight).astype(wide) * jnp.asarray(x).astype(wide)
        return total.astype(dtype)

    return jax.tree.map(leaf, *trees)


def sweep(
    evaluate: Evaluate,
    points: Sequence[Callable[[], Any]],
    task: str,
    rebuild: Callable[[Any], Any] | None,
    progress: bool | Callable[[Progress], None],
    done: Mapping[str, np.ndarray] | None,
    result: Callable[[dict[str, np.ndarray]], Any],
) -> Any:
    """Evaluates every point that `done` lacks (not a number there), and wraps up the result."""
    values = {name: np.array(v, np.float64).ravel() for name, v in (done or {}).items()}
    for name, known in values.items():
        if len(known) != len(points):
            raise ValueError(
                f"the result to resume has {len(known)} points of {name!r}, asked are "
                f"{len(points)}: resume with the same points."
            )
    missing = [
        i for i in range(len(points)) if not values or any(np.isnan(v[i]) for v in values.values())
    ]

    def partial() -> Any:
        return result({name: v.copy() for name, v in values.items()})

    with Tracker(progress, task, len(missing), partial) as tracker:
        for index in missing:
            params = points[index]()
            state = () if rebuild is None else (rebuild(params),)
            for name, value in _figures(evaluate, params, state).items():
                values.setdefault(name, np.full(len(points), np.nan))[index] = value
            tracker.step()
    return partial()


def _figures(evaluate: Evaluate, params: Any, state: tuple[Any, ...]) -> dict[str, float]:
    """All figures at one point under flat names: ``train/loss``, ``loss`` or ``value``."""
    if not isinstance(evaluate, Mapping):
        evaluate = {"": evaluate}
    figures = {}
    for name, function in evaluate.items():
        found = function(params, *state)
        for key, value in (found if isinstance(found, Mapping) else {"": found}).items():
            figures["/".join(filter(None, (name, key))) or "value"] = float(value)
    return figures
