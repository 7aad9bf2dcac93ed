"""What every transform promises to whoever composes it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import training
from gapjax.diffusion import (
    DiffusionRecord,
    diffusion_match,
    diffusion_record,
    match_diffusion,
    scale_by_batch_size,
    track_diffusion,
)

REFERENCE = DiffusionRecord(np.arange(1, 9), np.log1p(np.arange(1, 9)), np.ones(8))
TRANSFORMS = {
    "track": (track_diffusion, {}),
    "match": (lambda: match_diffusion(REFERENCE), {}),
    "scale": (lambda: scale_by_batch_size(8), {"batch_size": 32}),
}
PARAMS = {"w": jnp.arange(16.0).reshape(8, 2), "b": jnp.ones(2, jnp.bfloat16)}
GRADS = jax.tree.map(lambda x: x / 4 + jnp.ones((), x.dtype), PARAMS)


@pytest.fixture(params=TRANSFORMS)
def transform(request):
    """A transform behind plain SGD, and the extra arguments it needs."""
    make, extra = TRANSFORMS[request.param]
    # A rate whose updates bfloat16 holds exactly: compiled programs round them less often.
    return optax.chain(optax.sgd(0.125), make()), extra


def trained(tx, extra, params=PARAMS, grads=GRADS, num_updates=5):
    """Parameters and state after a few updates, in a Python loop."""
    state = tx.init(params)
    for _ in range(num_updates):
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


def scanned(tx, extra, params=PARAMS, grads=GRADS, num_updates=5):
    """The same in one compiled loop."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=num_updates)[0]


def close(one, other, rtol=1e-5):
    def widen(x):
        return np.asarray(x, np.float32 if x.dtype == jnp.bfloat16 else None)

    chex.assert_trees_all_equal_structs(one, other)
    chex.assert_trees_all_close(
        jax.tree.map(widen, one), jax.tree.map(widen, other), rtol=rtol, atol=1e-6
    )


def test_leaves_may_be_numbers(transform):
    tx, extra = transform
    numbers, arrays = {"w": 2.0, "b": 1.0}, {"w": jnp.asarray(2.0), "b": jnp.asarray(1.0)}
    found = trained(tx, extra, numbers, numbers)
    close(found, trained(tx, extra, arrays, arrays))


def test_unknown_extra_arguments_are_accepted(transform):
    tx, extra = transform
    close(trained(tx, extra), trained(tx, {**extra, "value": 1.0, "something_else": "x"}))


def test_nothing_compiles_anew_and_shapes_stay(transform):
    tx, extra = transform
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))
    state = tx.init(PARAMS)
    for _ in range(4):
        _, new = update(GRADS, state, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        state = new
    assert update._cache_size() == 1


def test_a_batch_size_that_grows_does_not_compile_anew():
    tx = scale_by_batch_size(8)
    update = jax.jit(lambda g, size: tx.update(g, tx.init(g), batch_size=size)[0])
    for size in (8, 32, 128):
        np.testing.assert_allclose(update(jnp.ones(3), size), (size / 8) ** 0.5, rtol=1e-6)
    assert update._cache_size() == 1


def test_scan_equals_a_loop(transform):
    tx, extra = transform
    close(jax.jit(lambda: scanned(tx, extra))(), trained(tx, extra))


def test_a_step_may_donate_its_state(transform):
    tx, extra = transform

    def step(params, state):
        updates, state = tx.update(GRADS, state, params, **extra)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, PARAMS)
    carry = params, tx.init(params)
    for _ in range(5):
        carry = step(*carry)
    close(carry, trained(tx, extra))


def test_vmap_equals_a_loop(transform):
    tx, extra = transform
    many = jax.tree.map(lambda x: jnp.stack([x, x + x, -x]), PARAMS)
    population = jax.jit(jax.vmap(lambda p: scanned(tx, extra, p)))(many)
    for i in range(3):
        member = jax.tree.map(lambda x, i=i: x[i], (population, many))
        close(member[0], trained(tx, extra, member[1]))


def test_within_multi_steps(transform):
    # Four microbatches an update: the transform sees the updates, not the microbatches.
    tx, extra = transform
    multi = optax.MultiSteps(tx, every_k_schedule=4).gradient_transformation()
    with jax.numpy_dtype_promotion("standard"):  # optax's own code mixes dtypes
        params, state = jax.jit(lambda: scanned(multi, extra, num_updates=20))()
    close((params, state.inner_opt_state), trained(tx, extra))


def test_within_partition_and_masked(transform):
    tx, extra = transform
    parts = optax.partition(
        {"ours": tx, "frozen": optax.set_to_zero()}, {"w": "ours", "b": "frozen"}
    )
    params, state = jax.jit(lambda: scanned(parts, extra))()
    alone, _ = trained(tx, extra, {"w": PARAMS["w"]}, {"w": GRADS["w"]})
    close(params, {"w": alone["w"], "b": PARAMS["b"]})
    if isinstance(tx.init(PARAMS)[1], type(track_diffusion().init(PARAMS))):
        np.testing.assert_array_equal(diffusion_record(state).step, [1, 2, 3, 4])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_within_injected_hyperparameters(name):
    make, extra = TRANSFORMS[name]

    @optax.inject_hyperparams
    def injected(learning_rate):
        return optax.chain(optax.sgd(learning_rate), make())

    with jax.numpy_dtype_promotion("standard"):
        params, _ = jax.jit(lambda: scanned(injected(0.1), extra))()
    close(params, trained(injected.__wrapped__(0.1), extra)[0])


def test_sharded_parameters(transform):
    tx, extra = transform
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = (jax.NamedSharding(mesh, jax.P(*spec)) for spec in (("x",), ()))
    params, grads = jax.device_put((PARAMS, GRADS), ({"w": rows, "b": whole},) * 2)
    state = tx.init(params)
    if hasattr(state[1], "start"):
        assert state[1].start["w"].sharding.is_equivalent_to(rows, 2)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra))
    program = training.inspect_program(step.lower(grads, state, params).compile())
    assert "all-gather" not in program.by_kind()
    for _ in range(5):
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert params["w"].sharding.is_equivalent_to(rows, 2)
    close((params, state), trained(tx, extra))


def test_the_state_survives_a_checkpoint(transform, tmp_path):
    import orbax.checkpoint as ocp

    tx, extra = transform
    _, state = trained(tx, extra)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(PARAMS))
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    close(*(tx.update(GRADS, s, PARAMS, **extra) for s in (restored, state)))


def test_optax_finds_the_parameters_within_the_state(transform):
    tx, _ = transform
    state = optax.tree.map_params(tx, lambda x: x + x, tx.init(PARAMS))
    if hasattr(state[1], "start"):
        close(state[1].start, jax.tree.map(lambda x: x + x, PARAMS))
        assert state[1].num_updates == 0


def test_gradients_pass_through_the_updates(transform):
    tx, extra = transform

    def final(grad_scale):
        params, _ = scanned(tx, extra, jnp.ones(3), jnp.ones(3) * grad_scale, num_updates=2)
        return params.sum()

    assert jnp.isfinite(jax.jit(jax.grad(final))(0.5))
    assert jax.vmap(jax.grad(final))(jnp.array([0.5, 1.0])).shape == (2,)


def test_transforms_read_side_by_side():
    tx = optax.chain(optax.sgd(0.1), match_diffusion(REFERENCE), track_diffusion())
    _, state = trained(tx, {})
    assert diffusion_match(state).distance == diffusion_record(state).distance[-1]
