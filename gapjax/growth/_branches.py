"""The critical batch size at a checkpoint, by training branches from it."""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gapjax import _checks
from gapjax.growth._batches import GrowingBatches
from gapjax.growth._schedules import constant_batch


@dataclasses.dataclass(frozen=True)
class CriticalBatch:
    """What branches from one checkpoint say of the critical batch size there.

    K branches, one for each size, were trained with each of S seeds and looked at P times.

    Attributes:
        low: the largest batch size that passed: no smaller one and not this one was clearly worse
            than those below it.
        high: the smallest that was clearly worse; infinite if none was.
        sizes: the batch sizes, rising, shape [K].
        losses: the mean held-out loss of each after the same examples, shape [K].
        stderr: its standard error over seeds, shape [K].
        rises: the mean rise of the loss over the smaller sizes that passed, paired by seed, shape
            [K]; NaN for the smallest, and above ``high``.
        p_values: of no rise beyond the tolerance, one-sided, adjusted for their number, shape [K].
        examples: examples seen since the checkpoint at each look, shape [P].
        curves: the losses, shape [K, S, P].
    """

    low: int
    high: float
    sizes: np.ndarray
    losses: np.ndarray
    stderr: np.ndarray
    rises: np.ndarray
    p_values: np.ndarray
    examples: np.ndarray
    curves: np.ndarray


def branched_critical_batch(
    state: Any,
    step: Callable[[Any, Any], tuple[Any, Any]],
    batches: GrowingBatches,
    *,
    evaluate: Callable[[Any], Any],
    multiples: Sequence[float],
    examples: int,
    seeds: int | Sequence[int],
    looks: int = 1,
    tolerance: float = 0.0,
    level: float = 0.05,
    reseed: Callable[[Any, int], Any] | None = None,
) -> CriticalBatch:
    """The critical batch size at a checkpoint, by training branches from it.

    How large may the batch be that trains as well on as many examples? From one state, a branch is
    trained for each multiple k of the batch size in force, on the same stream of examples, for the
    same number of them, with the rate that suits its batch. Then all are compared on one held-out
    set. A batch passes as long as it is not clearly worse than the smaller ones that passed: the
    rise of its loss over theirs, paired by seed, is tested against 0 (or the tolerance), one-sided
    by Student's t, the level divided by the number of comparisons. The answer is an interval, from
    the largest size that passed to the smallest that did not. Few seeds see large rises alone;
    many, and branches that share their noise, see rises that do not matter: say with ``tolerance``
    what does.

    The step has to scale its rate with the batch itself, as any step of
    ``training.make_train_step`` does whose chain ends in ``diffusion.scale_by_batch_size(base,
    rule)``: "sqrt" for Adam, "linear" for SGD. A schedule inside it is asked by update, and
    branches make 1/k as many: hold the rate over the window, or choose it short. The window must be
    long enough for a branch to settle into its new batch, else large ones are held to be worse.
    What is found holds if a branch that has caught up stays so ("local recovery").

    Args:
        state: at the checkpoint; it is copied for each branch, so a step may donate it.
        step: ``(state, batch) -> (state, metrics)``, compiled (each size once).
        batches: the run's own iterator, which is not moved; its next batch has size B.
        evaluate: ``state -> loss`` on a fixed held-out set, in evaluation mode: a scalar, or the
            losses of its examples, which are averaged.
        multiples: the multiples k of B; 1 is one of them, and each k B a whole size that fits.
        examples: how many each branch sees; a multiple of every size.
        seeds: how many, or which. A seed fixes the order of the examples, and with ``reseed`` the
            rest of chance; the branches of one seed share it. At least 2.
        looks: how often the branches are evaluated on the way, evenly; the last one counts.
        tolerance: the rise of the loss that is held to be none.
        level: how likely it may be that a size is called worse though none is.
        reseed: ``(state, seed) -> state`` for dropout and the like. By default a state that has a
            ``key`` field or entry, a key of ``jax.random``, gets one that depends on the seed.

    Returns:
        The interval, and what it rests on.

    Raises:
        ValueError: for multiples without 1, sizes that are not whole or do not fit, fewer examples
            than a branch needs, fewer than 2 seeds, batches that do not carry over epochs, or a
            state whose ``key`` cannot be replaced.
        FloatingPointError: the branch of the smallest batch diverges; of a larger one it tells that
            the batch is too large.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax.growth import GrowingBatches, constant_batch
        >>> noise = np.random.default_rng(0).normal(size=(4096, 32)).astype(np.float32)
        >>> batches = GrowingBatches(noise, constant_batch(4), seed=0)
        >>> @jax.jit  # SGD by the linear rule on a quadratic, with the gradient noise of the batch
        ... def step(w, batch):
        ...     return w - 0.05 * len(batch) / 4 * (w + jnp.mean(batch, axis=0)), None
        >>> w = jnp.zeros(32)
        >>> for _ in range(50):
        ...     w, _ = step(w, next(batches))
        >>> found = branched_critical_batch(
        ...     w, step, batches, evaluate=lambda w: jnp.sum(w**2) / 2,
        ...     multiples=(1, 4, 32), examples=512, seeds=4, tolerance=0.03,
        ... )
        >>> found.low, found.high
        (16, 128.0)

    References:
        Merrill, Arora, Groeneveld, Hajishirzi, `Critical Batch Size Revisited
        <https://arxiv.org/abs/2505.23971>`_, 2025, section 3, where a fixed tolerance of the
        smoothed training loss stands in place of the test.
    """
    _checks.function("step", step)
    _checks.function("evaluate", evaluate)
    if not isinstance(batches, GrowingBatches):
        raise ValueError(f"batches must be GrowingBatches, which can be forked, not {batches!r}.")
    looks = _checks.positive_int("looks", looks)
    tolerance = _checks.number("tolerance", tolerance, least=0)
    if not _checks.positive_float("level", level) < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}.")
    chosen = (
        list(range(seeds))
        if isinstance(seeds, numbers.Integral)
        else _checks.several("seeds", seeds)
    )
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise ValueError(f"A paired test needs at least 2 different seeds, not {seeds!r}.")
    sizes = _sizes(batches, multiples, examples, looks)
    curves = np.array([[[math.nan] * looks] * len(chosen)] * len(sizes))
    for k, size in enumerate(sizes):
        for s, seed in enumerate(chosen):
            start = (reseed or _with_key)(jax.tree.map(_copy, state), seed)
            branch = batches.fork(constant_batch(size), seed=seed)
            curves[k, s] = _train(start, step, branch, evaluate, examples // looks // size, looks)
    final = curves[..., -1]
    if not np.isfinite(final[0]).all():
        raise FloatingPointError(
            f"The branch of the smallest batch, {sizes[0]}, diverged, and there is nothing to "
            "compare the others with: branch at a lower learning rate, or where training is stable."
        )
    rises, p_values = _compare(final, tolerance, level)
    with np.errstate(invalid="ignore"):  # of a branch that diverged there is none
        stderr = final.std(axis=1, ddof=1) / math.sqrt(len(chosen))
    worse = np.flatnonzero(p_values < level)
    return CriticalBatch(
        low=sizes[worse[0] - 1] if worse.size else sizes[-1],
        high=float(sizes[worse[0]]) if worse.size else math.inf,
        sizes=np.array(sizes),
        losses=final.mean(axis=1),
        stderr=stderr,
        rises=rises,
        p_values=p_values,
        examples=np.arange(1, looks + 1) * (examples // looks),
        curves=curves,
    )


def _train(
    state: Any,
    step: Callable[[Any, Any], tuple[Any, Any]],
    batches: GrowingBatches,
    evaluate: Callable[[Any], Any],
    updates: int,
    looks: int,
) -> list[float]:
    """The held-out loss of a branch at each look."""
    losses: list[float] = []
    metrics: Any = None
    for _ in range(looks):
        for _ in range(updates):
            waiting = metrics
            made = step(state, next(batches))
            if not isinstance(made, tuple) or len(made) != 2:
                raise ValueError(
                    f"step must return (state, metrics), not a {type(made).__name__}: return None "
                    "for metrics where it has none."
                )
            state, metrics = made
            jax.block_until_ready(waiting)  # two updates at most are on their way
        losses.append(float(np.mean(np.asarray(evaluate(state), np.float64))))
    return losses


def _compare(losses: np.ndarray, tolerance: float, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Rises over the smaller sizes that passed, paired by seed, and their adjusted p values."""
    from scipy.special import stdtr

    count, seeds = losses.shape
    rises, p_values = np.full(count, math.nan), np.full(count, math.nan)
    for k in range(1, count):
        if not np.isfinite(losses[k]).all():  # it has diverged
            rises[k], p_values[k] = math.inf, 0.0
            break
        rise = losses[k] - losses[:k].mean(axis=0)  # all of them have passed
        rises[k] = rise.mean()
        error = rise.std(ddof=1) / math.sqrt(seeds)
        excess = rises[k] - tolerance
        p_value = float(excess <= 0) if error == 0 else float(stdtr(seeds - 1, -excess / error))
        p_values[k] = min(1.0, p_value * (count - 1))
        if p_values[k] < level:
            break
    return rises, p_values


def _sizes(
    batches: GrowingBatches, multiples: Sequence[float], examples: int, looks: int
) -> list[int]:
    """The batch sizes of the branches, rising; every mistake is found here."""
    base = batches.batch_size
    if batches.end_of_epoch != "carry":
        raise ValueError(
            f"Branches see equally many examples, but end_of_epoch={batches.end_of_epoch!r} leaves "
            'some out or pads; use end_of_epoch="carry".'
        )
    given = _checks.several("multiples", multiples)
    sizes = sorted(_multiple(_checks.positive_float("A multiple", k), base) for k in given)
    if base not in sizes or len(set(sizes)) != len(sizes) or len(sizes) < 2:
        raise ValueError(
            f"multiples must hold 1, the batch in force ({base}), and others, each once; not "
            f"{list(multiples)!r}."
        )
    for size in sizes:
        batches.fork(constant_batch(size))  # says what would fit
    examples = _checks.positive_int("examples", examples)
    whole = math.lcm(*sizes) * looks
    if examples < sizes[-1] * looks:
        raise ValueError(
            f"examples={examples} are too few: the largest branch takes {sizes[-1]} at once"
            + (f", {looks} times." if looks > 1 else ".")
        )
    if examples % whole:
        raise ValueError(
            f"examples={examples} do not make whole updates of {', '.join(map(str, sizes))}"
            + (f" at each of {looks} looks" if looks > 1 else "")
            + f"; {max(1, round(examples / whole)) * whole} would."
        )
    return sizes


def _multiple(k: float, base: int) -> int:
    """A batch size k times as large; k may be a decimal or a third, which no float holds."""
    size = round(k * base)
    if size < 1 or abs(k * base - size) > 1e-9 * size:
        below = max(1, math.floor(k * base))
        raise ValueError(
            f"{k:g} times the batch of {base} is no whole size; {below / base:g} makes {below}, "
            f"{(below + 1) / base:g} makes {below + 1}."
        )
    return size


def _with_key(state: Any, seed: int) -> Any:
    """The state with a random key of its own, if it has one."""
    mapping = isinstance(state, Mapping)
    key: Any = state.get("key") if mapping else getattr(state, "key", None)
    if not _is_key(key):
        return state
    own = jax.random.fold_in(key, seed)
    if mapping:
        return type(state)({**state, "key": own})
    replace = getattr(state, "_replace", getattr(state, "replace", None))
    if replace is None and dataclasses.is_dataclass(state):
        replace = functools.partial(dataclasses.replace, state)
    if replace is None:
        raise ValueError(
            f"The state, a {type(state).__name__}, has a random key that cannot be replaced, so "
            "all seeds would share it: pass reseed=, (state, seed) -> state."
        )
    return replace(key=own)


def _is_key(value: Any) -> bool:
    """Whether this is a key of jax.random, of either kind."""
    if not isinstance(value, jax.Array | np.ndarray):
        return False
    typed = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return typed or (value.ndim == 1 and value.dtype == np.uint32)


def _copy(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, jax.Array) else leaf
