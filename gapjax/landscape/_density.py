"""Spectral densities by stochastic Lanczos quadrature, with error bars."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from numpy.typing import ArrayLike

from gapjax._checks import positive_float, positive_int, random_key
from gapjax._student import t_quantile
from gapjax._text import readable_bytes
from gapjax.landscape._estimate import Estimate, ratio_of_means, stderr_of_mean
from gapjax.landscape._memory import require_vectors
from gapjax.landscape._operators import Operator, check_operator
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._quadrature import fewer_steps, quadrature
from gapjax.landscape._sweep import axis


@dataclasses.dataclass(frozen=True)
class Density:
    """A spectral density: how the eigenvalues are spread, as a share of all of them.

    Attributes:
        grid: ``[G]``, where the density is given.
        density: ``[G]``, integrates to 1; the mean over probes.
        stderr: ``[G]``, standard error of the mean over probes. It shows the noise of the probes,
            not the width of the smoothing. Where few eigenvalues are near it is itself uncertain:
            `interval` knows better.
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

    @property
    def bias(self) -> np.ndarray:
        """How much the second half of the steps moved the density, ``[G]``.

        What further steps would do is less, wherever more steps help at all.
        """
        return np.abs(self.density - _smoothed(self.grid, self.sigma, *self._half).mean(0))

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        r"""A 95% interval of the smoothed density, (low, high), ``[G]`` each.

        The weight of an eigenvalue in a random direction follows a chi-square law of one degree of
        freedom, so a probe's density at t, :math:`s = \sum_i w_i k_i` with k the Gaussian at t, has
        the variance :math:`\frac{2}{n + 2} (\overline{k^2} - \bar k^2)`. Both means are known from
        the quadrature, and :math:`2 P \bar k^2 / \mathrm{var}` are the degrees of freedom of the
        mean over P probes: one a probe at a lone eigenvalue, many within a bulk. The interval is
        that of a chi-square scale, widened by `bias` as in `Estimate.interval`.
        """
        # Imported here: scipy.special takes a while to load.
        from scipy.special import gammaincinv

        mean, floor = self.density, np.finfo(float).tiny
        squares = _smoothed(self.grid, self.sigma, self.nodes, self.weights, power=2).mean(0)
        spread = 2 / (self.size + 2) * (squares / np.maximum(mean**2, floor) - 1)
        freedom = 2 * len(self.nodes) / np.clip(spread, 1e-8, 2)
        low, high = (mean * freedom / (2 * gammaincinv(freedom / 2, q)) for q in (0.975, 0.025))
        other = t_quantile(math.inf) * self.bias / 3**0.5
        below, above = np.hypot(mean - low, other), np.hypot(high - mean, other)
        return np.maximum(mean - below, 0), mean + above

    @property
    def _half(self) -> tuple[np.ndarray, np.ndarray]:
        return fewer_steps(self.nodes, self.weights, max(self.nodes.shape[1] // 2, 1))

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
        """The share of the absolute spectrum that is negative, ``sum |min(x, 0)| / sum |x|``.

        Its `bias` is how much the second half of the steps moved it.
        """
        (share, error), (before, _) = (
            _negative_share(*probes) for probes in ((self.nodes, self.weights), self._half)
        )
        moved = abs(share - before)
        return Estimate(share, error, self.num_matvecs, moved, num_samples=len(self.nodes))


def _negative_share(nodes: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    below = np.sum(weights * np.maximum(-nodes, 0), axis=1)
    return ratio_of_means(below, np.sum(weights * np.abs(nodes), axis=1))


def _smoothed(
    grid: np.ndarray, sigma: float, nodes: np.ndarray, weights: np.ndarray, power: int = 1
) -> np.ndarray:
    """The mean of a power of the Gaussian around each point, as each probe has it, ``[P, G]``."""
    samples = np.empty((len(nodes), len(grid)))
    for sample, own_nodes, own_weights in zip(samples, nodes, weights, strict=True):
        bumps = np.exp(-0.5 * ((grid[:, None] - own_nodes) / sigma) ** 2)
        sample[:] = (bumps / (sigma * np.sqrt(2 * np.pi))) ** power @ own_weights
    return samples


def spectral_density(
    op: Operator,
    key: jax.Array,
    *,
    num_probes: int = 8,
    num_steps: int = 90,
    grid: ArrayLike | None = None,
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
        sigma: width of the smoothing; a hundredth of the range by default, and at least a hundred
            roundings (the dtype's eps) of the largest eigenvalue.
        resume: an earlier result, or the partial one of a progress callback, made with the same
            operator and key: only the missing probes are run.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        A `Density`. Its trace is ``size * moment(1)``, one Hutchinson sample a probe whatever the
        number of steps: use `trace` for traces.

    Raises:
        ValueError: a number of probes or steps below 1, a sigma not above 0, a grid that is no row
            of finite numbers, or something else than a `Density` to resume.
        MemoryError: a basis larger than memory; the bytes are stated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.from_matvec(lambda v: jnp.arange(50.0) * v, jnp.zeros(50))
        >>> density = landscape.spectral_density(op, jax.random.key(0), num_probes=4, num_steps=20)
        >>> density.nodes.shape
        (4, 20)
    """
    check_operator(op)
    random_key("key", key)
    positive_int("num_probes", num_probes)
    positive_int("num_steps", num_steps)
    if sigma is not None:
        positive_float("sigma", sigma)
    row = None if grid is None else axis("grid", grid)
    steps = min(num_steps, op.size)
    nodes, weights, spent = np.zeros((0, steps)), np.zeros((0, steps)), 0
    if resume is not None:
        if not isinstance(resume, Density):
            raise ValueError(
                f"resume must be a Density, as spectral_density returns it, not {resume!r:.60}."
            )
        if resume.nodes.shape[1] != steps or resume.size != op.size:
            raise ValueError(
                f"the density to resume has {resume.nodes.shape[1]} steps over {resume.size} "
                f"parameters, asked are {steps} over {op.size}: resume with the same."
            )
        nodes, weights, spent = resume.nodes, resume.weights, resume.num_matvecs

    def result() -> Density:
        eps = float(np.finfo(op.dtype).eps)
        return _smooth(nodes, weights, row, sigma, op.size, spent, eps)

    needed = require_vectors(steps + 1, op.space, "take fewer num_steps")
    total = max(num_probes - len(nodes), 0) * steps
    task = f"spectral density (basis {readable_bytes(needed)})"
    with Tracker(progress, task, total, result) as tracker:
        for probe in range(len(nodes), num_probes):
            seen = quadrature(op, jax.random.fold_in(key, probe), steps, tracker)
            own_nodes, own_weights = seen.gauss(steps)
            nodes = np.concatenate([nodes, own_nodes[None]])
            weights = np.concatenate([weights, own_weights[None]])
            spent += seen.num_matvecs
    return result()


def _smooth(
    nodes: np.ndarray,
    weights: np.ndarray,
    grid: np.ndarray | None,
    sigma: float | None,
    size: int,
    spent: int,
    eps: float,
) -> Density:
    """The density on a grid from the quadratures of all probes; `eps` of what they were made in."""
    low, high = (nodes.min(), nodes.max()) if nodes.size else (0.0, 1.0)
    # Nodes of one eigenvalue differ by some roundings, which are no width of a spectrum.
    width = max(high - low, 1e4 * eps * max(abs(low), abs(high))) or 1.0
    sigma = sigma or 0.01 * width
    if grid is None:
        grid = np.linspace(low - 5 * sigma, high + 5 * sigma, 1000)
    samples = _smoothed(grid, sigma, nodes, weights)
    mean = samples.mean(0) if len(samples) else np.zeros(len(grid))
    error = stderr_of_mean(samples) if len(samples) else np.full(len(grid), np.nan)
    return Density(grid, mean, error, nodes, weights, float(sigma), size, spent)
