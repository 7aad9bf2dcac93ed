import threading

import ml_dtypes
import numpy as np
import pytest

from gapjax.growth import GrowingBatches, constant_batch, stream_rows
from tests.meshes import data_mesh


def _first(source, size=4, **kwargs):
    """The first batch, and the numbers of its examples."""
    batches = GrowingBatches(source, constant_batch(size), seed=0, **kwargs)
    rows = stream_rows(0, 0, size, num_examples=batches.state()["num_examples"])
    return next(batches), rows.example


class Records:
    """A map data set of one record per example, as those of Hugging Face are."""

    def __init__(self, record, n=50):
        self.record, self.n = record, n

    def __len__(self):
        return self.n

    def __getitem__(self, number):
        return self.record(number)


def test_a_list_of_numbers_in_a_record_is_one_array():
    batch, numbers = _first(Records(lambda i: {"input_ids": [i] * 6, "label": i, "w": i / 2}))
    np.testing.assert_array_equal(batch["input_ids"], np.repeat(numbers[:, None], 6, axis=1))
    np.testing.assert_array_equal(batch["label"], numbers)
    assert {name: str(leaf.dtype) for name, leaf in batch.items()} == {
        "input_ids": "int32",
        "label": "int32",
        "w": "float32",
    }
    nested, _ = _first(Records(lambda i: {"boxes": [[i, 1.5], [2.0, 3.0]]}))
    assert nested["boxes"].shape == (4, 2, 2)
    pair, _ = _first(Records(lambda i: (float(i), i)))
    assert pair[0].shape == pair[1].shape == (4,)
    frames, _ = _first(Records(lambda i: {"frames": [np.full((3, 3), i)] * 2}))
    assert frames["frames"].shape == (4, 2, 3, 3)
    columns, _ = _first(Records(lambda i: [np.full((3, 3), i), np.full(2, i)]))
    assert [leaf.shape for leaf in columns] == [(4, 3, 3), (4, 2)]


@pytest.mark.parametrize("at_root", [True, False])
def test_a_list_of_equal_arrays_is_records(at_root):
    images = [np.full((8, 8), i, np.uint8) for i in range(100)]
    batches = GrowingBatches(
        images if at_root else {"image": images, "label": list(range(100))},
        constant_batch(4),
        seed=0,
    )
    assert batches.state()["num_examples"] == 100
    batch = next(batches)
    image = batch if at_root else batch["image"]
    numbers = stream_rows(0, 0, 4, num_examples=100).example
    np.testing.assert_array_equal(image, np.stack([images[i] for i in numbers]))
    if not at_root:
        np.testing.assert_array_equal(batch["label"], numbers)
        assert batch["label"].dtype == np.int32


@pytest.mark.parametrize(
    "source",
    [
        [{"x": np.array([i, 2.0 * i])} for i in range(20)],
        [{"x": [i, 2.0 * i]} for i in range(20)],
        {"x": [[i, 2.0 * i] for i in range(20)]},
        {"x": np.array([[i, 2.0 * i] for i in range(20)])},
    ],
)
def test_lists_of_records_and_lists_in_columns(source):
    batch, numbers = _first(source)
    np.testing.assert_array_equal(batch["x"], np.stack([numbers, 2.0 * numbers], axis=1))


def test_lists_at_the_root():
    batch, numbers = _first([0.5 * i for i in range(20)])
    np.testing.assert_array_equal(batch, 0.5 * numbers)
    assert batch.dtype == np.float32
    batch, _ = _first([[i, i, i] for i in range(20)])
    assert (batch.shape, batch.dtype) == ((4, 3), np.int32)
    records, numbers = _first([(np.full(3, i), i) for i in range(20)])
    np.testing.assert_array_equal(records[1], numbers)
    columns, numbers = _first([np.zeros((20, 2)), np.arange(20)])
    np.testing.assert_array_equal(columns[1], numbers)


def test_a_data_frame_is_its_columns():
    class Frame:
        columns = ("x", "y")

        def __getitem__(self, name):
            return Series(np.arange(20.0) * {"x": 1, "y": 2}[name])

        def __len__(self):
            return 20

        def to_numpy(self):
            raise AssertionError("of one type")

    class Series:
        def __init__(self, values):
            self.values = values

        def to_numpy(self):
            return self.values

    batch, numbers = _first(Frame())
    np.testing.assert_array_equal(batch["y"], 2.0 * numbers)


TEXT = np.array(["red", "green"] * 10, dtype=object)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"x": np.arange(20.0), "name": TEXT}, r"Field \['name'\] holds objects.* a str \('red'\)"),
        ({"x": TEXT.astype("U5")}, r"Field \['x'\] holds str \('red'\)"),
        ({"x": ["red"] * 20}, r"Field \['x'\] holds str \('red'\)"),
        (np.array([np.zeros(3)] * 20 + [np.zeros(2)], object)[:20], "The source holds objects"),
        ({"t": np.zeros(20, "M8[s]")}, r"Field \['t'\] holds datetime"),
        ({"x": np.zeros(20, np.longdouble)}, r"Field \['x'\] holds longdouble"),
        ({"x": np.zeros(20, [("a", "i4")])}, r"Field \['x'\] holds"),
        ({"x": [1, None] * 10}, r"Field \['x'\] holds objects, such as a NoneType"),
        ({"x": [[1, 2], [3]] * 10}, r"Field \['x'\] is ragged"),
        ([[1, 2], [3]] * 10, "The source is ragged"),
        ([np.zeros(2), np.zeros(3)] * 10, "different shapes"),
        ({"x": [np.zeros(2), np.zeros(3)] * 10}, "lengths are .*, \\.\\.\\."),
        ({"x": np.zeros(20), "name": "digits"}, r"Field \['name'\] holds str \('digits'\)"),
        ({"x": np.zeros(20), "rate": 0.1}, r"\['rate'\]: None"),
        ({"x": np.ma.masked_less(np.arange(20), 3)}, r"Field \['x'\] is a masked array"),
        ({"id": [3_000_000_000] * 20}, r"Field \['id'\] holds 3000000000, .*int32"),
        ({"id": [-(2**31) - 1] * 20}, r"Field \['id'\] holds -2147483649"),
        ({"id": [2**70] * 20}, r"Field \['id'\] holds 1180591620717411303424"),
        ({}, "no examples"),
        ([], "no examples"),
        ({"x": []}, "no examples"),
        (Records(None, n=0), "no examples"),
    ],
)
def test_what_cannot_go_onto_a_device_is_refused_at_once(source, message):
    with pytest.raises(ValueError, match=message):
        GrowingBatches(source, constant_batch(4), seed=0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            lambda i: {"x": np.zeros(i + 1)},
            r"do not stack .*: Field \['x'\] is float64",
        ),
        (lambda i: {"x": [0] * (i + 1)}, r"Field \['x'\] is int32\["),
        (lambda i: {"x": [[0], [0] * (i + 2)]}, r"Field \['x'\] is ragged"),
        (lambda i: {"name": "cat"}, r"Field \['name'\] holds str \('cat'\)"),
        (lambda i: {"name": ["a", "b"]}, r"Field \['name'\] holds str \('a'\)"),
        (lambda i: {"id": 3_000_000_000}, r"Field \['id'\] holds 3000000000"),
        (lambda i: {"id": [2**31]}, r"Field \['id'\] holds 2147483648"),
        (lambda i: {"y": 1 if i % 2 else 0.5}, r"Field \['y'\] is .*32\[\] in one.*32\[\] in"),
        (lambda i: {"x": 1} if i % 2 else {"z": 1}, "must have the same fields"),
    ],
)
def test_records_that_do_not_fit_are_named(record, message):
    with pytest.raises(ValueError, match=message):
        next(GrowingBatches(Records(record), constant_batch(50), seed=0))


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_wide_whole_numbers_do_not_wrap_on_devices(value):
    source = {"id": np.full(20, value)}
    assert _first(source)[0]["id"][0] == value  # NumPy on the host is left alone
    with pytest.raises(ValueError, match=rf"\['id'\] holds {value}, which does not fit into int32"):
        _first(source, mesh=data_mesh(2))
    batch, numbers = _first({"id": np.arange(20) - 2**31}, mesh=data_mesh(2))
    np.testing.assert_array_equal(batch["id"], numbers.astype(np.int64) - 2**31)


def test_memory_maps_are_read_without_copies(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    batches = GrowingBatches({"x": mapped}, constant_batch(4), seed=0)
    assert np.shares_memory(batches._source._columns["x"], mapped)
    rows = stream_rows(0, 0, 4, num_examples=20)
    np.testing.assert_array_equal(next(batches)["x"], array[rows.example])


def test_any_order_of_bytes_and_any_type_of_numbers():
    swapped = np.arange(20, dtype=">f4")
    half = np.arange(20).astype(ml_dtypes.bfloat16)
    batches = GrowingBatches(
        {"x": swapped, "h": half}, constant_batch(4), seed=0, mesh=data_mesh(2)
    )
    batch = next(batches)
    np.testing.assert_array_equal(np.asarray(batch["x"]), np.asarray(batch["h"], np.float32))
    assert batch["h"].dtype == ml_dtypes.bfloat16
    assert len(batches.state()["fingerprint"]) == 32


def test_the_fingerprint_is_that_of_the_values_whatever_the_memory():
    array = np.arange(60, dtype=np.float32).reshape(20, 3)

    def fingerprint(x):
        return GrowingBatches({"x": x}, constant_batch(4), seed=0).state()["fingerprint"]

    assert fingerprint(array) == fingerprint(np.asfortranarray(array))
    assert fingerprint(array) != fingerprint(array + 1)


@pytest.mark.parametrize(
    "ask", [lambda b: b.spec(4), lambda b: b.state(), lambda b: next(b.fork(constant_batch(1)))]
)
def test_one_worker_is_one_reader_whoever_asks(ask):
    inside, gate, crowds = threading.Lock(), threading.Event(), []

    def record(number):
        alone = inside.acquire(blocking=False)
        crowds.append(not alone)
        gate.wait(10)
        if alone:
            inside.release()
        return number

    batches = GrowingBatches(Records(record), constant_batch(2), seed=0, prefetch=1)
    threads = [
        threading.Thread(target=lambda: next(batches)),
        threading.Thread(target=ask, args=[batches]),
    ]
    for thread in threads:
        thread.start()
        thread.join(0.1)
    gate.set()
    for thread in threads:
        thread.join()
    assert not any(crowds) and len(crowds) > 2


def test_the_shape_of_a_record_is_read_once():
    read = []
    batches = GrowingBatches(
        Records(lambda i: read.append(i) or {"x": [i] * 3}), constant_batch(2), seed=0, prefetch=0
    )
    assert batches.spec(4)["x"].shape == (4, 3)
    assert batches.spec(8)["x"].shape == (8, 3)
    assert len(read) == 1


def test_records_that_are_augmented_at_random_can_be_resumed():
    rng = np.random.default_rng(0)

    def batches(kind=np.float32, n=50):
        records = Records(lambda i: {"x": kind(i) + rng.normal(size=2).astype(kind)}, n)
        return GrowingBatches(records, constant_batch(4), seed=0)

    first = batches()
    next(first)
    again = batches()
    again.restore(first.state())
    np.testing.assert_array_equal(np.rint(next(again)["x"]).shape, (4, 2))
    assert again.state()["offset"] == 8
    with pytest.raises(ValueError, match="another data set"):
        batches(np.float64).restore(first.state())


def test_a_file_of_arrays_is_a_source(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(20.0), y=np.arange(20))
    with np.load(tmp_path / "a.npz") as arrays:
        batch, rows = _first(arrays)
    assert batch["x"].tolist() == batch["y"].tolist() == rows.tolist()
