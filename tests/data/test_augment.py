import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gapjax import training
from gapjax.data import Split, example_keys, flip, make_augment, normalize, pad_crop
from gapjax.growth import GrowingBatches, piecewise_batch


def _keys(n, seed=0):
    return example_keys(seed, jnp.zeros(n, jnp.int32), jnp.arange(n))


def _images(n=64, side=5, channels=2):
    generator = np.random.Generator(np.random.Philox(key=1))
    return generator.integers(1, 256, (n, side, side, channels), dtype=np.uint8)


def test_every_crop_is_one_of_the_places_and_all_occur():
    images = _images(2000, side=3)
    cropped = np.asarray(pad_crop(_keys(2000), jnp.asarray(images), padding=2))
    assert cropped.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = {
        (i, j): (padded[:, i : i + 3, j : j + 3] == cropped).all((1, 2, 3))
        for i in range(5)
        for j in range(5)
    }
    assert np.any(list(places.values()), axis=0).all()
    counts = np.array([place.sum() for place in places.values()])
    assert abs(counts / 80 - 1).max() < 0.5  # 2000 / 25 each, standard deviation 9


def test_flips_mirror_about_half_and_go_with_crops_independently():
    images = _images(1000)
    flipped = np.asarray(flip(_keys(1000), jnp.asarray(images)))
    same = (flipped == images).all((1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 430 < mirrored.sum() < 570
    cropped = np.asarray(pad_crop(_keys(1000), jnp.asarray(images), padding=1))
    still = (cropped == images).all((1, 2, 3))
    assert 0.3 < mirrored[still].mean() < 0.7


def test_keys_depend_on_seed_epoch_and_example_and_on_nothing_else():
    epoch, example = jnp.array([0, 0, 1, 1]), jnp.array([3, 4, 3, 4])
    keys = jax.random.key_data(example_keys(5, epoch, example))
    assert len({tuple(key) for key in np.asarray(keys)}) == 4
    again = jax.random.key_data(example_keys(5, epoch[::-1], example[::-1]))[::-1]
    np.testing.assert_array_equal(keys, again)
    alone = jax.random.key_data(example_keys(5, 1, example[2:]))
    np.testing.assert_array_equal(keys[2:], alone)
    other = jax.random.key_data(example_keys(6, epoch, example))
    assert not (keys == other).all(1).any()


def test_every_word_of_a_seed_counts_and_small_seeds_are_keys_of_jax():
    seeds = [7, 2**32 - 1, 2**32, 2**32 + 7, 2**40 + 7, 2**63 + 7, 2**64 - 1]
    keys = [jax.random.key_data(example_keys(seed, 2, jnp.array([3])))[0] for seed in seeds]
    assert len({tuple(key) for key in np.asarray(keys)}) == len(seeds)
    for seed, key in zip(seeds[:2], keys, strict=False):
        plain = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), 3)
        np.testing.assert_array_equal(key, jax.random.key_data(plain))


@pytest.mark.slow
def test_a_growth_changes_nothing_about_augmentation():
    images = _images(40)

    def stream(schedule):
        batches = GrowingBatches({"image": images}, schedule, seed=2, with_index=True)
        out = []
        while sum(map(len, out)) < 80:
            batch = next(batches)
            keys = example_keys(2, batch.epoch, batch.example)
            out.append(np.asarray(flip(keys, pad_crop(keys, jnp.asarray(batch.data["image"])))))
        return np.concatenate(out)

    constant = stream(piecewise_batch(8, {}))
    grown = stream(piecewise_batch(8, {2: 16, 4: 32}))
    np.testing.assert_array_equal(constant[:80], grown[:80])
    assert not (constant[:40] == constant[40:80]).all()


def test_split_batches_are_augmented_where_they_lie():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def augment(epoch, example, images):
        keys = example_keys(0, epoch, example)
        return normalize(flip(keys, pad_crop(keys, images)))

    numbers = jax.ShapeDtypeStruct((64,), jnp.int32, sharding=sharding)
    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.uint8, sharding=sharding)
    compiled = jax.jit(augment, out_shardings=sharding).lower(numbers, numbers, images).compile()
    assert not training.inspect_program(compiled).collectives


def test_several_augmentations_are_those_of_an_example_whatever_the_batch():
    def shift(key, batch):
        chex.assert_rank(batch.images, 4)
        return batch.__class__(batch.images + jax.random.randint(key, (), 0, 9), batch.labels)

    augment = make_augment(["pad-crop:1", "flip", shift])
    batch = Split(jnp.asarray(_images(12), jnp.int32), jnp.arange(12))
    whole = augment(_keys(12), batch)
    part = augment(_keys(12)[3:8], jax.tree.map(lambda x: x[3:8], batch))
    chex.assert_trees_all_equal(part, jax.tree.map(lambda x: x[3:8], whole))
    assert (whole.labels == batch.labels).all()
    moved = [bool((a != b).any()) for a, b in zip(whole.images, batch.images, strict=True)]
    assert sum(moved) >= 11


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pad_crop(_keys(2), jnp.zeros((2, 3, 3, 1)), padding=0), "padding must be"),
        (lambda: make_augment(["crop"]), "must be one of 'pad-crop', 'flip'"),
        (lambda: make_augment(["flip:2"]), "only pad-crop takes a number"),
        (lambda: make_augment(["pad-crop:0"]), "only pad-crop takes a number"),
        (lambda: make_augment("flip"), r"a list of augmentations, not 'flip': put it into brac"),
        (lambda: make_augment(flip), r"a list of augmentations, not <function flip.*brackets"),
        (lambda: make_augment(None), r"augment must be a list, not None"),
        (lambda: make_augment([3]), r"augment\[0\] must be one of"),
        (lambda: make_augment(["flip"])(_keys(2), jnp.zeros((2, 3))), "this batch has none"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("augment", [flip, pad_crop])
def test_images_without_a_channel_are_refused(augment):
    with pytest.raises(ValueError, match=r"images\[\.\.\., None\]"):
        augment(_keys(2), jnp.ones((2, 4, 4)))
