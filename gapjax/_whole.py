"""Exact whole numbers beyond 32 bits in traced code, where JAX has no 64-bit integers."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

LARGEST = 2**31 - 1  # of an int32
_HALF = np.uint32(0xFFFF)


class Words(NamedTuple):
    """A whole number of 64 bits: ``high * 2**32 + low``, both uint32."""

    high: jax.Array
    low: jax.Array


def split(number: int) -> tuple[int, int]:
    """The two words of a Python number below 2^64."""
    return divmod(number, 2**32)


def multiply_add(a: jax.Array, b: jax.Array, c: Words) -> Words:
    """``a * b + c``, exactly, of two uint32."""
    low_a, high_a, low_b, high_b = a & _HALF, a >> 16, b & _HALF, b >> 16
    low, cross, across = low_a * low_b, low_a * high_b, high_a * low_b
    middle = (low >> 16) + (cross & _HALF) + (across & _HALF)
    high = high_a * high_b + (cross >> 16) + (across >> 16) + (middle >> 16)
    low = (middle << 16) | (low & _HALF)
    total = low + c.low
    return Words(high + c.high + (total < low).astype(jnp.uint32), total)


def as_int32(number: Words) -> jax.Array:
    """As an int32; what does not fit becomes the largest there is."""
    fits = (number.high == 0) & (number.low <= LARGEST)
    return jnp.where(fits, number.low, jnp.uint32(LARGEST)).astype(jnp.int32)


def as_float32(number: Words) -> jax.Array:
    """As a float32, to one part in 8 million."""
    high, low = (word.astype(jnp.float32) for word in number)
    return high * jnp.float32(2**32) + low


def floor_times(count: ArrayLike, numerator: int, denominator: int) -> ArrayLike:
    """``floor(count * numerator / denominator)``, exactly.

    Of a Python number, a Python number; of an array, an int32. What does not fit into an int32
    becomes the largest there is. The count and both whole numbers are below 2^31. By long division:
    the count is taken apart into digits that leave room for a product in 32 bits (all of it where
    the division is even).
    """
    if isinstance(count, int):
        return min(count * numerator // denominator, LARGEST)
    shared = math.gcd(numerator, denominator)
    whole, rest = divmod(numerator // shared, denominator // shared)
    over = denominator // shared
    count = jnp.maximum(jnp.asarray(count), 0).astype(jnp.uint32)
    quotient = remainder = jnp.zeros_like(count)
    bits = min(32 - over.bit_length(), 31)
    for shift in reversed(range(0, 31, bits) if rest else ()):
        digit = (count >> shift) & np.uint32(2**bits - 1)
        carried, new = remainder << bits, digit * np.uint32(rest)
        quotient = (quotient << bits) + carried // np.uint32(over) + new // np.uint32(over)
        remainder = carried % np.uint32(over) + new % np.uint32(over)
        again = (remainder >= over).astype(jnp.uint32)
        quotient, remainder = quotient + again, remainder - again * np.uint32(over)
    fits = count <= LARGEST // max(whole, 1)
    product = jnp.where(fits, count * np.uint32(min(whole, LARGEST)), jnp.uint32(LARGEST))
    return jnp.minimum(product + quotient, jnp.uint32(LARGEST)).astype(jnp.int32)
