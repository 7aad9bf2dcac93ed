import pathlib
import resource
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gapjax
from gapjax import training
from gapjax.training import Checkpoints, CheckpointWarning, History, _packing
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
        monkeypatch.setattr(_packing, "SMALL", 0)


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
    half = shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
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
    monkeypatch.setattr(_packing, "SMALL", 500)  # one array by itself, the rest packed
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
    (tmp_path / "1" / "about" / "metadata").write_text("{}")
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
