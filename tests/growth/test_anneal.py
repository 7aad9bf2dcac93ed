import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.growth import grow_instead_of_decay, seesaw


def quarter_cosine(total):
    return lambda n: jnp.cos(jnp.pi / 2 * jnp.asarray(n, jnp.float32) / total)


def saved(sizes, total, base):
    """Per cent of the updates saved against a constant batch."""
    return 100 * (1 - sizes.update_at(total) / (total / base))


@pytest.mark.parametrize(("factor", "percent"), [(1.1, 33.8), (1.5, 27.1), (2.0, 22.0)])
def test_savings_on_the_quarter_cosine(factor, percent):
    total = 10**8
    _, sizes = seesaw(
        quarter_cosine(total),
        total_examples=total,
        batch_size=1000,
        maximum=10**6,
        factor=factor,
    )
    assert saved(sizes, total, 1000) == pytest.approx(percent, abs=0.2)


def test_savings_tend_to_the_integral_of_the_schedule():
    total = 10**9
    trade = functools.partial(seesaw, total_examples=total, batch_size=10_000, maximum=10**6)
    _, sizes = trade(quarter_cosine(total), factor=1.02)
    assert saved(sizes, total, 10_000) == pytest.approx(36.3, abs=0.7)
    _, sizes = trade(optax.linear_schedule(1.0, 0.0, total), factor=1.05)
    assert saved(sizes, total, 10_000) == pytest.approx(50, abs=1.5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 20),
    st.integers(1, 64),
    st.sampled_from([1, 4, 8]),
    st.sampled_from([1.2, 1.5, 2.0, 5.0]),
    st.sampled_from(["sqrt", "linear"]),
    st.sampled_from([0.0, 0.6]),
)
def test_the_examples_are_used_up_exactly(total, base, times, multiple, factor, rule, start):
    total, base = total * multiple, base * multiple
    maximum = base * times + multiple // 2
    rate, sizes = seesaw(
        optax.linear_schedule(0.1, 0.0, total),
        total_examples=total,
        batch_size=base,
        maximum=maximum,
        factor=factor,
        multiple=multiple,
        rule=rule,
        start=start,
    )
    updates = sizes.update_at(total)
    assert sizes.examples_before(updates) == total
    made = [sizes(update) for update in range(updates)]
    assert sum(made) == total
    assert made == sorted(made)
    assert all(size % multiple == 0 and size <= maximum for size in made)
    assert all(size == base or update == 0 for update, size in enumerate(made) if size <= base)
    assert 0 <= float(rate(updates - 1)) <= 0.1 * max(1, times) * 1.001


def test_the_effective_rate_falls_as_the_schedule_does():
    total = 10**7
    rate, sizes = seesaw(
        quarter_cosine(total), total_examples=total, batch_size=100, maximum=6400, factor=2
    )
    assert sizes.sizes() == tuple(100 * 2**k for k in range(7))
    for k, boundary in enumerate((0, *sizes.boundaries[:5])):
        effective = float(rate(boundary)) * (100 / sizes(boundary)) ** 0.5
        assert effective == pytest.approx(2.0**-k, rel=1e-4)
        assert float(rate(boundary)) == pytest.approx(2 ** (-k / 2), rel=1e-4)
        # in examples, growth starts where the schedule has fallen so far, to an update
        fallen = total * 2 / np.pi * np.arccos(2.0**-k)
        assert 0 <= sizes.examples_before(boundary) - fallen <= 6400


def test_at_the_maximum_decay_goes_on():
    total = 10**6
    schedule = optax.linear_schedule(0.4, 0.0, total)
    rate, sizes = seesaw(schedule, total_examples=total, batch_size=100, maximum=300)
    assert sizes.sizes() == (100, 200, 300)
    after = sizes.boundaries[-1]
    for update in (after, after + 100, sizes.update_at(total)):
        expected = float(schedule(sizes.examples_before(update))) * 3**0.5
        assert float(rate(update)) == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert float(jax.jit(rate)(jnp.int32(update))) == pytest.approx(
            expected, rel=1e-5, abs=1e-7
        )


def test_the_warm_up_is_kept():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 50_000, 1_000_000)
    rate, sizes = seesaw(schedule, total_examples=1_000_000, batch_size=100, maximum=800)
    with jax.numpy_dtype_promotion("standard"):
        for update in (0, 100, 499):
            assert float(rate(update)) == pytest.approx(float(schedule(100 * update)), rel=1e-5)
    assert float(rate(500)) == pytest.approx(0.1)
    assert sizes.boundaries[1] > 500  # the first is where the peak is held from


def test_a_late_start():
    total = 1_000_000
    schedule = optax.linear_schedule(0.1, 0.0, total)
    rate, sizes = seesaw(schedule, total_examples=total, batch_size=100, maximum=10**4, start=0.75)
    assert sizes.sizes()[:3] == (100, 200, 400)
    grown = sizes.boundaries[sizes.values.index(200) - 1]
    # from 0.25 at the start, half of it is reached at 0.875
    assert sizes.examples_before(grown) == pytest.approx(0.875 * total, abs=200)
    assert float(rate(3000)) == pytest.approx(0.07)
    assert float(rate(8000)) == pytest.approx(0.025)  # held until the batch grows
    assert float(rate(grown)) == pytest.approx(0.025 / 2**0.5, rel=1e-3)


def test_for_sgd_it_is_growth_by_the_inverse_of_each_drop():
    drops = {100: 0.2, 200: 0.2}
    schedule = optax.piecewise_constant_schedule(
        0.1, {128 * at - 1: scale for at, scale in drops.items()}
    )
    total = 128 * 400
    lr, sizes = seesaw(
        schedule, total_examples=total, batch_size=128, maximum=5120, rule="linear", multiple=128
    )
    expected_lr, expected = grow_instead_of_decay(
        0.1, drops, batch_size=128, maximum=5120, keep="epochs"
    )
    assert sizes.sizes() == expected.sizes() == (128, 640, 3200)
    np.testing.assert_allclose([float(lr(u)) for u in range(140)], 0.1, rtol=1e-5)
    np.testing.assert_allclose([float(expected_lr(u)) for u in range(140)], 0.1, rtol=1e-5)
    # the same place for each growth, but for the update that takes what is left over
    assert abs(sizes.boundaries[-1] - expected.boundaries[-1]) <= 1


def _second_moment(rate, sizes, total, *, normalized):
    """E w^2 of a one-dimensional quadratic under gradient noise, update by update, exactly."""
    moment, curvature, noise = 1.0, 1.0, 1.0
    for update in range(sizes.update_at(total)):
        batch = sizes(update)
        # a normalized update divides by the root of E g^2, all of it noise here
        step = rate(update) * (batch**0.5 / noise if normalized else 1.0)
        moment = (1 - step * curvature) ** 2 * moment + step**2 * noise**2 / batch
    return moment


@pytest.mark.parametrize(("rule", "normalized"), [("sqrt", True), ("linear", False)])
def test_the_loss_of_a_noisy_quadratic_is_that_of_the_schedule(rule, normalized):
    total, base, peak = 2_000_000, 100, 0.01
    schedule = lambda n: peak * np.cos(np.pi / 2 * n / total)  # noqa: E731
    _, constant = seesaw(
        optax.constant_schedule(1.0), total_examples=total, batch_size=base, maximum=base
    )
    decayed = _second_moment(
        lambda update: schedule(base * update), constant, total, normalized=normalized
    )
    rate, sizes = seesaw(
        lambda n: peak * jnp.cos(jnp.pi / 2 * jnp.asarray(n, jnp.float32) / total),
        total_examples=total,
        batch_size=base,
        maximum=base * 16,
        factor=1.1,
        rule=rule,
    )
    rates = np.asarray(jax.vmap(rate)(jnp.arange(sizes.update_at(total))), np.float64)
    grown = _second_moment(lambda update: rates[update], sizes, total, normalized=normalized)
    assert sizes.update_at(total) < 0.7 * constant.update_at(total)
    assert grown == pytest.approx(decayed, rel=0.15)


COSINE = optax.cosine_decay_schedule(0.1, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": 0.1}, r"constant_schedule\(0.1\)"),
        ({"schedule": optax.constant_schedule(0.0)}, "nowhere above 0 up to 1000"),
        (
            {
                "schedule": lambda n: (
                    jnp.where(n < 500, 1.0, 2.0) - jnp.asarray(n, jnp.float32) / 500
                )
            },
            "rises again after its peak, near",
        ),
        ({"factor": 1.0}, "factor must be above 1"),
        ({"factor": -2}, "factor must be"),
        ({"start": 1.0}, "start must be a fraction"),
        ({"start": "late"}, "start must be a fraction"),
        ({"maximum": 4}, "below the first batch size 10"),
        ({"multiple": 3}, "total_examples=1000 is no multiple of multiple=3; 999 would be"),
        ({"multiple": 4}, "batch_size=10 is no multiple of multiple=4; 8 would be"),
        ({"rule": "none"}, "rule must be one of"),
        ({"total_examples": 1e3}, "total_examples must be"),
    ],
)
def test_bad_input(changes, message):
    arguments = {
        "schedule": COSINE,
        "total_examples": 1000,
        "batch_size": 10,
        "maximum": 100,
    } | changes
    with pytest.raises(ValueError, match=message):
        seesaw(arguments.pop("schedule"), **arguments)


def test_without_room_to_grow_the_schedule_is_followed():
    schedule = optax.cosine_decay_schedule(1.0, 1280)
    for maximum, multiple in ((128, 1), (200, 128)):
        rate, sizes = seesaw(
            schedule, total_examples=1280, batch_size=128, maximum=maximum, multiple=multiple
        )
        assert sizes.sizes() == (128,)
        found = [float(rate(update)) for update in range(10)]
        np.testing.assert_allclose(found, [float(schedule(128 * u)) for u in range(10)], rtol=1e-6)


@given(
    st.sampled_from([1, 2, 8]),
    st.integers(1, 8),
    st.integers(2, 300),
    st.integers(1, 40),
    st.sampled_from([optax.cosine_decay_schedule, lambda v, n: optax.linear_schedule(v, 0.0, n)]),
)
@settings(max_examples=40, deadline=None)
def test_every_size_is_trained_with(multiple, base, updates, room, schedule):
    base *= multiple
    total = base * updates
    _, sizes = seesaw(
        schedule(1.0, total),
        total_examples=total,
        batch_size=base,
        maximum=base * room,
        multiple=multiple,
    )
    end = sizes.update_at(total)
    assert sizes.examples_before(end) == total
    assert all(boundary < end for boundary in sizes.boundaries)
    assert all(size % multiple == 0 for size in sizes.values)
