import jax.numpy as jnp
import numpy as np
import pytest

from gapjax.data import channel_statistics, fit_normalizer, load, normalize


def test_statistics_are_those_of_numpy_and_normalize_uses_them():
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 3), np.uint8)
    mean, std = channel_statistics(images)
    scaled = images / 255.0
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-6)
    normal = np.asarray(normalize(jnp.asarray(images), mean, std))
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal, (scaled - mean) / std, atol=1e-5)
    flat = np.full((4, 2, 2, 1), 7, np.uint8)
    assert np.isfinite(np.asarray(normalize(jnp.asarray(flat), *channel_statistics(flat)))).all()


def test_digits_normalize_to_mean_0_and_standard_deviation_1():
    images = load("digits").train.images
    normal = np.asarray(normalize(jnp.asarray(images), *channel_statistics(images)))
    np.testing.assert_allclose([normal.mean(), normal.std()], [0, 1], atol=1e-5)


def test_statistics_are_of_all_examples_and_do_not_lose_digits():
    x = np.random.default_rng(0).normal(size=(10_000, 3)) * [1e-3, 1.0, 1e3] + [1.0, 1e4, 0.0]
    x[9_000:] += 5.0  # a part alone would not do
    mean, std = channel_statistics(x.astype(np.float32))
    exact = x.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, exact.std(0), rtol=1e-5)


def test_every_array_of_its_kind_is_normalized_and_no_other():
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 256, (50, 4, 4, 2), np.uint8),
        "table": rng.normal(3.0, 2.0, (50, 5)).astype(np.float32),
        "series": rng.normal(3.0, 2.0, (50, 7, 2)).astype(np.float32),
        "photo": rng.normal(3.0, 2.0, (50, 4, 4, 2)).astype(np.float32),
        "scalar": rng.normal(3.0, 2.0, 50).astype(np.float32),
        "tokens": rng.integers(0, 256, (50, 9)).astype(np.int32),
        "bytes": rng.integers(0, 256, (50, 9)).astype(np.uint8),
    }
    kinds = {"channel": {"image", "photo"}, "feature": {"table", "series"}, None: set()}
    for how, touched in kinds.items():
        out = fit_normalizer(inputs, how)({k: jnp.asarray(v) for k, v in inputs.items()})
        for name, was in inputs.items():
            now = np.asarray(out[name])
            if name in touched:
                axes = tuple(range(now.ndim - 1))
                np.testing.assert_allclose(now.mean(axes), 0, atol=1e-5)
                np.testing.assert_allclose(now.std(axes), 1, atol=1e-5)
            else:
                assert now.dtype == was.dtype
                np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: channel_statistics(np.zeros((2, 3), int)), "must be uint8 images"),
        (lambda: channel_statistics(np.zeros((0, 3))), "at least one example"),
        (lambda: fit_normalizer(np.zeros((2, 3), np.int32), "feature"), r"hold the array int32"),
        (
            lambda: fit_normalizer({"x": np.zeros((2, 3))}, "channel"),
            r"wants images \[N, H, W, C\], .* give the data set normalize='feature' or None",
        ),
        (
            lambda: fit_normalizer(np.zeros((2, 3, 3, 1)), "feature"),
            r"the array float64\[2, 3, 3, 1\]: give the data set normalize='channel' or None",
        ),
        (lambda: fit_normalizer(np.zeros((2, 3)), "pixels"), "normalize must be one of"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", [0, 1, 7, 100, 255])
def test_what_never_varies_has_no_deviation(value):
    images = np.random.default_rng(0).integers(0, 256, (5000, 2, 2, 2), np.uint8)
    images[..., 1] = value
    found = channel_statistics(images)
    assert found.std[0] > 0 and found.std[1] == 0
    assert np.abs(normalize(jnp.asarray(images[:4]), *found)[..., 1]).max() < 1e-6
    table = np.full((5000, 2), value / 10)
    assert not channel_statistics(table).std.any()


def test_bfloat16_is_a_number():
    x = jnp.arange(8, dtype=jnp.bfloat16).reshape(4, 2)
    normal = fit_normalizer({"x": np.asarray(x), "y": np.asarray(x, np.float32)}, "feature")
    found = normal({"x": x, "y": x.astype(jnp.float32)})
    np.testing.assert_allclose(found["x"], found["y"])
    assert found["x"].std() > 0.9
