import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import growth, models, training
from tests.meshes import data_mesh
from tests.training import problem


def _problem():
    return problem.make(models.MLP((16,), 4, norm=lambda use_running_average: _identity))


def _identity(x):
    return x


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_devices_and_strategies_agree_with_one_device(strategy, devices):
    step, state, batches = _problem()
    expected = state
    for batch in batches:
        expected, expected_metrics = step(expected, batch)
    compiled = training.compile_step(step, mesh=data_mesh(devices), strategy=strategy)
    state = jax.tree.map(jnp.copy, state)  # it is donated
    for batch in batches:
        state, metrics = compiled(state, batch)
    for got, want in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-6)


def test_gradients_are_reduced_once():
    step, state, batches = _problem()
    compiled = training.compile_step(step, mesh=data_mesh(8)).lower(state, batches[0]).compile()
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    # and the loss
    assert training.inspect_program(compiled).by_kind() == {"all-reduce": (1, gradients + 4)}


def test_batch_that_does_not_divide_says_what_would_fit():
    step, state, _ = _problem()
    compiled = training.compile_step(step, mesh=data_mesh(8))
    batch = {"x": np.zeros((12, 6), np.float32), "y": np.zeros(12, int)}
    with pytest.raises(ValueError, match=r"batch of 12 .* 8 devices .*: use 8 or 16"):
        compiled(state, batch)


def test_unknown_strategy_and_foreign_steps_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'pmap'"):
        training.compile_step(lambda state, batch: state, strategy="pmapp")
    with pytest.raises(ValueError, match="make_train_step"):
        training.compile_step(lambda state, batch: state, strategy="pmap")


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_microbatches_are_spread_and_reduced_once(strategy):
    step, state, batches = _problem()
    expected, _ = step(state, batches[0])
    step = training.make_train_step(step.loss_fn, step.tx, microbatched=True)
    parts = jax.tree.map(lambda x: x.reshape(2, 16, *x.shape[1:]), batches[0])
    compiled = training.compile_step(step, mesh=data_mesh(8), strategy=strategy)
    with pytest.raises(ValueError, match=r"batch\['y'\] .* GrowingBatches\(microbatch=\.\.\.\)"):
        compiled(state, batches[0])
    program = training.inspect_program(compiled.lower(state, parts).compile())
    assert set(program.by_kind()) == {"all-reduce"}
    state, _ = compiled(jax.tree.map(jnp.copy, state), parts)
    for got, want in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_growing_batches_meet_programs_compiled_ahead():
    step, state, batches = _problem()
    traced = []

    def loss_fn(params, model_state, batch, key):
        traced.append(len(batch["y"]))
        return step.loss_fn(params, model_state, batch, key)

    mesh = data_mesh(4)
    compiled = training.compile_step(training.make_train_step(loss_fn, step.tx), mesh=mesh)
    source = {name: np.concatenate([b[name] for b in batches]) for name in ("x", "y")}
    grown = growth.GrowingBatches(source, growth.piecewise_batch(4, {3: 8}), seed=0, mesh=mesh)
    ahead = training.compile_ahead(compiled, grown)
    state, history = training.fit(ahead, state, grown, num_updates=6)
    assert int(state.step) == 6 and np.isfinite(history.metrics["loss"]).all()
    assert traced == [4, 8]  # each size once, though the second was met in the background


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_a_state_that_was_donated_says_what_to_do(strategy):
    step, state, batches = _problem()
    compiled = training.compile_step(step, mesh=data_mesh(2), strategy=strategy)
    first, _ = compiled(state, batches[0])
    again = jax.tree.map(jnp.copy, first)
    second, _ = compiled(first, batches[1])
    with pytest.raises(ValueError, match=r"handed to a step before.*returned.*donate=False"):
        compiled(first, batches[1])
    with pytest.raises(ValueError, match=r"params or model_state was handed to a step before"):
        training.init_state(first.params, optax.sgd(0.1), key=jax.random.key(0))
    same, _ = compiled(again, batches[1])  # and nothing was broken by that
    chex.assert_trees_all_equal(same.params, second.params)


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_without_donation_a_cell_runs_twice(strategy):
    step, state, batches = _problem()
    compiled = training.compile_step(step, mesh=data_mesh(2), strategy=strategy, donate=False)
    found = [compiled(state, batches[0])[0] for _ in range(2)]
    chex.assert_trees_all_equal(found[0].params, found[1].params)
    after = [compiled(found[0], batches[1])[0] for _ in range(2)]
    chex.assert_trees_all_equal(after[0].params, after[1].params)
    assert np.isfinite(jax.tree.leaves(state.params)[0]).all()


def test_pmap_compiles_once():
    step, state, batches = _problem()
    traced = []

    def loss_fn(*arguments):
        traced.append(1)
        return step.loss_fn(*arguments)

    counted = training.make_train_step(loss_fn, step.tx)
    compiled = training.compile_step(counted, mesh=data_mesh(4), strategy="pmap")
    for batch in batches:
        state, _ = compiled(state, batch)
    assert len(traced) == 1
