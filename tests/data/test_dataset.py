import jax
import numpy as np
import pytest

from gapjax.data import Dataset, Split, load


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
        (Split(np.zeros((4, 3, 3, 1)), np.zeros(4, int)), "ab", "must be uint8"),
        (Split(np.zeros((4, 3, 3, 1), np.uint8), np.zeros(3, int)), "ab", "4 images and 3 labels"),
        (Split(np.zeros((0, 3, 3, 1), np.uint8), np.zeros(0, int)), "ab", "at least one"),
        (Split(np.zeros((4, 3, 3, 1), np.uint8), np.zeros(4)), "ab", "must hold integers"),
        (Split(np.zeros((2, 3, 3, 1), np.uint8), np.array([0, 2])), "ab", "0 to 1"),
        (Split(np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])), "ab", "same kind of example"),
        (_split(), "", "class_names is empty"),
    ],
)
def test_what_does_not_fit_is_refused(train, names, message):
    with pytest.raises(ValueError, match=message):
        Dataset(train, _split(), tuple(names))


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
