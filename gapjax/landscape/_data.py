"""Means over a data set in batches: weighted by examples, refused when passes differ."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from gapjax import _checks
from gapjax._arrays import owned
from gapjax._examples import count_examples, example_weights
from gapjax._precision import widen
from gapjax.landscape._program import Partial, as_partial, as_traced, trace_anew

NOTHING_COUNTS = "all batches have weight 0; at least one example must count."
Data = Sequence[Any] | Callable[[], Iterable[Any]]


def num_examples(batch: Any) -> float:
    """Examples in a batch, without those that its own mask leaves out."""
    count, weights = count_examples(batch), example_weights(batch)
    return count if weights is None else float(weights.sum())


def counts(batch: Any) -> float:
    """1 for a batch of which an example counts, 0 for one whose mask leaves out all of them.

    The weight of a batch where batches are drawn one by one and all that count do so alike.
    """
    try:
        weights = example_weights(batch)
    except ValueError:  # an entry called mask that is none of examples, left to the loss
        return 1.0
    return 1.0 if weights is None else float(weights.sum() > 0)


def refuse_single_batch(name: str, data: Any) -> None:
    """Refuses what looks like a batch where batches belong."""
    if isinstance(data, dict) or hasattr(data, "shape") or hasattr(data, "_fields"):
        raise ValueError(
            f"{name} is one {type(data).__name__}, which looks like a single batch: "
            f"pass a sequence of batches, {name}=[batch]."
        )


@dataclasses.dataclass(frozen=True)
class Batches:
    """Data that can be walked again and again, each batch with its weight."""

    data: Data
    weight_fn: Callable[[Any], float] = num_examples

    def __post_init__(self) -> None:
        """Refuses what is no data set, before any work."""
        refuse_single_batch("data", self.data)
        _checks.function("weight_fn", self.weight_fn)
        is_text = isinstance(self.data, str | bytes)
        if not callable(self.data) and (is_text or not isinstance(self.data, Sequence)):
            raise ValueError(
                f"data must be a sequence of batches, or a callable that yields them again at "
                f"each call, not {type(self.data).__name__}: an iterator is empty after one pass. "
                "Pass list(data), or a function that returns a fresh iterator."
            )

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """One pass."""
        return iter(self._all) if self.fixed else self._pass()

    @functools.cached_property
    def _all(self) -> list[tuple[Any, float]]:
        """A pass over what stays the same, whose weights wait for the device once."""
        return list(self._pass())

    def _pass(self) -> Iterator[tuple[Any, float]]:
        empty = True
        for batch in self.data() if callable(self.data) else self.data:
            empty = False
            weight = float(self.weight_fn(batch))
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"a batch has weight {weight}; weights are finite and at least 0.")
            if weight:
                yield (batch if self.fixed else owned(batch)), weight
        if empty:
            raise ValueError("data holds no batch; pass at least one (a callable yields anew).")

    @property
    def first(self) -> Any:
        """The first batch that counts."""
        for batch, _ in self:
            return batch
        raise ValueError(NOTHING_COUNTS)

    @property
    def fixed(self) -> bool:
        """Whether two passes see the very same objects whatever happens."""
        return isinstance(self.data, list | tuple)


@functools.partial(jax.jit, static_argnums=0)
def on_batch(kernel: Any, batch: Any, *args: Any) -> Any:
    """``kernel(batch, *args)``; equal kernels share one compiled program whoever made them."""
    return kernel(batch, *args)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _move_mean(kernel: Any, mean: Any, share: jax.Array, batch: Any, *args: Any) -> Any:
    """One batch into a running mean: mean + share * (kernel(batch) - mean)."""
    fresh = kernel(batch, *args)
    chex.assert_trees_all_equal_shapes(mean, fresh)
    return jax.tree.map(
        lambda m, x: m + share.astype(m.dtype) * (x.astype(m.dtype) - m), mean, fresh
    )


def weighted_mean(kernel: Any, zeros: Any, batches: Batches, *args: Any) -> Any:
    """The mean of ``kernel(batch, *args)`` over the data, weighted, one dispatch a batch.

    `kernel` is hashable: equal kernels share one compiled program whoever made them. The loop is
    on the host, since a convolution inside `lax.scan` runs about 12 times slower on CPU.
    `zeros` is given up (its memory becomes the mean).
    """
    mean, total = zeros, 0.0
    for batch, weight in batches:
        total += weight
        mean = _move_mean(kernel, mean, np.float64(weight / total), batch, *args)
    if not total:
        raise ValueError(NOTHING_COUNTS)
    return mean


def lower_mean(kernel: Any, zeros: Any, batch: Any, *args: Any) -> None:
    """Traces and lowers what `weighted_mean` will run, which is then not done again.

    The rules of some derivatives refuse only when a program is lowered.
    """
    _move_mean.lower(kernel, zeros, np.float64(1), batch, *args)


def loss_kernel(batch: Any, loss_fn: Any, params: Any) -> jax.Array:
    """The loss of one batch."""
    return loss_fn(params, batch)


def check_scalar_loss(
    functions: Sequence[Partial], params: Any, batches: Batches, kernel: Any = loss_kernel
) -> ClosedJaxpr:
    """Refuses a loss that is no scalar; returns what it is traced to now."""
    try:
        jaxpr, out = trace_anew(kernel, batches.first, *functions, params)
    except Exception as error:
        error.add_note(
            "while tracing loss_fn(params, batch) with the first item of data as the batch; "
            "a single batch is passed as data=[batch]."
        )
        raise
    refuse_no_scalar(out)
    return jaxpr


def refuse_no_scalar(out: Any) -> None:
    """Refuses what a loss is traced to, an array's shape and dtype, if it is no real scalar."""
    if not hasattr(out, "shape") or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"loss_fn must return the mean loss alone, a real scalar, not {out}; "
            "drop auxiliary outputs, as in lambda params, batch: loss(params, batch)[0]."
        )
    if out.shape:
        raise ValueError(
            f"loss_fn must return a scalar, not shape {out.shape}: "
            "return the mean over the examples of the batch."
        )


def check_repeatable(
    functions: Sequence[Partial], params: Any, batches: Batches, kernel: Any = loss_kernel
) -> list[Partial]:
    """Refuses a loss that two identical passes do not agree on, and names what to look at.

    The loss, ``kernel(batch, *functions, params)``, is traced anew. Where the program that stands
    for such a trace was made of the same, it serves both passes; else, as with a random mask frozen
    into each trace, the second pass has another one. A list or tuple of batches cannot change, so
    its second pass stops after the first batch.

    Returns:
        The functions as they trace now: programs with what they closed over before are not theirs.
    """
    jaxpr = check_scalar_loss(functions, params, batches, kernel)
    now = [as_traced(function, jaxpr) for function in functions]
    made_of = on_batch.trace(kernel, batches.first, *now, params).jaxpr
    then = [as_traced(function, made_of) for function in functions]
    first = _losses(kernel, now, params, batches)
    for index, (loss, _) in enumerate(first):
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of batch {index} is {loss}; check its inputs and the parameters."
            )
    second = _losses(kernel, then, params, batches, only_first=batches.fixed)
    if not batches.fixed and len(first) != len(second):
        raise ValueError(
            f"data yielded {len(first)} batches in one pass and {len(second)} in the next; the "
            "callable must start anew at each call (an iterator made outside it is used up)."
        )
    eps = float(jnp.finfo(jnp.float32).eps)
    same = functools.partial(np.allclose, rtol=100 * eps, atol=eps, equal_nan=True)
    for index, ((loss, sums), (again, sums_again)) in enumerate(zip(first, second, strict=False)):
        if same(sums, sums_again) and same(loss, again):
            continue
        found = f"batch {index} gave loss {loss:.8g} in one pass and {again:.8g} in the next"
        if not same(sums, sums_again):
            raise ValueError(
                f"two passes differ: {found}, and its contents differ too. The data are shuffled "
                "or augmented at random: fix the order and the augmentation (this also changes a "
                "loss that uses batch statistics)."
            )
        raise ValueError(
            f"two passes differ on the same data: {found}. Look for dropout (a random mask drawn "
            "inside the loss), for batch statistics that change from call to call (batch norm in "
            "training mode), or for other random state; choose evaluation mode in loss_fn."
        )
    return now


def _losses(
    kernel: Any,
    functions: Sequence[Partial],
    params: Any,
    batches: Batches,
    only_first: bool = False,
) -> list[tuple[float, list[float]]]:
    """Loss and a summary of the contents, per batch."""
    found = []
    for batch, _ in batches:
        sums = [] if batches.fixed else on_batch(_summary, batch)
        found.append((on_batch(kernel, batch, *functions, params), sums))
        if only_first:
            break
    return [(float(loss), [float(s) for s in sums]) for loss, sums in found]


def _summary(batch: Any) -> list[jax.Array]:
    """A few sums that change when examples change or trade places."""
    sums = []
    for leaf in map(jnp.asarray, jax.tree.leaves(batch)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        weights = jnp.cos(jnp.arange(leaf.size, dtype="float32").reshape(leaf.shape))
        sums.append(jnp.sum(leaf.astype("float32") * weights))
    return sums


def evaluator(
    metric_fn: Callable[..., Any],
    data: Data,
    *,
    weight_fn: Callable[[Any], float] = num_examples,
) -> Callable[..., Any]:
    """Makes a function of the parameters alone: the mean of metrics over a data set.

    Args:
        metric_fn: ``metric_fn(params, batch)``, or ``metric_fn(params, state, batch)`` where batch
            statistics are rebuilt along the way: a mean over the batch, or a dict of means. What
            it closes over is read at the first call of the evaluator, once for all.
        data: as in `hessian`.
        weight_fn: as in `hessian`.

    Returns:
        ``evaluate(params)``, or ``evaluate(params, state)``: a float, or a dict of floats.

    Raises:
        ValueError: what is no data set; from ``evaluate``, a metric that is no scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> mean_square = landscape.evaluator(lambda w, x: jnp.mean((x * w) ** 2), [jnp.ones(3)])
        >>> mean_square(jnp.float32(2.0))
        4.0
    """
    batches, function = Batches(data, weight_fn), as_partial(metric_fn)
    traced: Partial | None = None

    def evaluate(params: Any, *state: Any) -> Any:
        nonlocal traced
        if traced is None:
            jaxpr, _ = trace_anew(_Metrics(), batches.first, function, params, state)
            traced = as_traced(function, jaxpr)
        shapes = on_batch.eval_shape(_Metrics(), batches.first, traced, params, state)
        for path, found in jax.tree_util.tree_leaves_with_path(shapes):
            if found.shape:
                raise ValueError(
                    f"metric_fn must return scalars, and metric{jax.tree_util.keystr(path)} has "
                    f"shape {found.shape}: return the mean over the examples of the batch."
                )
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.tree.map(float, weighted_mean(_Metrics(), zeros, batches, traced, params, state))

    return evaluate


@dataclasses.dataclass(frozen=True)
class _Metrics:
    """The metrics of one batch, in at least float32."""

    def __call__(self, batch: Any, metric_fn: Any, params: Any, state: tuple[Any, ...]) -> Any:
        found = metric_fn(params, *state, batch)
        return jax.tree.map(widen, found)
