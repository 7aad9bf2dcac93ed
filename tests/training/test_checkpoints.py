import dataclasses
import functools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import gapjax
from gapjax import training
from gapjax.training import Checkpoints, CheckpointWarning, History
from gapjax.training._checkpoints import _contents
from tests.meshes import data_mesh


def test_round_trip_and_replacement(tmp_path):
    for value in (1.0, 2.0):
        training.save_tree(tmp_path / "c", {"a": {"w": jnp.full((3,), value)}, "n": jnp.int32(7)})
    tree = training.load_tree(tmp_path / "c")
    np.testing.assert_array_equal(tree["a"]["w"], np.full(3, 2.0))
    assert int(tree["n"]) == 7


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*nothing"):
        training.load_tree(tmp_path / "nothing")


def _split(devices):
    return jax.NamedSharding(data_mesh(devices), jax.P("data"))


def _state(devices=8):
    """A state of all kinds of leaves: types, random keys, sharded, NumPy, nothing."""
    params = {
        "f32": jax.device_put(jnp.arange(16.0) / 3, _split(devices)),
        "bf16": jnp.arange(3, dtype=jnp.bfloat16),
        "f8": jnp.ones(3, jnp.float8_e4m3fn),
        "i4": jnp.array([-8, 7], jnp.int4),
        "bool": jnp.array([True, False]),
        "complex": jnp.array([1 + 2j], jnp.complex64),
        "numpy": np.arange(3, dtype=np.int64) << 40,
        "empty": jnp.zeros((0, 3)),
        "number": 3,
    }
    opt_state = optax.adam(0.1).init({"w": params["bf16"]})
    keys = jax.random.split(jax.random.key(1, impl="rbg"), 3)
    return training.TrainState(jnp.int32(5), params, {"keys": keys}, opt_state, jax.random.key(0))


def _numbers(leaf):
    keys = jnp.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if keys else leaf)


def _assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        new_bits, old_bits = _numbers(new), _numbers(old)
        assert new_bits.dtype == old_bits.dtype and new_bits.shape == old_bits.shape
        assert new_bits.tobytes() == old_bits.tobytes()


def _history(updates):
    loss = np.linspace(1, 0, updates, dtype=np.float32)
    return History(np.arange(1, updates + 1), {"loss": loss, "noise": loss[:, None] * 2})


class _Place:
    """Stands for an iterator: only the place matters here."""

    def __init__(self, place=0):
        self.place = place

    def state(self):
        return {"place": self.place, "control": [1, 2.5, None]}

    def restore(self, state):
        self.place = state["place"]


@pytest.fixture(params=["packed", "by itself"])
def storage(request, monkeypatch):
    """Arrays either go into one file together, or each is small enough to test and by itself."""
    if request.param == "by itself":
        monkeypatch.setattr(_contents, "SMALL", 0)


@pytest.mark.usefixtures("storage")
def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    state, history = _state(), _history(4)
    with Checkpoints(tmp_path, every=1, config={"rate": (1, 2)}) as checkpoints:
        checkpoints.save(4, state, batches=_Place(17), history=history)
    place = _Place()
    found = Checkpoints(tmp_path, every=9, config={"rate": [1, 2]}).restore(state, batches=place)
    assert found.update == 4 and place.place == 17
    _assert_same(found.state, state)
    _assert_same(found.history, history)
    assert found.state.params["f32"].sharding == state.params["f32"].sharding
    for new, old in zip(jax.tree.leaves(found.state), jax.tree.leaves(state), strict=True):
        if isinstance(old, jax.Array):
            assert new.committed == old.committed
    assert jax.random.key_impl(found.state.model_state["keys"]) == "rbg"


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    advance = jax.jit(lambda w: w * 1.01 + 1.0, donate_argnums=0)
    w = jnp.ones((200, 200))
    expected = {}
    with Checkpoints(tmp_path, every=1, keep=4) as checkpoints:
        for update in range(1, 5):
            w = advance(w)
            expected[update] = np.array(w)
            checkpoints.save(update, w)
    for update in (4, 3):
        found = Checkpoints(tmp_path, every=1).restore(jnp.zeros((200, 200)))
        assert found.update == update
        np.testing.assert_array_equal(found.state, expected[update])
        shutil.rmtree(tmp_path / str(update))


def test_what_was_left_half_written_is_cleared_away(tmp_path):
    """By a run that was killed; what is whole, and what is not a checkpoint, stays."""
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(3)})
    half = shutil.copytree(tmp_path / "1", tmp_path / "2.unfinished")
    (tmp_path / "notes").mkdir()
    with Checkpoints(tmp_path, every=1) as checkpoints:
        assert checkpoints.updates == (1,)
        checkpoints.save(2, {"w": jnp.ones(3)})
    assert not half.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "notes"}


def test_the_last_few_are_kept(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=2) as checkpoints:
        for update in (3, 10, 200):
            checkpoints.save(update, jnp.float32(update))
        with pytest.raises(ValueError, match=r"holds a checkpoint of update 200, so update 200"):
            checkpoints.save(200, jnp.float32(0))
    assert Checkpoints(tmp_path, every=1).updates == (10, 200)


@pytest.mark.usefixtures("storage")
@pytest.mark.parametrize(("there", "here"), [(8, 4), (4, 1), (1, 8)])
def test_restores_onto_another_number_of_devices(tmp_path, there, here):
    w = jnp.arange(32.0).reshape(8, 4)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, {"w": jax.device_put(w, _split(there))})
    like = {"w": jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=_split(here))}
    found = Checkpoints(tmp_path, every=1).restore(like).state["w"]
    assert found.sharding == _split(here) and len(found.addressable_shards) == here
    np.testing.assert_array_equal(found, w)


def _damages(path):
    """Ways to damage one file: a bit, the second half, all of it."""
    data = path.read_bytes()
    if data:
        place = len(data) // 3
        yield data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        yield data[: len(data) // 2]
    yield None


# Orbax reads leaves side by side: after one has failed, the others find their event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_goes_unnoticed(tmp_path, monkeypatch):
    monkeypatch.setattr(_contents, "SMALL", 500)  # one array by itself, the rest packed
    rng = np.random.default_rng(0)
    states = [
        {"w": jnp.asarray(rng.normal(size=(40, 30)), jnp.float32), "b": jnp.ones(30) / (k + 3)}
        for k in range(2)
    ]
    with Checkpoints(tmp_path / "kept", every=1) as checkpoints:
        for number, state in enumerate(states):
            checkpoints.save(number, state, history=_history(number + 3))
    names = [p.relative_to(tmp_path) for p in (tmp_path / "kept" / "1").rglob("*") if p.is_file()]
    passed_over = 0
    for name in names:
        for damaged in _damages(tmp_path / name):
            folder = tmp_path / "damaged"
            shutil.copytree(tmp_path / "kept", folder)
            file = folder / name.relative_to("kept")
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                with Checkpoints(folder, every=1) as checkpoints:
                    found = checkpoints.restore(states[0])
            _assert_same(found.state, states[found.update])
            _assert_same(found.history, _history(found.update + 3))
            if found.update == 0 and (folder / "1.damaged").exists():
                passed_over += 1
                assert said[0].category is CheckpointWarning
                assert "update 1" in str(said[0].message) and "from update 0" in str(
                    said[0].message
                )
            shutil.rmtree(folder)
    assert passed_over >= 10


def test_where_no_checkpoint_can_be_read_nothing_is_touched(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        Checkpoints(tmp_path, every=1).restore(jnp.zeros(3))
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, jnp.zeros(3))
    (tmp_path / "1" / "about.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"none of the 1 checkpoints .* its description is damaged"
    ):
        Checkpoints(tmp_path, every=1).restore(jnp.zeros(3))
    assert (tmp_path / "1").exists()


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path, monkeypatch):
    state = {"layer": {"w": jnp.zeros((3, 4))}}

    def restore(config=None, like=state):
        return Checkpoints(tmp_path, every=1, config=config or {"rate": 0.1}).restore(like)

    with Checkpoints(tmp_path, every=1, config={"rate": 0.1}) as checkpoints:
        checkpoints.save(1, state)
    with pytest.raises(ValueError, match=r"another run: rate=0.1 there, rate=0.2 here"):
        restore(config={"rate": 0.2})
    with pytest.raises(
        ValueError, match=r"\['layer'\]\['w'\] is float32\[3, 4\] there and float32"
    ):
        restore(like={"layer": {"w": jnp.zeros((3, 5))}})
    with pytest.raises(
        ValueError, match=r"\['layer'\]\['w'\] is float32\[3, 4\] there and missing"
    ):
        restore(like={"layer": {"weight": jnp.zeros((3, 4))}})
    with pytest.raises(ValueError, match=r"does not say where the run stood in the data"):
        Checkpoints(tmp_path, every=1, config={"rate": 0.1}).restore(state, batches=_Place())
    monkeypatch.setattr(gapjax, "__version__", "9.0")
    with pytest.raises(ValueError, match=r"another gapjax release: .* there, 9.0 here; go on with"):
        restore()


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="every must be a whole number"):
        Checkpoints(tmp_path, every=0)
    with pytest.raises(ValueError, match="on_save_error must be one of 'raise', 'warn'"):
        Checkpoints(tmp_path, every=1, on_save_error="panic")
    with pytest.raises(ValueError, match="config must be JSON"):
        Checkpoints(tmp_path, every=1, config={"f": print})


class _FullDisk:
    """While inside, no file may grow over a few bytes, as on a disk that is full."""

    def __enter__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, self.limits[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def _large(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(100, 100)), jnp.float32)


def test_a_full_disk_is_an_error_that_names_what_is_left(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, _large(1))
    checkpoints.wait()
    with _FullDisk():
        checkpoints.save(2, _large(2))
        with pytest.raises(OSError, match=r"update 2 could not .*too large.*good one: update 1"):
            checkpoints.wait()
    assert checkpoints.updates == (1,)


def test_a_full_disk_leaves_nothing_of_a_tree(tmp_path, capfd):
    training.save_tree(tmp_path / "c", {"w": jnp.ones(3)})
    with _FullDisk(), pytest.raises(OSError, match=r"/c could not be written: [^\n]*too large\.$"):
        training.save_tree(tmp_path / "c", {"w": _large(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert training.load_tree(tmp_path / "c")["w"].tolist() == [1, 1, 1]
    out, errors = capfd.readouterr()
    assert "Traceback" not in out + errors


def test_a_full_disk_may_be_trained_over(tmp_path):
    with Checkpoints(tmp_path, every=1, keep=1, on_save_error="warn") as checkpoints:
        checkpoints.save(1, _large(1))
        checkpoints.wait()
        with _FullDisk():
            checkpoints.save(2, _large(2))
            with pytest.warns(CheckpointWarning, match=r"update 2 could not be written.*goes on"):
                checkpoints.save(3, _large(3))
            with pytest.warns(CheckpointWarning, match=r"update 3 could not"):
                checkpoints.save(4, _large(4))
            with pytest.warns(CheckpointWarning, match=r"update 4 could not"):
                checkpoints.wait()
        found = checkpoints.restore(_large(0))
        np.testing.assert_array_equal(found.state, _large(1))
        checkpoints.save(5, _large(5))
    assert not [p for p in pathlib.Path(tmp_path).iterdir() if "tmp" in p.name]
    np.testing.assert_array_equal(
        Checkpoints(tmp_path, every=1).restore(_large(0)).state, _large(5)
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write checkpoints to .*file"):
        Checkpoints(tmp_path / "file", every=1).save(1, jnp.zeros(3))


def _restored(folder, state, like=None):
    with Checkpoints(folder, every=1) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        return checkpoints.restore(state if like is None else like).state


def test_plain_orbax_reads_it_in_three_lines(tmp_path):
    tx = optax.adam(0.1)
    params = {"Dense_0": {"kernel": jnp.arange(6.0).reshape(2, 3), "a/b.c": jnp.ones(2)}}
    state = training.init_state(params, tx, key=jax.random.key(3), model_state={"n": 2})
    large = jax.device_put(jnp.arange(2.0**19), _split(4))
    state = state._replace(model_state={"n": 2, "large": large})
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(7, state, history=_history(4))

    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "7" / "state")
    np.testing.assert_array_equal(found["params"]["Dense_0"]["kernel"], [[0, 1, 2], [3, 4, 5]])
    assert set(found["params"]["Dense_0"]) == {"kernel", "a%2Fb%2Ec"}
    np.testing.assert_array_equal(found["opt_state"]["0"]["mu"]["Dense_0"]["kernel"], 0)
    np.testing.assert_array_equal(found["model_state"]["large"], np.arange(2.0**19))
    np.testing.assert_array_equal(found["key"], jax.random.key_data(jax.random.key(3)))
    assert int(found["step"]) == 0 and int(found["model_state"]["n"]) == 2
    with np.load(tmp_path / "7" / "history.npz") as history:
        np.testing.assert_array_equal(history["step"], [1, 2, 3, 4])
        assert set(history) == {"step", "metrics/loss", "metrics/noise"}


def test_orbax_has_its_new_interface_still_under_experimental():
    """The reason to write with handlers of the old one: when this fails, move to `ocp.v1`."""
    import importlib.util

    import orbax.checkpoint as ocp

    assert importlib.util.find_spec("orbax.checkpoint.experimental.v1") is not None
    assert importlib.util.find_spec("orbax.checkpoint.v1") is None
    assert not hasattr(ocp, "save_pytree")


@pytest.mark.parametrize(
    "value",
    [
        3,
        -5,
        2**63 - 1,
        2**63,
        2**64 - 1,
        -(2**63),
        True,
        False,
        0.25,
        1e300,
        2 + 3j,
        np.float32(2.5),
        np.int64(1 << 40),
    ],
)
def test_numbers_come_back_with_their_types(tmp_path, value):
    found = _restored(
        tmp_path, {"n": value, "w": jnp.ones(2)}, {"n": type(value)(0), "w": jnp.zeros(2)}
    )
    assert type(found["n"]) is type(value) and found["n"] == value


def test_a_counter_may_be_a_number_at_first_and_an_array_later(tmp_path):
    found = _restored(tmp_path / "a", {"step": jnp.int32(7)}, {"step": 0})
    assert isinstance(found["step"], jax.Array) and found["step"].dtype == jnp.int32
    found = _restored(tmp_path / "b", {"step": -7}, {"step": jnp.int32(0)})
    assert isinstance(found["step"], jax.Array) and int(found["step"]) == -7
    found = _restored(tmp_path / "c", {"rate": jnp.bfloat16(0.5)}, {"rate": 0.0})
    assert found["rate"].dtype == jnp.bfloat16 and float(found["rate"]) == 0.5
    for there, here in ((jnp.float32(1), 0), (True, 0), (1, 0.0), (jnp.ones(2), 0)):
        with Checkpoints(tmp_path / "d", every=1) as checkpoints:
            checkpoints.save(max(checkpoints.updates, default=0) + 1, {"n": there})
            checkpoints.wait()
            with pytest.raises(ValueError, match=r"belongs to another state: \['n'\] is"):
                checkpoints.restore({"n": here})


def test_the_train_state_of_flax(tmp_path):
    """Its step is a Python number until the first jitted update."""
    from flax.training.train_state import TrainState

    tx = optax.adam(0.1)
    fresh = TrainState.create(apply_fn=None, params={"w": jnp.ones(3)}, tx=tx)
    step = jax.jit(lambda state: state.apply_gradients(grads={"w": jnp.ones(3)}))
    with jax.numpy_dtype_promotion("standard"):
        state = step(step(fresh))
    found = _restored(tmp_path, state, fresh)
    _assert_same(found, state)
    assert int(found.step) == 2 and found.tx is tx
    with jax.numpy_dtype_promotion("standard"):
        _assert_same(step(found).params, step(state).params)


def test_the_state_of_an_nnx_module(tmp_path):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.norm = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    state, other = (nnx.state(Net(nnx.Rngs(seed))) for seed in (0, 1))
    found = _restored(tmp_path, state, other)
    _assert_same(found, state)
    nnx.update(Net(nnx.Rngs(2)), found)
    shapes = jax.eval_shape(lambda: state)
    _assert_same(Checkpoints(tmp_path, every=1).restore(shapes).state, state)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["w", "layers"], meta_fields=["name", "width"]
)
@dataclasses.dataclass
class _Module:
    """As equinox has them: fields that are arrays or modules, and some that are static."""

    w: jax.Array
    layers: list
    name: str
    width: int


def test_modules_with_static_fields(tmp_path):
    def make(value):
        inner = _Module(jnp.full(2, value), [], "inner", 2)
        return _Module(jnp.full((2, 3), value), [inner, inner], "outer", 3)

    found = _restored(tmp_path, make(2.0), make(0.0))
    _assert_same(found, make(2.0))
    assert (found.name, found.width, found.layers[1].name) == ("outer", 3, "inner")


def test_what_is_no_number_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path, every=1) as checkpoints:
        with pytest.raises(ValueError, match=r"state\['name'\] is a str; a checkpoint"):
            checkpoints.save(1, {"name": "run", "w": jnp.ones(2)})
        checkpoints.save(1, {"w": jnp.ones(2)})
    assert Checkpoints(tmp_path, every=1).updates == (1,)


def test_a_state_of_nothing(tmp_path):
    assert _restored(tmp_path, {"w": jnp.zeros((0, 3)), "x": {}})["w"].shape == (0, 3)


def test_what_an_older_release_wrote_is_refused_by_name(tmp_path):
    (tmp_path / "5" / "about").mkdir(parents=True)
    with pytest.raises(ValueError, match="another checkpoint format: 2 there, 3 here; go on with"):
        Checkpoints(tmp_path, every=1).restore(jnp.zeros(3))


def test_one_run_at_a_time_writes_to_a_folder(tmp_path):
    """Another may look; a lock that nobody holds any more is taken over."""
    step = jax.jit(lambda state, batch: (state + batch, {}))
    with Checkpoints(tmp_path, every=1) as checkpoints:
        ones = [np.float32(1)] * 3
        training.fit(step, np.float32(0), ones, num_updates=2, checkpoints=checkpoints)
        holder = json.loads((tmp_path / ".lock").read_text())
    assert not (tmp_path / ".lock").exists() and holder["process"] == os.getpid()
    far = json.dumps({**holder, "host": "far", "kernel": "another", "token": "x"})
    (tmp_path / ".lock").write_text(far)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        assert (
            checkpoints.updates == (1, 2) and float(checkpoints.restore(np.float32(0)).state) == 2
        )
        for act in (
            lambda: checkpoints.save(3, np.float32(3)),
            lambda: training.fit(step, np.float32(0), ones, num_updates=3, checkpoints=checkpoints),
        ):
            with pytest.raises(ValueError, match=rf"{tmp_path} is written to by .* on far since"):
                act()
        shutil.copy(tmp_path / "1" / "about.json", tmp_path / "2" / "about.json")
        (tmp_path / "2" / "about.json").write_text("{}")
        with pytest.warns(CheckpointWarning, match="It is left as it is; going on from update 1"):
            assert checkpoints.restore(np.float32(0)).update == 1
    assert (tmp_path / ".lock").read_text() == far and (tmp_path / "2").exists()
    (tmp_path / ".lock").write_text(json.dumps({**holder, "started": "1"}))
    with Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(3, np.float32(3))
    assert not (tmp_path / ".lock").exists()


def test_a_folder_that_was_taken_over_is_let_be(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.save(1, jnp.ones(2))
    checkpoints.wait()
    holder = json.loads((tmp_path / ".lock").read_text())
    other = {**holder, "host": "far", "kernel": "another", "token": "x"}
    (tmp_path / ".lock").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"written to by .* on far"):
        checkpoints.save(2, jnp.ones(2))
    checkpoints.close()
    assert json.loads((tmp_path / ".lock").read_text()) == other


def test_a_folder_that_was_removed_is_made_again(tmp_path):
    with Checkpoints(tmp_path / "run", every=1) as checkpoints:
        checkpoints.save(1, jnp.ones(2))
        checkpoints.wait()
        shutil.rmtree(tmp_path / "run")
        checkpoints.save(2, jnp.ones(2))
    assert Checkpoints(tmp_path / "run", every=1).updates == (2,)


FULL = """
import resource, sys, jax.numpy as jnp, numpy as np
from gapjax import training
with training.Checkpoints(sys.argv[1], every=1, on_save_error="warn") as checkpoints:
    checkpoints.save(1, {"w": jnp.ones((600, 600)), "b": jnp.ones(3)})
    checkpoints.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    values = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)
    checkpoints.save(2, {"w": jnp.asarray(values), "b": jnp.ones(3)})
    checkpoints.wait()
"""


@pytest.mark.processes
def test_a_full_disk_is_told_in_one_line(tmp_path):
    """Not by orbax's threads too, each with its traceback."""
    done = subprocess.run(
        [sys.executable, "-W", "always::gapjax.training.CheckpointWarning", "-c", FULL, tmp_path],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    assert len(lines) == 1 and "update 2 could not be written" in lines[0], done.stderr


def test_a_tree_is_replaced_when_the_new_one_is_whole(tmp_path, monkeypatch):
    training.save_tree(tmp_path / "c", {"w": jnp.ones(3)})

    def refuse(*_):
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr("gapjax.training._checkpoints._trees.seal_files", refuse)
        with pytest.raises(OSError, match="no space"):
            training.save_tree(tmp_path / "c", {"w": jnp.zeros(3)})
    np.testing.assert_array_equal(training.load_tree(tmp_path / "c")["w"], np.ones(3))
    (tmp_path / "c").rename(tmp_path / "c.replaced")  # cut between the two renames
    np.testing.assert_array_equal(training.load_tree(tmp_path / "c")["w"], np.ones(3))
    training.save_tree(tmp_path / "c", {"w": jnp.zeros(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {"w": np.zeros(2), "n": np.zeros((), int)},
            r"like has shape \(2,\) at 'w', and \(3,\)",
        ),
        ({"w": np.zeros(3, int), "n": np.zeros((), int)}, "like has int32 at 'w', .* float32"),
        ({"w": np.zeros(3)}, "the checkpoint alone has a leaf at 'n'"),
        ({"w": np.zeros(3), "n": np.zeros((), int), "z": 0.0}, "like alone has a leaf at 'z'"),
    ],
)
def test_a_tree_is_loaded_like_what_was_saved(tmp_path, like, message):
    training.save_tree(tmp_path / "c", {"w": jnp.arange(3.0), "n": jnp.array(2)})
    with pytest.raises(ValueError, match=message):
        training.load_tree(tmp_path / "c", like)
    half = {"w": jax.ShapeDtypeStruct((3,), jnp.bfloat16), "n": jnp.array(0)}
    assert training.load_tree(tmp_path / "c", half)["w"].dtype == jnp.bfloat16


def test_a_tree_that_lay_on_several_devices_is_loaded_whole(tmp_path):
    w = jax.device_put(jnp.arange(16.0), NamedSharding(data_mesh(8), P("data")))
    training.save_tree(tmp_path / "c", {"w": w})
    found = training.load_tree(tmp_path / "c")["w"]
    assert isinstance(found, np.ndarray) and found.tolist() == list(range(16))


def test_no_damage_to_a_tree_goes_unnoticed(tmp_path):
    training.save_tree(tmp_path / "kept", {"w": jnp.arange(300.0), "b": jnp.ones(3)})
    names = [
        p.relative_to(tmp_path / "kept") for p in (tmp_path / "kept").rglob("*") if p.is_file()
    ]
    assert len(names) > 4
    for name in names:
        for damaged in _damages(tmp_path / "kept" / name):
            folder = shutil.copytree(tmp_path / "kept", tmp_path / "damaged")
            (folder / name).unlink()
            if damaged is not None:
                (folder / name).write_bytes(damaged)
            with pytest.raises(
                ValueError, match=r"damaged/.*: (checksum differs|is missing|these)"
            ):
                training.load_tree(folder)
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (np.arange(3.0).astype(">f8"), "holds >f8"),
        (np.array(["a"]), "holds <U1"),
        (np.array([None]), "holds object"),
        (np.longdouble(1), "holds <f16"),
        (2**70, "more than 64 bits"),
        (np.ma.array([1, 2], mask=[0, 1]), "masked array"),
    ],
)
def test_what_cannot_come_back_is_not_saved(tmp_path, leaf, message):
    with (
        training.Checkpoints(tmp_path / "run", every=1) as checkpoints,
        pytest.raises(ValueError, match=message),
    ):
        checkpoints.save(1, {"x": leaf})


def test_a_loader_with_an_attribute_of_that_name_has_no_state(tmp_path):
    class Loader:
        state, restore = {"shuffled": True}, None  # no methods

        def __iter__(self):
            return iter([jnp.ones(())] * 6)

    step = jax.jit(lambda total, batch: (total + batch, {}))
    for last in (2, 4):
        with Checkpoints(tmp_path / "run", every=2) as checkpoints:
            total, _ = training.fit(
                step, jnp.zeros(()), Loader(), num_updates=last, checkpoints=checkpoints
            )
        assert float(total) == last
