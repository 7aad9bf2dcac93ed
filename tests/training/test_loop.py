import concurrent.futures
import itertools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import growth, training
from tests.loaders import refilled


@jax.jit
def _step(state, batch):
    return state + batch, {"loss": state * 2.0}


def test_history_holds_every_recorded_update_and_the_last():
    state, history = training.fit(
        _step, np.float32(0), itertools.repeat(np.float32(1)), num_updates=7, record_every=3
    )
    assert float(state) == 7
    np.testing.assert_array_equal(history.step, [3, 6, 7])
    np.testing.assert_array_equal(history.metrics["loss"], [4.0, 10.0, 12.0])


def test_callbacks_see_every_update():
    seen = []
    training.fit(
        _step,
        np.float32(0),
        itertools.repeat(np.float32(1)),
        num_updates=3,
        callbacks=[lambda update, state, metrics: seen.append((update, float(state)))],
    )
    assert seen == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_no_more_batches_are_taken_than_needed():
    batches = iter(np.arange(5, dtype=np.float32))
    training.fit(_step, np.float32(0), batches, num_updates=3)
    assert next(batches) == 3


def test_batches_that_end_early_are_an_error():
    with pytest.raises(ValueError, match="ended after 2 of num_updates=3"):
        training.fit(_step, np.float32(0), [np.float32(1)] * 2, num_updates=3)


@pytest.mark.parametrize("field", ["num_updates", "record_every", "in_flight"])
def test_numbers_must_be_positive(field):
    with pytest.raises(ValueError, match=f"{field} must be a whole number"):
        training.fit(_step, 0.0, [], **{"num_updates": 1, field: 0})


def _add(state, batch):
    return state + batch["x"].sum(), {"loss": state}


def _growing(schedule=None):
    source = {"x": np.arange(20, dtype=np.float32)}
    return growth.GrowingBatches(source, schedule or growth.piecewise_batch(2, {5: 3}), seed=1)


class _Cut(Exception):
    pass


def _cut_at(moment):
    """A callback at which the power goes off."""

    def callback(update, state, metrics):
        if update == moment:
            raise _Cut

    return callback


def _run(folder, *, batches=None, num_updates=11, **options):
    with training.Checkpoints(folder, every=4) as checkpoints:
        return training.fit(
            jax.jit(_add),
            np.float32(0),
            _growing() if batches is None else batches,
            num_updates=num_updates,
            checkpoints=checkpoints,
            **options,
        )


def _assert_same_run(found, expected):
    assert float(found[0]) == float(expected[0])
    np.testing.assert_array_equal(found[1].step, expected[1].step)
    np.testing.assert_array_equal(found[1].metrics["loss"], expected[1].metrics["loss"])


@pytest.mark.parametrize("record_every", [1, 3])
def test_a_run_that_was_cut_ends_as_an_undisturbed_one(tmp_path, record_every):
    expected = _run(tmp_path / "whole", record_every=record_every)
    assert training.Checkpoints(tmp_path / "whole", every=1).updates == (4, 8, 11)
    for moment in (2, 6, 9, 11):
        with pytest.raises(_Cut):
            _run(tmp_path / "cut", record_every=record_every, callbacks=[_cut_at(moment)])
    seen = []
    found = _run(
        tmp_path / "cut",
        record_every=record_every,
        callbacks=[lambda update, state, metrics: seen.append(update)],
    )
    assert seen == [9, 10, 11]  # no more than one interval is done again
    _assert_same_run(found, expected)
    _assert_same_run(_run(tmp_path / "cut", record_every=record_every), expected)


def test_a_finished_run_goes_on_when_more_is_asked_for(tmp_path):
    expected = _run(tmp_path / "whole", num_updates=20, record_every=3)
    _run(tmp_path / "longer", num_updates=11, record_every=3)
    _assert_same_run(_run(tmp_path / "longer", num_updates=20, record_every=3), expected)
    with pytest.raises(ValueError, match="holds a run of 20 updates, more than num_updates=11"):
        _run(tmp_path / "longer", num_updates=11)


def test_what_a_callback_told_the_batches_is_saved(tmp_path):
    def grow(batches):
        return lambda update, state, metrics: batches.grow(5, "told") if update == 4 else None

    batches = _growing()
    expected = _run(tmp_path / "whole", batches=batches, callbacks=[grow(batches)])
    batches = _growing()
    with pytest.raises(_Cut):
        _run(tmp_path / "cut", batches=batches, callbacks=[grow(batches), _cut_at(7)])
    again = _growing()
    _assert_same_run(_run(tmp_path / "cut", batches=again), expected)
    assert again.switches[1].size == 5 and again.switches[1].reason == "told"


def test_batches_that_know_no_place_begin_anew(tmp_path):
    plain = [{"x": np.full(2, i, np.float32)} for i in range(11)]
    expected = _run(tmp_path / "whole", batches=plain)
    with pytest.raises(_Cut):
        _run(tmp_path / "cut", batches=plain, callbacks=[_cut_at(9)])
    _assert_same_run(_run(tmp_path / "cut", batches=plain), expected)


def test_sigterm_saves_and_leaves(tmp_path, caplog):
    expected = _run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)

    def tell(update, state, metrics):
        if update == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit, match="saved after update 6 of 11 in") as left:
        _run(tmp_path / "told", callbacks=[tell])
    assert isinstance(left.value, training.Preempted) and left.value.code == 143
    assert "The same call goes on from there" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before
    seen = []
    found = _run(tmp_path / "told", callbacks=[lambda update, *_: seen.append(update)])
    assert seen == [7, 8, 9, 10, 11]
    _assert_same_run(found, expected)


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        future = threads.submit(_run, tmp_path)
        assert float(future.result()[0]) == float(_run(tmp_path)[0])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("record_every", [1, 4])
def test_a_callback_that_returns_true_stops_the_run(tmp_path, record_every):
    """After that update: its state, its history, its checkpoint."""
    seen = []

    def stop(update, state, metrics):
        seen.append(update)
        return metrics["loss"] > 60.0  # a boolean on the device

    expected = _run(tmp_path / "short", num_updates=6, record_every=record_every)
    assert float(expected[1].metrics["loss"][-1]) > 60
    found = _run(tmp_path / "stopped", callbacks=[stop], record_every=record_every)
    assert seen[-1] == 6 and training.Checkpoints(tmp_path / "stopped", every=1).updates[-1] == 6
    _assert_same_run(found, expected)
    whole = _run(tmp_path / "whole", record_every=record_every)
    _assert_same_run(_run(tmp_path / "stopped", record_every=record_every), whole)  # goes on


def test_only_a_boolean_stops_and_every_callback_is_called():
    seen = []
    for answer, updates in ((np.True_, 1), (True, 1), (False, 3), (1, 3), ("yes", 3), (0.5, 3)):
        state, history = training.fit(
            _step,
            np.float32(0),
            itertools.repeat(np.float32(1)),
            num_updates=3,
            callbacks=[lambda *_: answer, lambda update, *_: seen.append(update)],
        )
        assert float(state) == len(history.step) == updates
    assert len(seen) == 2 * 1 + 4 * 3


class _Tensor:
    """As PyTorch's and TensorFlow's: it knows how to become an array, and jit does not know it."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)


class _BFloat16(_Tensor):
    """As PyTorch's of bfloat16: no NumPy, but DLPack."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")

    def __dlpack__(self, **kwargs):
        return jnp.asarray(self.values, jnp.bfloat16).__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return jnp.zeros(()).__dlpack_device__()


class _TensorFlowDataset:
    def __init__(self, batches):
        self.batches = batches

    def as_numpy_iterator(self):
        return iter(self.batches)

    def __iter__(self):
        raise AssertionError("eager tensors, one by one")


@pytest.mark.parametrize(
    "loader",
    [
        [[_Tensor([1.0, 2.0]), _Tensor([3])] for _ in range(3)],  # PyTorch yields lists
        ({"x": x, "y": 3} for x in (_Tensor([1.0, 2.0]),) * 3),
        _TensorFlowDataset([(np.array([1.0, 2.0]), np.array([3]))] * 3),
        [(_BFloat16([1.0, 2.0]), jnp.array([3]))] * 3,
        [(np.array([1.0, 2.0], ">f4"), np.array([3], ">i8"))] * 3,
    ],
)
def test_loaders_of_other_libraries(loader):
    @jax.jit
    def step(state, batch):
        x, y = batch.values() if isinstance(batch, dict) else batch
        return state + x.astype(jnp.float32).sum() * jnp.sum(y).astype(jnp.float32), {}

    state, _ = training.fit(step, np.float32(0), loader, num_updates=3)
    assert float(state) == 27


class _Requiring(_Tensor):
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"text": "a"}, r"batch\['text'\] is a str, which no device takes: leave it out"),
        ({"text": np.array(["a", "b"])}, r"batch\['text'\] is a <U1 array"),
        ([np.array([None, 1], object)], r"batch\[0\] is a object array"),
        (_Requiring([1.0]), r"batch is a _Requiring, .* \(Can't call numpy\(\) on Tensor"),
        ({"x": np.ma.array([1.0, 9.0], mask=[0, 1])}, r"\['x'\] is a masked array; fill"),
        ({"id": np.array([3_000_000_000])}, r"\['id'\] holds 3000000000, .* not fit into int32"),
        ([_Tensor([-3_000_000_000])], r"\[0\] holds -3000000000, .* set jax_enable_x64"),
        ({"x": np.array([1e300])}, r"\['x'\] holds 1e\+300, which is infinite in float32"),
    ],
)
def test_what_is_no_array_is_named(batch, told):
    with pytest.raises(ValueError, match=told):
        training.fit(_step, np.float32(0), [batch], num_updates=1)


def test_batches_must_be_an_iterable():
    with pytest.raises(ValueError, match=r"an iterable of batches, not a int: a list of them"):
        training.fit(_step, np.float32(0), 3, num_updates=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": print}, "callbacks must be a list"),
        ({"callbacks": [3]}, "a callback must be a function, not 3"),
        ({"step": None}, "step must be a function"),
        ({"step": lambda state, batch: state}, "must give \\(state, metrics\\)"),
    ],
)
def test_what_fit_is_given_is_looked_at(arguments, message):
    given = {"step": lambda state, batch: (state, {}), "state": jnp.zeros(()), **arguments}
    with pytest.raises(ValueError, match=message):
        training.fit(batches=[1.0, 2.0], num_updates=2, **given)


def test_a_loader_may_fill_one_buffer_again_and_again():
    @jax.jit
    def slow(state, batch):
        x = batch["x"]
        for _ in range(6):
            x = jnp.tanh(x @ x)
        return state + 0 * x[0, 0], {"loss": batch["x"].mean()}

    loader = ({"x": x} for x in refilled(300, range(8)))
    _, history = training.fit(slow, np.float32(0), loader, num_updates=8)
    assert history.metrics["loss"].tolist() == list(range(8))
