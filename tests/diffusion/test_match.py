import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax.diffusion import (
    DiffusionRecord,
    diffusion_match,
    diffusion_record,
    match_diffusion,
    scale_by_batch_size,
    track_diffusion,
)
from gapjax.diffusion._match import _target


def reference_record(step, distance):
    return DiffusionRecord(np.asarray(step), np.asarray(distance), np.ones(len(step)))


STEP = np.unique(np.round(1.2 ** np.arange(48))).astype(np.int32)
REFERENCE = reference_record(STEP, 1 + 0.5 * np.log(STEP))


@pytest.mark.parametrize(("rule", "factor"), [("sqrt", 2.0), ("linear", 4.0), ("none", 1.0)])
def test_scaling_by_batch_size_by_hand(rule, factor):
    tx = scale_by_batch_size(128, rule)
    updates = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
    for size in (512, np.int64(512), np.array(512), jnp.asarray(512)):
        scaled, _ = tx.update(updates, tx.init(updates), batch_size=size)
        assert scaled["b"].dtype == jnp.bfloat16
        np.testing.assert_allclose(scaled["a"], factor)
        np.testing.assert_allclose(scaled["b"].astype(jnp.float32), factor)


def test_a_base_batch_beyond_32_bits_counts_in_full():
    tx = scale_by_batch_size(2**33)
    scaled, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), batch_size=2**35)
    np.testing.assert_allclose(scaled, 2.0)


def walk(tx, size, num_updates, key):
    """Noise of a length per update, with a pull back to the start: a large batch's kind of walk."""

    def step(carry, key):
        params, state = carry
        updates = size * (0.02 * jax.random.normal(key, (1000,)) - 0.01 * params)
        updates, state = tx.update(updates, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros(1000)
    keys = jax.random.split(key, num_updates)
    return jax.lax.scan(step, (start, tx.init(start)), keys)[0][1]


@pytest.mark.parametrize("size", [0.2, 1.0, 5.0])
def test_the_distance_follows_the_reference_whatever_the_step(size, getkey):
    tx = optax.chain(match_diffusion(REFERENCE), track_diffusion())
    state = jax.jit(lambda key: walk(tx, size, 2000, key))(getkey())
    record = diffusion_record(state)
    late = record.step >= 200
    target = np.interp(np.log(record.step), np.log(STEP), REFERENCE.distance)
    np.testing.assert_allclose(record.distance[late], target[late], rtol=0.05)
    match = diffusion_match(state)
    assert match.extrapolated_from == STEP[-1]
    assert match.distance == pytest.approx(match.target, rel=0.05)
    assert 0.05 < match.scale < 20
    assert match.at_bound < 0.2


def test_the_controller_is_that_of_a_float64_loop(getkey):
    grads = np.asarray(jax.random.normal(getkey(), (30, 4)), np.float64)
    tx = match_diffusion(REFERENCE, min_scale=0.05, max_scale=3.0, gain=7.0)
    params = jnp.zeros(4)
    state, place, square, along = tx.init(params), np.zeros(4), 0.0, 0.0

    def target_at(update):
        return np.interp(np.log(max(update, 1)), np.log(STEP), REFERENCE.distance) * (update > 0)

    for t, grad in enumerate(grads):
        horizon = max(1, t / 7)
        square += (grad @ grad - square) / horizon
        along += (place @ grad - along) / horizon
        missing = (target_at(t + horizon) ** 2 - place @ place) / horizon
        roots = np.roots([square, 2 * along, -missing])
        scale = np.clip(roots.real.max(), 0.05, 3.0) if t else 1.0
        updates, state = tx.update(jnp.asarray(grad, jnp.float32), state, params)
        match = diffusion_match(state)
        np.testing.assert_allclose(match.scale, scale, rtol=1e-3)
        np.testing.assert_allclose(match.target, target_at(t), rtol=1e-5)
        np.testing.assert_allclose(updates, grad * scale, rtol=1e-3)
        params = optax.apply_updates(params, updates)
        place = np.asarray(params, np.float64)


def test_a_step_straight_away_from_the_start_is_scaled_without_rounding():
    step = np.unique(np.round(np.geomspace(1, 1e6, 60)))
    tx = match_diffusion(reference_record(step, np.log1p(step)))
    count, place, length = 900_000, np.log1p(9e5), 1e-6
    state = tx.init(jnp.zeros(2))._replace(
        num_updates=jnp.asarray(count, jnp.int32),
        square=jnp.asarray(length**2, jnp.float32),
        along=jnp.asarray(place * length, jnp.float32),
    )
    updates, params = (jnp.asarray([x, 0.0], jnp.float32) for x in (length, place))
    match = diffusion_match(tx.update(updates, state, params)[1])
    horizon = count / 40
    target = np.interp(np.log(count + horizon), np.log(step), np.log1p(step))
    # (place + horizon * s * length) to first order, and as exact as float32 holds the distances.
    root = np.roots([length**2, 2 * place * length, -(target**2 - place**2) / horizon]).max()
    np.testing.assert_allclose(match.scale, root, rtol=1e-3)


def test_the_state_stays_in_float32_where_numbers_have_64_bits():
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            tx = match_diffusion(REFERENCE)
            params = jnp.zeros(3, dtype)
            before = tx.init(params)
            after = jax.eval_shape(tx.update, jnp.ones(3, dtype), before, params)[1]
            assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, before)


def test_at_first_every_update_hits_the_target(getkey):
    tx = match_diffusion(REFERENCE)
    params = jnp.zeros(50)
    state = tx.init(params)
    for t in range(20):
        updates = 0.1 * jax.random.normal(getkey(), (50,))
        updates, state = tx.update(updates, state, params)
        params = optax.apply_updates(params, updates)
        target = np.interp(np.log(t + 1), np.log(STEP), REFERENCE.distance)
        if t:
            assert jnp.linalg.norm(params) == pytest.approx(target, rel=1e-4)


def test_a_bound_holds_and_is_reported(getkey):
    tx = match_diffusion(REFERENCE, min_scale=0.5, max_scale=2.0)
    match = diffusion_match(walk(tx, 1e-3, 100, getkey()))
    assert match.scale == pytest.approx(2.0)
    assert match.at_bound > 0.9
    assert match.distance < 0.1 * match.target


def target_at(reference, update, **options):
    tx = match_diffusion(reference, **options)
    state = tx.init(jnp.zeros(2))._replace(num_updates=jnp.asarray(update, jnp.int32))
    return diffusion_match(tx.update(jnp.ones(2), state, jnp.ones(2))[1])


def test_past_its_end_the_reference_goes_on_by_its_last_decade():
    # Slope 2 up to step 100, 0.5 after.
    kinked = np.where(STEP < 100, 2 * np.log(STEP), 2 * np.log(100) + 0.5 * np.log(STEP / 100))
    reference = reference_record(STEP, 1 + kinked)
    match = target_at(reference, 60_000)
    expected = reference.distance[-1] + 0.5 * np.log(60_000 / STEP[-1])
    assert match.target == pytest.approx(expected, rel=1e-3)
    assert match.extrapolated_from == STEP[-1]
    # A reference that comes back at its end is held flat.
    falling = reference_record(STEP, 10 - np.log(STEP))
    assert target_at(falling, 60_000).target == pytest.approx(falling.distance[-1], rel=1e-5)


def test_a_reference_that_has_saturated_goes_on_flat():
    step = np.unique(np.round(np.geomspace(1, 4000, 60)))
    reference = reference_record(step, np.minimum(np.log1p(step), np.log1p(200)))
    for update in (3000, 60_000):
        assert target_at(reference, update).target == pytest.approx(np.log1p(200), rel=1e-6)
    with pytest.raises(ValueError, match="Do the weights move"):
        match_diffusion(reference_record(step, np.ones(len(step))))


def test_the_order_of_the_points_of_a_reference_does_not_matter():
    order = np.random.default_rng(0).permutation(STEP.size)
    curves = np.stack([REFERENCE.distance, 2 * REFERENCE.distance])
    shuffled = reference_record(STEP[order], curves[:, order])
    for update in (1, 10, 300, 60_000):
        expected = target_at(reference_record(STEP, curves), update)
        found = target_at(shuffled, update)
        assert (found.target, found.extrapolated_from) == (expected.target, STEP[-1])


def test_of_a_population_those_that_diverged_are_left_out():
    curves = np.stack([1 + 0.5 * np.log(STEP)] * 3)
    curves[1, len(STEP) // 2 :] = np.nan
    curves[1, : len(STEP) // 2] *= 10
    found, wanted = (
        _target(reference_record(STEP, distance), 1.0) for distance in (curves, curves[0])
    )
    at = jnp.asarray([3.0, 40.0, 4000.0])
    np.testing.assert_array_equal(found[0](at), wanted[0](at))
    assert found[1] == wanted[1]


def test_a_population_as_reference_is_averaged_and_epochs_can_be_compared():
    several = REFERENCE._replace(distance=REFERENCE.distance * np.array([[0.5], [1.5]]))
    match = target_at(several, 10, steps_per_update=32)
    assert match.target == pytest.approx(1 + 0.5 * np.log(320), rel=1e-3)
    assert match.extrapolated_from == STEP[-1] // 32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale_by_batch_size(0), "base_batch_size must be"),
        (lambda: scale_by_batch_size(128, "square"), "rule must be one of"),
        (
            lambda: scale_by_batch_size(128).update(jnp.ones(2), optax.EmptyState()),
            "batch_size=...",
        ),
        (
            lambda: scale_by_batch_size(128).update(jnp.ones(2), optax.EmptyState(), batch_size=0),
            "batch_size must be",
        ),
        (
            lambda: scale_by_batch_size(8).update(
                jnp.ones(2), optax.EmptyState(), batch_size=np.array([8, 16])
            ),
            "batch_size must be",
        ),
        (lambda: match_diffusion(REFERENCE, min_scale=0.0), "min_scale must be"),
        (lambda: match_diffusion(REFERENCE, min_scale=2.0, max_scale=1.0), "must be below"),
        (lambda: match_diffusion(REFERENCE, gain=-1.0), "gain must be"),
        (lambda: match_diffusion(REFERENCE, steps_per_update=0.0), "steps_per_update must be"),
        (
            lambda: match_diffusion(reference_record(STEP[:4], STEP[:4])),
            "4 usable points .* longer run",
        ),
        (
            lambda: match_diffusion(diffusion_record(track_diffusion().init(jnp.zeros(2)))),
            "0 usable points .* longer run",
        ),
        (
            lambda: match_diffusion(DiffusionRecord(STEP, STEP[1:], STEP)),
            rf"shape \[n\] and distances of shape .*, not \({STEP.size},\) and",
        ),
        (lambda: diffusion_match(optax.EmptyState()), "has no match_diffusion in it"),
        (
            lambda: match_diffusion(REFERENCE).update(jnp.ones(2), None),
            r"update\(updates, state, params\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
