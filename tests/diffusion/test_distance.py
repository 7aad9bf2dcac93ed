import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.diffusion import diffusion_record, distance, log_spaced, track_diffusion


def test_distance_is_that_of_the_flat_vectors(getkey):
    start = {"w": jax.random.normal(getkey(), (4, 3)), "b": (jnp.zeros(2), jnp.ones(()))}
    params = jax.tree.map(lambda x: x + jax.random.normal(getkey(), x.shape), start)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (params, start)]
    expected = np.linalg.norm(flat[0].astype(np.float64) - flat[1])
    np.testing.assert_allclose(jax.jit(distance)(params, start), expected, rtol=1e-6)
    population = jax.vmap(distance, in_axes=(0, None))(
        jax.tree.map(lambda x: jnp.stack([x, x]), params), start
    )
    np.testing.assert_allclose(population, [expected] * 2, rtol=1e-6)


def test_small_moves_of_bfloat16_are_not_rounded_away():
    start = jnp.ones(4096, jnp.bfloat16)
    moved = distance(start - jnp.bfloat16(2**-8), start)
    assert moved.dtype == jnp.float32
    assert float(moved) == 2**-8 * 64


def test_it_is_what_the_tracker_records():
    tx = track_diffusion()
    params = {"w": jnp.arange(3.0)}
    state = tx.init(params)
    for count in range(3):
        now = jax.tree.map(lambda x, count=count: x + float(count), params)
        _, state = tx.update(params, state, now)
    record = diffusion_record(state)
    expected = [distance({"w": params["w"] + float(step)}, params) for step in record.step]
    np.testing.assert_array_equal(record.distance, expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**6), st.floats(1, 100))
def test_log_spaced_runs_from_one_to_the_last(last, per_decade):
    marks = log_spaced(last, per_decade=per_decade)
    assert marks[0] == 1 and marks[-1] == last
    assert marks == sorted(set(marks))
    assert all(isinstance(mark, int) for mark in marks)
    # as dense as it was asked for, wherever whole numbers are
    ratio = 10 ** (1 / per_decade)
    assert all(b <= max(a + 1, a * ratio * (1 + 1 / a)) for a, b in itertools.pairwise(marks))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_spaced(0), "last must be a whole number of at least 1, not 0"),
        (lambda: log_spaced(10.0), "last must be"),
        (lambda: log_spaced(10, per_decade=0), "per_decade must be a finite number above 0"),
        (lambda: distance(jnp.ones(3), jnp.ones((2, 3))), r"same shapes, not \(3,\) and \(2, 3\)"),
        (lambda: distance({"a": 1.0}, {"b": 1.0}), "one structure"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
