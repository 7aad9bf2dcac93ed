"""Two sums in one pass: against float64, under every transformation, and in the program."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gapjax.ghost import ghost_moments, normalize
from gapjax.ghost._sums import rows_per_part, spread, sums
from gapjax.ghost.linen import GhostBatchNorm

SHAPES = {  # and the axes to sum over: leading, one of them alone, all but the middle, the last
    (64, 3): (0,),
    (16, 4, 3): (0, 1),
    (2, 16, 4, 3): (1, 2),
    (8, 3, 4, 5): (0, 2, 3),
    (3, 40): (1,),
}


def _pair(shape, seed=0):
    return [jax.random.normal(key, shape) + 1 for key in jax.random.split(jax.random.key(seed))]


def test_rows_that_are_added_in_one_go():
    assert [rows_per_part(n) for n in (32, 100, 27, 49 * 32, 37, 1)] == [16, 10, 9, 16, 0, 0]


@hypothesis.settings(deadline=None, derandomize=True, max_examples=20)
@hypothesis.given(
    shape=st.sampled_from(list(SHAPES)),
    compiled=st.booleans(),
    batched=st.sampled_from([None, (0, 0), (1, 0), (0, None), (None, -1)]),
    seed=st.integers(0, 2**30),
)
def test_both_ways_are_sums_and_broadcasts(shape, compiled, batched, seed):
    axes = SHAPES[shape]
    left = tuple(n for i, n in enumerate(shape) if i not in axes)
    part = rows_per_part(int(np.prod([shape[i] for i in axes])))
    assert part
    down = functools.partial(sums, axes=axes, part=part)
    up = functools.partial(spread, shape=shape, axes=axes, part=part)
    expected_up = lambda a: np.broadcast_to(np.expand_dims(a, axes), shape)  # noqa: E731
    expected_down = lambda a: np.asarray(a, np.float64).sum(axes)  # noqa: E731
    for function, expected, given_shape in (
        (down, expected_down, shape),
        (up, expected_up, left),
    ):
        pair = _pair(given_shape, seed)
        if batched is not None:
            many = [
                a if i is None else jnp.stack([a, 2 * a, -a], i)
                for a, i in zip(pair, batched, strict=True)
            ]
            function = jax.vmap(function, batched)
            pair = [
                np.stack([a, a if i is None else 2 * a]) for a, i in zip(pair, batched, strict=True)
            ]
            expect = [np.stack([expected(one) for one in a]) for a in pair]
            found = [a[:2] for a in (jax.jit(function) if compiled else function)(*many)]
        else:
            expect = list(map(expected, pair))
            found = (jax.jit(function) if compiled else function)(*pair)
        for a, b in zip(found, expect, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_is_the_transpose_of_the_other(shape):
    axes = SHAPES[shape]
    part = rows_per_part(int(np.prod([shape[i] for i in axes])))
    down = functools.partial(sums, axes=axes, part=part)
    pair = _pair(shape)
    total, back = jax.vjp(down, *pair)
    cotangents = _pair(total[0].shape, 1)
    for found, expected in (
        (back(cotangents), spread(*cotangents, shape=shape, axes=axes, part=part)),
        (
            jax.vjp(lambda *p: spread(*p, shape=shape, axes=axes, part=part), *cotangents)[1](pair),
            total,
        ),
    ):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    # One of the two, alone.
    (alone,) = jax.vjp(lambda a: down(a, pair[1])[0], pair[0])[1](cotangents[0])
    np.testing.assert_allclose(alone, spread(*cotangents, shape, axes, part)[0], rtol=1e-6)


@pytest.mark.parametrize("ghost_size", [None, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_of_both_orders_in_both_modes(ghost_size, masked):
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (16, 2, 3), jnp.float64)
        mask = jax.random.bernoulli(jax.random.key(1), 0.7, (16, 1, 1)) if masked else None
        shift = jnp.full(3, 0.1)

        def layer(x, scale):
            mean, var, _ = ghost_moments(x, ghost_size, mask=mask, shift=shift)
            return jnp.sin(normalize(x, mean, var, ghost_size, scale=scale, shift=shift))

        check_grads(layer, (x, jnp.array([1.0, 2.0, 0.5])), order=2, modes=("fwd", "rev"))


@pytest.mark.parametrize("shape", [(2048, 64), (128, 8, 8, 16)])
@pytest.mark.parametrize("ghost_size", [None, 32])
def test_a_layer_moves_little_more_than_it_must(shape, ghost_size):
    """Forward x twice and y, backward x and cotangent twice and the gradient: 8 times the input.

    And the sums of parts. As two sums each it is 12 to 14 times on CPU, for Flax's batch norm 15.
    """
    layer = GhostBatchNorm(ghost_size=ghost_size)
    x = jax.random.normal(jax.random.key(0), shape)
    variables = layer.init(jax.random.key(0), x[:2], False)

    def step(variables, x, cotangent):
        y, back, updates = jax.vjp(
            lambda v, x: layer.apply(v, x, False, mutable=["batch_stats"]),
            variables,
            x,
            has_aux=True,
        )
        return y, back(cotangent), updates

    cost = jax.jit(step).lower(variables, x, x).compile().cost_analysis()
    assert 8 <= cost["bytes accessed"] / x.nbytes < 10
