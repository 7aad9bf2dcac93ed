import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from gapjax.landscape import _keskar
from gapjax.landscape._keskar import Columns
from gapjax.landscape._space import space_of
from tests.landscape import networks


@pytest.fixture(scope="module")
def problem():
    params, batch = networks.make(2)
    return params, networks.split(batch, 40)


def linear(params, batch):
    """A loss that is linear in the parameters: its highest value in a box is known."""
    return jnp.mean(batch @ params)


SLOPE = np.array([1.0, -2.0, 0.5, 3.0, 0.0, -1.0], np.float32)
POINT = np.array([0.3, -4.0, 0.0, 1.0, 2.0, -0.1], np.float32)
ROWS = [jnp.asarray(SLOPE[None] * f) for f in (0.5, 1.5)]


def test_the_full_box_is_as_defined():
    half = 0.1 * (np.abs(POINT) + 1)
    found = landscape.keskar_sharpness(linear, jnp.asarray(POINT), ROWS, epsilon=0.1)
    loss, highest = SLOPE @ POINT, SLOPE @ POINT + np.abs(SLOPE) @ half
    np.testing.assert_allclose(found.loss, loss, rtol=1e-6)
    np.testing.assert_allclose(found.loss_max, highest, rtol=1e-6)
    np.testing.assert_allclose(found.value, 100 * (highest - loss) / (1 + loss), rtol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_subspace_box_is_as_defined(normalize):
    key = jax.random.key(5)
    found = landscape.keskar_sharpness(
        linear,
        jnp.asarray(POINT),
        ROWS,
        epsilon=0.1,
        subspace_dim=3,
        key=key,
        normalize_columns=normalize,
    )
    space = space_of(jnp.asarray(POINT))
    drawn = Columns(jax.random.split(key)[1], space, 3, normalize)
    a = np.stack([space.flat(drawn.expand(e)) for e in np.eye(3)], axis=1)
    if normalize:
        np.testing.assert_allclose(np.linalg.norm(a, axis=0), 1, rtol=1e-6)
    half = 0.1 * (np.abs(np.linalg.pinv(a) @ POINT) + 1)
    loss = SLOPE @ POINT
    np.testing.assert_allclose(found.loss_max, loss + np.abs(SLOPE @ a) @ half, rtol=1e-5)


@pytest.mark.parametrize("kept", [100, 99])
def test_columns_made_some_at_a_time_are_one_matrix(monkeypatch, kept):
    """Whether they stay or are drawn anew."""
    monkeypatch.setattr(_keskar, "CHUNK", 40)
    monkeypatch.setattr(_keskar, "KEPT", kept)
    space = space_of({"a": jnp.zeros((5, 3)), "b": jnp.zeros(4), "c": jnp.zeros(())})
    columns = Columns(jax.random.key(0), space, 5, normalize=False)
    assert columns.at_once == 2 and (columns.kept is None) == (kept < 100)
    a = np.stack([space.flat(columns.expand(e)) for e in np.eye(5)], axis=1)
    x = np.linspace(-1, 1, 20)
    np.testing.assert_allclose(columns.reduce(space.split(x)), a.T @ x, rtol=1e-5, atol=1e-5)
    found = columns.coordinates(space.split(x))
    np.testing.assert_allclose(found, np.linalg.lstsq(a, x)[0], rtol=1e-4, atol=1e-5)
    assert 0.7 < a.std() < 1.3
    assert len(np.unique(a)) == a.size, "no column repeats another"


def test_a_stationary_point_is_left(problem):
    # At the minimum of a quadratic the gradient is 0 and tells nothing.
    def bowl(w, batch):
        return jnp.mean((batch * w) ** 2)

    found = landscape.keskar_sharpness(bowl, jnp.zeros(4), [jnp.ones((2, 4))], epsilon=0.5)
    np.testing.assert_allclose(found.loss_max, 0.25, rtol=1e-5)
    assert found.values.min() > 0, "no start stays at a gradient of zero"
    assert found.num_gradients <= 1 + 3 * 25


def test_ten_iterations_nearly_reach_the_maximum(problem):
    params, batches = problem
    short = landscape.keskar_sharpness(networks.loss, params, batches, epsilon=0.01)
    long = landscape.keskar_sharpness(networks.loss, params, batches, epsilon=0.01, maxiter=200)
    assert 0.99 * long.value <= short.value <= 1.001 * long.value
    assert short.values.max() == short.value


def relu_net(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"])
    out = hidden @ params["second"]["kernel"] + params["second"]["bias"]
    return networks.output_loss(out, batch)


def test_rescaling_relu_layers_moves_keskar_but_not_the_adaptive_measures(problem):
    params, batches = problem
    scaled = {
        "first": jax.tree.map(lambda leaf: leaf * 8, params["first"]),
        "second": {**params["second"], "kernel": params["second"]["kernel"] / 8},
    }
    keskar = [
        landscape.keskar_sharpness(relu_net, p, batches, epsilon=0.01).value
        for p in (params, scaled)
    ]
    assert max(keskar) > 2 * min(keskar)
    key = jax.random.key(0)
    for options in (
        {"norm": "l2", "num_starts": 2},
        {"norm": "linf", "num_starts": 2},
        {"mode": "average"},
    ):
        one, two = (
            landscape.adaptive_sharpness(relu_net, p, batches, rho=0.1, key=key, **options)
            for p in (params, scaled)
        )
        np.testing.assert_allclose(one.value, two.value, rtol=2e-3)
        np.testing.assert_allclose(one.values, two.values, rtol=2e-2)


def quadratic(w, batch):
    return 0.5 * jnp.mean(jnp.sum(batch * w**2, axis=1))


def test_adaptive_measures_of_a_quadratic():
    w = jnp.array([1.0, -2.0, 0.5])
    curvature = jnp.array([[3.0, 0.2, 9.0]])
    h, rho, key = np.asarray(curvature)[0] * np.asarray(w) ** 2, 0.1, jax.random.key(1)
    average = landscape.adaptive_sharpness(
        quadratic, w, [curvature], rho=rho, mode="average", key=key, num_draws=400
    )
    assert abs(average.value - rho**2 / 2 * h.sum()) < 3 * average.stderr
    assert average.stderr < 0.2 * average.value
    np.testing.assert_allclose(average.stderr, np.std(average.values, ddof=1) / 20, rtol=1e-6)
    box = landscape.adaptive_sharpness(quadratic, w, [curvature], rho=rho, norm="linf")
    np.testing.assert_allclose(box.value, ((1 + rho) ** 2 - 1) * h.sum() / 2, rtol=1e-4)
    # The ball's maximum, from the secular equation solved on a fine grid.
    angles = np.random.default_rng(0).normal(size=(200_000, 3))
    u = rho * angles / np.linalg.norm(angles, axis=1, keepdims=True)
    highest = (0.5 * ((1 + u) ** 2 - 1) @ h).max()
    ball = landscape.adaptive_sharpness(quadratic, w, [curvature], rho=rho)
    np.testing.assert_allclose(ball.value, highest, rtol=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("num_starts", [1, 3])
def test_a_gradient_on_weights_of_zero_alone_tells_nothing(norm, num_starts):
    def loss(params, batch):
        return jnp.mean(batch) * (5 * (params["w"] - 2.0) ** 2 + 3 * params["b"])

    params = {"w": jnp.float32(2.0), "b": jnp.float32(0.0)}
    options = {"norm": norm, "num_starts": num_starts, "key": jax.random.key(1)}
    found = landscape.adaptive_sharpness(loss, params, [jnp.ones(2)], rho=0.1, **options)
    np.testing.assert_allclose(found.value, 5 * 0.2**2, rtol=1e-5)
    np.testing.assert_allclose(found.values, 5 * 0.2**2, rtol=1e-5)


def test_sam_takes_one_step_along_the_gradient(problem):
    params, batches = problem
    found = landscape.sam_sharpness(networks.loss, params, batches, rho=0.1)
    whole = jax.tree.map(lambda *a: jnp.concatenate(a), *batches)
    g = jax.grad(networks.loss)(params, whole)
    length = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(g)))
    step = jax.tree.map(lambda p, x: p + 0.1 * x / length, params, g)
    expected = networks.loss(step, whole) - networks.loss(params, whole)
    np.testing.assert_allclose(found.value, expected, rtol=1e-4)
    assert found.num_gradients == 2


def test_per_batch_is_the_mean_over_batches(problem):
    params, batches = problem
    for measure in (landscape.sam_sharpness, landscape.adaptive_sharpness):
        found = measure(networks.loss, params, batches, per_batch=True)
        alone = [measure(networks.loss, params, [b]) for b in batches]
        shares = np.array([40, 40, 10]) / 90
        np.testing.assert_allclose(found.value, shares @ [a.value for a in alone], rtol=1e-5)
        np.testing.assert_allclose(found.values, [a.value for a in alone], rtol=1e-5)
        assert found.stderr > 0


def test_the_error_of_an_average_over_batches_holds_that_of_its_draws():
    batch = jnp.array([[1.0, 0.5], [0.2, 0.1]])
    found = [
        landscape.adaptive_sharpness(
            lambda w, rows: jnp.mean((rows @ w) ** 2) / 2,
            jnp.array([2.0, 0.3]),
            [batch] * 8,  # the same, so that all scatter is that of the draws
            mode="average",
            num_draws=4,
            key=jax.random.key(seed),
            per_batch=True,
            progress=False,
        )
        for seed in range(30)
    ]
    spread = np.std([one.value for one in found])
    assert 0.7 < np.mean([one.stderr for one in found]) / spread < 1.4


def test_a_single_batch_tells_no_error_bar(problem):
    params, batches = problem
    alone = landscape.sam_sharpness(networks.loss, params, batches[:1], per_batch=True)
    assert np.isnan(alone.stderr)
    assert landscape.sam_sharpness(networks.loss, params, batches).stderr == 0


def test_only_selected_parameters_move_and_none_change(problem):
    params, batches = problem
    before = jax.tree.map(lambda leaf: np.array(leaf), params)
    full = landscape.keskar_sharpness(networks.loss, params, batches)
    part = landscape.keskar_sharpness(
        networks.loss, params, batches, where=lambda path, leaf: path.startswith("second")
    )
    assert 0 < part.value < full.value
    landscape.sam_sharpness(networks.loss, params, batches)
    landscape.adaptive_sharpness(networks.loss, params, batches)
    jax.tree.map(np.testing.assert_array_equal, before, params)


def test_a_loss_below_zero_has_no_scale():
    def likelihood(w, batch):
        return jnp.mean((batch * w) ** 2) - 3.0

    w, data = jnp.array([0.1]), [jnp.ones((1, 1))]
    for offset in (0.0, 1.99):  # a loss of -2.99, and of -1
        with pytest.raises(ValueError, match=r"divides by 1 \+ loss.*add a constant"):
            landscape.keskar_sharpness(lambda w, b, c=offset: likelihood(w, b) + c, w, data)
    above = landscape.keskar_sharpness(lambda w, b: likelihood(w, b) + 2.1, w, data)
    assert above.value > 0
    # Differences of losses do not mind.
    for measure in (landscape.sam_sharpness, landscape.adaptive_sharpness):
        one, two = (measure(lambda w, b, c=c: likelihood(w, b) + c, w, data) for c in (0.0, 3.0))
        np.testing.assert_allclose(one.value, two.value, rtol=1e-3)
        assert one.value > 0


def test_bad_input_is_refused(problem):
    params, batches = problem
    keskar, adaptive = landscape.keskar_sharpness, landscape.adaptive_sharpness
    for epsilon in (0, -1e-3, np.nan):
        with pytest.raises(ValueError, match="epsilon must be a finite number above 0"):
            keskar(networks.loss, params, batches, epsilon=epsilon)
    with pytest.raises(ValueError, match=r"pass key=jax\.random\.key"):
        keskar(networks.loss, params, batches, subspace_dim=5)
    with pytest.raises(ValueError, match="there are 114 parameters"):
        keskar(networks.loss, params, batches, subspace_dim=500, key=jax.random.key(0))
    with pytest.raises(ValueError, match="rho"):
        landscape.sam_sharpness(networks.loss, params, batches, rho=0)
    with pytest.raises(ValueError, match="'linf'"):
        adaptive(networks.loss, params, batches, norm="l1")
    with pytest.raises(ValueError, match="come from a key"):
        adaptive(networks.loss, params, batches, mode="average")
    with pytest.raises(ValueError, match="num_draws"):
        adaptive(networks.loss, params, batches, num_draws=1)

    def steep(w, batch):
        return jnp.mean(jnp.exp(batch @ w))

    with pytest.raises(FloatingPointError, match="make it smaller"):
        keskar(steep, jnp.ones(2), [jnp.full((1, 2), 40.0)], epsilon=5.0)
    with pytest.raises(FloatingPointError, match="inf at the parameters themselves"):
        keskar(steep, jnp.ones(2), [jnp.full((1, 2), 80.0)], epsilon=5.0, check=False)
