import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax.diffusion import track_diffusion
from gapjax.diffusion._cond import cond_any


def doubled_if(predicate, x, y):
    """x doubled plus y where the predicate holds, else x."""
    return cond_any(predicate, lambda x, y: x + x + y, lambda x, y: x, x, y)


def test_one_member():
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(doubled_if(jnp.array(True), x, x), 3 * x)
    np.testing.assert_array_equal(jax.jit(doubled_if)(jnp.array(False), x, x), x)


@pytest.mark.parametrize("holds", [[False] * 3, [True] * 3, [True, False, True]])
def test_members_get_what_they_ask_for(holds):
    predicates, x, y = jnp.array(holds), jnp.arange(6.0).reshape(3, 2), jnp.ones(2)
    result = jax.jit(jax.vmap(doubled_if, in_axes=(0, 0, None)))(predicates, x, y)
    expected = np.where(np.array(holds)[:, None], 2 * np.asarray(x) + 1, x)
    np.testing.assert_array_equal(result, expected)
    # The same once more within.
    twice = jax.vmap(jax.vmap(doubled_if, in_axes=(0, 0, None)), in_axes=(None, 0, None))
    np.testing.assert_array_equal(twice(predicates, jnp.stack([x, x]), y), [expected] * 2)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_population_still_skips_the_branch(depth):
    tx = track_diffusion()
    params, init, update = jnp.ones((2,) * depth + (3,)), tx.init, tx.update
    for _ in range(depth):
        init, update = jax.vmap(init), jax.vmap(update)
    text = jax.jit(update).lower(params, init(params), params).compile().as_text()
    assert "conditional(" in text
    outside = text.split("ENTRY")[1]
    assert " sqrt(" not in outside, "the norm is computed whether or not it is recorded"


def test_parameters_are_not_copied_at_every_update():
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), track_diffusion())
    params = jnp.ones((64, 65))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=9)[0], donate_argnums=0)
    text = run.lower((params, tx.init(params))).compile().as_text()
    body = text.split("ENTRY")[0]
    assert "conditional(" in body
    assert not re.search(r"f32\[64,65\]\S* copy\(", body)
