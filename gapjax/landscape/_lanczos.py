"""Lanczos with full reorthogonalization: one product a step, the basis on the device."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gapjax._checks import positive_int
from gapjax._text import readable_bytes
from gapjax.landscape._memory import require_vectors
from gapjax.landscape._operators import Operator, check_operator
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._space import Vector, inner, l2_norm, rows_combined

# Rows of the basis that are kept in one array: enough for the projections to run at the speed of
# memory, few enough that the unused rows of the last block do not count.
BLOCK = 16


class LanczosState(NamedTuple):
    """A Krylov basis and the operator seen in it; plain arrays, so it can be saved.

    With Q the m orthonormal rows of `basis` and q the next vector, ``A Q^T = Q^T T + q c^T`` with
    T the `projection` and c the `coupling`. Where `eigh_topk` has begun further chains, the next
    vectors of the earlier ones come after q, and there is a c for each.

    Attributes:
        blocks: the m + 1 vectors (Q, then q), in blocks of at most 16 rows. A block holds an array
            ``[rows, *shape]`` for every selected parameter, laid out over devices like it; unused
            rows are 0.
        projection: ``[m, m]`` float64, tridiagonal until a thick restart.
        coupling: ``[m]`` float64, zero but for its last entry until a thick restart;
            ``[chains, m]`` where there are several next vectors.
        num_matvecs: products spent.
    """

    blocks: tuple[Vector, ...]
    projection: np.ndarray
    coupling: np.ndarray
    num_matvecs: int

    @property
    def alpha(self) -> np.ndarray:
        """The diagonal of the projection, ``[m]``."""
        return np.diagonal(self.projection).copy()

    @property
    def beta(self) -> np.ndarray:
        """Its off-diagonal, then the coupling to the next vector, ``[m]``."""
        return np.append(np.diagonal(self.projection, 1), np.atleast_2d(self.coupling)[0, -1:])

    @property
    def basis(self) -> jax.Array:
        """The orthonormal vectors Q, ``[m, size]``, a flat copy for a look at small problems."""
        rows = [
            jnp.concatenate([part.reshape(len(part), -1) for part in block], axis=1)
            for block in self.blocks
        ]
        return jnp.concatenate(rows)[: len(self.projection)]


@jax.jit
def _project_out(block: Vector, vector: Vector) -> tuple[Vector, jax.Array]:
    """The vector without its part in the rows of a block, and the coefficients of that part."""
    coefficients = inner(block, vector)
    return jax.tree.map(jnp.subtract, vector, rows_combined(coefficients, block)), coefficients


@jax.jit
def _get_row(block: Vector, row: jax.Array) -> Vector:
    return tuple(lax.dynamic_index_in_dim(part, row, keepdims=False) for part in block)


@functools.partial(jax.jit, donate_argnums=0)
def _set_row(block: Vector, row: jax.Array, vector: Vector, scale: jax.Array) -> Vector:
    """The block with `vector * scale` as one row, in place."""
    return tuple(
        lax.dynamic_update_index_in_dim(part, leaf * scale.astype(leaf.dtype), row, 0)
        for part, leaf in zip(block, vector, strict=True)
    )


@functools.partial(jax.jit, donate_argnums=0)
def _combine(total: Vector, weights: jax.Array, block: Vector) -> Vector:
    return jax.tree.map(jnp.add, total, rows_combined(weights, block))


@functools.partial(jax.jit, static_argnums=1)
def _with_rows(block: Vector, missing: int) -> Vector:
    """A block with so many rows of zeros after its own."""
    return tuple(jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in block)


def _num_rows(block: Vector) -> int:
    return len(block[0])


def _copied(block: Vector) -> Vector:
    return tuple(map(jnp.array, block))


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:4])) + (" ..." if len(shapes) > 4 else "")


class Krylov:
    """A growing Krylov space; its arrays are updated in place, `snapshot` hands out copies.

    The first rows are those that a product was taken of. Those after them wait for theirs: the next
    vector, and where further chains were begun the ends of the earlier ones; `coupling` has a row
    for each of these.
    """

    def __init__(self, op: Operator, key: jax.Array, locked: Sequence[Vector] = ()):
        """`locked`: blocks of orthonormal rows that the whole space is kept orthogonal to."""
        self.op, self.key, self.locked = op, key, tuple(locked)
        self.blocks: list[Vector] = []
        self.rows = 0
        self.projection, self.coupling = np.zeros((0, 0)), np.zeros((0, 0))
        self.num_matvecs = 0
        self.scale = 0.0

    @classmethod
    def begin(
        cls, op: Operator, key: jax.Array, *, start: Any = None, locked: Sequence[Vector] = ()
    ) -> "Krylov":
        """From a start vector, or from a random direction."""
        krylov = cls(op, key, locked)
        if start is None:
            krylov.append_random()
            return krylov
        vector = op.space.vector(start, "the start vector")
        length = float(l2_norm(vector))
        if not np.isfinite(length) or not length:
            raise ValueError(f"the start vector has length {length}; it must be finite, not zero.")
        krylov.append(vector, 1 / length)
        return krylov

    @classmethod
    def resume(cls, op: Operator, key: jax.Array, state: LanczosState) -> "Krylov":
        """From a saved state, which is left as it is."""
        if not isinstance(state, LanczosState):
            raise ValueError(f"resume must be a LanczosState, not {state!r:.60}.")
        saved = [tuple(part.shape[1:]) for part in state.blocks[0]]
        if saved != op.space.chosen(op.space.shapes):
            raise ValueError(
                f"the saved state is for {sum(map(math.prod, saved))} parameters of shapes "
                f"{_listed(saved)}, the operator acts on {op.size} of shapes "
                f"{_listed(op.space.chosen(op.space.shapes))}: resume with the operator it was "
                "made with."
            )
        krylov = cls(op, key)
        krylov.blocks = [_copied(op.space.placed(block)) for block in state.blocks]
        krylov.projection = np.array(state.projection, np.float64)
        # The next vector is missing only where the whole space is spanned.
        waiting = op.size - len(krylov.projection)
        krylov.coupling = np.atleast_2d(np.array(state.coupling, np.float64))[:waiting]
        krylov.num_matvecs = int(state.num_matvecs)
        krylov.rows = krylov.steps + len(krylov.coupling)
        krylov.scale = float(np.abs(krylov.projection).sum(axis=1).max(initial=0))
        return krylov

    @property
    def steps(self) -> int:
        """Dimension of the space seen so far, m."""
        return len(self.projection)

    @property
    def complete(self) -> bool:
        """Whether the whole space is spanned by what products were taken of."""
        return self.steps + self._others >= self.op.size

    @property
    def _spanned(self) -> bool:
        """Whether no direction is left but those that wait for their product."""
        return self.rows + self._others >= self.op.size

    @property
    def _others(self) -> int:
        return sum(map(_num_rows, self.locked))

    @property
    def chain_start(self) -> int:
        """The first step of the latest chain: nothing couples it to the steps before."""
        linked = np.eye(self.steps + 1, dtype=bool)
        linked[:-1, :-1] |= self.projection != 0
        linked[-1, :-1] = self.coupling[:1].any(axis=0)
        lowest = np.minimum.accumulate(np.argmax(linked, axis=1)[::-1])[::-1]
        starts = np.flatnonzero(lowest == np.arange(len(lowest)))
        # A chain of which only the next vector is there has no steps yet.
        return int(starts[starts < max(self.steps, 1)][-1])

    def residuals(self, vectors: np.ndarray) -> np.ndarray:
        """``||A Q^T y - Q^T T y||`` of the columns y, at no cost."""
        return np.linalg.norm(self.coupling @ vectors, axis=0)

    def state(self) -> LanczosState:
        """The state as it is; later steps go on in its arrays."""
        coupling = self.coupling if len(self.coupling) > 1 else self.coupling.sum(axis=0)
        return LanczosState(tuple(self.blocks), self.projection, coupling.copy(), self.num_matvecs)

    def snapshot(self) -> LanczosState:
        """The state as it is now; later steps do not touch it."""
        full = self.steps // BLOCK
        blocks = (*self.blocks[:full], *map(_copied, self.blocks[full:]))
        return self.state()._replace(blocks=blocks)

    def row(self, index: int) -> Vector:
        """One vector of the basis."""
        return _get_row(self.blocks[index // BLOCK], np.int32(index % BLOCK))

    def next_vector(self) -> Vector:
        """The vector that the next product is taken of."""
        return self.row(self.steps)

    def drop_next(self) -> None:
        """Leaves the space alone, without the vector that would extend it."""
        if not self.complete:
            self.rows -= 1
            self._set(self.rows, self.next_vector(), 0.0)
            self.coupling = self.coupling[1:]

    def extend(self) -> bool:
        """One product more. False where the space turned out to be invariant: a chain ended.

        A new chain then starts from a random direction, so that further copies of multiple
        eigenvalues are found.
        """
        m = self.steps
        vector, coefficients = self.orthogonalize(self.op.apply(self.next_vector()))
        self.num_matvecs += 1
        beta = float(l2_norm(vector))
        grown = np.zeros((m + 1, m + 1))
        grown[:m, :m] = self.projection
        grown[m, :m] = grown[:m, m] = self.coupling[0]
        grown[m, m] = coefficients[m]
        self.projection = grown
        others = coefficients[m + 1 : self.rows, None]
        self.coupling = np.hstack([self.coupling[1:], others])
        reach = float(np.abs(grown[m]).sum()) + float(np.abs(others).sum())
        self.scale = max(self.scale, reach + beta)
        # What is left of the product is rounding: normalized, it would be a random direction
        # with a meaningless coupling.
        if beta <= 10 * np.finfo(self.op.dtype).eps * self.scale or self._spanned:
            self.append_random()
            return self.complete
        self.append(vector, 1 / beta, np.append(np.zeros(m), beta))
        self.take(-1)
        return True

    def restart(self, vectors: np.ndarray, projection: np.ndarray) -> None:
        """Keeps combinations of the basis (columns, ``[m, p]``) and what is next.

        `projection` is the operator seen in them. The thick restart of Wu and Simon (2000): no
        product is spent or lost where they are Ritz vectors.
        """
        following = [self.row(index) for index in range(self.steps, self.rows)]
        coupling = self.coupling @ vectors
        self.blocks, self.rows = self.combine(vectors), vectors.shape[1]
        self.projection, self.coupling = projection, coupling[:0]
        last = self.blocks[-1]
        missing = min(BLOCK, self.op.size - BLOCK * (len(self.blocks) - 1)) - _num_rows(last)
        self.blocks[-1] = _with_rows(last, missing)
        for vector, row in zip(following, coupling, strict=True):
            self.append(vector, 1.0, row)

    def combine(self, vectors: np.ndarray) -> list[Vector]:
        """Combinations of the basis: the columns of ``[m, p]`` as blocks of rows."""
        combined = []
        for start in range(0, vectors.shape[1], BLOCK):
            weights = vectors[:, start : start + BLOCK].T
            total = self.op.space.zeros(len(weights))
            for index, block in enumerate(self.blocks):
                part = np.zeros((len(weights), _num_rows(block)))
                own = weights[:, index * BLOCK : index * BLOCK + _num_rows(block)]
                part[:, : own.shape[1]] = own
                total = _combine(total, part.astype(self.op.dtype), block)
            combined.append(total)
        return combined

    def orthogonalize(self, vector: Vector) -> tuple[Vector, np.ndarray]:
        """Twice is enough (Giraud et al. 2005); returns the coefficients in the basis."""
        total = np.zeros(sum(map(_num_rows, self.blocks)))
        for _ in range(2):
            for block in self.locked:
                vector, _ = _project_out(block, vector)
            parts = []
            for block in self.blocks:
                vector, part = _project_out(block, vector)
                parts.append(part)
            if parts:
                total = total + np.concatenate([np.asarray(p, np.float64) for p in parts])
        return vector, total

    def append(self, vector: Vector, scale: float, coupling: np.ndarray | float = 0.0) -> None:
        """One more row of the basis, which waits for its product."""
        if self.rows % BLOCK == 0:
            rows = min(BLOCK, self.op.size - self.rows)
            self.blocks.append(self.op.space.zeros(rows))
        self._set(self.rows, vector, scale)
        self.rows += 1
        self.coupling = np.vstack([self.coupling, np.full((1, self.steps), coupling)])

    def append_random(self) -> None:
        """Starts a chain: a random direction orthogonal to the basis is next, if one is left."""
        if self._spanned:
            return
        vector = self.op.space.normal(jax.random.fold_in(self.key, self.rows))
        vector, _ = self.orthogonalize(vector)
        self.append(vector, 1 / float(l2_norm(vector)))
        self.take(-1)

    def take(self, index: int) -> None:
        """Makes one of the vectors that wait for their product the next."""
        here, there = self.steps, range(self.steps, self.rows)[index]
        if here != there:
            first, other = self.row(here), self.row(there)
            self._set(here, other, 1.0)
            self._set(there, first, 1.0)
            self.coupling[[0, index]] = self.coupling[[index, 0]]

    def _set(self, index: int, vector: Vector, scale: float) -> None:
        block, row = self.blocks[index // BLOCK], np.int32(index % BLOCK)
        self.blocks[index // BLOCK] = _set_row(block, row, vector, np.asarray(scale))


def lanczos(
    op: Operator,
    key: jax.Array,
    num_steps: int,
    *,
    start: Any = None,
    resume: LanczosState | None = None,
    progress: bool | Callable[[Progress], None] = True,
) -> LanczosState:
    """Runs Lanczos with full reorthogonalization (classical Gram-Schmidt, twice).

    Without reorthogonalization float32 Lanczos returns copies of the top eigenvalues; the second
    projection keeps the basis orthogonal to rounding. Scalars are kept in float64. Where the
    space closes early the run goes on from a random direction.

    Args:
        op: the operator.
        key: of the random start, and of new directions.
        num_steps: dimension of the space, hence products.
        start: a tree to start from, instead of a random direction.
        resume: a state to go on from; `num_steps` counts its steps too.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`, whose
            ``partial()`` is the state so far.

    Returns:
        A `LanczosState`.

    Raises:
        ValueError: `num_steps` below 1 or above the size, or a state of another operator.
        MemoryError: a basis larger than memory; the bytes are stated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import numpy as np
        >>> from gapjax import landscape
        >>> op = landscape.from_matvec(lambda v: jnp.array([1.0, 2.0, 4.0]) * v, jnp.zeros(3))
        >>> state = landscape.lanczos(op, jax.random.key(0), 3)
        >>> np.linalg.eigvalsh(state.projection).round(4).tolist()
        [1.0, 2.0, 4.0]
    """
    check_operator(op)
    positive_int("num_steps", num_steps)
    if num_steps > op.size:
        raise ValueError(
            f"num_steps is {num_steps}, and the operator acts on {op.size} parameters: "
            f"at most {op.size} steps."
        )
    needed = require_vectors(num_steps + 1, op.space, "take fewer num_steps")
    if resume is not None:
        krylov = Krylov.resume(op, key, resume)
    else:
        krylov = Krylov.begin(op, key, start=start)
    left = max(num_steps - krylov.steps, 0)
    with Tracker(
        progress, f"Lanczos (basis {readable_bytes(needed)})", left, krylov.snapshot
    ) as tracker:
        for _ in range(left):
            krylov.extend()
            tracker.step()
    return krylov.state()
