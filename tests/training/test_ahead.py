import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gapjax.growth import GrowingBatches, geometric_batch, piecewise_batch
from gapjax.training import (
    compile_ahead,
    compile_step,
    init_state,
    largest_microbatch,
    make_train_step,
)
from tests.meshes import data_mesh

GROWTH = piecewise_batch(8, {3: 16, 6: 32})


class Compilations:
    """Counts what the backend compiles, and on which thread."""

    def __init__(self):
        self.seen = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, duration, **kwargs):
        import threading

        if event == "/jax/core/compile/backend_compile_duration":
            self.seen.append(threading.current_thread().name)

    def here(self):
        return sum(not name.startswith("gapjax-compiler") for name in self.seen)

    def ahead(self):
        return sum(name.startswith("gapjax-compiler") for name in self.seen)


@pytest.fixture(scope="module")
def compilations():
    return Compilations()


def _source():
    return {"x": np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)}


def _step(state, batch):
    w, m, key = state
    grad = jax.grad(lambda w: jnp.mean(jnp.tanh(batch["x"] @ w) ** 2))(w)
    m = jnp.float32(0.9) * m + grad
    return (w - jnp.float32(0.1) * m, m, key), {"norm": jnp.sum(grad**2)}


def _state(mesh):
    state = jnp.ones(3), jnp.zeros(3), jax.random.key(0)
    if mesh is None:
        return state
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def _settle(step):
    for future in list(step._started.values()):
        future.result()


@pytest.mark.parametrize("devices", [None, 1, 4])
def test_nothing_is_compiled_when_the_batch_grows(devices, compilations):
    mesh = devices and data_mesh(devices)
    batches = GrowingBatches(_source(), GROWTH, seed=0, mesh=mesh)
    step, state = compile_ahead(jax.jit(_step, donate_argnums=0), batches), _state(mesh)
    state, _ = step(state, next(batches))
    _settle(step)
    state, _ = step(state, next(batches))  # starts the second size
    _settle(step)
    compilations.seen.clear()
    while batches.update < 9:
        state, _ = step(state, next(batches))
    assert compilations.here() == 0
    # and the numbers are those of the plain step
    batches, plain, expected = (
        GrowingBatches(_source(), GROWTH, seed=0),
        jax.jit(_step),
        _state(None),
    )
    for _ in range(9):
        expected, _ = plain(expected, next(batches))
    np.testing.assert_allclose(state[0], expected[0], rtol=1e-5)


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_a_step_over_devices_compiles_nothing_when_the_batch_grows(strategy, compilations):
    def loss_fn(w, batch):
        return jnp.mean(jnp.tanh(batch["x"] @ w) ** 2)

    mesh, tx = data_mesh(4), optax.sgd(0.1)
    batches = GrowingBatches(_source(), piecewise_batch(8, {2: 16}), seed=0, mesh=mesh)
    compiled = compile_step(make_train_step(loss_fn, tx), mesh=mesh, strategy=strategy)
    step, state = compile_ahead(compiled, batches), init_state(jnp.ones(3), tx, key=_state(None)[2])
    for _ in range(2):
        state, _ = step(state, next(batches))
    _settle(step)
    compilations.seen.clear()
    state, _ = step(state, next(batches))
    assert batches.switches[-1].size == 16 and compilations.here() == 0


def test_a_size_that_is_due_waits_for_its_compilation(compilations):
    batches = GrowingBatches(_source(), piecewise_batch(8, {1: 16}), seed=0)

    class Slow:
        def __init__(self):
            self.jitted, self.finished = jax.jit(_step), False

        def __call__(self, *args):
            if args[1]["x"].shape[0] == 16:
                assert self.finished
            return self.jitted(*args)

        def lower(self, *specs):
            time.sleep(0.2)
            self.finished = True
            return self.jitted.lower(*specs)

    step, state = compile_ahead(Slow(), batches, rehearse=False), _state(None)
    for _ in range(3):
        state, _ = step(state, next(batches))


def test_a_compilation_that_fails_fails_where_it_is_due():
    def picky(state, batch):
        if batch["x"].shape[0] == 16:
            raise TypeError("sixteen is too many")
        return _step(state, batch)

    batches = GrowingBatches(_source(), piecewise_batch(8, {3: 16}), seed=0)
    step, state = compile_ahead(jax.jit(picky), batches), _state(None)
    for _ in range(3):
        state, _ = step(state, next(batches))
    with pytest.raises(TypeError, match="sixteen is too many"):
        step(state, next(batches))


def test_a_plain_function_is_refused():
    with pytest.raises(ValueError, match="can be lowered"):
        compile_ahead(_step, GrowingBatches(_source(), GROWTH, seed=0))


def test_the_microbatch_is_the_largest_within_the_budget():
    batches = GrowingBatches(_source(), geometric_batch(8, factor=2, every=1, maximum=64), seed=0)
    step, state = jax.jit(_step), _state(None)

    def memory(size):
        needed = step.lower(state, batches.spec(size)).compile().memory_analysis()
        return (
            needed.temp_size_in_bytes + needed.argument_size_in_bytes + needed.output_size_in_bytes
        )

    for size in (64, 32, 16):
        found = largest_microbatch(step, state, batches.spec, start=64, budget=memory(size))
        assert found == size
    with pytest.raises(ValueError, match="Not even one example fits"):
        largest_microbatch(step, state, batches.spec, start=64, budget=8)
    with pytest.raises(ValueError, match="state a budget in bytes"):
        largest_microbatch(step, state, batches.spec, start=64)
    split = GrowingBatches(_source(), GROWTH, seed=0, mesh=data_mesh(8))
    with pytest.raises(ValueError, match="8 examples take more, and 4 cannot be laid out"):
        largest_microbatch(step, _state(data_mesh(8)), split.spec, start=64, budget=8)


def test_what_is_compiled_is_asked_for_no_more(monkeypatch):
    batches = GrowingBatches(_source(), GROWTH, seed=0)
    step, state = compile_ahead(jax.jit(_step), batches), _state(None)
    asked = []
    monkeypatch.setattr(
        batches, "spec", lambda size, spec=batches.spec: asked.append(size) or spec(size)
    )
    for _ in range(9):
        state, _ = step(state, next(batches))
        _settle(step)
    assert asked == [8, 16, 32]
