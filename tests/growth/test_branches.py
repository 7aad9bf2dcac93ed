import dataclasses
import functools
import math
import types
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax.diffusion import scale_by_batch_size
from gapjax.growth import (
    GrowingBatches,
    branched_critical_batch,
    branching_controller,
    constant_batch,
    piecewise_batch,
)
from gapjax.training import compile_step, init_state, make_train_step

BATCH, RATE, COORDINATES = 4, 0.05, 32
MULTIPLES = (1, 4, 8, 32)


@jax.jit
def sgd(w, batch):
    """SGD by the linear rule on |w|^2 / 2 under the gradient noise of the batch."""
    return w - RATE * len(batch) / BATCH * (w + jnp.mean(batch, axis=0)), None


@jax.jit
def loss(w):
    return jnp.sum(w**2) / 2


def stationary(multiple):
    """The stationary loss of a branch: flat until the rate is near its limit of 2."""
    return COORDINATES * RATE / (2 * BATCH * (2 - multiple * RATE))


def _found(run, *, seeds=6, **kwargs):
    rng = np.random.default_rng(run)
    noise = rng.normal(size=(2048, COORDINATES)).astype(np.float32)
    batches = GrowingBatches(noise, constant_batch(BATCH), seed=1000 + run)
    start = rng.normal(size=COORDINATES) * math.sqrt(2 * stationary(1) / COORDINATES)
    return branched_critical_batch(
        jnp.asarray(start, jnp.float32),
        sgd,
        batches,
        evaluate=loss,
        seeds=seeds,
        **{"multiples": MULTIPLES, "examples": 512} | kwargs,
    )


# Of the rises over k -> 0 (3, 11, 25 and 400%), the largest that is no more than this is at 8.
RESOLUTION = 0.4 * stationary(0)


def test_the_rises_of_a_noisy_quadratic_are_those_of_its_formula():
    found = _found(0, seeds=40, multiples=(1, 8, 32), level=1e-12)
    expected = np.array([stationary(k) for k in (1, 8, 32)])
    assert found.losses == pytest.approx(expected, rel=0.2)
    assert found.sizes.tolist() == [4, 32, 128]
    assert found.rises[1] == pytest.approx(expected[1] - expected[0], rel=0.5)
    assert math.isnan(found.rises[0])
    assert found.stderr == pytest.approx(found.curves[..., -1].std(axis=1, ddof=1) / 40**0.5)


def test_seeds_may_be_a_range():
    settings = {"multiples": (1, 8), "examples": 32}
    some, same = (_found(0, seeds=seeds, **settings) for seeds in (range(3), [0, 1, 2]))
    np.testing.assert_array_equal(some.curves, same.curves)


def test_the_largest_size_whose_rise_is_not_resolved():
    for run in range(3):
        found = _found(run, tolerance=RESOLUTION)
        assert (found.low, found.high) == (8 * BATCH, 32 * BATCH)


@pytest.mark.montecarlo
def test_it_is_found_in_at_least_90_of_100_runs():
    found = [_found(run, tolerance=RESOLUTION) for run in range(100)]
    assert sum((f.low, f.high) == (8 * BATCH, 32 * BATCH) for f in found) >= 90


@pytest.mark.montecarlo
def test_where_nothing_rises_little_is_called_worse():
    # hardly any curvature over the window: every size moves alike, but for chance
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2048, 8)).astype(np.float32)

    @jax.jit
    def step(w, batch):
        return w - 1e-6 * len(batch) * jnp.mean(batch, axis=0), None

    @jax.jit
    def chance(w):  # another direction for each size and seed
        key = jax.random.fold_in(jax.random.key(0), jax.lax.bitcast_convert_type(w[0], jnp.int32))
        return jax.random.normal(key)

    batches = GrowingBatches(noise, constant_batch(4), seed=0)
    worse = 0
    for run in range(200):
        found = branched_critical_batch(
            jnp.full(8, run, jnp.float32),
            step,
            batches,
            evaluate=chance,
            multiples=(1, 2, 4, 8),
            examples=32,
            seeds=range(100 * run, 100 * run + 5),
        )
        worse += found.high < math.inf
    assert worse <= 20  # 5% of 200, and three standard deviations


def test_branches_see_one_stream_and_leave_the_run_alone():
    source = {"n": np.arange(64)}
    batches = GrowingBatches(source, piecewise_batch(2, {3: 4}), seed=5)
    for _ in range(2):
        next(batches)
    before, seen = batches.state(), {}

    def step(state, batch):
        seen.setdefault(state, []).append(batch["n"])
        return state, None

    found = branched_critical_batch(
        "w",
        step,
        batches,
        evaluate=lambda state: 1.0,
        multiples=(0.5, 1, 2),
        examples=16,
        seeds=(5, 6),
        looks=2,
    )
    assert batches.state() == before
    branches = np.concatenate(seen["w"]).reshape(3, 2, 16)
    np.testing.assert_array_equal(branches[0], branches[1])
    np.testing.assert_array_equal(branches[1], branches[2])
    # that of its own seed is the stream of the run itself
    np.testing.assert_array_equal(
        branches[0, 0], np.concatenate([next(batches)["n"] for _ in range(5)])[:16]
    )
    assert (branches[0, 0] != branches[0, 1]).any()
    assert found.examples.tolist() == [8, 16]
    assert found.curves.shape == (3, 2, 2)
    assert (found.low, found.high) == (4, math.inf)


def test_steps_of_make_train_step_scale_their_rate():
    rng = np.random.default_rng(1)
    source = {"x": rng.normal(size=(256, 8)).astype(np.float32)}
    tx = optax.chain(optax.sgd(0.05), scale_by_batch_size(8, "linear"))

    def loss_fn(params, model_state, batch, key):
        noise = 0.01 * jax.random.normal(key, params.shape)
        error = params + noise - jnp.mean(batch["x"], axis=0)
        return jnp.sum(error**2) / 2, (model_state, {})

    state = init_state(jnp.ones(8), tx, key=jax.random.key(0))
    batches = GrowingBatches(source, constant_batch(8), seed=0)
    found = branched_critical_batch(
        state,
        compile_step(make_train_step(loss_fn, tx)),
        batches,
        evaluate=lambda state: jnp.sum(state.params**2) / 2,
        multiples=(1, 32),
        examples=1024,
        seeds=3,
        tolerance=0.01,
    )
    # 4 updates at a rate of 1.6 leave (1 - 1.6)^8 of the loss, but for the noise
    assert (found.low, found.high) == (8, 256)
    assert found.losses[1] == pytest.approx(4 * 0.6**8, rel=0.3)
    assert (found.curves[:, 0] != found.curves[:, 1]).all()
    assert int(state.step) == 0
    state.params.block_until_ready()  # it was not donated


class _Tuple(NamedTuple):
    w: jax.Array
    key: jax.Array


@flax.struct.dataclass
class _Struct:
    w: jax.Array
    key: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Data:
    w: jax.Array
    key: jax.Array


@pytest.mark.parametrize("make", [_Tuple, _Struct, _Data, dict])
@pytest.mark.parametrize("new_key", [jax.random.key, jax.random.PRNGKey])
def test_every_kind_of_state_gets_a_key_of_its_seed(make, new_key):
    key, seen = new_key(0), {}

    def step(state, batch):
        own = state["key"] if isinstance(state, dict) else state.key
        seen.setdefault(len(batch), []).append(jax.random.uniform(own).item())
        return state, None

    batches = GrowingBatches(np.zeros((32, 1), np.float32), constant_batch(4), seed=0)
    settings = {"evaluate": lambda state: 1.0, "multiples": (1, 2), "examples": 8}
    start = make(w=jnp.zeros(2), key=key)
    branched_critical_batch(start, step, batches, **settings, seeds=(3, 5))
    three, five = (jax.random.uniform(jax.random.fold_in(key, seed)).item() for seed in (3, 5))
    assert seen == {4: [three, three, five, five], 8: [three, five]}


def test_a_key_that_cannot_be_replaced_is_refused():
    batches = GrowingBatches(np.zeros((32, 1), np.float32), constant_batch(4), seed=0)
    state = types.SimpleNamespace(key=jax.random.key(0))
    settings = {"evaluate": lambda state: 1.0, "multiples": (1, 2), "examples": 8, "seeds": 2}
    step = lambda state, batch: (state, None)  # noqa: E731
    with pytest.raises(ValueError, match=r"SimpleNamespace, has a random key .* pass reseed="):
        branched_critical_batch(state, step, batches, **settings)
    state.key = "of a dictionary, say"
    branched_critical_batch(state, step, batches, **settings)


@pytest.mark.parametrize(
    ("batch", "multiple", "size"), [(10, 0.1, 1), (5, 1.4, 7), (3, 1 / 3, 1), (7, 3 / 7, 3)]
)
def test_multiples_that_no_float_holds(batch, multiple, size):
    batches = GrowingBatches(np.zeros((64, 1), np.float32), constant_batch(batch), seed=0)
    found = branched_critical_batch(
        0,
        lambda state, batch: (state, None),
        batches,
        evaluate=lambda state: 1.0,
        multiples=(1, multiple),
        examples=math.lcm(batch, size),
        seeds=2,
    )
    assert found.sizes.tolist() == sorted([batch, size])


def test_a_branch_that_diverges_is_worse():
    found = _found(0, multiples=(1, 64), seeds=2)  # a rate of 3.2
    assert found.high == 64 * BATCH
    exact = _compare_constant([1.0, 1.0, 2.0])
    assert (exact.low, exact.high) == (8, 16.0)


def _compare_constant(losses):
    """Branches whose losses are what they are, without any spread."""
    batches = GrowingBatches(np.zeros((32, 1), np.float32), constant_batch(4), seed=0)
    values = {4: losses[0], 8: losses[1], 16: losses[2]}
    return branched_critical_batch(
        0,
        lambda state, batch: (len(batch), None),
        batches,
        evaluate=lambda state: values[state],
        multiples=(1, 2, 4),
        examples=16,
        seeds=2,
    )


def test_a_step_gives_a_state_and_metrics():
    batches = GrowingBatches(np.zeros((32, 1), np.float32), constant_batch(4), seed=0)
    with pytest.raises(ValueError, match=r"step must return \(state, metrics\), not a dict"):
        branched_critical_batch(
            {"w": 0.0},
            lambda state, batch: state,
            batches,
            evaluate=lambda state: 0.0,
            multiples=(1, 2),
            examples=16,
            seeds=2,
        )


def test_the_controller_grows_by_what_branches_show():
    controller = branching_controller(4, maximum=16)
    batches = GrowingBatches(np.zeros((64, 1), np.float32), controller, seed=0)
    next(batches)
    assert not batches.observe(_compare_constant([1.0, 2.0, 2.0]))  # 4 to 8
    assert batches.observe(_compare_constant([1.0, 1.0, 2.0]))  # 8 to 16: 11 is above 2 x 4
    assert batches.batch_size == 8
    assert batches.switches[-1].size == 4
    next(batches)
    assert "critical batch 11 above 2 x 4" in batches.switches[-1].reason
    assert batches.observe(_compare_constant([1.0, 1.0, 1.0]))  # beyond 16
    assert batches.sizes() == (16,)


NOISE = np.zeros((512, 2), np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multiples": (2, 4)}, r"multiples must hold 1, the batch in force \(4\)"),
        ({"multiples": (1,)}, "and others, each once"),
        ({"multiples": (1, 2, 2)}, "each once"),
        ({"multiples": (1, 0.3)}, "of 4 is no whole size; 0.25 makes 1, 0.5 makes 2"),
        ({"multiples": (1, -2)}, "A multiple must be"),
        ({"multiples": (1, 256)}, "larger than the data"),
        ({"examples": 8}, "examples=8 are too few: the largest branch takes 16 at once"),
        ({"examples": 24}, "do not make whole updates of 4, 8, 16; 32 would"),
        ({"examples": 48, "looks": 2}, "at each of 2 looks; 64 would"),
        ({"examples": 16, "looks": 2}, "takes 16 at once, 2 times"),
        ({"seeds": 1}, "at least 2 different seeds, not 1"),
        ({"seeds": (3, 3)}, "at least 2 different seeds"),
        ({"level": 1.5}, "level must lie"),
        ({"looks": 0}, "looks must be"),
    ],
)
def test_bad_input(changes, message):
    batches = GrowingBatches(NOISE, constant_batch(4), seed=0)
    arguments = {"multiples": (1, 2, 4), "examples": 32, "seeds": 2} | changes
    call = functools.partial(branched_critical_batch, jnp.zeros(2), sgd, batches, evaluate=loss)
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_only_batches_that_carry_over_epochs():
    batches = GrowingBatches(NOISE, constant_batch(4), seed=0, end_of_epoch="drop")
    with pytest.raises(ValueError, match="end_of_epoch='drop' leaves"):
        branched_critical_batch(
            jnp.zeros(2), sgd, batches, evaluate=loss, multiples=(1, 2), examples=32, seeds=2
        )


def test_a_smallest_branch_that_diverges_says_nothing_of_the_others():
    batches = GrowingBatches(NOISE, constant_batch(4), seed=0)
    call = functools.partial(
        branched_critical_batch, jnp.zeros(COORDINATES), multiples=(1, 2, 4), examples=32
    )

    def diverging_at(size):
        def step(w, batch):
            return w + (jnp.inf if len(batch) == size else 0.0), None

        return step

    with pytest.raises(FloatingPointError, match="branch of the smallest batch, 4, diverged"):
        call(diverging_at(4), batches, evaluate=lambda w: w.sum(), seeds=np.int64(2))
    found = call(diverging_at(8), batches, evaluate=lambda w: w.sum(), seeds=np.int64(2))
    assert (found.low, found.high) == (4, 8.0)
