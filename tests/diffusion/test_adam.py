import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.diffusion import scale_adam, scale_adamw


def test_adam_by_hand():
    scaled = scale_adam(1e-3, 0.9, 0.999, 1e-8, batch_size=1024, base_batch_size=256)
    assert scaled == pytest.approx({"learning_rate": 2e-3, "b1": 0.6, "b2": 0.996, "eps": 5e-9})
    optax.adam(**scaled).init(jnp.ones(3))


def test_sizes_of_numpy_leave_the_state_in_its_types():
    scaled = scale_adam(1e-3, batch_size=np.int64(512), base_batch_size=np.int64(256))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        tx, params = optax.adam(**scaled), jnp.ones(3, jnp.float32)
        state = tx.init(params)
        updates, after = tx.update(params, state, params)
        assert updates.dtype == jnp.float32
        assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)


def test_adam_reaches_exactly_as_far_as_it_says():
    assert scale_adam(1e-3, batch_size=2560, base_batch_size=256)["b1"] == pytest.approx(0)
    with pytest.raises(ValueError, match=r"b1=0.9 at batch 256 would become .* reaches batch 2560"):
        scale_adam(1e-3, batch_size=2561, base_batch_size=256)


BASE = {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "base_batch_size": 256}


def test_adamw_by_hand():
    scaled = scale_adamw(1e-3, **BASE, batch_size=1024)
    assert scaled == pytest.approx(
        {"learning_rate": 2e-3, "b1": 0.9, "b2": 0.99**4, "eps": 5e-9, "weight_decay": 0.2}
    )
    stochastic = scale_adamw(1e-3, **BASE, batch_size=1024, rule="sde")
    assert stochastic == pytest.approx(
        {"learning_rate": 2e-3, "b1": 0.6, "b2": 0.96, "eps": 5e-9, "weight_decay": 0.2}
    )
    for arguments in (scaled, stochastic):
        optax.adamw(**arguments).init(jnp.ones(3))


@settings(max_examples=40)
@given(st.integers(1, 4096), st.integers(1, 4096))
def test_the_half_life_and_the_timescale_are_kept_in_examples(size, base):
    scaled = scale_adamw(
        1e-3,
        b2=0.999,
        weight_decay=0.1,
        batch_size=size,
        base_batch_size=base,
        b2_range=(0, 1 - 1e-9),
    )
    assert np.log(scaled["b2"]) / size == pytest.approx(np.log(0.999) / base)
    timescale = size / (scaled["learning_rate"] * scaled["weight_decay"])
    assert timescale == pytest.approx(base / (1e-3 * 0.1))


@pytest.mark.parametrize("rule", ["half_life", "sde"])
@pytest.mark.parametrize("size", [16, 64, 256, 1024])
def test_without_a_gradient_an_epoch_shrinks_the_weights_alike(rule, size):
    lr, decay, examples = 1e-2, 0.1, 2**17
    scaled = scale_adamw(
        lr,
        weight_decay=decay,
        batch_size=size,
        base_batch_size=256,
        rule=rule,
        b2_range=(0.5, 1 - 1e-6),
    )
    tx = optax.adamw(**scaled)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jnp.zeros(()), state, params)
        return (params + updates, state), None

    updates = examples // size
    with jax.numpy_dtype_promotion("standard"):
        start = jnp.ones(()), tx.init(jnp.ones(()))
        (weight, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, None, updates))(start)
    timescale = 256 / (lr * decay * examples)
    assert float(weight) == pytest.approx(np.exp(-1 / timescale), rel=2e-3)


def test_both_rules_agree_to_first_order():
    scale = functools.partial(scale_adamw, 1e-3, b1=0.999, b2=0.9999, batch_size=512)
    half = scale(base_batch_size=256)
    sde = scale(base_batch_size=256, rule="sde")
    assert 1 - half["b2"] == pytest.approx(1 - sde["b2"], rel=1e-3)


def test_a_schedule_goes_in_and_comes_out():
    scaled = scale_adamw(optax.linear_schedule(0.0, 1.0, 10), **BASE, batch_size=1024)
    assert float(scaled["learning_rate"](5)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("size", "expected", "words"),
    [
        (8, 0.9999, "b2=0.999 would become 0.999969 at 0.03125 times .* clipped to 0.9999"),
        (2**17, 0.9, "would become .* at 512 times .* clipped to 0.9 "),
    ],
)
def test_clipping_is_said(size, expected, words):
    with pytest.warns(UserWarning, match=words):
        scaled = scale_adamw(1e-3, batch_size=size, base_batch_size=256)
    assert scaled["b2"] == expected


def test_what_is_given_is_never_clipped():
    assert scale_adamw(1e-3, b2=0.5, batch_size=256, base_batch_size=256)["b2"] == 0.5
    with pytest.warns(UserWarning, match="clipped to 0.5"):
        assert scale_adamw(1e-3, b2=0.5, batch_size=512, base_batch_size=256)["b2"] == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: scale_adam(1e-3, b1=1.0, batch_size=1, base_batch_size=1),
            "b1 must be a finite number of at least 0 and below 1, not 1.0",
        ),
        (lambda: scale_adam(1e-3, eps=-1.0, batch_size=1, base_batch_size=1), "eps must be"),
        (
            lambda: scale_adamw(1e-3, b2=1.0, batch_size=1, base_batch_size=1),
            "b2 must be a finite number of at least 0 and below 1, not 1.0",
        ),
        (
            lambda: scale_adamw(1e-3, batch_size=1, base_batch_size=1, rule="half"),
            "Did you mean 'half_life'",
        ),
        (
            lambda: scale_adamw(1e-3, batch_size=1, base_batch_size=1, b2_range=(0.99, 0.9)),
            "b2_range must be two numbers that rise",
        ),
        (
            lambda: scale_adamw(1e-3, weight_decay=-0.1, batch_size=1, base_batch_size=1),
            "weight_decay must be",
        ),
        (
            lambda: scale_adamw(1e-3, batch_size=2561, base_batch_size=256, rule="sde"),
            "reaches batch 2560",
        ),
        (lambda: scale_adamw("1e-3", batch_size=1, base_batch_size=1), "a number or a schedule"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["eps", "b1", "b2", "weight_decay"])
@pytest.mark.parametrize("value", [False, True, "0.9", None])
@pytest.mark.parametrize("rule", ["half_life", "sde"])
def test_what_is_no_number_is_refused(name, value, rule):
    with pytest.raises(ValueError, match=f"{name} must be a finite number .*not {value!r}"):
        scale_adamw(1e-3, batch_size=1, base_batch_size=1, rule=rule, **{name: value})
    if name != "weight_decay":
        with pytest.raises(ValueError, match=f"{name} must be a finite number .*not {value!r}"):
            scale_adam(1e-3, batch_size=1, base_batch_size=1, **{name: value})
