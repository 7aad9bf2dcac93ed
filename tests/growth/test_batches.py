import dataclasses
import functools
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from gapjax.growth import (
    GrowingBatches,
    StepwiseBatch,
    constant_batch,
    geometric_batch,
    piecewise_batch,
)
from gapjax.growth._sharding import BatchSharding
from tests.meshes import data_mesh

GROWTH = piecewise_batch(8, {3: 16, 5: 32})


def _source(n=50):
    return {
        "x": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "y": np.arange(n, dtype=np.int32),
    }


def _take(batches, count):
    return [jax.tree.map(np.asarray, next(batches)) for _ in range(count)]


@functools.cache
def _reference(end="carry"):
    """The first ten batches on the host, with example numbers."""
    return _take(GrowingBatches(_source(), GROWTH, seed=7, end_of_epoch=end, with_index=True), 10)


def test_batches_hold_the_examples_they_say():
    for batch in _reference():
        np.testing.assert_array_equal(batch.data["y"], batch.example)
        np.testing.assert_array_equal(batch.data["x"], _source()["x"][batch.example])
        assert batch.mask.all()
    assert [len(batch.example) for batch in _reference()] == [8, 8, 8, 16, 16, *[32] * 5]


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("end", ["carry", "pad"])
def test_the_same_batches_on_any_number_of_devices(devices, end):
    batches = GrowingBatches(
        _source(), GROWTH, seed=7, mesh=data_mesh(devices), end_of_epoch=end, with_index=True
    )
    for expected in _reference(end):
        batch = next(batches)
        assert batch.data["x"].sharding.spec == PartitionSpec("data")
        assert len(batch.data["x"].addressable_shards) == devices
        jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_microbatches_are_the_rows_of_the_batch_in_order():
    batches = GrowingBatches(
        _source(), GROWTH, seed=7, mesh=data_mesh(4), microbatch=8, ghost_size=4, with_index=True
    )
    for expected in _reference():
        batch = next(batches)
        size = len(expected.example)
        assert batch.data["x"].shape == (size // 8, 8, 2)
        assert batch.data["x"].sharding.spec == PartitionSpec(None, "data")
        flat = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), batch)
        jax.tree.map(np.testing.assert_array_equal, flat, expected)


def test_a_second_mesh_axis_gets_copies():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    batches = GrowingBatches(_source(), GROWTH, seed=7, mesh=mesh)
    for expected in _reference():
        jax.tree.map(np.testing.assert_array_equal, next(batches), expected.data)


def test_a_split_of_a_data_set_goes_in_and_comes_out():
    @functools.partial(jax.tree_util.register_dataclass, data_fields=("images",), meta_fields=())
    @dataclasses.dataclass(frozen=True)
    class Split:
        images: object

        def __len__(self):
            return 50

    batch = next(GrowingBatches(Split(_source()["x"]), constant_batch(8), seed=0))
    assert isinstance(batch, Split)
    assert batch.images.shape == (8, 2)


class Records:
    """Random access, one record at a time, counting what is read."""

    def __init__(self, n=50, fail_at=None):
        self.n, self.read, self.fail_at, self.lock = n, 0, fail_at, threading.Lock()

    def __len__(self):
        return self.n

    def __getitem__(self, number):
        with self.lock:
            self.read += 1
        if number == self.fail_at:
            raise OSError("the disk is gone")
        return {"x": np.array([2.0 * number, 2.0 * number + 1], np.float32), "y": number}


class ManyRecords(Records):
    def __getitem__(self, number):
        raise AssertionError("one by one")

    def __getitems__(self, numbers):
        return [Records.__getitem__(self, number) for number in numbers]


@pytest.mark.parametrize("records", [Records, ManyRecords])
@pytest.mark.parametrize("workers", [1, 3])
def test_random_access_gives_the_same_stream(records, workers):
    batches = GrowingBatches(records(), GROWTH, seed=7, workers=workers)
    for expected in _reference():
        jax.tree.map(np.testing.assert_array_equal, next(batches), expected.data)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_what_is_read_ahead_is_bounded(prefetch):
    source = Records()
    batches = GrowingBatches(source, constant_batch(10), seed=0, prefetch=prefetch)
    for _ in range(4):
        next(batches)
    for _, future in batches._ahead._pending:
        future.result()
    assert source.read == 10 * (4 + prefetch)
    assert batches.update == 4
    assert batches.examples == 40


def test_what_is_in_memory_is_not_read_ahead(tmp_path):
    rows = np.arange(40.0, dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    ahead = []
    for source in ({"x": rows}, {"x": mapped}, Records()):
        batches = GrowingBatches(source, constant_batch(4), seed=0)
        next(batches)
        ahead.append(len(batches._ahead._pending))
    assert ahead == [0, 2, 2]


def test_batches_lie_where_jax_need_not_copy_them():
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    source = {"whole": rows, "strided": rows[:, ::2], "labels": np.arange(20), "none": rows[:, :0]}
    for _ in range(3):
        batches = GrowingBatches(source, constant_batch(5), seed=0, with_index=True)
        for batch in (next(batches), next(batches)):
            for name, array in source.items():
                np.testing.assert_array_equal(batch.data[name], array[batch.example])
            assert batch.data["whole"].ctypes.data % 64 == 0


def test_a_failed_read_reaches_the_caller_and_loses_nothing():
    number = int(_reference()[1].example[3])
    source = Records(fail_at=number)
    batches = GrowingBatches(source, GROWTH, seed=7)
    next(batches)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)
    source.fail_at = None
    jax.tree.map(np.testing.assert_array_equal, next(batches), _reference()[1].data)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 9),
    st.sampled_from(["carry", "pad", "drop"]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([None, 1, 2, 8]),
)
def test_resume_gives_the_very_same_batches_on_other_devices(update, end, before, after):
    make = functools.partial(
        GrowingBatches, _source(), GROWTH, seed=3, end_of_epoch=end, with_index=True
    )
    whole = _take(make(), 12)
    first = make(mesh=data_mesh(before))
    _take(first, update)
    saved = json.loads(json.dumps(first.state()))
    rest = make(mesh=after and data_mesh(after))
    next(rest)  # what it did before does not matter
    rest.restore(saved)
    for expected, batch in zip(whole[update:], _take(rest, 12 - update), strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, expected)
    assert rest.switches == tuple(s for s in rest.switches if s.update < 12)
    assert rest.state()["epoch"] == int(rest.epoch)


def test_training_resumed_at_every_update_is_bit_for_bit_the_same():
    mesh = data_mesh(4)
    replicated = jax.sharding.NamedSharding(mesh, PartitionSpec())

    @jax.jit
    def step(w, batch):
        def loss(w):
            return jnp.mean((batch["x"] @ w - batch["y"].astype(jnp.float32)) ** 2)

        return w - jnp.float32(1e-5) * jax.grad(loss)(w)

    make = functools.partial(GrowingBatches, _source(), GROWTH, seed=1, mesh=mesh)
    batches, w = make(), jax.device_put(jnp.ones(2), replicated)
    checkpoints = [(w, batches.state())]
    for _ in range(9):
        w = step(w, next(batches))
        checkpoints.append((w, batches.state()))
    end = np.asarray(w)
    for update, (weights, saved) in enumerate(checkpoints):
        again = make()
        again.restore(saved)
        for _ in range(9 - update):
            weights = step(weights, next(again))
        assert np.asarray(weights).tobytes() == end.tobytes()


def test_grow_takes_effect_at_the_next_batch_and_is_logged_and_saved():
    batches = GrowingBatches(_source(), constant_batch(8), seed=7, with_index=True)
    seen = [*_take(batches, 2)]
    batches.grow(16, "noise scale 40")
    saved = batches.state()
    seen += _take(batches, 2)
    assert [len(batch.example) for batch in seen] == [8, 8, 16, 16]
    stream = np.concatenate([batch.example for batch in _reference()])
    np.testing.assert_array_equal(np.concatenate([b.example for b in seen]), stream[:48])
    assert [tuple(s) for s in batches.switches] == [
        (0, 8, "schedule"),
        (2, 16, "noise scale 40"),
    ]
    again = GrowingBatches(_source(), constant_batch(8), seed=7, with_index=True)
    again.restore(saved)
    jax.tree.map(np.testing.assert_array_equal, _take(again, 2), seen[2:])
    assert again.switches == batches.switches
    batches.grow(16)  # no change, no entry
    assert len(batches.switches) == 2
    with pytest.raises(ValueError, match="shrink from 16 to 8"):
        batches.grow(8)


def test_sizes_still_to_come():
    batches = GrowingBatches(_source(), GROWTH, seed=0)
    assert batches.sizes() == (8, 16, 32)
    _take(batches, 4)
    assert batches.sizes() == (16, 32)
    batches.grow(24)
    assert batches.sizes() == (24, 32)
    assert GrowingBatches(_source(), lambda update: 4, seed=0).sizes() == ()


@pytest.mark.parametrize("kwargs", [{}, {"microbatch": 8, "independent_examples": True}])
@pytest.mark.parametrize("devices", [None, 4])
def test_spec_is_what_arrives(kwargs, devices):
    mesh = devices and data_mesh(devices)
    batches = GrowingBatches(_source(), GROWTH, seed=0, mesh=mesh, with_index=True, **kwargs)
    for batch in (next(batches) for _ in range(4)):
        spec = batches.spec(batches.switches[-1].size)
        jax.tree.map(lambda leaf, s: np.testing.assert_equal(leaf.shape, s.shape), batch, spec)
        jax.tree.map(lambda leaf, s: np.testing.assert_equal(leaf.dtype, s.dtype), batch, spec)
        if devices:
            jax.tree.map(lambda leaf, s: leaf.sharding == s.sharding or 1 / 0, batch, spec)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 8}, "seed is 7, here it is 8; pass the seed"),
        ({"source": _source(51)}, "num_examples is 50, here it is 51"),
        ({"source": _source() | {"y": np.zeros(50, np.int32)}}, "another data set of the same"),
        ({"source": {"z": _source()["x"]}}, "fingerprint"),
        ({"end_of_epoch": "drop"}, "end_of_epoch is 'carry', here it is 'drop'"),
    ],
)
def test_restore_refuses_what_does_not_belong(other, message):
    saved = GrowingBatches(_source(), GROWTH, seed=7).state()
    arguments = {"source": _source(), "schedule": GROWTH, "seed": 7} | other
    batches = GrowingBatches(**arguments)
    next(batches)
    before = batches.state()
    with pytest.raises(ValueError, match=message):
        batches.restore(saved)
    assert batches.state() == before


def test_restore_refuses_another_version():
    batches = GrowingBatches(_source(), GROWTH, seed=7)
    with pytest.raises(ValueError, match="version is 99, here it is 1"):
        batches.restore(batches.state() | {"version": 99})
    with pytest.raises(ValueError, match="version is None"):
        batches.restore({})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"schedule": constant_batch(20), "mesh": 8}, "20 does not split over 8 dev.*16 or 24"),
        ({"schedule": constant_batch(51)}, r"larger than the data \(50 examples\).*fits is 50"),
        ({"schedule": constant_batch(51), "mesh": 8}, "fits is 48"),
        ({"schedule": constant_batch(24), "mesh": 8, "ghost_size": 4}, "16 or 32 would"),
        ({"schedule": constant_batch(12), "ghost_size": 8}, "ghosts of 8.*; 8 or 16 would"),
        ({"schedule": constant_batch(8), "mesh": 8, "ghost_size": 64}, "50 examples none does"),
        ({"schedule": geometric_batch(8, factor=2, every=2, maximum=44), "mesh": 8}, "40 or 48"),
        ({"microbatch": 8}, "batch norm without ghosts"),
        ({"microbatch": 4, "mesh": 8, "ghost_size": 4}, "microbatches of at most 4"),
        ({"microbatch": 2, "mesh": 4, "independent_examples": True}, "2; with 50 examples none"),
        ({"end_of_epoch": "padd"}, "Did you mean 'pad'"),
        ({"axis": "batch", "mesh": 8}, r"axes \('data',\), none of them 'batch'"),
        ({"seed": -1}, "seed must be"),
        ({"prefetch": -1}, "prefetch must be"),
        ({"source": iter([1, 2])}, "is an iterator"),
        ({"source": object()}, "object is neither"),
        ({"schedule": 16}, "constant_batch"),
        ({"source": {"x": np.zeros(3), "y": np.zeros(4)}}, r"lengths are \['x'\]: 3, \['y'\]: 4"),
        ({"source": {"x": np.zeros((0, 2))}}, "no examples"),
    ],
)
def test_bad_input(kwargs, message):
    kwargs = {"source": _source(), "schedule": GROWTH, "seed": 0} | kwargs
    kwargs["mesh"] = data_mesh(kwargs["mesh"]) if "mesh" in kwargs else None
    with pytest.raises(ValueError, match=message):
        GrowingBatches(**kwargs)


def test_a_schedule_that_shrinks_or_does_not_fit_is_refused_when_it_does():
    batches = GrowingBatches(_source(), lambda update: 16 if update < 3 else 8, seed=0)
    _take(batches, 3)
    with pytest.raises(ValueError, match="shrinks the batch from 16 to 8 at update 3"):
        next(batches)
    with pytest.raises(ValueError, match="shrinks the batch from 16 to 8 at update 3"):
        GrowingBatches(_source(), StepwiseBatch((3,), (16, 8)), seed=0)
    batches = GrowingBatches(_source(), lambda update: 16 + update, seed=0, mesh=data_mesh(8))
    next(batches)
    with pytest.raises(ValueError, match="17 does not split"):
        next(batches)


@pytest.mark.parametrize("devices", [None, 4])
def test_a_fork_goes_on_by_itself(devices):
    mesh = devices and data_mesh(devices)
    batches = GrowingBatches(_source(), GROWTH, seed=7, mesh=mesh, with_index=True)
    _take(batches, 4)
    fork = batches.fork(constant_batch(8))
    assert (fork.update, fork.examples, fork.batch_size) == (4, 40, 8)
    assert fork.switches == ()
    ours, theirs = _take(batches, 3), _take(fork, 10)
    np.testing.assert_array_equal(
        np.concatenate([batch.example for batch in ours]),
        np.concatenate([batch.example for batch in theirs]),
    )
    # a schedule is asked by the same count, and a state goes both ways
    again = batches.fork(GROWTH)
    assert again.batch_size == 32
    again.restore(batches.state())
    jax.tree.map(np.testing.assert_array_equal, _take(again, 2), _take(batches, 2))
    other = batches.fork(constant_batch(8), seed=8)
    assert other.examples == batches.examples
    assert (next(other).example != next(batches.fork(constant_batch(8))).example).any()
    with pytest.raises(ValueError, match="larger than the data"):
        batches.fork(constant_batch(64))


def test_a_state_that_is_none_changes_nothing():
    batches = GrowingBatches({"x": np.arange(12)}, constant_batch(2), seed=0)
    next(batches)
    state = batches.state()
    lacking = {name: value for name, value in state.items() if name != "epoch"}
    for wrong in (None, [], lacking, {**state, "switches": [[1]]}, {**state, "size": "x"}):
        with pytest.raises(ValueError, match="tate"):
            batches.restore(wrong)
        assert batches.state() == state
    for wrong in (None, "4", 2.5):
        with pytest.raises(ValueError, match="whole number"):
            batches.grow(wrong)


def test_where_no_size_fits_few_are_tried(monkeypatch):
    """A microbatch below what the devices need fits no batch of the 10,000 examples."""
    tried, splits = [], BatchSharding._splits
    monkeypatch.setattr(
        BatchSharding, "_splits", lambda self, part: tried.append(part) or splits(self, part)
    )
    sharding = BatchSharding(data_mesh(8), "data", None, 4, 10_000)
    with pytest.raises(ValueError, match="with 10000 examples none does"):
        sharding.microbatches(8192)
    assert not tried
    larger = BatchSharding(data_mesh(4), "data", 8, 72, 10_000)
    for size in range(1, 400):
        counts = [
            n
            for n in range(-(-size // 72), size + 1)
            if size % n == 0 and splits(larger, size // n)
        ]
        if counts:
            assert larger.microbatches(size) == counts[0]
        else:
            with pytest.raises(ValueError, match="does not split"):
                larger.microbatches(size)
