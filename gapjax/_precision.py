"""The precision in which numbers are added up."""

from typing import Any

import jax
import jax.numpy as jnp


def widen(x: Any) -> jax.Array:
    """In float32 or better: low precision and whole numbers do not add up."""
    x = jnp.asarray(x)
    narrow = not jnp.issubdtype(x.dtype, jnp.inexact) or x.dtype.itemsize < 4
    return x.astype(jnp.float32) if narrow else x
