"""How many eigenvalues lie above a threshold."""

from collections.abc import Callable

import jax
import numpy as np

from gapjax._checks import numbers_array, positive_int, random_key
from gapjax.landscape._estimate import Estimate, stderr_of_mean
from gapjax.landscape._lanczos import Krylov
from gapjax.landscape._memory import require_vectors
from gapjax.landscape._operators import Operator, check_operator
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._quadrature import quadrature


def count_above(
    op: Operator,
    threshold: float | np.ndarray,
    *,
    key: jax.Array,
    num_probes: int = 8,
    num_steps: int = 60,
    progress: bool | Callable[[Progress], None] = True,
) -> Estimate:
    """How many eigenvalues are above a threshold.

    One Lanczos run finds the eigenvalues that stand alone, and those above the threshold are
    counted one by one. The rest of the space is estimated by quadrature from random directions
    orthogonal to them: where the threshold separates outliers from a bulk, these find next to
    nothing above it, and the count is as good as exact. Where it cuts through a bulk, Gauss-Radau
    quadrature with a node at the threshold gives the share above up to half the weight of that
    node, which is `bias` (the inequalities of Chebyshev, Markov and Stieltjes; Golub and Meurant
    2010, section 6). More steps shrink `bias`, more probes `stderr`.

    Eigenvalues within rounding of a threshold (thirty times the dtype's eps, of the operator's
    norm) cannot be told from it. They count as not above; their number is `unresolved`, and part of
    `bias`: a count at 0 of a network whose Hessian is mostly flat says so in this way.

    Args:
        op: the operator.
        threshold: a number, or several at once, which cost no more.
        key: of the random directions.
        num_probes: probes for the rest.
        num_steps: Lanczos steps of the first run and of each probe.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        An `Estimate` of counts, shaped like `threshold`. Mean and standard error are floats for a
        single one.

    Raises:
        ValueError: a threshold that is not finite, or a number of probes below 2 or steps below 1.
        MemoryError: a basis larger than memory; the bytes are stated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import landscape
        >>> eigenvalues = jnp.concatenate([jnp.array([9.0, 9.0, 7.0]), jnp.linspace(0, 1, 97)])
        >>> op = landscape.from_matvec(lambda v: eigenvalues * v, jnp.zeros(100))
        >>> count = landscape.count_above(op, 5.0, key=jax.random.key(0), num_steps=30)
        >>> round(count.mean, 3), round(count.stderr, 3), round(count.bias, 3)
        (3.0, 0.0, 0.0)
    """
    check_operator(op)
    random_key("key", key)
    positive_int("num_probes", num_probes)
    positive_int("num_steps", num_steps)
    if num_probes < 2:
        raise ValueError("num_probes must be at least 2: one probe has no standard error.")
    thresholds = np.ravel(numbers_array("threshold", threshold))
    if not np.isfinite(thresholds).all():
        raise ValueError(f"thresholds must be finite, not {threshold!r}.")
    steps = min(num_steps, op.size)
    require_vectors(2 * (steps + 1), op.space, "take fewer num_steps")
    with Tracker(progress, "eigenvalue count", (num_probes + 1) * steps) as tracker:
        krylov = Krylov.begin(op, jax.random.fold_in(key, 0))
        for _ in range(steps):
            krylov.extend()
            tracker.step()
        values, vectors = np.linalg.eigh(krylov.projection)
        alone = krylov.residuals(vectors) <= 1e-4 * np.abs(values).max(initial=0)
        # Eigenvalues this close to a threshold cannot be told from it in the operator's dtype.
        rounding = 30 * float(np.finfo(op.dtype).eps) * krylov.scale
        alone &= values > thresholds.min() - rounding
        found, spent = values[alone], krylov.num_matvecs
        locked = krylov.combine(vectors[:, alone])
        del krylov
        rest = op.size - len(found)
        samples = np.zeros((num_probes if rest else 0, len(thresholds)))
        slack, at = np.zeros_like(samples), np.zeros_like(samples)
        for probe in range(len(samples)):
            probe_key = jax.random.fold_in(key, probe + 1)
            seen = quadrature(op, probe_key, min(steps, rest), tracker, locked)
            spent += seen.num_matvecs
            for index, limit in enumerate(thresholds):
                above, slack[probe, index] = seen.share_above(limit + rounding)
                samples[probe, index] = above
                at[probe, index] = seen.share_above(limit - rounding)[0] - above
    beyond = found[:, None] > thresholds + rounding
    reached = found[:, None] > thresholds - rounding
    figures = np.zeros((4, len(thresholds)))
    if rest:
        near = np.maximum(at.mean(0), 0)
        means = samples.mean(0), stderr_of_mean(samples), slack.mean(0) + near, near
        figures[:] = rest * np.array(means)
    figures[0] += beyond.sum(0)
    figures[2:] += (reached & ~beyond).sum(0)
    if np.ndim(threshold):
        mean, stderr, bias, unresolved = figures.reshape(4, *np.shape(threshold))
    else:
        mean, stderr, bias, unresolved = figures[:, 0].tolist()
    return Estimate(mean, stderr, spent, bias, len(samples), unresolved)
