import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax.diffusion import diffusion_record, track_diffusion
from gapjax.diffusion._track import steps_to_record
from tests.meshes import data_mesh


def trained(tx, params, grads):
    """Run tx under scan over a stack of gradients; the final state."""

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), grads)[0][1]


@pytest.mark.parametrize("capacity", [8, 32, 256, 1000])
def test_grid_is_dense_first_and_reaches_the_last_step(capacity):
    grid = steps_to_record(capacity).astype(np.int64)
    assert grid.size == capacity
    assert grid[0] == 1
    assert grid[-1] == 2**31 - 2
    assert (np.diff(grid) > 0).all()
    ratios = grid[1:] / grid[:-1]
    assert ratios[-2] <= ratios[0]  # never sparser later than at first
    if capacity == 256:
        np.testing.assert_array_equal(grid[:12], np.arange(1, 13))
        assert ratios[-2] < 1.085


def test_distances_are_those_of_a_float64_loop(getkey):
    params = {"w": jax.random.normal(getkey(), (7, 3)), "b": jnp.zeros(3)}
    grads = {"w": jax.random.normal(getkey(), (60, 7, 3)), "b": jnp.ones((60, 3))}
    tx = optax.chain(optax.trace(0.9), optax.scale(-0.1), track_diffusion())
    record = diffusion_record(jax.jit(lambda p, g: trained(tx, p, g))(params, grads))

    flat = np.concatenate([np.asarray(grads["b"]), np.asarray(grads["w"]).reshape(60, -1)], axis=1)
    velocity, place, distance, length = np.zeros(24), np.zeros(24), [], []
    for grad in flat.astype(np.float64):
        velocity = 0.9 * velocity + grad
        distance.append(np.linalg.norm(place))
        length.append(np.linalg.norm(0.1 * velocity))
        place = place - 0.1 * velocity
    assert record.step[0] == 1
    assert record.step[-1] <= 59
    np.testing.assert_allclose(record.distance, np.array(distance)[record.step], rtol=1e-5)
    np.testing.assert_allclose(record.update_norm, np.array(length)[record.step], rtol=1e-5)


def test_it_is_the_identity_on_updates_and_holds_its_own_copy(getkey):
    tx = track_diffusion()
    params = jnp.ones(4)
    state = tx.init(params)
    assert state.start.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()
    updates, state = tx.update(jnp.arange(4.0), state, params, loss=1.0)
    np.testing.assert_array_equal(updates, np.arange(4.0))


def test_the_norm_of_the_updates_can_be_left_out():
    tx = track_diffusion(measure_updates=False)
    state = tx.init(jnp.zeros(4))
    for _ in range(3):
        _, state = jax.jit(tx.update)(jnp.ones(4), state, jnp.ones(4))
    record = diffusion_record(state)
    np.testing.assert_allclose(record.distance, 2.0)
    assert np.isnan(record.update_norm).all()


def test_bfloat16_distances_are_summed_in_float32():
    # 4096 moves of 2**-8: in bfloat16 the sum of squares would stop growing at 2**-8 of itself.
    params = jnp.ones(4096, jnp.bfloat16)
    tx = track_diffusion()
    state = tx.init(params)
    assert state.start.dtype == jnp.bfloat16
    for _ in range(2):
        _, state = tx.update(params, state, params - jnp.bfloat16(2**-8))
    record = diffusion_record(state)
    assert record.distance.dtype == np.float32
    assert record.distance[0] == pytest.approx(2**-8 * 64, rel=1e-6)
    assert record.update_norm[0] == pytest.approx(64, rel=1e-6)


def test_a_population_of_seeds_and_rates_equals_its_members(getkey):
    rates, starts = jnp.array([0.1, 0.2]), jax.random.normal(getkey(), (3, 5))
    grads = jax.random.normal(getkey(), (40, 5))

    def run(rate, start):
        return trained(optax.chain(optax.sgd(rate), track_diffusion(64)), start, grads)

    population = jax.jit(
        jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None)),
    )(rates, starts)
    record = diffusion_record(population)
    assert record.step.ndim == 1
    assert record.distance.shape == record.update_norm.shape == (2, 3, record.step.size)
    for i, rate in enumerate(rates):
        for j, start in enumerate(starts):
            alone = diffusion_record(run(rate, start))
            np.testing.assert_array_equal(record.step, alone.step)
            np.testing.assert_allclose(record.distance[i, j], alone.distance, rtol=1e-5)
            np.testing.assert_allclose(record.update_norm[i, j], alone.update_norm, rtol=1e-5)
            one = jax.tree.map(lambda x, i=i, j=j: x[i, j], population)
            np.testing.assert_array_equal(diffusion_record(one).distance, record.distance[i, j])


def test_records_go_on_across_calls_and_checkpoints_of_the_state(getkey):
    tx = track_diffusion(8)
    params = jnp.zeros(2)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for count in range(300):
        _, state = update(params, state, params + count)
    record = diffusion_record((optax.EmptyState(), {"inner": state}))
    np.testing.assert_array_equal(record.step, steps_to_record(8)[: record.step.size])
    np.testing.assert_allclose(record.distance, record.step * 2**0.5, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_a_capacity_of_numpy_is_one_of_python(kind):
    steps_to_record.cache_clear()  # which holds 100 of any type for the same
    tx = track_diffusion(kind(100))
    assert tx.init(jnp.zeros(2)).step.shape == steps_to_record(100).shape


def test_bad_input():
    with pytest.raises(ValueError, match="8 or more"):
        track_diffusion(4)
    with pytest.raises(ValueError, match="capacity must be a whole number"):
        track_diffusion(2.5)
    tx = track_diffusion()
    state = tx.init(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"update\(updates, state, params\)"):
        tx.update(jnp.zeros(2), state)
    with pytest.raises(ValueError, match="has no track_diffusion in it"):
        diffusion_record(optax.sgd(0.1, momentum=0.9).init(jnp.zeros(2)))
    both = optax.named_chain(("before", tx), ("after", tx)).init(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"2 of track_diffusion: .*'before'.*'after'"):
        diffusion_record(both)
    uneven = jax.vmap(tx.init)(jnp.zeros((2, 3)))._replace(recorded=jnp.array([0, 1]))
    with pytest.raises(ValueError, match="different numbers of updates"):
        diffusion_record(uneven)


@pytest.mark.parametrize("check", [True, False])
def test_in_shard_map_the_norms_are_those_of_the_shard(check):
    mesh, spec = data_mesh(4), jax.sharding.PartitionSpec("data")
    tx = optax.chain(optax.sgd(0.5), track_diffusion(capacity=8))

    def body(params):
        state = trained(tx, params, jnp.broadcast_to(params, (3, *params.shape)))
        return state[-1].distance[None]

    mapped = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check)
    params = jnp.arange(8.0)
    found = jax.jit(mapped)(params)
    for shard, own in zip(params.reshape(4, 2), found, strict=True):
        alone = trained(tx, shard, jnp.broadcast_to(shard, (3, 2)))[-1].distance
        np.testing.assert_allclose(own, alone, rtol=1e-6)
