"""Exact whole numbers in 32-bit words, against Python's."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gapjax import _whole

BELOW = st.integers(0, 2**31 - 1) | st.integers(0, 300)
FROM_ONE = st.integers(1, 2**31 - 1) | st.integers(1, 300)


@settings(max_examples=300, deadline=None)
@given(BELOW, FROM_ONE, FROM_ONE)
@example(65535, 65537, 65536)
@example(2**31 - 1, 2**31 - 1, 2**31 - 2)
@example(2**31 - 1, 2**31 - 2, 2**31 - 1)
@example(2**31 - 1, 2**31 - 1, 1)
@example(0, 1, 2**31 - 1)
def test_floor_times(count, numerator, denominator):
    exact = min(count * numerator // denominator, 2**31 - 1)
    assert _whole.floor_times(count, numerator, denominator) == exact
    found = _whole.floor_times(jnp.int32(count), numerator, denominator)
    assert found.dtype == jnp.int32
    assert int(found) == exact


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**62))
def test_multiply_add(a, b, c):
    words = _whole.Words(*(jnp.uint32(word) for word in _whole.split(c)))
    found = _whole.multiply_add(jnp.uint32(a), jnp.uint32(b), words)
    assert int(found.high) * 2**32 + int(found.low) == a * b + c
    assert int(_whole.as_int32(found)) == min(a * b + c, 2**31 - 1)
    np.testing.assert_allclose(float(_whole.as_float32(found)), a * b + c, rtol=2**-23)


def test_it_is_traced_and_mapped():
    counts = np.array([0, 1, 65535, 2**31 - 1])
    expected = [count * 65537 // 65536 for count in counts[:3].tolist()]
    found = jax.jit(jax.vmap(lambda count: _whole.floor_times(count, 65537, 65536)))(
        counts.astype(np.int32)
    )
    assert found.tolist() == [*expected, 2**31 - 1]
