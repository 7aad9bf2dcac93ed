import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import landscape
from tests.landscape import networks


@pytest.fixture(scope="module")
def ends():
    return networks.make(0)[0], networks.make(1)[0]


@pytest.fixture(scope="module")
def batches():
    return networks.split(networks.make(0)[1], 40)


def metrics(params, batch):
    out = networks.apply(params, batch)
    right = jnp.argmax(out, axis=1).astype("int32") == batch["y"]
    return {"loss": networks.output_loss(out, batch), "accuracy": jnp.mean(right, dtype="float32")}


@pytest.mark.parametrize("sizes", [(3, 3), (3, 2)])
def test_the_evaluator_refuses_a_metric_of_each_example(sizes):
    data = [jnp.ones(size) for size in sizes]
    for metric, name in ((lambda w, x: w * x, ""), (lambda w, x: {"a": w, "b": w * x}, "'b'")):
        with pytest.raises(ValueError, match=rf"{name}.* has shape \(3,\): return the mean"):
            landscape.evaluator(metric, data)(jnp.float32(2))


def test_the_evaluator_weighs_a_ragged_batch(ends, batches):
    whole = jax.tree.map(lambda *a: np.concatenate(a), *batches)
    found = landscape.evaluator(metrics, batches)(ends[0])
    exact = metrics(ends[0], whole)
    for name in exact:
        np.testing.assert_allclose(found[name], exact[name], rtol=1e-6)
    assert landscape.evaluator(networks.loss, batches)(ends[0]) == pytest.approx(found["loss"])


def test_linear_path_meets_both_ends_exactly(ends, batches):
    train = landscape.evaluator(metrics, batches)
    test = landscape.evaluator(metrics, batches[:1])
    path = landscape.interpolate({"train": train, "test": test}, *ends)
    assert set(path.values) == {"train/loss", "train/accuracy", "test/loss", "test/accuracy"}
    np.testing.assert_allclose(path.coords, np.linspace(-1, 2, 25), atol=1e-15)
    at = {float(c): i for i, c in enumerate(path.coords)}
    for t, end in zip((0.0, 1.0), ends, strict=True):
        for name, value in train(end).items():
            assert path.values[f"train/{name}"][at[t]] == value
    middle = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, *ends)
    np.testing.assert_allclose(path.values["test/loss"][at[0.5]], test(middle)["loss"], rtol=1e-6)
    assert "none rebuilt" in path.statistics


def test_the_arc_and_the_added_ends():
    one, two = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    path = landscape.interpolate(lambda w: w @ w, one, two, [0.25, 0.5], path="arc")
    np.testing.assert_allclose(path.coords, [0, 0.25, 0.5, 1])
    np.testing.assert_allclose(path.values["value"], 1, rtol=1e-6)
    np.testing.assert_allclose(path.barrier["value"], 0, atol=1e-6)
    straight = landscape.interpolate(lambda w: -(w @ w), one, two, [0.5])
    np.testing.assert_allclose(straight.barrier["value"], 0.5)


def test_statistics_are_rebuilt_at_every_point():
    seen = []

    def rebuild(w):
        seen.append(float(w))
        return 10 * w

    path = landscape.interpolate(
        lambda w, state: state - w, jnp.array(0.0), jnp.array(1.0), [0.5], rebuild=rebuild
    )
    assert seen == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(path.values["value"], [0, 4.5, 9])
    assert "rebuilt at every point" in path.statistics


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_metric_is_as_wide_as_it_was_made(dtype):
    with jax.enable_x64(True):
        near = jnp.asarray(1 + 2 * np.finfo(dtype).eps, dtype)
        value = landscape.evaluator(lambda w, batch: w, [np.ones(1), np.ones(2)])(near)
    assert value == float(near) > 1


def test_planes_resume_point_by_point(ends, batches):
    calls, kept = [], []
    train = landscape.evaluator(networks.loss, batches)

    def counted(params):
        calls.append(1)
        return train(params)

    d1, d2 = (landscape.random_direction(jax.random.key(i), ends[0]) for i in range(2))
    grid = np.linspace(-1, 1, 3), np.linspace(0, 1, 2)
    whole = landscape.plane(
        counted, ends[0], d1, d2, *grid, progress=lambda p: kept.append(p.partial())
    )
    assert whole.values["value"].shape == (2, 3)
    assert np.isnan(kept[3].values["value"]).sum() == 2
    calls.clear()
    again = landscape.plane(counted, ends[0], d1, d2, *grid, resume=kept[3])
    assert len(calls) == 2
    np.testing.assert_array_equal(again.values["value"], whole.values["value"])
    assert whole.values["value"][0, 1] == train(ends[0])
    corner = jax.tree.map(lambda p, a, b: p - a + b, ends[0], d1, d2)
    np.testing.assert_allclose(whole.values["value"][1, 0], train(corner), rtol=1e-5)
    for x, y, name in (([0.0], [0.0], "x"), (grid[0] / 2, grid[1], "x"), (grid[0], -grid[1], "y")):
        with pytest.raises(ValueError, match=f"made with other {name}: . points from"):
            landscape.plane(counted, ends[0], d1, d2, x, y, resume=whole)
    path = landscape.line(counted, ends[0], d1, grid[0])
    with pytest.raises(ValueError, match="is a Path, asked is a Plane"):
        landscape.plane(counted, ends[0], d1, d2, *grid, resume=path)


def test_a_path_resumes_at_its_own_points_alone():
    def curve(w, state=0.0):
        return w**2 + state

    done = landscape.along(curve, float, [0, 1, 2])
    assert landscape.along(curve, float, [0, 1, 2], resume=done).values.keys() == {"value"}
    for other in ([0, 1, 3], [0, 2, 1], [0, 1]):
        with pytest.raises(ValueError, match=r"other coords: 3 points from 0\.0 to 2\.0, asked"):
            landscape.along(curve, float, other, resume=done)
    with pytest.raises(ValueError, match=r"other statistics.*none rebuilt.*rebuilt at every point"):
        landscape.along(curve, float, [0, 1, 2], rebuild=lambda w: 1.0, resume=done)
    between = landscape.interpolate(curve, jnp.float32(0), jnp.float32(1), [0.5])
    again = landscape.interpolate(curve, jnp.float32(0), jnp.float32(1), [0, 0.5], resume=between)
    np.testing.assert_array_equal(again.values["value"], between.values["value"])
    with pytest.raises(ValueError, match="other coords"):
        landscape.interpolate(curve, jnp.float32(0), jnp.float32(1), [0.4], resume=between)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 1, 0, 2]])
def test_a_barrier_does_not_depend_on_the_order(order):
    # A hat over the chord from 2 to 4, highest at 0.5; far higher beyond the ends.
    heights = {0.0: 2.0, 0.5: 7.0, 1.0: 4.0, 1.5: 90.0}
    coords = [list(heights)[index] for index in order]
    path = landscape.along(heights.__getitem__, float, coords)
    assert path.coords.tolist() == coords
    assert path.barrier["value"] == 7.0 - 3.0


def test_no_barrier_without_both_ends():
    assert landscape.along(abs, float, [0, 0, 0.5]).barrier == {}
    assert landscape.along(abs, float, [0.5, 1, 1]).barrier == {}


@pytest.mark.parametrize("t", [-1.0, 0.0, 0.2, 0.5, 0.8, 1.0, 1.5])
def test_a_chain_is_straight_between_its_points_and_beyond(t):
    points = np.array([[1.0, 5.0], [2.0, 7.0], [4.0, 1.0]])
    chain = landscape.Curve("polychain", tuple(map(jnp.asarray, points)), None)
    first = 0 if t < 0.5 else 1
    expected = points[first] + (2 * t - first) * (points[first + 1] - points[first])
    np.testing.assert_allclose(landscape.curve_point(chain, t), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="t must be a finite number, not nan"):
        landscape.curve_point(chain, np.nan)


@pytest.mark.parametrize(("kind", "bends"), [("bezier", 1), ("polychain", 2)])
def test_a_curve_goes_around_the_barrier(kind, bends):
    def ring(w, batch):
        return jnp.mean(batch) * (w @ w - 1) ** 2

    ends = jnp.array([1.0, 0.1]), jnp.array([-1.0, 0.1])
    data = [jnp.ones(2), jnp.ones(1)]
    curve = landscape.fit_curve(
        ring,
        *ends,
        data,
        jax.random.key(0),
        kind=kind,
        num_bends=bends,
        optimizer=optax.sgd(0.03),
        num_updates=400,
    )
    assert curve.losses.shape == (400,)
    assert len(curve.points) == bends + 2
    height = landscape.evaluator(ring, data)
    straight = landscape.interpolate(height, *ends, np.linspace(0, 1, 21))
    bent = landscape.along(height, lambda t: landscape.curve_point(curve, t), straight.coords)
    assert straight.barrier["value"] > 0.9
    assert bent.barrier["value"] < 0.3
    for t, end in ((0, ends[0]), (1, ends[1])):
        np.testing.assert_array_equal(landscape.curve_point(curve, t), end)


def test_bad_input_is_refused(ends, batches):
    loss = landscape.evaluator(networks.loss, batches)
    with pytest.raises(ValueError, match="'second/bias'"):
        landscape.interpolate(loss, ends[0], {"first": ends[1]["first"], "second": {}})
    with pytest.raises(ValueError, match="the direction has"):
        landscape.line(loss, ends[0], {"first": 1})
    with pytest.raises(ValueError, match="'linear'"):
        landscape.interpolate(loss, *ends, path="liner")
    with pytest.raises(ValueError, match="finite numbers"):
        landscape.interpolate(loss, *ends, [0, np.nan])
    with pytest.raises(ValueError, match="'filter'"):
        landscape.random_direction(jax.random.key(0), ends[0], normalize="filters")
    with pytest.raises(ValueError, match="num_bends"):
        landscape.fit_curve(networks.loss, *ends, batches, jax.random.key(0), num_bends=0)


def test_complex_weights_are_combined_and_drawn():
    one, two = {"w": jnp.asarray([1 + 2j, 3j])}, {"w": jnp.asarray([3 - 2j, 1.0 + 0j])}
    seen = []

    def evaluate(params):
        seen.append(params["w"])
        return jnp.sum(jnp.abs(params["w"]) ** 2)

    path = landscape.interpolate(evaluate, one, two, [0.5])
    np.testing.assert_allclose(seen[1], [2, 0.5 + 1.5j], rtol=1e-6)
    np.testing.assert_allclose(path.values["value"], [14, 6.5, 14], rtol=1e-6)
    flat = landscape.plane(evaluate, one, two, two, [1.0], [-2.0])
    np.testing.assert_allclose(flat.values["value"], 4 + 16 + 1 + 9, rtol=1e-6)
    curve = landscape.Curve("bezier", (one, two), None)
    found = landscape.curve_point(curve, 0.5)["w"]
    assert found.dtype == jnp.complex64
    np.testing.assert_allclose(found, [2, 0.5 + 1.5j], rtol=1e-6)
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 4)) * 3, jnp.float32)
    params = {"kernel": jax.lax.complex(*kernel), "bias": jnp.ones(4, "complex64")}
    d = landscape.random_direction(jax.random.key(0), params)
    norms = (np.linalg.norm(x["kernel"], axis=0) for x in (params, d))
    np.testing.assert_allclose(*norms, rtol=1e-5)
    assert np.all(d["kernel"].imag != 0) and not d["bias"].any()
    plain = landscape.random_direction(jax.random.key(0), params, normalize=None)
    assert plain["kernel"].dtype == jnp.complex64 and plain["bias"].all()
    with pytest.raises(ValueError, match="is complex64: curvature needs real"):
        landscape.trajectory_pca([params, d, plain])


def test_a_curve_asks_no_leaf_for_its_examples():
    def ring(w, batch):
        return jnp.mean(batch["x"]) * jnp.sum(batch["cw"]) * (w @ w - 1) ** 2

    ends, batch = (jnp.array([1.0, 0.1]), jnp.array([-1.0, 0.1])), {"x": jnp.ones((4, 3))}
    options = {"optimizer": optax.sgd(0.03), "num_updates": 5}
    losses = [
        landscape.fit_curve(
            ring, *ends, [batch | {"cw": jnp.full(size, 1 / size)}], jax.random.key(0), **options
        ).losses
        for size in (4, 2)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    out = batch | {"cw": jnp.full(4, np.nan), "mask": jnp.zeros(4)}
    counted = batch | {"cw": jnp.full(4, 0.25)}
    curve = landscape.fit_curve(ring, *ends, [out, counted], jax.random.key(0), **options)
    np.testing.assert_allclose(curve.losses, losses[0], rtol=1e-6)


@pytest.mark.parametrize("found", [{"train": {"top": 1.0}}, {"train": "low"}, {"train": [1, 2]}])
def test_figures_that_are_no_numbers_are_named(found):
    with pytest.raises(ValueError, match=r"'train' is .*one dictionary of numbers, not nested"):
        landscape.along(lambda w: found, float, [0, 1])
