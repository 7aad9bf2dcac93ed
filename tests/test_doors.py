"""One table: every kind of source gives the same arrays, and so the same first batch everywhere."""

import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from data import files

from gapjax import training
from gapjax.data import Dataset, as_arrays, from_folder
from gapjax.growth import GrowingBatches, constant_batch

N = 24
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = RNG.integers(0, 4, N).astype(np.int32)
T = RNG.integers(0, 200, (N, 2, 3)).astype(np.int32)
WANTED = {"t": T, "x": X, "y": Y}


def _records():
    return [{"t": T[i].tolist(), "x": X[i].tolist(), "y": int(Y[i])} for i in range(N)]


def _hugging_face(form):
    def make(tmp_path):
        datasets = pytest.importorskip("datasets")
        if form in ("torch",):
            pytest.importorskip(form)
        # shuffled and back, so that rows are told by an index
        made = datasets.Dataset.from_list(_records()[::-1]).select(range(N - 1, -1, -1))
        return made.with_format(form)

    return make


def _pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"t": T.tolist(), "x": list(X), "y": Y})


def _polars(tmp_path):
    polars = pytest.importorskip("polars")
    return polars.DataFrame({"t": T.tolist(), "x": X, "y": Y})


def _lazy_polars(tmp_path):
    return _polars(tmp_path).lazy()


def _arrow(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.table({"t": T.tolist(), "x": X.tolist(), "y": Y})


def _torch_dataset(tmp_path):
    torch = pytest.importorskip("torch")

    class Own(torch.utils.data.Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return {"t": torch.tensor(T[i]), "x": torch.tensor(X[i]), "y": int(Y[i])}

    return Own()


def _torch_iterable(tmp_path):
    torch = pytest.importorskip("torch")

    class Own(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(_records())

    return Own()


def _torch_loader(batch_size):
    def make(tmp_path):
        torch = pytest.importorskip("torch")
        return torch.utils.data.DataLoader(_torch_dataset(tmp_path), batch_size=batch_size)

    return make


def _grain_map(tmp_path):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source([{"t": T[i], "x": X[i], "y": Y[i]} for i in range(N)])


def _grain_iter(tmp_path):
    return _grain_map(tmp_path).to_iter_dataset()


def _grain_loader(tmp_path):
    grain = pytest.importorskip("grain")
    rows = [{"t": T[i], "x": X[i], "y": Y[i]} for i in range(N)]
    sampler = grain.samplers.SequentialSampler(N, grain.sharding.NoSharding())
    return grain.DataLoader(data_source=rows, sampler=sampler)


def _tf_data(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    return tensorflow.data.Dataset.from_tensor_slices(WANTED)


def _memory_map(tmp_path):
    for name, array in WANTED.items():
        np.save(tmp_path / f"{name}.npy", array)
    return {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in WANTED}


SOURCES = {
    "arrays": lambda _: WANTED,
    "wide arrays": lambda _: {k: v.astype(v.dtype.kind + "8") for k, v in WANTED.items()},
    "jax arrays": lambda _: {name: jnp.asarray(array) for name, array in WANTED.items()},
    "lists": lambda _: {name: array.tolist() for name, array in WANTED.items()},
    "memory maps": _memory_map,
    "records": lambda _: _records(),
    "generator": lambda _: (record for record in _records()),
    "hugging face": _hugging_face(None),
    "hugging face numpy": _hugging_face("numpy"),
    "hugging face torch": _hugging_face("torch"),
    "hugging face jax": _hugging_face("jax"),
    "pandas": _pandas,
    "polars": _polars,
    "lazy polars": _lazy_polars,
    "arrow": _arrow,
    "torch data set": _torch_dataset,
    "torch iterable": _torch_iterable,
    "torch loader": _torch_loader(5),
    "torch loader of records": _torch_loader(None),
    "grain map": _grain_map,
    "grain iter": _grain_iter,
    "grain loader": _grain_loader,
    "tf.data": _tf_data,
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return SOURCES[request.param](tmp_path)


def _same(arrays, wanted):
    assert list(arrays) == sorted(wanted)
    for name, array in wanted.items():
        assert isinstance(arrays[name], np.ndarray)
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_the_arrays_are_the_same(source):
    _same(as_arrays(source), WANTED)


def test_the_first_batch_is_the_same_in_a_plain_loop_in_fit_and_in_batches_that_grow(source):
    arrays = as_arrays(source)
    grown = next(GrowingBatches(arrays, constant_batch(8), seed=0))
    plain = next(GrowingBatches(WANTED, constant_batch(8), seed=0))
    _same(grown, plain)
    loop = (jax.tree.map(lambda array: array[:8], arrays) for _ in itertools.count())
    wanted = {name: array[:8] for name, array in WANTED.items()}
    _same(next(loop), wanted)
    # a step whose state is the last batch that it saw
    last, _ = training.fit(lambda state, batch: (batch, {}), None, loop, num_updates=1)
    _same(last, wanted)


def test_a_data_set_holds_the_same(source):
    kinds = Dataset(as_arrays(source), WANTED)
    _same(kinds.train, WANTED)


def test_a_data_set_takes_what_is_of_another_library(tmp_path):
    for name, make in SOURCES.items():
        if name in ("generator", "records", "lists"):
            continue
        try:
            given = make(tmp_path)
        except pytest.skip.Exception:
            continue
        _same(Dataset(given, WANTED).train, WANTED)


DIRECT = ["arrays", "jax arrays", "lists", "records", "memory maps"]
DIRECT += ["torch data set", "grain map", *(name for name in SOURCES if "hugging" in name)]


@pytest.mark.parametrize("name", DIRECT)
def test_batches_that_grow_take_what_has_random_access_as_it_is(tmp_path, name):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    given = SOURCES[name](tmp_path)
    direct = next(GrowingBatches(given, constant_batch(8), seed=0, mesh=mesh))
    plain = next(GrowingBatches(WANTED, constant_batch(8), seed=0, mesh=mesh))
    _same(jax.tree.map(np.asarray, direct), jax.tree.map(np.asarray, plain))


def test_columns_are_chosen_and_entries_of_tuples_named(source):
    _same(as_arrays(source, ["y", "x"]), {"x": X, "y": Y})


def test_a_column_that_is_not_there_is_named(source):
    with pytest.raises(ValueError, match="no column 'z'; there are 't', 'x', 'y'"):
        as_arrays(source, ["x", "z"])


@pytest.mark.parametrize("form", [None, "numpy", "torch", "jax"])
def test_the_classes_of_hugging_face_are_kept(form):
    datasets = pytest.importorskip("datasets")
    if form == "torch":
        pytest.importorskip("torch")
    pixels = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
    kinds = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    columns = {"img": [PIL.Image.fromarray(p) for p in pixels], "label": [0, 1, 0, 1, 0, 1]}
    made = datasets.Dataset.from_dict(columns, features=kinds).with_format(form)
    dataset = Dataset(made, made)
    np.testing.assert_array_equal(dataset.train.images, pixels)
    np.testing.assert_array_equal(dataset.train.labels, columns["label"])
    assert dataset.train.labels.dtype == np.int32
    assert dataset.class_names == ("cat", "dog")
    assert dataset.normalize == "channel"
    with pytest.raises(ValueError, match="has the splits train, test; give one of them"):
        as_arrays(datasets.DatasetDict({"train": made, "test": made}))


def _table(library, columns):
    if library == "datasets":
        return pytest.importorskip("datasets").Dataset.from_dict(columns)
    if library == "pyarrow":
        return pytest.importorskip("pyarrow").table(columns)
    return pytest.importorskip(library).DataFrame(columns)


@pytest.mark.parametrize("library", ["datasets", "pandas", "polars", "pyarrow"])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", "b", "c"], "Column 'odd' holds .*(text|str).*leave it out with columns="),
        ([1, None, 3], "Column 'odd' has missing values"),
        ([[1, 2], [3], [4, 5]], "Column 'odd' is ragged"),
        ([[1, 2], [3, 4], ["a", "b"]], "odd"),
        ([2**40, 1, 2], r"\['odd'\] holds 1099511627776, which does not fit into int32"),
    ],
)
def test_columns_that_are_no_numbers_are_refused_by_name(library, column, message):
    if column[-1] == ["a", "b"] and library != "pandas":
        pytest.skip("it refuses such a column itself")
    table = _table(library, {"x": [1, 2, 3], "odd": column})
    with pytest.raises(ValueError, match=message) as caught:
        as_arrays(table)
    assert "\n" not in str(caught.value)
    assert as_arrays(table, ["x"])["x"].tolist() == [1, 2, 3]


def test_times_and_categories_are_refused_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"when": pandas.to_datetime(["2020-01-01"] * 2), "x": [1, 2]})
    with pytest.raises(ValueError, match="Column 'when' holds datetime64"):
        as_arrays(frame)
    frame["when"] = pandas.Categorical(["a", "b"])
    with pytest.raises(ValueError, match="Column 'when' holds"):
        as_arrays(frame)
    polars = pytest.importorskip("polars")
    with pytest.raises(ValueError, match=r"Column 'when' holds categories.*take its codes"):
        as_arrays(polars.DataFrame({"when": polars.Series(["a"], dtype=polars.Categorical)}))


def test_memory_maps_are_not_copied(tmp_path):
    given = _memory_map(tmp_path)
    read = as_arrays(given)
    for name, array in given.items():
        assert np.shares_memory(read[name], array)
    assert np.shares_memory(Dataset(given, given).train["x"], given["x"])


def test_tuples_and_images_of_torch():
    torch = pytest.importorskip("torch")

    class Own(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return PIL.Image.new("L", (5, 4), i), i

    arrays = as_arrays(Own(), ("images", "labels"))
    assert arrays["images"].shape == (3, 4, 5, 1)
    assert arrays["images"][2].max() == 2
    assert arrays["labels"].tolist() == [0, 1, 2]
    pair = as_arrays(torch.utils.data.TensorDataset(torch.ones(3, 2), torch.arange(3)))
    assert [leaf.dtype.name for leaf in pair] == ["float32", "int32"]
    half = as_arrays({"x": torch.ones(3, 2, dtype=torch.bfloat16)})["x"]
    assert half.dtype.name == "bfloat16"
    assert half.astype(np.float32).tolist() == [[1.0, 1.0]] * 3


def test_sources_without_an_end_are_refused():
    grain = pytest.importorskip("grain")
    with pytest.raises(ValueError, match=r"repeats without an end; give it before .repeat\(\)"):
        as_arrays(grain.MapDataset.source([1, 2]).repeat())


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "holds no examples"),
        ({}, {}, "holds no examples"),
        ({"x": np.zeros((0, 3))}, {}, "holds no examples"),
        ({"x": np.float32(3)}, {}, "is one number"),
        (iter([]), {}, "holds no examples"),
        (3, {}, "int is no source of examples"),
        ("text", {}, "'text' is no source"),
        ([{"x": 1}, {"y": 1}], {}, "do not stack"),
        ([{"x": [1]}, {"x": [1, 2]}], {}, r"do not stack: Field \['x'\]"),
        ([{"x": "a"}], {}, r"Field \['x'\] holds str"),
        (iter([{"x": np.ones(2)}, {"x": np.ones((2, 2))}]), {"batched": True}, "must be alike"),
        (iter([{"x": np.ones(2)}, {"y": np.ones(2)}]), {"batched": True}, "the same fields"),
        ([(1, 2)], {"columns": ["x"]}, "columns names 1 entries"),
        ([(1, 2)], {"columns": "xy"}, "not one text"),
        ([1, 2], {"columns": ["x"]}, "no columns to choose from"),
        ([1, 2], {"batched": "yes"}, "batched must be"),
    ],
)
def test_bad_input(source, options, message):
    with pytest.raises(ValueError, match=message):
        as_arrays(source, **options)


def test_batches_of_an_iterable_are_joined():
    batches = ({"x": X[first : first + 7]} for first in range(0, N, 7))
    np.testing.assert_array_equal(as_arrays(batches, batched=True)["x"], X)


def test_a_folder_of_images(tmp_path):
    made = files.write_folders(tmp_path / "pets", ["cat", "dog"], shape=(4, 5, 3))
    dataset = from_folder(tmp_path / "pets")
    assert (dataset.name, dataset.class_names) == ("pets", ("cat", "dog"))
    for split, (images, labels) in zip((dataset.train, dataset.test), made.values(), strict=True):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    files.write_folders(tmp_path / "mixed", "ab", sizes=[(20, 30), (25, 25)])
    with pytest.raises(ValueError, match="mixed differ in size; pass image_size=224"):
        from_folder(tmp_path / "mixed")
    assert from_folder(tmp_path / "mixed", image_size=12).train.images.shape == (6, 12, 12, 3)
    (tmp_path / "pets" / "test" / "dog" / "0001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0001.png is truncated or damaged"):
        from_folder(tmp_path / "pets")
    with pytest.raises(ValueError, match="must hold train/CLASS"):
        from_folder(tmp_path / "pets" / "train")
    with pytest.raises(ValueError, match="no folder at"):
        from_folder(tmp_path / "none")


def test_class_names_must_agree_between_splits():
    datasets = pytest.importorskip("datasets")

    def split(names):
        features = datasets.Features(
            {
                "x": datasets.Sequence(datasets.Value("float32")),
                "label": datasets.ClassLabel(names=names),
            }
        )
        columns = {"x": [[0.0, 1.0], [1.0, 0.0]], "label": ["cat", "dog"]}
        return datasets.Dataset.from_dict(columns, features=features)

    with pytest.raises(ValueError, match="class 0 is 'cat' in train and 'dog' in test"):
        Dataset(split(["cat", "dog"]), split(["dog", "cat"]))
    with pytest.raises(ValueError, match="class 2 is none in train and 'cow' in test"):
        Dataset(split(["cat", "dog"]), split(["cat", "dog", "cow"]))
    assert Dataset(split(["cat", "dog"]), split(["cat", "dog"])).class_names == ("cat", "dog")


def test_images_are_as_hugging_face_decodes_them():
    datasets = pytest.importorskip("datasets")
    turned, buffer = PIL.Image.Exif(), io.BytesIO()
    turned[0x0112] = 6
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    PIL.Image.fromarray(pixels).save(buffer, "PNG", exif=turned)
    cell = {"bytes": buffer.getvalue(), "path": None}
    for mode in (None, "L", "RGBA"):
        features = datasets.Features({"image": datasets.Image(mode=mode)})
        source = datasets.Dataset.from_dict({"image": [cell]}, features=features)
        own = as_arrays(source)["image"][0]
        np.testing.assert_array_equal(own.squeeze(), np.asarray(source[0]["image"]))


def test_a_transform_is_not_dropped_in_silence():
    datasets = pytest.importorskip("datasets")
    source = datasets.Dataset.from_dict({"a": [1, 2]})
    with pytest.raises(ValueError, match="has a transform"):
        as_arrays(source.with_transform(lambda rows: {"a": [10 * x for x in rows["a"]]}))


def test_columns_of_other_libraries_in_a_dict():
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    for column in (pandas.Series([1, None, 3], dtype="Int64"), pyarrow.array([1, None, 3])):
        with pytest.raises(ValueError, match="Column 'a' has missing values"):
            as_arrays({"a": column})
    tensor = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    table = pyarrow.table({"a": pyarrow.FixedShapeTensorArray.from_numpy_ndarray(tensor)})
    np.testing.assert_array_equal(as_arrays(table)["a"], tensor)
    batch = pyarrow.RecordBatch.from_pydict({"a": [1, 2]})
    assert as_arrays(batch)["a"].tolist() == [1, 2]
    twice = pyarrow.table([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    for source in (twice, pandas.DataFrame([[1, 2]], columns=["a", "a"])):
        with pytest.raises(ValueError, match="more than one column 'a'"):
            as_arrays(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"x": np.ones(3), "y": np.ones(4)}, r"\['x'\] has 3, Field \['y'\] has 4"),
        ({"x": [1e40, 1.0]}, "1e\\+40, which is infinite in float32"),
        ({"x": np.array([1e40, 1.0])}, "1e\\+40, which is infinite in float32"),
        ({"x": (1, 2, 3)}, "is one number"),
    ],
)
def test_arrays_that_do_not_fit(source, message):
    with pytest.raises(ValueError, match=message):
        as_arrays(source)
    assert as_arrays({"x": np.array([np.inf, 1.0])})["x"][0] == np.inf


def test_a_list_of_two_arrays_alike_is_a_batch_of_two_fields():
    batches = [[np.ones((2, 3)), np.zeros((2, 3))] for _ in range(2)]
    found = as_arrays(iter(batches), ("x", "y"), batched=True)
    assert {name: array.shape for name, array in found.items()} == {"x": (4, 3), "y": (4, 3)}
    x, y = as_arrays(iter(batches), batched=True)
    assert x.shape == y.shape == (4, 3) and x.all() and not y.any()
