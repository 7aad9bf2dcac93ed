from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import models, training
from tests.training import problem


class State(NamedTuple):
    step: jax.Array
    w: jax.Array


def _member(state, rate, batch):
    loss = jnp.mean((state.w - batch) ** 2)
    return State(state.step + 1, state.w - rate * jnp.mean(2 * (state.w - batch))), {"loss": loss}


def _start(members):
    return State(jnp.zeros(members, jnp.int32), jnp.zeros(members, jnp.float32))


@pytest.mark.parametrize("loop", ["scan", "turns", "host"])
def test_population_equals_its_members_one_by_one(loop):
    rng = np.random.default_rng(0)
    data = rng.normal(size=20).astype(np.float32)
    indices = rng.integers(20, size=(5, 3, 4)).astype(np.int32)
    rates = np.array([0.1, 0.2, 0.4], np.float32)
    states, segment = training.make_advance(_member, loop=loop)(_start(3), rates, data, indices, 5)
    for member in range(3):
        w, losses = 0.0, []
        for rows in indices[:, member]:
            losses.append(np.mean((w - data[rows]) ** 2))
            w -= rates[member] * np.mean(2 * (w - data[rows]))
        np.testing.assert_allclose(states.w[member], w, rtol=1e-5)
        np.testing.assert_allclose(segment.loss[member], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("loop", ["turns", "host"])
def test_on_one_device_members_take_turns(loop):
    """In a program of one: a convolution vmapped over its kernels is many times slower on CPU."""

    def step(state, rate, batch):
        out = jax.lax.conv(batch["image"], state.w, (1, 1), "SAME")
        return State(state.step + 1, state.w - rate * out.mean()), {"loss": out.mean()}

    states = State(jnp.zeros(3, jnp.int32), jnp.ones((3, 2, 1, 3, 3)))
    data = {"image": np.ones((6, 1, 8, 8), np.float32)}
    rows = {"mine": np.zeros((4, 3, 5), np.int32), "shared": np.zeros((4, 5), np.int32)}
    advance = training.make_advance(
        step,
        loop=loop,
        take=lambda data, rows: jax.tree.map(lambda x: x[rows["mine"] + rows["shared"]], data),
        rows_axes={"mine": 0, "shared": None},
    )
    assert advance.by_turns
    rates = jnp.array([0.0, 0.1, 0.2])
    text = advance.lower(states, rates, data, rows, 4).as_text()
    assert "feature_group_count = 1" in text and "3x2x1x3x3" not in text
    trained, segment = advance(states, rates, data, rows, 2)
    assert states.w.is_deleted()  # given away, as where all are one program
    assert trained.step.tolist() == [2, 2, 2] and segment.loss.shape == (3,)
    assert trained.w.shape == (3, 2, 1, 3, 3) and len(set(trained.w[:, 0, 0, 0, 0].tolist())) == 3
    over = training.make_advance(step, loop=loop, mesh=training.population_mesh(3))
    assert not getattr(over, "by_turns", False)


@pytest.mark.parametrize("loop", ["scan", "turns", "host"])
def test_first_update_that_diverged_is_named_and_the_others_go_on(loop):
    indices = np.zeros((200, 2, 1), np.int32)
    rates = np.array([0.1, 3.0], np.float32)
    advance = training.make_advance(_member, loop=loop)
    states, segment = advance(_start(2), rates, np.ones(1, np.float32), indices, 200)
    assert segment.diverged[0] == 0 and jnp.isfinite(states.w[0])
    assert 20 < segment.diverged[1] < 100  # |1 - 6|^n overflows float32's square at n = 27


@pytest.mark.parametrize("loop", ["scan", "turns", "host"])
def test_the_parameter_whose_gradient_was_first_not_finite_is_named(loop):
    """The root of a difference that shrinks: past zero only its own gradient is NaN."""

    def loss_fn(params, batch):
        return params["a"] ** 2 + jnp.sqrt(jnp.maximum(1 - params["b"], 0)) * jnp.mean(batch)

    def step(state, rate, batch):
        return training.make_train_step(loss_fn, optax.sgd(rate), on_fault="stop")(state, batch)

    def init(seed):
        params = {"a": jnp.float32(1), "b": jnp.float32(0)}
        return training.init_state(params, optax.sgd(0.1), key=jax.random.key(seed))

    expected, b = 1, 0.0
    while b < 1:
        b += 0.3 * 0.5 / np.sqrt(1 - b)
        expected += 1
    states = jax.vmap(init)(np.arange(2))
    rates, indices = np.array([0.001, 0.3], np.float32), np.zeros((20, 2, 1), np.int32)
    advance = training.make_advance(step, loop=loop)
    states, segment = advance(states, rates, np.ones(1, np.float32), indices, 20)
    assert segment.diverged.tolist() == [0, expected] and segment.fault.tolist() == [-1, 1]
    assert training.fault_path(states.params, segment.fault[1]) == "['b']"
    assert jnp.isfinite(states.params["a"]).all() and jnp.isfinite(states.params["b"][0])


def test_one_program_serves_segments_of_any_length():
    indices = np.zeros((8, 2, 1), np.int32)
    advance = training.make_advance(_member, loop="scan")
    states = _start(2)
    for count in (1, 3, 8):
        states, _ = advance(
            states, np.full(2, 0.1, np.float32), np.ones(1, np.float32), indices, count
        )
    assert int(states.step[0]) == 12
    assert advance._cache_size() == 1


@pytest.mark.parametrize(
    ("shape", "on_cpu"),
    [((3, 4), "scan"), ((511, 512), "scan"), ((512, 512), "turns"), ((3, 3, 1, 4), "host")],
)
def test_the_loop_is_chosen_by_the_network_on_cpu(shape, on_cpu):
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    assert training.loop_for(params, "cpu") == on_cpu
    assert training.loop_for(params, "gpu") == "scan"


def test_a_population_lies_on_as_many_devices_as_divide_it():
    devices = jax.devices()
    for members, count, width, expected in (
        (8, 8, 1, (8, 1)),
        (16, 8, 1, (8, 1)),
        (5, 8, 1, (5, 1)),
        (12, 8, 1, (6, 1)),
        (1, 8, 8, (1, 8)),
        (2, 8, 4, (2, 4)),
        (9, 8, 2, (3, 2)),
    ):
        mesh = training.population_mesh(members, devices_per_member=width, devices=devices[:count])
        assert mesh.devices.shape == expected
        assert mesh.axis_names == ("member", "data")


def test_a_population_that_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="more than the 8 there are: use at most 8"):
        training.population_mesh(2, devices_per_member=16)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"5 members .* 8 devices of 2 processes.* multiple of 8"):
        training.population_mesh(5)


@pytest.mark.parametrize("loop", ["scan", "turns", "host"])
@pytest.mark.parametrize("width", [1, 2])
def test_a_population_over_devices_is_that_of_one(loop, width):
    rng = np.random.default_rng(0)
    data = rng.normal(size=20).astype(np.float32)
    indices = rng.integers(20, size=(5, 4, 6)).astype(np.int32)
    rates = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    expected, _ = training.make_advance(_member, loop=loop)(_start(4), rates, data, indices, 5)
    mesh = training.population_mesh(4, devices_per_member=width)
    traced = []

    def member(*arguments):
        traced.append(1)
        return _member(*arguments)

    advance = training.make_advance(member, loop=loop, mesh=mesh)
    states = training.lay_out(mesh, jax.device_get(_start(4)), "member")
    found, segment = advance(
        states,
        training.lay_out(mesh, rates, "member"),
        training.lay_out(mesh, data),
        training.lay_out(mesh, indices, None, "member", "data"),
        5,
    )
    np.testing.assert_allclose(found.w, expected.w, rtol=1e-6)
    assert found.w.sharding.is_equivalent_to(states.w.sharding, 1)
    assert segment.loss.shape == (4,)
    assert len(traced) == 1


def test_members_on_devices_of_their_own_communicate_nothing():
    mesh = training.population_mesh(8)
    states = training.lay_out(mesh, jax.device_get(_start(8)), "member")
    rows = training.lay_out(mesh, np.zeros((3, 8, 4), np.int32), None, "member", "data")
    rates = training.lay_out(mesh, np.ones(8, np.float32), "member")
    data = training.lay_out(mesh, np.ones(20, np.float32))
    advance = training.make_advance(_member, loop="scan", mesh=mesh)
    program = advance.lower(states, rates, data, rows, 3).compile()
    assert not training.inspect_program(program).collectives


@pytest.mark.parametrize("members", [4, 8])  # one and two on each of 4 devices
@pytest.mark.parametrize("loop", ["scan", "turns", "host"])
def test_convolutions_of_members_on_devices_of_their_own_communicate_nothing(loop, members):
    """Vmapped over kernels they are one grouped convolution, which the compiler would gather."""
    mesh = training.population_mesh(members, devices=jax.devices()[:4])
    network, tx = models.as_network(models.ResNet((1,), (4,), 4)), optax.sgd(0.1)
    step = training.make_train_step(problem.loss_function(network, 4), tx)

    def start(seed, images):
        return problem.start(network, tx, images)._replace(key=jax.random.key(seed))

    def lie(tree, *axes):
        at = jax.NamedSharding(mesh, jax.P(*axes))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree)

    data = {"x": np.zeros((20, 8, 8, 3), np.float32), "y": np.zeros(20, np.int32)}
    seeds = np.arange(members, dtype=np.uint32)
    states = jax.eval_shape(jax.vmap(start, (0, None)), seeds, data["x"][:2])
    rates, rows = np.ones(members, np.float32), np.zeros((3, members, 8), np.int32)
    advance = training.make_advance(lambda s, rate, b: step(s, b), loop=loop, mesh=mesh)
    lowered = advance.lower(
        lie(states, "member"),
        lie(rates, "member"),
        lie(data),
        lie(rows, None, "member", "data"),
        3,
    )
    assert not training.inspect_program(lowered.compile()).collectives


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("loop", ["scan", "turns", "host"])
def test_members_have_hyperparameters_and_rows_of_several_kinds(loop, devices):
    """A rate and a decay for each; example numbers for each, an epoch for all."""

    def member(state, hyper, batch):
        x, epoch, number = batch
        loss = jnp.mean((state.w - x) ** 2) + 0 * epoch.astype(jnp.float32)
        grad = jnp.mean(2 * (state.w - x)) + epoch.astype(jnp.float32) + jnp.mean(number)
        w = state.w - hyper["rate"] * (grad + hyper["decay"] * state.w)
        return State(state.step + 1, w), {"loss": loss}

    def take(data, rows):
        number = rows["example"].astype(jnp.float32)
        return data["x"][rows["example"]], rows["epoch"], number

    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=20).astype(np.float32)}
    rows = {
        "example": rng.integers(20, size=(5, 4, 6)).astype(np.int32),
        "epoch": np.arange(5, dtype=np.int32) // 2,
    }
    hyper = {
        "rate": np.array([0.1, 0.2, 0.05, 0.01], np.float32),
        "decay": np.array([0.0, 0.1, 0.2, 0.3], np.float32),
    }
    mesh = training.population_mesh(4, devices=jax.devices()[:devices])
    advance = training.make_advance(
        member, loop=loop, mesh=mesh, take=take, rows_axes={"example": 0, "epoch": None}
    )
    laid = (
        training.lay_out(mesh, jax.device_get(_start(4)), "member"),
        training.lay_out(mesh, hyper, "member"),
        training.lay_out(mesh, data),
        {
            "example": training.lay_out(mesh, rows["example"], None, "member"),
            "epoch": training.lay_out(mesh, rows["epoch"]),
        },
    )
    program = training.inspect_program(advance.lower(*laid, 5).compile())
    assert not program.collectives
    states, segment = advance(*laid, 5)
    for p in range(4):
        w, losses = 0.0, []
        for i in range(5):
            x, number = data["x"][rows["example"][i, p]], rows["example"][i, p]
            losses.append(np.mean((w - x) ** 2))
            grad = np.mean(2 * (w - x)) + rows["epoch"][i] + np.mean(number)
            w -= hyper["rate"][p] * (grad + hyper["decay"][p] * w)
        np.testing.assert_allclose(states.w[p], w, rtol=1e-5)
        np.testing.assert_allclose(segment.loss[p], np.mean(losses), rtol=1e-5)


def test_a_member_alone_goes_without_its_axis():
    seen = []

    def function(x, shared, tree):
        seen.append((jnp.ndim(x), jnp.ndim(shared), jnp.ndim(tree["a"]), jnp.ndim(tree["b"])))
        return x + shared + tree["a"] + tree["b"]

    over = training.over_members(function, (0, None, {"a": 1, "b": None}))
    for members in (1, 3):
        tree = {"a": jnp.ones((2, members)), "b": jnp.ones(2)}
        found = over(jnp.ones(members), jnp.ones(2), tree)
        assert found.shape == (members, 2) and (found == 4).all()
    assert seen == [(0, 1, 1, 1)] * 2


@pytest.mark.parametrize("loop", ["scan", "turns", "host"])
def test_states_may_be_of_numpy(loop):
    advance = training.make_advance(_member, loop=loop)
    rates, data = np.array([0.1, 0.2], np.float32), np.ones(1, np.float32)
    rows = np.zeros((3, 2, 1), np.int32)
    found = [
        advance(states, rates, data, rows, 3)[0]
        for states in (_start(2), jax.tree.map(np.array, _start(2)))
    ]
    jax.tree.map(np.testing.assert_array_equal, *found)
