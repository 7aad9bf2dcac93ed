"""What every network here can be told: how many outputs, which norm, which type."""

from typing import Any

import jax
import jax.numpy as jnp

from gapjax import _checks
from gapjax.models._norm import check_norm


def check_settings(num_outputs: Any, norm: Any, dtype: Any, kind: str) -> None:
    """Refuse settings that cannot be, before anything is computed.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm.
        dtype: the type of the computation, or None.
        kind: ``"linen"`` or ``"nnx"``, of the network.

    Raises:
        ValueError: one of them does not fit.
    """
    _checks.positive_int("num_outputs", num_outputs)
    check_norm(norm, kind)
    check_dtype(dtype)


def check_dtype(dtype: Any) -> None:
    """Refuse what is no type of real numbers.

    Raises:
        ValueError: it is none.
    """
    try:
        real = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        real = False
    if not real:
        raise ValueError(
            f"dtype must be a type of real numbers, such as jnp.bfloat16, or None, not {dtype!r}."
        )


def in_dtype(x: jax.Array, dtype: Any) -> jax.Array:
    """Activations in the type of the computation, which a norm may have widened."""
    return x if dtype is None else x.astype(dtype)
