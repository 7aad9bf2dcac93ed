"""Programs that run once: compiled with little effort, and right."""

import jax
import numpy as np
import pytest

from gapjax import training


def test_the_bits_are_those_of_jit() -> None:
    def start(seed: jax.Array) -> jax.Array:
        return jax.random.truncated_normal(jax.random.key(seed), -2, 2, (64, 32))

    once, often = training.jit_once(jax.vmap(start)), jax.jit(jax.vmap(start))
    seeds = np.arange(3, dtype=np.uint32)
    np.testing.assert_array_equal(once(seeds), often(seeds))


def test_options_of_jit_are_handed_on() -> None:
    assert training.jit_once(lambda x, n: x * n, static_argnums=1)(2, 3) == 6
    with pytest.raises(Exception, match="no_such_option"):
        training.jit_once(lambda x: x, compiler_options={"no_such_option": 1})(2)
