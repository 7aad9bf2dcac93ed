import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from gapjax import diffusion, training
from tests.meshes import data_mesh
from tests.training import problem

TX = optax.chain(
    optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9), diffusion.track_diffusion()
)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), P()),
        ((512,), P()),  # small
        ((7, 9, 33), P()),  # divided by nothing
        ((2048,), P("data")),
        ((64, 2048), P(None, "data")),
        ((2048, 64), P("data")),
        ((64, 64), P(None, "data")),
        ((3, 3, 24, 20), P(None, None, "data")),
    ],
)
def test_largest_axis_that_the_devices_divide(shape, spec):
    leaf = jax.ShapeDtypeStruct(shape, "float32")
    mesh = data_mesh(8)
    assert training.state_shardings(leaf, mesh, parameters="sharded").spec == spec
    assert training.state_shardings(leaf, mesh).spec == P()


@pytest.mark.parametrize("devices", [2, 8])
def test_sharded_equals_replicated_and_stays_laid_out(devices):
    mesh = data_mesh(devices)
    step, state, batches = problem.make(tx=TX, ghost_size=4)
    layout = training.state_shardings(state, mesh, parameters="sharded")
    found = {}
    for parameters in ("replicated", "sharded"):
        compiled = training.compile_step(step, mesh=mesh, parameters=parameters)
        after = jax.tree.map(jnp.copy, state)
        for batch in batches:
            after, metrics = compiled(after, batch)
        found[parameters] = after.params, after.model_state, metrics
    chex.assert_trees_all_close(found["sharded"], found["replicated"], rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda leaf, sharding: chex.assert_equal(leaf.sharding, sharding), after, layout)
    split = [leaf for leaf in jax.tree.leaves(after) if leaf.sharding.spec != P()]
    assert len(split) == 2 * 3  # two kernels: parameters, momentum, where they started
    assert all(len(leaf.addressable_shards[0].data) < len(leaf) or leaf.ndim > 1 for leaf in split)


@pytest.mark.parametrize("parameters", ["replicated", "sharded"])
def test_one_compilation_and_donated_memory(parameters):
    traced = []
    inner, state, batches = problem.make(ghost_size=4)

    def loss_fn(*arguments):
        traced.append(1)
        return inner.loss_fn(*arguments)

    step = training.make_train_step(loss_fn, inner.tx)
    compiled = training.compile_step(step, mesh=data_mesh(8), parameters=parameters)
    state, _ = compiled(jax.tree.map(jnp.copy, state), batches[0])
    before = state
    for batch in batches:
        state, _ = compiled(state, batch)
    assert len(traced) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)))


def test_a_state_may_come_from_anywhere_and_go_elsewhere():
    step, state, batches = problem.make()
    expected, _ = step(state, batches[0])
    host = jax.device_get(state._replace(key=None))._replace(key=state.key)
    elsewhere = jax.device_put(state, jax.devices()[5])
    wide = jax.device_put(state, training.state_shardings(state, data_mesh(8)))
    compiled = training.compile_step(step, mesh=data_mesh(4), parameters="sharded")
    for placed in (host, elsewhere, wide):
        found, _ = compiled(jax.tree.map(jnp.copy, placed), batches[0])
        chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)


def test_parameters_are_gathered_and_activations_are_not():
    step, state, batches = problem.make(ghost_size=4)
    mesh = data_mesh(8)
    programs = {
        parameters: training.inspect_program(
            training.compile_step(step, mesh=mesh, parameters=parameters)
            .lower(jax.eval_shape(lambda: state), batches[0])
            .compile()
        )
        for parameters in ("replicated", "sharded")
    }
    sharded, replicated = programs["sharded"], programs["replicated"]
    assert set(sharded.by_kind()) <= {"all-gather", "all-reduce", "reduce-scatter"}
    gathered = sorted(
        shape for c in sharded.collectives if c.kind == "all-gather" for _, shape in c.arrays
    )
    assert gathered == [(32, 64), (64, 32)]  # each kernel once; activations would have 32 rows
    assert set(replicated.by_kind()) == {"all-reduce"}
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    large = 2 * 2 * 4 * 32 * 64
    saved = replicated.memory.arguments - sharded.memory.arguments
    assert saved == large * 7 // 8 and large > 0.9 * whole


def test_microbatches_of_sharded_parameters():
    step, state, batches = problem.make()
    parts = jax.tree.map(lambda x: x.reshape(2, 16, *x.shape[1:]), batches[0])
    step = training.make_train_step(step.loss_fn, step.tx, microbatched=True)
    expected, _ = step(state, parts)
    compiled = training.compile_step(step, mesh=data_mesh(8), parameters="sharded")
    found, _ = compiled(jax.tree.map(jnp.copy, state), parts)
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)


def test_steps_of_ones_own_are_sharded_too():
    def step(state, batch):
        gradient = jax.grad(lambda w: jnp.mean((batch @ w) ** 2))(state)
        return state - 0.1 * gradient, {"norm": jnp.sum(gradient**2)}

    state = jax.random.normal(jax.random.key(0), (64, 32))
    batch = np.ones((16, 64), np.float32)
    expected, _ = step(state, batch)
    compiled = training.compile_step(step, mesh=data_mesh(8), parameters="sharded")
    found, _ = compiled(jnp.copy(state), batch)
    assert found.sharding.spec == P("data")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_is_restored_into_the_layout(tmp_path):
    _, state, _ = problem.make()
    tree = {"params": state.params, "opt_state": state.opt_state}
    training.save_tree(tmp_path / "c", tree)
    layout = training.state_shardings(tree, data_mesh(4), parameters="sharded")
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, layout
    )
    restored = training.load_tree(tmp_path / "c", like)
    chex.assert_trees_all_equal(restored, tree)
    assert restored["params"]["Dense_0"]["kernel"].sharding.spec == P(None, "data")


def test_mistakes_are_named():
    step, _, _ = problem.make()
    mesh = data_mesh(4)
    with pytest.raises(ValueError, match=r"parameters must be one of .* Did you mean 'sharded'"):
        training.compile_step(step, mesh=mesh, parameters="shard")
    with pytest.raises(ValueError, match=r"pmap.* keeps all parameters .* use strategy=\"jit\""):
        training.compile_step(step, mesh=mesh, strategy="pmap", parameters="sharded")
    with pytest.raises(ValueError, match=r"axes \('data',\), none of them 'batch': say with axis="):
        training.compile_step(step, mesh=mesh, axis="batch")
    with pytest.raises(ValueError, match=r"must be a jax.sharding.Mesh, not 8: make one with"):
        training.compile_step(step, mesh=8)
    square = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with pytest.raises(ValueError, match=r"one axis, and the mesh has \('data', 'model'\)"):
        training.compile_step(step, mesh=square, strategy="pmap")


def test_another_axis_of_a_mesh():
    square = jax.make_mesh((2, 4), ("model", "batch"), axis_types=(AxisType.Auto,) * 2)
    step, state, batches = problem.make()
    expected, _ = step(state, batches[0])
    compiled = training.compile_step(step, mesh=square, axis="batch", parameters="sharded")
    assert compiled.devices == 4
    found, _ = compiled(jax.tree.map(jnp.copy, state), batches[0])
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)
