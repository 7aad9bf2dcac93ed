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


def test_filters_are_the_last_axis_of_a_kernel():
    rng = np.random.default_rng(0)
    params = {
        "conv": jnp.asarray(rng.normal(size=(3, 3, 2, 5)) * np.arange(1, 6), jnp.float32),
        "dense": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32).at[:, 2].set(0),
        "scale": jnp.ones(5),
        "count": jnp.arange(3),
    }
    d = landscape.random_direction(jax.random.key(0), params)

    def norms(leaf):
        return np.linalg.norm(np.asarray(leaf).reshape(-1, leaf.shape[-1]), axis=0)

    for name in ("conv", "dense"):
        np.testing.assert_allclose(norms(d[name]), norms(params[name]), rtol=1e-5)
    assert not d["scale"].any()
    assert not d["count"].any()
    assert not d["dense"][:, 2].any()
    whole = landscape.random_direction(jax.random.key(0), params, normalize="layer")
    np.testing.assert_allclose(
        np.linalg.norm(whole["conv"]), np.linalg.norm(params["conv"]), rtol=1e-5
    )
    plain = landscape.random_direction(jax.random.key(0), params, normalize=None)
    assert plain["scale"].any()


@pytest.mark.parametrize("normalize", ["filter", "layer"])
def test_directions_of_stacked_layers_are_those_of_each(normalize):
    rng = np.random.default_rng(0)

    def some(*shape):
        return jnp.asarray(rng.normal(size=shape) + 1, jnp.float32)

    blocks = {
        "norm": {"scale": some(3, 4), "bias": some(3, 4)},
        "query": {"kernel": some(3, 4, 2, 2), "bias": some(3, 2, 2)},
        "thin": {"kernel": some(3, 5)},
    }
    params = {"blocks": blocks, "head": {"kernel": some(4, 6), "bias": some(2, 3)}}
    d = landscape.random_direction(jax.random.key(0), params, normalize=normalize)
    for none in (*d["blocks"]["norm"].values(), d["blocks"]["query"]["bias"], d["head"]["bias"]):
        assert not np.any(none)
    # One number a layer and output is a vector, as it is in a layer alone.
    assert not np.any(d["blocks"]["thin"]["kernel"])
    axes = (0, 1) if normalize == "filter" else (0, 1, 2)
    for own, moved in zip(blocks["query"]["kernel"], d["blocks"]["query"]["kernel"], strict=True):
        norms = (np.sqrt(np.sum(np.square(x), axis=axes)) for x in (own, moved))
        np.testing.assert_allclose(*norms, rtol=1e-5)
    axes = axes[:-1]
    norms = (np.sqrt(np.sum(np.square(x["head"]["kernel"]), axis=axes)) for x in (params, d))
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_the_plane_through_three_solutions(ends):
    third = networks.make(2)[0]
    basis = landscape.plane_through(*ends, third)
    for (x, y), solution in zip(basis.points, (*ends, third), strict=True):
        there = jax.tree.map(lambda o, a, b, x=float(x), y=float(y): o + x * a + y * b, *basis[:3])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), there, solution)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, *ends)
    with pytest.raises(ValueError, match="one line"):
        landscape.plane_through(*ends, middle)
    with pytest.raises(ValueError, match="different"):
        landscape.plane_through(ends[0], ends[0], third)


@pytest.mark.parametrize("center", ["last", "mean"])
def test_trajectory_pca_agrees_with_the_singular_values(center):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 12)).cumsum(0).astype(np.float32)
    run = [{"a": jnp.asarray(r[:4]), "b": jnp.asarray(r[4:]).reshape(2, 4)} for r in rows]
    pca = landscape.trajectory_pca(run, center=center, num_components=3)
    centered = rows.astype(np.float64) - (rows[-1] if center == "last" else rows.mean(0))
    _, s, v = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(pca.explained, s[:3] ** 2 / np.sum(s**2), rtol=1e-5)
    for i, d in enumerate(pca.directions):
        flat = np.concatenate([np.ravel(d["a"]), np.ravel(d["b"])])
        np.testing.assert_allclose(abs(flat @ v[i]), 1, rtol=1e-4)
        np.testing.assert_allclose(centered @ flat, pca.coords[:, i], atol=1e-4)
    with pytest.raises(ValueError, match="at least 7 checkpoints"):
        landscape.trajectory_pca(run, num_components=6)
    with pytest.raises(ValueError, match="fewer than 2"):
        landscape.trajectory_pca([run[0], run[1], run[1]], num_components=2)


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
