import importlib.util

import jax
import numpy as np
import pytest

from gapjax.data import Dataset, Split, StreamedSplit, load


def _split(n=4, *, side=3, classes=2, dtype=np.int64):
    images = np.arange(n * side * side, dtype=np.uint8).reshape(n, side, side, 1)
    return Split(images, (np.arange(n) % classes).astype(dtype))


def test_a_split_is_a_pytree_with_the_length_of_its_examples():
    split = _split(5)
    assert len(split) == 5
    assert len(jax.tree.leaves(split)) == 2
    batch = jax.tree.map(lambda leaf: leaf[:2], split)
    assert isinstance(batch, Split)
    assert len(batch) == 2
    # leaves that are not arrays (shardings, specs) pass through it too
    assert jax.tree.leaves(jax.tree.map(lambda _: "spec", split)) == ["spec", "spec"]


def test_a_split_passes_through_jit():
    total = jax.jit(lambda split: split.images.sum())(_split())
    assert int(total) == int(_split().images.sum())


def test_types_are_brought_to_the_documented_ones():
    features = np.linspace(0.0, 1.0, 12).reshape(4, 3)
    data = Dataset(Split(features, [0, 1, 1, 0]), Split(features, [0, 0, 1, 1]), ["no", "yes"])
    assert data.train.images.dtype == np.float32
    assert data.train.labels.dtype == np.int32
    assert data.class_names == ("no", "yes")
    assert data.name == "custom"
    assert data.num_classes == 2


@pytest.mark.parametrize(
    ("train", "names", "message"),
    [
        (Split(np.zeros((4, 3, 3), np.uint8), np.zeros(4, int)), "ab", r"images\[..., None\]"),
        (Split(np.zeros((4, 3, 3, 1)), np.zeros(4, int)), "ab", "uint8.* images of floats too"),
        (
            Split(np.zeros((4, 3, 3, 1), np.uint8), np.zeros(3, int)),
            "ab",
            r"train.images has 4, train.labels has 3",
        ),
        (Split(np.zeros((0, 3, 3, 1), np.uint8), np.zeros(0, int)), "ab", "at least one"),
        (Split(np.zeros((4, 3, 3, 1), np.uint8), np.zeros(4)), "ab", "must hold integers"),
        (Split(np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 2])), "ab", "0 to 1"),
        (Split(np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])), "ab", "same kind of example"),
        (_split(), "", "class_names is empty"),
        (
            Split(np.zeros((2, 3, 3, 1), np.uint8), np.array([True, False])),
            None,
            r"train.labels are True and False.*labels.astype\(np.int32\)",
        ),
        (_split(dtype=bool), "ab", "train.labels are True and False"),
        (
            Split(np.zeros((2, 3, 3, 1), np.uint8), np.array([[0], [1]])),
            None,
            r"train.labels have shape \[N, 1\].*labels\[:, 0\].*another task are floats",
        ),
        (Split(np.zeros((2, 3)), np.array([[0], [1]])), "ab", r"train.labels have shape \[N, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(train, names, message):
    with pytest.raises(ValueError, match=message):
        Dataset(train, _split(), None if names is None else tuple(names))


def test_classes_are_numbered_where_they_have_no_names():
    data = Dataset(_split(classes=2), _split(classes=3))
    assert data.class_names == ("0", "1", "2")


def test_a_split_of_another_task_is_any_pytree_of_arrays():
    train = {"x": np.zeros((5, 3)), "y": [0.5] * 5, "nested": (np.arange(5), np.ones((5, 2), bool))}
    data = Dataset(train, train)
    kinds = [(leaf.dtype.name, leaf.shape) for leaf in jax.tree.leaves(data.train)]
    assert kinds == [("int32", (5,)), ("bool", (5, 2)), ("float32", (5, 3)), ("float32", (5,))]
    assert (data.class_names, data.num_classes, data.num_examples) == (None, 0, 5)
    floats = Dataset(Split(np.zeros((4, 2)), np.ones(4)), Split(np.zeros((4, 2)), np.ones(4)))
    assert floats.train.labels.dtype == np.float32
    assert floats.class_names is None


def test_what_is_no_pytree_of_examples_is_refused():
    good = {"x": np.zeros((5, 3)), "y": np.zeros(5)}
    for bad, message in (
        ({"x": np.zeros((5, 3)), "y": np.zeros(4)}, r"train\['x'\] has 5, train\['y'\] has 4"),
        ({"x": np.array(["a"] * 5), "y": np.zeros(5)}, r"train\['x'\] holds <U1"),
        ({"x": np.array([1, "a"], object), "y": np.zeros(2)}, r"train\['x'\] holds object"),
        ({"x": np.zeros((5, 3)), "y": 3.0}, r"train\['y'\] is one number"),
        ({"x": np.full((5, 3), np.nan), "y": np.zeros(5)}, r"train\['x'\]\[0, 0\] is nan"),
        ({"x": np.full((5, 3), 1e39), "y": np.zeros(5)}, "finite"),
        ({"x": np.full((5, 3), 3_000_000_000), "y": np.zeros(5)}, "int32 holds"),
        ({}, "no arrays"),
        ({"x": np.zeros((0, 3))}, "no examples"),
        ({"x": np.zeros((5, 4)), "y": np.zeros(5)}, "same kind of example"),
        ({"z": np.zeros((5, 3)), "y": np.zeros(5)}, "missing in"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset(bad, good)
    with pytest.raises(ValueError, match="normalize must be one of"):
        Dataset(good, good, normalize="image")


def test_normalization_is_told_by_what_a_split_holds():
    features = Split(np.zeros((4, 2), np.float32), np.zeros(4, int))
    assert Dataset(_split(), _split()).normalize == "channel"
    assert Dataset(features, features).normalize == "feature"
    assert Dataset({"x": np.zeros((4, 2))}, {"x": np.zeros((4, 2))}).normalize is None
    assert Dataset(_split(), _split(), normalize=None).normalize is None


class _Records(list):
    def __getitems__(self, numbers):
        return [self[number] for number in numbers]


def _streamed(split):
    return StreamedSplit(
        _Records(range(len(jax.tree.leaves(split)[0]))),
        lambda rows: jax.tree.map(lambda x: np.asarray(x)[rows], split),
    )


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ({"tokens": np.arange(20, dtype=np.int32).reshape(4, 5)}, None),
        ({"tokens": np.arange(20, dtype=np.int32).reshape(4, 5)}, ("a", "b")),
        (Split(np.zeros((4, 2), np.float32), np.zeros(4, np.int32)), ("a", "b")),
        (Split(np.zeros((4, 2), np.float32), np.zeros(4, np.float32)), None),
        (Split(np.zeros((4, 2), np.float32), np.zeros((4, 3), np.int32)), None),
        (_split(dtype=np.int32), ("a", "b")),
    ],
)
def test_a_streamed_split_is_what_its_examples_are(split, names):
    here = Dataset(split, split, names)
    for train, test in ((_streamed(split), _streamed(split)), (_streamed(split), split)):
        streamed = Dataset(train, test, names)
        assert (streamed.normalize, streamed.class_names) == (here.normalize, here.class_names)
        assert streamed.num_examples == 4


def test_streams_of_what_does_not_fit_are_refused():
    split = _split(dtype=np.int32)
    with pytest.raises(ValueError, match="class_names is empty; give one name per class"):
        Dataset(_streamed(split), _streamed(split))  # how many classes there are is not known
    floats = _streamed(Split(split.images, np.zeros(4, np.float32)))
    with pytest.raises(ValueError, match=r"train.labels has dtype float32; with class names"):
        Dataset(floats, floats, ("a", "b"))
    with pytest.raises(ValueError, match="same kind of example"):
        Dataset(_streamed({"tokens": np.zeros((4, 5))}), _streamed({"tokens": np.zeros((4, 6))}))


def test_digits():
    digits = load("digits")
    assert (len(digits.train), len(digits.test)) == (1280, 517)
    assert digits.train.images.shape == (1280, 8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels.dtype == np.int32
    assert digits.train.images.max() == 255
    assert digits.class_names == tuple("0123456789")
    again = load("digits")
    np.testing.assert_array_equal(digits.train.images, again.train.images)


def test_digits_are_read_from_a_folder_that_is_gone(monkeypatch, tmp_path):
    own = load("digits")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    np.testing.assert_array_equal(load("digits").train.images, own.train.images)


def test_digits_are_the_same_where_their_file_is_not_found(monkeypatch):
    own = load("digits")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "sklearn" else find(name)
    )
    other = load("digits")
    np.testing.assert_array_equal(own.train.images, other.train.images)
    np.testing.assert_array_equal(own.test.labels, other.test.labels)


def test_digits_hold_every_embedded_example_once_with_its_label():
    from sklearn.datasets import load_digits

    digits, embedded = load("digits"), load_digits()
    images = np.concatenate([digits.train.images, digits.test.images]).reshape(1797, 64)
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    # scaling by 255/16 is one-to-one on 0..16, so the file's pixels come back
    ours = np.column_stack([np.round(images.astype(np.float64) * 16 / 255), labels])
    theirs = np.column_stack([embedded.data, embedded.target])
    np.testing.assert_array_equal(np.sort(ours, axis=0), np.sort(theirs, axis=0))
    assert set(map(tuple, ours)) == set(map(tuple, theirs))
    assert all(count > 100 for count in np.bincount(digits.train.labels))


@pytest.mark.parametrize("kind", [">f4", ">f2", ">i2", ">f8", ">i8", np.longdouble])
def test_numbers_in_another_order_or_width_go_onto_a_device(kind):
    x = np.arange(8).reshape(4, 2).astype(kind)
    found = Dataset({"x": x}, {"x": x}).train["x"]
    np.testing.assert_array_equal(jax.numpy.asarray(found), x.astype(found.dtype))


def test_missing_values_are_refused():
    x = np.ma.masked_array(np.zeros((4, 2)), mask=[[1, 0]] * 4)
    with pytest.raises(ValueError, match="has missing values"):
        Dataset({"x": x}, {"x": x})
    whole = np.ma.masked_array(np.zeros((4, 2)))
    assert Dataset({"x": whole}, {"x": whole}).train["x"].shape == (4, 2)


def test_a_line_says_what_it_is():
    split = Split(np.zeros((1200, 8, 8, 1), np.uint8), np.arange(1200, dtype=np.int32) % 2)
    batch = jax.tree.map(lambda x: x[:3], split)
    assert repr(split) == "Split(images=uint8[1200,8,8,1], labels=int32[1200])"
    assert repr(jax.tree.map(lambda _: None, batch)) == "Split(images=None, labels=None)"
    jitted = []
    jax.jit(lambda batch: jitted.append(repr(batch)))(batch)
    assert jitted == ["Split(images=uint8[3,8,8,1], labels=int32[3])"]
    assert repr(Dataset(split, batch, ("a", "b"), name="own")) == (
        "Dataset('own': 1,200 to train on, 3 to test on, 2 classes)"
    )
    tokens = {"tokens": np.zeros((5, 3), np.int32)}
    assert repr(Dataset(tokens, tokens)) == "Dataset('custom': 5 to train on, 5 to test on)"
    with pytest.raises(ValueError, match="to test on\\) is not the name of a data set") as error:
        load(Dataset(tokens, tokens))
    assert "\n" not in str(error.value)
