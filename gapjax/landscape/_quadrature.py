"""The spectrum seen from random directions, by Lanczos quadrature."""

from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax.landscape._lanczos import Krylov
from gapjax.landscape._operators import Operator
from gapjax.landscape._progress import Tracker


class Quadrature(NamedTuple):
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


def quadrature(
    op: Operator, key: jax.Array, steps: int, tracker: Tracker, locked: Any = ()
) -> Quadrature:
    """Lanczos from one random direction orthogonal to `locked`, until its space closes."""
    krylov = Krylov.begin(op, key, locked=locked)
    open_ = True
    while open_ and krylov.steps < steps and not krylov.complete:
        open_ = krylov.extend()
        tracker.step()
    tracker.done += steps - krylov.steps
    beyond = float(krylov.coupling[:, -1].sum())
    return Quadrature(krylov.projection, beyond, krylov.num_matvecs)


def fewer_steps(
    nodes: np.ndarray, weights: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """What fewer steps would have given: nodes and weights, ``[P, steps]`` each.

    The first entries of a Jacobi matrix do not change as it grows, and Lanczos on the nodes, from
    the roots of their weights, gives it back.
    """
    basis = np.zeros((len(nodes), steps, nodes.shape[1]))
    jacobi = np.zeros((len(nodes), steps, steps))
    vectors, shortest = np.sqrt(weights), 1e-12 * np.abs(nodes).max(axis=1)
    for step in range(steps):
        # A space that has closed goes on with zeros, which weigh nothing.
        lengths = np.linalg.norm(vectors, axis=1)
        lengths = np.where(lengths > shortest, lengths, np.inf if step else 1.0)
        basis[:, step] = vectors / lengths[:, None]
        if step:
            coupling = np.where(np.isfinite(lengths), lengths, 0.0)
            jacobi[:, step, step - 1] = jacobi[:, step - 1, step] = coupling
        vectors = nodes * basis[:, step]
        jacobi[:, step, step] = np.sum(vectors * basis[:, step], axis=1)
        for _ in range(2):
            parts = np.einsum("psn,pn->ps", basis[:, : step + 1], vectors)
            vectors = vectors - np.einsum("psn,ps->pn", basis[:, : step + 1], parts)
    values, columns = np.linalg.eigh(jacobi)
    return values, columns[:, 0] ** 2
