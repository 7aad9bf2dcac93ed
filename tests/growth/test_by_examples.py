import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gapjax.growth import (
    StepwiseBatch,
    by_examples,
    constant_batch,
    decay_of_half_life,
    parse_batch_schedule,
    piecewise_batch,
    ramp_from_megatron,
)


@pytest.fixture(autouse=True)
def _standard():
    with jax.numpy_dtype_promotion("standard"):  # optax's own schedules mix types
        yield


RAMP = piecewise_batch(8, {20: 16, 50: 100})


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 2**24), min_size=1, max_size=4),
    st.integers(0, 2**31 - 1) | st.integers(0, 1000),
    st.integers(-1, 1),
)
@example([1], 2**31 - 1, 0)
def test_the_examples_seen_are_exact_up_to_int32(sizes, update, shift):
    ramp = StepwiseBatch(tuple(range(3, 3 * len(sizes), 3)), tuple(sorted(sizes)))
    seen = ramp.examples_before(update)
    threshold = min(max(seen + shift, 0), 2**31 - 1)
    reached = by_examples(lambda n: jnp.where(n >= threshold, 1.0, 0.0), ramp)
    assert float(reached(update)) == (seen >= threshold)
    assert float(reached(jnp.int32(update))) == (seen >= threshold)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.integers(0, 2**31 - 1),
)
def test_beyond_int32_they_are_rounded_once(boundary, size, other, update):
    ramp = StepwiseBatch((boundary,), (size, other))
    seen = by_examples(lambda n: jnp.asarray(n, jnp.float32), ramp)
    exact = ramp.examples_before(update)
    np.testing.assert_allclose(float(seen(jnp.int32(update))), exact, rtol=2**-22)
    np.testing.assert_allclose(float(seen(update)), exact, rtol=2**-22)


def test_two_ramps_follow_one_schedule():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 1000, 10_000)
    ramps = [RAMP, constant_batch(4), parse_batch_schedule("0:16 800:64 4K:128")]
    values: dict[int, set[float]] = {}
    for ramp in ramps:
        updates = ramp.update_at(10_000) + 2
        rates = jax.jit(jax.vmap(by_examples(schedule, ramp)))(jnp.arange(3000))
        for update, rate in enumerate(rates[:updates].tolist()):
            values.setdefault(ramp.examples_before(update), set()).add(rate)
    assert all(len(found) == 1 for found in values.values())
    expected = jax.jit(jax.vmap(schedule))(jnp.array(list(values)))
    np.testing.assert_allclose([rate for (rate,) in values.values()], expected, rtol=1e-6)


def test_warm_up_and_decay_end_where_they_were_meant_to_under_a_ramp():
    # 100 iterations of a final batch of 16 after 20 of 8: 1,440 examples, not 1,600.
    ramp = ramp_from_megatron(8, 8, 160, batch_size=16)
    seen = ramp.examples_before(100)
    assert seen == 1440
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, ramp.examples_before(10), seen)
    rate = by_examples(schedule, ramp)
    assert float(rate(10)) == 1.0  # the warm-up was 10 iterations
    assert float(rate(9)) == pytest.approx(0.9)
    assert float(rate(100)) == pytest.approx(0.0, abs=1e-7)
    assert float(rate(99)) > 0
    # stated in iterations of the last batch, it is late: warm-up 20 iterations, decay unfinished
    late = by_examples(optax.warmup_cosine_decay_schedule(0.0, 1.0, 10 * 16, 100 * 16), ramp)
    assert float(late(20)) == 1.0
    assert float(late(100)) > 0.02


@pytest.mark.parametrize(("rule", "power"), [("sqrt", 0.5), ("linear", 1.0), ("none", 0.0)])
def test_the_rate_follows_the_batch_in_force(rule, power):
    schedule = optax.linear_schedule(0.1, 0.0, 5000)
    rate = by_examples(schedule, RAMP, rule=rule, base_batch_size=8)
    traced = jax.jit(jax.vmap(rate))(jnp.arange(60))
    with jax.numpy_rank_promotion("raise"):  # several updates at once, as for a figure
        np.testing.assert_allclose(rate(jnp.arange(60)), traced, rtol=1e-6)
    for update in (0, 19, 20, 49, 50, 59):
        expected = float(schedule(RAMP.examples_before(update))) * (RAMP(update) / 8) ** power
        assert float(rate(update)) == pytest.approx(expected, rel=1e-6)
        assert float(traced[update]) == pytest.approx(expected, rel=1e-6)


def test_it_runs_in_an_optimizer_under_scan():
    rate = by_examples(optax.constant_schedule(0.5), RAMP, rule="linear", base_batch_size=8)
    tx = optax.sgd(rate)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jnp.ones(()), state)
        return (params + updates, state), updates

    _, updates = jax.lax.scan(step, (jnp.zeros(()), tx.init(jnp.zeros(()))), None, 60)
    np.testing.assert_allclose(updates, [-0.5 * RAMP(update) / 8 for update in range(60)])


def test_budgets_of_tokens_are_written_as_floats():
    ramp = parse_batch_schedule("0:3072 1B:15360")
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, 1e9, 1e11)
    rate = by_examples(schedule, ramp)
    update = ramp.update_at(50_500_000_000)
    assert float(jax.jit(rate)(update)) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(ValueError, match="write them as floats: 250e9"):
        by_examples(optax.linear_schedule(0.0, 1.0, 10**10), ramp)


@settings(max_examples=30)
@given(st.floats(10, 1e6), st.integers(1, 500), st.integers(1, 6))
def test_a_half_life_is_in_examples_whatever_the_batch(half_life, size, times):
    decay = decay_of_half_life(half_life, size)
    assert decay ** (half_life / size) == pytest.approx(0.5)
    # b2 ** kappa
    assert decay_of_half_life(half_life, size * times) == pytest.approx(decay**times)


def test_a_half_life_under_a_ramp():
    decay = decay_of_half_life(1000.0, RAMP)
    kept = np.prod([float(decay(update)) for update in range(60)])
    assert kept == pytest.approx(0.5 ** (RAMP.examples_before(60) / 1000), rel=1e-5)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(decay))(jnp.arange(60)), [decay(update) for update in range(60)]
    )
    traced = jax.jit(lambda size: decay_of_half_life(1000.0, size))(jnp.int32(16))
    assert float(traced) == pytest.approx(0.5 ** (16 / 1000))
    # an average with it weighs examples alike before and after a growth
    weights = [
        np.prod([float(decay(later)) for later in range(update + 1, 60)]) for update in range(60)
    ]
    ages = [RAMP.examples_before(60) - RAMP.examples_before(update + 1) for update in range(60)]
    np.testing.assert_allclose(weights, 0.5 ** (np.array(ages) / 1000), rtol=1e-4)
    assert all(b >= a for a, b in itertools.pairwise(weights))


SCHEDULE = optax.constant_schedule(0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: by_examples(0.1, RAMP), r"constant_schedule\(0.1\)"),
        (lambda: by_examples(SCHEDULE, 128), "must be a StepwiseBatch, not 128"),
        (lambda: by_examples(SCHEDULE, lambda update: 8), "known ahead"),
        (lambda: by_examples(SCHEDULE, RAMP, rule="sqrt"), "base_batch_size="),
        (lambda: by_examples(SCHEDULE, RAMP, rule="squrt"), "Did you mean 'sqrt'"),
        (lambda: by_examples(SCHEDULE, RAMP, rule="sqrt", base_batch_size=0), "base_batch_size"),
        (lambda: decay_of_half_life(0, 8), "half_life must be"),
        (lambda: decay_of_half_life(10, 0), "batch_size must be"),
        (lambda: decay_of_half_life("10", 8), "half_life must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_numbers_count_as_pythons_do():
    rate = by_examples(optax.linear_schedule(0.0, 1.0, 1e10), constant_batch(1))
    for update in (2**31, 3_000_000_000):
        assert float(rate(np.int64(update))) == float(rate(update)) > 0.2
    with pytest.raises(ValueError, match="8589934592 is more than"):
        by_examples(optax.constant_schedule(1.0), constant_batch(2**33))
