"""A random subspace whose basis is never stored: made from its key again at each use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Entries of the basis that exist at a time.
CHUNK = 2**22


class Columns:
    """A matrix A of independent standard normal entries, ``[size, dim]``, a band of rows at a time.

    With `normalize` every column is divided by its length (about sqrt(size) otherwise).
    """

    def __init__(self, key: jax.Array, size: int, dim: int, dtype: str, normalize: bool):
        """`dtype` is of the entries."""
        self.key, self.size, self.dim, self.dtype = key, size, dim, dtype
        self.rows = min(max(CHUNK // dim, 1), size)
        self.bands = -(-size // self.rows)
        self.scale = np.ones(dim)
        self.gram = np.zeros((dim, dim))
        for index in range(self.bands):
            self.gram += np.asarray(self._apply(_gram, index), np.float64)
        if normalize:
            self.scale = 1 / np.sqrt(np.diagonal(self.gram))
            self.gram = self.gram * self.scale * self.scale[:, None]

    def _apply(self, function, index: int, *args: jax.Array) -> jax.Array:
        """One band at work; the last is cut to the rows that exist."""
        rows = min(self.rows, self.size - index * self.rows)
        key = jax.random.fold_in(self.key, index)
        return function(key, rows, self.dim, self.dtype, *args)

    def expand(self, y: np.ndarray) -> jax.Array:
        """``A y``, ``[size]``."""
        weights = jnp.asarray(y * self.scale, self.dtype)
        return jnp.concatenate([self._apply(_expand, i, weights) for i in range(self.bands)])

    def reduce(self, vector: jax.Array) -> np.ndarray:
        """``A^T vector``, ``[dim]`` float64."""
        total = np.zeros(self.dim)
        for index in range(self.bands):
            band = vector[index * self.rows : (index + 1) * self.rows]
            total += np.asarray(self._apply(_reduce, index, band), np.float64)
        return total * self.scale

    def coordinates(self, vector: jax.Array) -> np.ndarray:
        """``A^+ vector``, ``[dim]``: the least-squares coordinates of a vector."""
        return np.linalg.solve(self.gram, self.reduce(vector))


def _band(key: jax.Array, rows: int, dim: int, dtype: str) -> jax.Array:
    return jax.random.normal(key, (rows, dim), dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _gram(key: jax.Array, rows: int, dim: int, dtype: str) -> jax.Array:
    band = _band(key, rows, dim, dtype)
    return jnp.dot(band.T, band, precision="highest")


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _expand(key: jax.Array, rows: int, dim: int, dtype: str, weights: jax.Array) -> jax.Array:
    return jnp.dot(_band(key, rows, dim, dtype), weights, precision="highest")


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _reduce(key: jax.Array, rows: int, dim: int, dtype: str, vector: jax.Array) -> jax.Array:
    return jnp.dot(vector, _band(key, rows, dim, dtype), precision="highest")
