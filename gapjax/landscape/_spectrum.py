"""Spectral densities and eigenvalue counts by stochastic Lanczos quadrature, with error bars."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax._checks import positive_float, positive_int
from gapjax._text import readable_bytes
from gapjax.landscape._estimate import Estimate, ratio_of_means, stderr_of_mean
from gapjax.landscape._lanczos import Krylov
from gapjax.landscape._memory import require_vectors
from gapjax.landscape._operators import Operator
from gapjax.landscape._progress import Progress, Tracker


@dataclasses.dataclass(frozen=True)
class Density:
    """A spectral density: how the eigenvalues are spread, as a share of all of them.

    Attributes:
      grid: ``[G]``, where the density is given.
      density: ``[G]``, integrates to 1; the mean over probes.
      stderr: ``[G]``, standard error of the mean over probes. It shows the noise of the probes,
        not the width of the smoothing.
      nodes: ``[P, m]``, the Ritz values of each probe.
      weights: ``[P, m]``, their weights; each row sums to 1.
      sigma: width of the Gaussian that smooths the nodes.
      size: number of eigenvalues.
      num_matvecs: products spent.
    """

    grid: np.ndarray
    density: np.ndarray
    stderr: np.ndarray
    nodes: np.ndarray
    weights: np.ndarray
    sigma: float
    size: int
    num_matvecs: int

    def moment(self, power: int) -> Estimate:
        """The mean of ``eigenvalue ** power``, exact in each probe for powers below 2 m."""
        samples = np.sum(self.weights * self.nodes**power, axis=1)
        return Estimate(
            float(samples.mean()),
            float(stderr_of_mean(samples)),
            self.num_matvecs,
            num_samples=len(samples),
        )

    def negative_mass(self) -> Estimate:
        """The share of the absolute spectrum that is negative, ``sum |min(x, 0)| / sum |x|``."""
        below = np.sum(self.weights * np.maximum(-self.nodes, 0), axis=1)
        size = np.sum(self.weights * np.abs(self.nodes), axis=1)
        return Estimate(*ratio_of_means(below, size), self.num_matvecs, num_samples=len(size))


def spectral_density(
    op: Operator,
    key: jax.Array,
    *,
    num_probes: int = 8,
    num_steps: int = 90,
    grid: np.ndarray | None = None,
    sigma: float | None = None,
    resume: Density | None = None,
    progress: bool | Callable[[Progress], None] = True,
) -> Density:
    r"""The density of eigenvalues by stochastic Lanczos quadrature.

    Each probe, a random direction, runs Lanczos; its Ritz values with the squared first entries of
    their vectors are a Gauss quadrature of the spectrum seen from that direction (Golub and
    Meurant 2010). Their mean over probes, smoothed by a Gaussian, is

    .. math:: \phi(t) = \frac1P \sum_p \sum_i w_{pi} \, N(t; \theta_{pi}, \sigma^2)

    (Ghorbani et al. 2019). The spread over probes gives the standard error.

    Args:
      op: the operator.
      key: of the probes; probe p uses ``fold_in(key, p)``.
      num_probes: probes, P. Below 8 the standard errors are themselves very uncertain.
      num_steps: Lanczos steps a probe, m, at most the number of parameters.
      grid: where to give the density; 1000 points over the range by default.
      sigma: width of the smoothing, a hundredth of the range by default.
      resume: an earlier result, or the partial one of a progress callback, made with the same
        operator and key: only the missing probes are run.
      progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
      A `Density`. Its trace is ``size * moment(1)``, one Hutchinson sample a probe whatever the
      number of steps: use `trace` for traces.

    Raises:
      ValueError: a number of probes or steps below 1, or a sigma not above 0.
      MemoryError: a basis larger than memory; the bytes are stated.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gapjax import landscape
      >>> op = landscape.from_matvec(lambda v: jnp.arange(50.0) * v, jnp.zeros(50))
      >>> density = landscape.spectral_density(op, jax.random.key(0), num_probes=4, num_steps=20)
      >>> density.nodes.shape
      (4, 20)
    """
    positive_int("num_probes", num_probes)
    positive_int("num_steps", num_steps)
    if sigma is not None:
        positive_float("sigma", sigma)
    steps = min(num_steps, op.size)
    nodes, weights, spent = np.zeros((0, steps)), np.zeros((0, steps)), 0
    if resume is not None:
        if resume.nodes.shape[1] != steps or resume.size != op.size:
            raise ValueError(
                f"the density to resume has {resume.nodes.shape[1]} steps over {resume.size} "
                f"parameters, asked are {steps} over {op.size}: resume with the same."
            )
        nodes, weights, spent = resume.nodes, resume.weights, resume.num_matvecs

    def result() -> Density:
        return _smooth(nodes, weights, grid, sigma, op.size, spent)

    needed = require_vectors(steps + 1, op.space, "take fewer num_steps")
    total = max(num_probes - len(nodes), 0) * steps
    task = f"spectral density (basis {readable_bytes(needed)})"
    with Tracker(progress, task, total, result) as tracker:
        for probe in range(len(nodes), num_probes):
            quadrature = _quadrature(op, jax.random.fold_in(key, probe), steps, tracker)
            own_nodes, own_weights = quadrature.gauss(steps)
            nodes = np.concatenate([nodes, own_nodes[None]])
            weights = np.concatenate([weights, own_weights[None]])
            spent += quadrature.num_matvecs
    return result()


class _Quadrature(NamedTuple):
    """The spectrum from one direction: its Jacobi matrix and the coupling beyond, 0 if closed."""

    jacobi: np.ndarray
    beyond: float
    num_matvecs: int

    def gauss(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights; of a space that closed early the last is repeated with weight 0."""
        nodes, vectors = np.linalg.eigh(self.jacobi)
        missing = (0, count - len(nodes))
        return np.pad(nodes, missing, mode="edge"), np.pad(vectors[0] ** 2, missing)

    def share_above(self, threshold: float) -> tuple[float, float]:
        """The share of the spectrum above a threshold, and a bound on its systematic error.

        Gauss-Radau quadrature with a node at the threshold: whatever the spectrum, the share
        strictly above is at least the weight beyond that node, and at most that and its own.
        """
        nodes, weights = self.gauss(len(self.jacobi))
        if not self.beyond:
            return float(weights[nodes > threshold].sum()), 0.0
        m = len(nodes)
        # (T - t)^-1 at its last entry, from the eigenvectors: a node at t itself is stepped past.
        _, vectors = np.linalg.eigh(self.jacobi)
        gaps = nodes - threshold
        smallest = np.finfo(float).eps * (np.abs(nodes).max() + self.beyond)
        gaps = np.where(np.abs(gaps) < smallest, smallest, gaps)
        last = threshold + self.beyond**2 * float(np.sum(vectors[-1] ** 2 / gaps))
        extended = np.zeros((m + 1, m + 1))
        extended[:m, :m] = self.jacobi
        extended[m, m - 1] = extended[m - 1, m] = self.beyond
        extended[m, m] = last
        nodes, vectors = np.linalg.eigh(extended)
        weights, at = vectors[0] ** 2, int(np.argmin(np.abs(nodes - threshold)))
        half = float(weights[at]) / 2
        return float(weights[at + 1 :].sum()) + half, half


def _quadrature(
    op: Operator, key: jax.Array, steps: int, tracker: Tracker, locked: Any = ()
) -> _Quadrature:
    """Lanczos from one random direction orthogonal to `locked`, until its space closes."""
    krylov = Krylov.begin(op, key, locked=locked)
    open_ = True
    while open_ and krylov.steps < steps and not krylov.complete:
        open_ = krylov.extend()
        tracker.step()
    tracker.done += steps - krylov.steps
    return _Quadrature(krylov.projection, float(krylov.coupling[-1]), krylov.num_matvecs)


def _smooth(
    nodes: np.ndarray,
    weights: np.ndarray,
    grid: np.ndarray | None,
    sigma: float | None,
    size: int,
    spent: int,
) -> Density:
    """The density on a grid from the quadratures of all probes."""
    low, high = (nodes.min(), nodes.max()) if nodes.size else (0.0, 1.0)
    width = (high - low) or max(abs(high), 1.0)
    sigma = sigma or 0.01 * width
    if grid is None:
        grid = np.linspace(low - 5 * sigma, high + 5 * sigma, 1000)
    grid = np.asarray(grid, np.float64)
    samples = np.empty((len(nodes), len(grid)))
    for sample, own_nodes, own_weights in zip(samples, nodes, weights, strict=True):
        bumps = np.exp(-0.5 * ((grid[:, None] - own_nodes) / sigma) ** 2)
        sample[:] = bumps @ own_weights / (sigma * np.sqrt(2 * np.pi))
    mean = samples.mean(0) if len(samples) else np.zeros(len(grid))
    error = stderr_of_mean(samples) if len(samples) else np.full(len(grid), np.nan)
    return Density(grid, mean, error, nodes, weights, float(sigma), size, spent)


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
    norm) cannot be told from it. They count as not above, and their number is part of `bias`: a
    count at 0 of a network whose Hessian is mostly flat says so in this way.

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
    positive_int("num_probes", num_probes)
    positive_int("num_steps", num_steps)
    if num_probes < 2:
        raise ValueError("num_probes must be at least 2: one probe has no standard error.")
    thresholds = np.atleast_1d(np.asarray(threshold, np.float64))
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
        alone = np.abs(krylov.coupling @ vectors) <= 1e-4 * np.abs(values).max(initial=0)
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
            quadrature = _quadrature(op, probe_key, min(steps, rest), tracker, locked)
            spent += quadrature.num_matvecs
            for index, limit in enumerate(thresholds):
                above, slack[probe, index] = quadrature.share_above(limit + rounding)
                samples[probe, index] = above
                at[probe, index] = quadrature.share_above(limit - rounding)[0] - above
    beyond = found[:, None] > thresholds + rounding
    reached = found[:, None] > thresholds - rounding
    figures = np.zeros((3, len(thresholds)))
    if rest:
        bias = slack.mean(0) + np.maximum(at.mean(0), 0)
        figures[:] = rest * np.array([samples.mean(0), stderr_of_mean(samples), bias])
    figures[0] += beyond.sum(0)
    figures[2] += (reached & ~beyond).sum(0)
    if np.ndim(threshold):
        mean, stderr, bias = figures.reshape(3, *np.shape(threshold))
    else:
        mean, stderr, bias = figures[:, 0].tolist()
    return Estimate(mean, stderr, spent, bias, len(samples))
