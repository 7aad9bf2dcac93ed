"""Leading eigenpairs, each with its residual."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from gapjax._checks import one_of, positive_float, positive_int, random_key
from gapjax._text import readable_bytes
from gapjax.landscape._lanczos import Krylov, LanczosState
from gapjax.landscape._memory import require_vectors
from gapjax.landscape._operators import Operator, check_operator
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._quadrature import Quadrature
from gapjax.landscape._space import l2_norm, scaled

# How likely it may be that an eigenvalue which outranks the last pair was missed.
_MISSED = 1e-3

# What ranks first, and the signs of the operator that have it on top.
_MEASURES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]] = {
    "LM": (np.abs, (1, -1)),
    "LA": (np.positive, (1,)),
    "SA": (np.negative, (-1,)),
}


class Eigenpairs(NamedTuple):
    """Eigenvalues and eigenvectors, with how far they can be trusted.

    Attributes:
        values: ``[k]`` float64, the leading one first.
        vectors: a tree like the parameters, each leaf with a first axis of k; orthonormal.
        residuals: ``[k]``, ``||A v - value v||``. Some eigenvalue lies this close to each value,
            and the error of the value itself is about residual^2 / gap.
        converged: ``[k]``, whether the residual is within the tolerance and nothing that outranks
            the value was left out, further copies of a multiple eigenvalue for one.
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
    read off the projected matrix at no cost, until all are within `tol` of their values. A space
    that outgrows `basis_size` is restarted around its leading pairs.

    One chain of products meets one copy only of a multiple eigenvalue, as the loss of a linear
    model with several outputs has them. So another chain starts from a random direction orthogonal
    to all that was seen. It goes on until an eigenvalue that outranks the last wanted one would
    have shown, but for a chance of one in a thousand: the weight that its quadrature leaves beyond
    that value (Golub and Meurant 2010) is then too small for a random direction. What it finds
    joins the pairs, and the next chain starts. This takes about 5 to 10 products where the wanted
    values stand out, more where the next ones are close. With k = 1 there is nothing to look for. A
    cluster of values whose gaps are of the size of `tol` needs a smaller one.

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
            vectors of the parameters' size, and one more for each chain.
        max_matvecs: products at most, ``max(300, 20 k)`` by default, or what `resume` has spent and
            needs. At least k + 1.
        resume: a state to go on from, as ``progress.partial()`` hands it out or as `lanczos`
            returns it.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        `Eigenpairs`. What did not converge is returned with ``converged`` False, and so are pairs
        within `tol` where the products ended before the search for copies did.

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
    random_key("key", key)
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
    search = _Search(krylov, k, *_MEASURES[which], tol)
    task = f"{k} eigenpairs (basis at most {readable_bytes(needed)})"
    with Tracker(progress, task, limit, krylov.snapshot) as tracker:
        tracker.done = krylov.num_matvecs
        # One product is left for the verification.
        while not search.finished() and krylov.num_matvecs < limit - 1:
            search.steer()
            if krylov.steps >= room:
                search.restart((room + k) // 2)
            krylov.extend()
            search.look()
            tracker.step(note=f"{search.passing().sum()} converged")
    return search.verified(jax.random.fold_in(key, size))


class _Search:
    """The wanted pairs of a growing Krylov space, and whether they will do."""

    def __init__(self, krylov: Krylov, k: int, measure: Callable, signs: tuple, tol: float):
        self.krylov, self.k, self.measure, self.signs, self.tol = krylov, k, measure, signs, tol
        self.look()

    def look(self) -> None:
        """Solves the projected problem anew."""
        start = self.krylov.chain_start
        (earlier, before), (self.chain, own) = self._ritz(0, start), self._ritz(start, None)
        values = np.concatenate([earlier, self.chain])
        order = self._order(values)
        self.values, self.vectors = values[order], scipy.linalg.block_diag(before, own)[:, order]
        self.residuals = self.krylov.residuals(self.vectors)

    def _order(self, values: np.ndarray) -> np.ndarray:
        return np.argsort(-self.measure(values), kind="stable")

    def _ritz(self, start: int, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values and vectors of some steps, leading first."""
        values, vectors = np.linalg.eigh(self.krylov.projection[start:stop, start:stop])
        order = self._order(values)
        return values[order], vectors[:, order]

    def allowed(self, values: np.ndarray) -> np.ndarray:
        """Residuals that pass: relative to the value, or the rounding of the operator."""
        limits = np.finfo(self.krylov.op.dtype)
        rounding = 10 * limits.eps * self.krylov.scale + limits.tiny
        return np.maximum(self.tol * np.abs(values), rounding)

    def passing(self) -> np.ndarray:
        """Which of the wanted pairs have a residual that passes."""
        return (self.residuals <= self.allowed(self.values))[: self.k]

    def found(self) -> bool:
        """Whether all wanted pairs pass."""
        return len(self.values) >= self.k and bool(self.passing().all())

    def finished(self) -> bool:
        """Whether all wanted pairs pass, and nothing that was not seen outranks them."""
        last = slice(self.k - 1, self.k)
        return self.krylov.complete or (self.found() and bool(self.highest(self.values[last])[0]))

    def highest(self, values: np.ndarray) -> np.ndarray:
        """Whether an eigenvalue that was not seen and outranks these would have shown."""
        krylov, levels = self.krylov, self._levels(values)
        if krylov.complete:
            return np.ones(len(values), bool)
        if not len(self.chain):
            return np.zeros(len(values), bool)
        # A chain finds one copy of each eigenvalue, so the tops of successive chains never rise:
        # once the top of the latest is settled it bounds what the next ones find.
        start = krylov.chain_start
        leading = self._ritz(start, None)[1][:, 0]
        settled = abs(krylov.coupling[0, start:] @ leading) <= self.allowed(self.chain[:1])[0]
        bounded = settled & (self.measure(self.chain[0]) <= levels)
        return bounded | np.array([self._chance(level) <= _MISSED for level in levels])

    def _levels(self, values: np.ndarray) -> np.ndarray:
        """What ranks above these by more than their residual may be."""
        return self.measure(values) + self.allowed(values)

    def _chance(self, level: float) -> float:
        """How likely a random direction hides an eigenvalue this high as well as the chain does.

        Whatever the spectrum, its weight in the direction that the chain started from is at most
        what quadrature leaves beyond the level; that of a random direction is Beta(1/2, (n - 1)/2).
        """
        start = self.krylov.chain_start
        jacobi, beyond = self.krylov.projection[start:, start:], self.krylov.coupling[0, start:]
        # A restart has lost the direction.
        if np.triu(jacobi, 2).any() or beyond[:-1].any():
            return 1.0
        shares = (Quadrature(s * jacobi, beyond[-1], 0).share_above(level) for s in self.signs)
        return float(np.sqrt(2 * self.krylov.op.size / np.pi * sum(map(sum, shares))))

    def steer(self) -> None:
        """Chooses the vector whose product is next."""
        if len(self.values) < self.k:
            return
        if not self.found():
            # What the first pair that does not pass leaks into most.
            leaking = self.vectors[:, np.argmin(self.passing())]
            self.krylov.take(int(np.argmax(np.abs(self.krylov.coupling @ leaking))))
        elif self.krylov.coupling[0].any():
            top, last = self.measure(self.chain[0]), self.values[self.k - 1 : self.k]
            # This chain will not bound what others find, and one that was just begun may.
            if top > self._levels(last)[0]:
                self.krylov.append_random()

    def restart(self, keep: int) -> None:
        """Shrinks the space to its leading pairs; the latest chain as the last."""
        start = self.krylov.chain_start
        own = self.krylov.steps - start
        wanted = int(self.vectors[:start, : self.k].any(axis=0).sum())
        before = min(start, max(wanted, keep - own))
        values, vectors = self._ritz(0, start)
        parts = [(vectors[:, :before], np.diag(values[:before]))]
        if own <= keep - before:
            parts.append((np.eye(own), self.krylov.projection[start:, start:]))
        else:
            values, vectors = self._ritz(start, None)
            parts.append((vectors[:, : keep - before], np.diag(values[: keep - before])))
        self.krylov.restart(
            *(scipy.linalg.block_diag(*blocks) for blocks in zip(*parts, strict=True))
        )

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
        for index, known in enumerate(krylov.coupling @ vectors @ weights):
            outside = scaled(krylov.row(krylov.steps + index), known)
            rest = jax.tree.map(jnp.subtract, rest, outside)
        rounding = float(l2_norm(rest)) / allowed.min() * allowed
        residuals = np.hypot(self.residuals[:k], rounding)
        rows = [jnp.concatenate(parts) for parts in zip(*krylov.combine(vectors), strict=True)]
        return Eigenpairs(
            values,
            op.space.embed(tuple(rows)),
            residuals,
            (residuals <= allowed) & self.highest(values),
            krylov.num_matvecs + 1,
        )
