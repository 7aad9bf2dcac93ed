import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gapjax.diffusion import (
    adapt_regime,
    boost_early,
    scale_learning_rate,
)

STEPPED = optax.piecewise_constant_schedule(0.1, {31_000: 0.1, 47_000: 0.1})


@pytest.mark.parametrize(("rule", "expected"), [("sqrt", 0.4), ("linear", 1.6), ("none", 0.1)])
def test_rate_by_hand(rule, expected):
    sizes = {"batch_size": 2048, "base_batch_size": 128, "rule": rule}
    assert scale_learning_rate(0.1, **sizes) == pytest.approx(expected)
    assert float(scale_learning_rate(STEPPED, **sizes)(0)) == pytest.approx(expected)
    rates = scale_learning_rate(jnp.array([0.1, 0.2]), **sizes)  # rates as a vmapped axis
    np.testing.assert_allclose(rates, [expected, 2 * expected], rtol=1e-6)
    rate = jnp.asarray(0.1)
    for around in (lambda make: make, jax.jit):
        found = around(lambda: scale_learning_rate(rate, **sizes))()
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert scale_learning_rate(rate.astype("bfloat16"), **sizes).dtype == jnp.bfloat16


def test_regime_adaptation_keeps_updates():
    adapted = adapt_regime(STEPPED, batch_size=4096, base_batch_size=128)
    for step in (0, 30_999, 31_000, 31_001, 47_000, 47_001, 90_000):
        assert float(adapted(step)) == pytest.approx(float(STEPPED(step)) * 32**0.5, rel=1e-6)


def test_keeping_epochs_moves_boundaries():
    adapted = adapt_regime(
        STEPPED, batch_size=4096, base_batch_size=128, rule="linear", keep="epochs"
    )
    # 31000 / 32 = 968.75 and 47000 / 32 = 1468.75.
    assert float(adapted(968)) == pytest.approx(3.2)
    assert float(adapted(969)) == pytest.approx(0.32)
    assert float(adapted(1468)) == pytest.approx(0.32)
    assert float(adapted(1469)) == pytest.approx(0.032)


SIZES = st.integers(1, 2000) | st.integers(1, 2**31 - 1)


@given(step=st.integers(0, 2**31 - 1), batch_size=SIZES, base_batch_size=SIZES)
@example(step=65_535, batch_size=65_537, base_batch_size=65_536)
@settings(max_examples=50, deadline=None)
def test_kept_epochs_are_exact_in_whole_numbers(step, batch_size, base_batch_size):
    asked = []  # a rate would be rounded to float32; the step that it is asked for is not
    adapted = adapt_regime(
        lambda step: asked.append(int(step)) or 0.1,
        batch_size=batch_size,
        base_batch_size=base_batch_size,
        rule="none",
        keep="epochs",
    )
    adapted(step)
    adapted(jnp.int32(step))
    assert asked == [min(step * batch_size // base_batch_size, 2**31 - 1)] * 2


def test_schedules_work_under_jit_and_in_optax():
    adapted = boost_early(
        adapt_regime(STEPPED, batch_size=256, base_batch_size=128, keep="epochs"),
        factor=3.0,
        hold=10,
        decay=0,
    )
    steps = jnp.array([0, 9, 10, 15_499, 15_500])
    expected = np.array([0.3, 0.3, 0.1, 0.1, 0.01]) * 2**0.5
    with jax.numpy_dtype_promotion("standard"):  # optax's own schedules mix dtypes
        rates = jax.jit(jax.vmap(adapted))(steps)
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    tx = optax.sgd(adapted)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(tx.update)(jnp.ones(2), tx.init(jnp.ones(2)))
    np.testing.assert_allclose(updates, -0.3 * 2**0.5, rtol=1e-6)


def test_boost_by_hand():
    boosted = boost_early(optax.constant_schedule(0.1), factor=4.0, hold=100, decay=100)
    for step, expected in [(0, 0.4), (100, 0.4), (150, 0.2), (175, 0.1 * 2**0.5), (200, 0.1)]:
        assert float(boosted(step)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale_learning_rate(0.1, batch_size=0, base_batch_size=1), "batch_size must be"),
        (lambda: scale_learning_rate(0.1, batch_size=1, base_batch_size=2.5), "base_batch_size"),
        (
            lambda: scale_learning_rate(0.1, batch_size=1, base_batch_size=1, rule="squrt"),
            "Did you mean 'sqrt'",
        ),
        (
            lambda: scale_learning_rate("0.1", batch_size=1, base_batch_size=1),
            "a number or a schedule",
        ),
        *(
            (lambda lr=lr: scale_learning_rate(lr, batch_size=1, base_batch_size=1), message)
            for lr, message in [
                (-1.0, "lr must be a finite number of at least 0, not -1.0"),
                (np.array(-1.0), "finite number of at least 0"),
                (jnp.array(jnp.nan), "finite number of at least 0"),
                (10**400, "finite number of at least 0"),
                (np.array([0.1, np.inf]), "finite number of at least 0, not inf"),
                (np.array("0.1"), "a number or a schedule"),
                (np.bool_(True), "a number or a schedule"),
            ]
        ),
        (lambda: adapt_regime(0.1, batch_size=1, base_batch_size=1), r"constant_schedule\(0.1\)"),
        (
            lambda: adapt_regime(STEPPED, batch_size=1, base_batch_size=1, keep="epoch"),
            "Did you mean 'epochs'",
        ),
        (lambda: boost_early(0.1, factor=2.0, hold=1, decay=1), "must be a function"),
        (lambda: boost_early(STEPPED, factor=0.0, hold=1, decay=1), "factor must be"),
        (lambda: boost_early(STEPPED, factor=2.0, hold=-1, decay=1), "hold must be"),
        (lambda: boost_early(STEPPED, factor=2.0, hold=1, decay=0.5), "decay must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
