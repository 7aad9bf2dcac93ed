"""The turns of a loop that the compiler does not count."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from gapjax.study._population._flops import of_later_turns
from tests.study.population.test_programs import _flops


def _counted(function, *arguments):
    """By the compiler, and with the later turns of its loops."""
    traced = jax.jit(function).trace(*arguments)
    compiled = traced.lower().compile().cost_analysis()["flops"]
    return compiled, compiled + of_later_turns(traced.jaxpr.jaxpr)


def _conv_loss(kernel, x):
    y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID")
    return jnp.sum(jnp.square(y))


def _dense_loss(kernel, x):
    return jnp.sum(jnp.square(x @ kernel))


@pytest.mark.parametrize(
    ("loss", "kernel", "x"),
    [(_dense_loss, (64, 32), (6, 16, 64)), (_conv_loss, (16, 16, 3, 3), (6, 4, 16, 9, 9))],
)
@pytest.mark.parametrize(
    "differentiate", [lambda f: f, jax.grad, functools.partial(jax.grad, argnums=1)]
)
def test_a_loop_costs_what_its_turns_do(loss, kernel, x, differentiate):
    function = differentiate(loss)
    arguments = jnp.ones(kernel), jnp.ones(x)
    alone, one = _counted(function, arguments[0], arguments[1][0])
    assert alone == one
    by_xla, looped = _counted(lambda k, xs: jax.lax.map(lambda x: function(k, x), xs), *arguments)
    assert by_xla < 2 * one and looped == pytest.approx(6 * one, rel=0.15)


def test_loops_within_loops_multiply():
    def nested(k, xs):
        return jax.lax.map(lambda x: jax.lax.map(lambda row: row @ k, x[:, None]), xs)

    _, looped = _counted(nested, jnp.ones((64, 32)), jnp.ones((3, 4, 64)))
    assert looped == pytest.approx(2 * 12 * 64 * 32, rel=0.02)


def test_a_number_of_turns_that_is_not_known_leaves_one():
    def until(n, k):
        return jax.lax.fori_loop(0, n, lambda i, x: x @ k, k)

    by_xla, looped = _counted(until, 7, jnp.ones((16, 16)))
    assert looped == by_xla


class _Wide(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(nn.relu(nn.Dense(256)(nn.relu(nn.Dense(256)(x)))))


@pytest.mark.parametrize("seeds", [1, 8])
@pytest.mark.parametrize("remedy", ["SAM", "PENALTY"])
def test_two_gradients_in_groups_cost_twice_as_much(remedy, seeds):
    plain, twice = (
        _flops(regime, [1], seeds, model=_Wide())[0] for regime in ("LB", f"LB+{remedy}")
    )
    assert twice == pytest.approx(2 * plain, rel=0.15)
