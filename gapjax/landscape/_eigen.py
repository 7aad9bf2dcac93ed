"""Leading eigenpairs, each with its residual."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._checks import one_of, positive_float, positive_int
from gapjax._text import readable_bytes
from gapjax.landscape._lanczos import Krylov, LanczosState
from gapjax.landscape._memory import require_vectors
from gapjax.landscape._operators import Operator, check_operator
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._space import l2_norm, scaled

_MEASURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "LM": np.abs,
    "LA": np.positive,
    "SA": np.negative,
}


class Eigenpairs(NamedTuple):
    """Eigenvalues and eigenvectors, with how far they can be trusted.

    Attributes:
        values: ``[k]`` float64, the leading one first.
        vectors: a tree like the parameters, each leaf with a first axis of k; orthonormal.
        residuals: ``[k]``, ``||A v - value v||``. Some eigenvalue lies this close to each value,
            and the error of the value itself is about residual^2 / gap.
        converged: ``[k]``, whether the residual is within the tolerance.
        num_matvecs: products spent.
    """

    values: np.ndarray
    vectors: Any
    residuals: np.ndarray
    converged: np.ndarray
    num_matvecs: int


def eigh_topk(
    op: Operator,
    key: jax.Array,
    k: int,
    *,
    which: str = "LM",
    tol: float = 1e-4,
    basis_size: int | None = None,
    max_matvecs: int | None = None,
    resume: LanczosState | None = None,
    progress: bool | Callable[[Progress], None] = True,
) -> Eigenpairs:
    """The k leading eigenpairs, by Lanczos with full reorthogonalization and thick restarts.

    The Krylov space grows by one product a step. After each, the residual of every wanted pair is
    read off the projected matrix at no cost, and the run stops as soon as all are within `tol`
    of their values. A space that outgrows `basis_size` is restarted around its leading pairs.
    At the end one product with a random combination of the pairs measures what the cheap
    residuals cannot see, the rounding of the products themselves; it is added to each residual.

    Args:
        op: the operator.
        key: of the random start.
        k: how many pairs.
        which: ``"LM"`` largest magnitude, ``"LA"`` algebraically largest, ``"SA"`` smallest.
        tol: a pair is converged when its residual is at most ``tol * |value|``, or at the rounding
            of the operator's norm, which a value near zero cannot beat.
        basis_size: vectors kept, ``max(4 k, k + 60)`` by default; the memory is ``basis_size + k``
            vectors of the parameters' size.
        max_matvecs: products at most, ``max(300, 20 k)`` by default, or what `resume` has spent and
            needs. At least k + 1.
        resume: a state to go on from, as ``progress.partial()`` hands it out or as `lanczos`
            returns it.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        `Eigenpairs`. What did not converge is returned with ``converged`` False.

    Raises:
        ValueError: k below 1 or above the number of parameters, a basis no larger than k, or fewer
            products than k pairs need; the least is named.
        MemoryError: a basis larger than memory; the bytes are stated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.from_matvec(lambda v: jnp.arange(50.0) * v, jnp.zeros(50))
        >>> pairs = landscape.eigh_topk(op, jax.random.key(0), 2)
        >>> pairs.values.round(3).tolist(), bool(pairs.converged.all())
        ([49.0, 48.0], True)
    """
    check_operator(op)
    positive_int("k", k)
    one_of("which", which, _MEASURES)
    positive_float("tol", tol)
    size = op.size
    if k > size:
        raise ValueError(f"k is {k}, and the operator acts on {size} parameters: k <= {size}.")
    room = max(4 * k, k + 60) if basis_size is None else positive_int("basis_size", basis_size)
    room = min(size, room)
    if room < min(size, k + 2):
        raise ValueError(f"basis_size must be at least k + 2 = {k + 2}, not {basis_size}.")
    # Restarting holds the old basis and the kept vectors at once.
    needed = require_vectors(room + 1 + (room + k) // 2, op.space, "take a smaller basis_size")

    krylov = Krylov.resume(op, key, resume) if resume is not None else Krylov.begin(op, key)
    # A step for each pair, and one product for the verification.
    least = krylov.num_matvecs + max(k - krylov.steps, 0) + 1
    usual = max(300, 20 * k, least)
    limit = usual if max_matvecs is None else positive_int("max_matvecs", max_matvecs)
    if limit < least:
        raise ValueError(
            f"max_matvecs is {max_matvecs}, and {k} eigenpairs take at least {least} products, "
            f"{krylov.num_matvecs} that are spent and one to verify them included: "
            f"max_matvecs >= {least}."
        )
    search = _Search(krylov, k, _MEASURES[which], tol)
    task = f"{k} eigenpairs (basis at most {readable_bytes(needed)})"
    with Tracker(progress, task, limit, krylov.snapshot) as tracker:
        tracker.done = krylov.num_matvecs
        # One product is left for the verification.
        while not search.finished() and krylov.num_matvecs < limit - 1:
            if krylov.steps >= room:
                search.restart((room + k) // 2)
            krylov.extend()
            search.look()
            tracker.step(note=f"{search.num_converged()} converged")
    return search.verified(jax.random.fold_in(key, size))


class _Search:
    """The wanted pairs of a growing Krylov space, and whether they will do."""

    def __init__(self, krylov: Krylov, k: int, measure: Callable, tol: float):
        self.krylov, self.k, self.measure, self.tol = krylov, k, measure, tol
        self.chain_start, self.unseen = krylov.chain_start, -np.inf
        self.look()

    def look(self) -> None:
        """Solves the projected problem anew."""
        self.values, self.vectors, self.residuals = self._ritz(0, self.krylov.steps)
        self._bound_unseen()

    def _ritz(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz pairs of some steps, leading first, with the residuals that cost nothing."""
        values, vectors = np.linalg.eigh(self.krylov.projection[start:stop, start:stop])
        order = np.argsort(-self.measure(values), kind="stable")
        values, vectors = values[order], vectors[:, order]
        return values, vectors, np.abs(self.krylov.coupling[start:stop] @ vectors)

    def _bound_unseen(self) -> None:
        """How high an eigenvalue that no chain has seen can rank.

        A chain finds one copy of each eigenvalue, so after a chain has ended there may be more
        copies; the tops of successive chains never rise, so the last known top bounds them.
        """
        start = self.krylov.chain_start
        if not start or self.chain_start is None:
            self.chain_start = start
            return
        if start > self.chain_start:
            self.unseen = self.measure(self._ritz(self.chain_start, start)[0])[0]
            self.chain_start = start
        if self.krylov.steps > start:
            values, _, residuals = self._ritz(start, self.krylov.steps)
            if residuals[0] <= self.allowed(values)[0]:
                self.unseen = self.measure(values)[0]

    def allowed(self, values: np.ndarray) -> np.ndarray:
        """Residuals that pass: relative to the value, or the rounding of the operator."""
        limits = np.finfo(self.krylov.op.dtype)
        rounding = 10 * limits.eps * self.krylov.scale + limits.tiny
        return np.maximum(self.tol * np.abs(values), rounding)

    def num_converged(self) -> int:
        """Wanted pairs whose residual passes."""
        return int(np.sum((self.residuals <= self.allowed(self.values))[: self.k]))

    def finished(self) -> bool:
        """Whether all wanted pairs pass, and nothing unseen can outrank them."""
        if self.krylov.complete:
            return True
        if len(self.values) < self.k or self.num_converged() < self.k:
            return False
        last = self.values[self.k - 1 : self.k]
        return bool(self.measure(last)[0] >= self.unseen - self.allowed(last)[0])

    def restart(self, keep: int) -> None:
        """Shrinks the space to its leading pairs."""
        self.krylov.restart(self.vectors[:, :keep], self.values[:keep])

    def verified(self, key: jax.Array) -> Eigenpairs:
        """The pairs, with the rounding of the products measured by one product more."""
        krylov, k = self.krylov, min(self.k, len(self.values))
        values, vectors, op = self.values[:k], self.vectors[:, :k], krylov.op
        allowed = self.allowed(values)
        # Each pair weighs in by what it is allowed, so that no pair drowns another.
        signs = np.asarray(jax.random.rademacher(key, (k,), dtype="int8"))
        weights = signs / allowed * allowed.min()
        (pair,) = krylov.combine(vectors @ np.stack([weights, weights * values], axis=1))
        probe, image = (tuple(part[row] for part in pair) for row in (0, 1))
        rest = jax.tree.map(jnp.subtract, op.apply(probe), image)
        if not krylov.complete:
            known = (krylov.coupling @ vectors) @ weights
            rest = jax.tree.map(jnp.subtract, rest, scaled(krylov.next_vector(), known))
        rounding = float(l2_norm(rest)) / allowed.min() * allowed
        residuals = np.hypot(self.residuals[:k], rounding)
        rows = [jnp.concatenate(parts) for parts in zip(*krylov.combine(vectors), strict=True)]
        return Eigenpairs(
            values,
            op.space.embed(tuple(rows)),
            residuals,
            residuals <= allowed,
            krylov.num_matvecs + 1,
        )
