"""Curvature as an optimizer meets it, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import landscape
from gapjax.landscape._crossing import find_crossing
from tests.landscape import networks

KEY = jax.random.key(0)


def make_bowl(seed, size=12, condition=100.0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    matrix = (basis * np.geomspace(1, condition, size)) @ basis.T
    return matrix, rng.normal(size=size), rng


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_critical_sharpness_of_a_quadratic(seed, scale):
    matrix, w, rng = make_bowl(seed)
    gradient = matrix @ w
    # Along the gradient, and along something that only leans on it.
    other = gradient / np.linalg.norm(gradient) + 0.5 * rng.normal(size=12) / 12**0.5
    for update in (gradient, other * np.sign(other @ gradient)):
        exact = update @ matrix @ update / (gradient @ update)
        found = landscape.critical_sharpness(
            lambda w, m: 0.5 * w @ m[0] @ w,
            jnp.asarray(w, jnp.float32),
            jnp.asarray(scale * update, jnp.float32),
            [jnp.asarray(matrix[None], jnp.float32)],
        )
        np.testing.assert_allclose(found.value, scale * exact, rtol=0.02)
        assert found.num_gradients <= 10
        assert found.values[0] <= found.value <= found.values[1]
        assert found.loss_max > found.loss


def test_a_start_far_off_is_made_good():
    matrix, w, _ = make_bowl(0)
    gradient = matrix @ w
    exact = gradient @ matrix @ gradient / (gradient @ gradient)

    def measure(start):
        return landscape.critical_sharpness(
            lambda w, m: 0.5 * w @ m[0] @ w,
            jnp.asarray(w, jnp.float32),
            jnp.asarray(gradient, jnp.float32),
            [jnp.asarray(matrix[None], jnp.float32)],
            start=start,
            check=False,
        )

    for far in (1e-3, 0.3, 1.0, 30.0, 1e5):
        found = measure(far * 2 / exact)
        np.testing.assert_allclose(found.value, exact, rtol=0.02)
        assert found.num_gradients <= 10


def test_the_border_is_the_first_rise_of_a_network():
    params, batch = networks.make()
    batches = networks.split(batch, 40)
    updates = jax.grad(networks.loss)(params, batch)
    found = landscape.critical_sharpness(networks.loss, params, updates, batches, max_passes=14)

    def rise(eta):
        moved = jax.tree.map(lambda p, u: p - eta * u, params, updates)
        return networks.loss(moved, batch) - networks.loss(params, batch)

    low, high = 2 / found.values[1], 2 / found.values[0]
    assert rise(low) <= 0 < rise(high)
    assert high / low <= 1.01
    grid = np.linspace(low / 50, low, 50)
    assert all(rise(eta) <= 1e-6 for eta in grid)


def test_uphill_is_said_and_downhill_without_end_is_flat():
    w = jnp.array([1.0, 2.0])

    def loss(w, batch):
        return jnp.mean(batch * jnp.sum(w**2))

    for updates in (-w, jnp.array([2.0, -1.0])):  # uphill; along a contour
        with pytest.warns(RuntimeWarning, match="not defined here.*take the negative"):
            found = landscape.critical_sharpness(loss, w, updates, [jnp.ones(3)])
        assert math.isnan(found.value)
    slope = landscape.critical_sharpness(lambda w, b: jnp.sum(w * b), w, w, [jnp.ones(2)])
    assert slope.value == 0
    assert slope.values[0] == 0 < slope.values[1] < 1e-3
    for nothing in (jnp.zeros(2), jnp.array([np.nan, 1])):
        with pytest.raises(ValueError, match="finite, not zero"):
            landscape.critical_sharpness(loss, w, nothing, [jnp.ones(3)])
    with pytest.raises(ValueError, match="updates has shape"):
        landscape.critical_sharpness(loss, w, jnp.ones(3), [jnp.ones(3)])
    with pytest.raises(ValueError, match="max_passes must be at least 3"):
        landscape.critical_sharpness(loss, w, w, [jnp.ones(3)], max_passes=2)
    with pytest.raises(ValueError, match="start must be a finite number above 0, not 'a'"):
        landscape.critical_sharpness(loss, w, w, [jnp.ones(3)], start="a")


def test_an_overflow_counts_as_a_rise():
    # exp(-9 w) + w from w = 1 falls, then rises; it is back where it was close to eta = 1.
    found = landscape.critical_sharpness(
        lambda w, b: jnp.mean(jnp.exp(b * w) + w),
        jnp.float32(1.0),
        jnp.float32(1.0),
        [jnp.full(1, -9.0)],
        start=30.0,
        max_passes=16,
    )
    np.testing.assert_allclose(found.value, 2, rtol=0.01)
    assert found.loss_max == np.inf


@pytest.mark.parametrize("power", [1.2, 3.0, 8.0])
def test_borders_of_other_shapes_are_bracketed(power):
    calls = []

    def rise(eta):
        calls.append(eta)
        return -eta + eta**power / 5

    found = find_crossing(rise, 1e-2, 1e-12, 0.01, 30)
    np.testing.assert_allclose(found.border, 5 ** (1 / (power - 1)), rtol=0.01)
    assert len(calls) <= 16 and found.high <= 1.011 * found.low


@pytest.fixture(scope="module")
def problem():
    params, batch = networks.make()
    return params, batch, networks.dense(networks.loss, params, batch)


def regression(w, batch):
    return 0.5 * jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def make_regression(seed=0, examples=400, size=20):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, size)).astype(np.float32)
    y = (x @ rng.normal(size=size) + 3 * rng.normal(size=examples)).astype(np.float32)
    return {"x": x, "y": y}


def test_batch_sharpness_of_single_examples_is_the_trace():
    whole = make_regression()
    ones = networks.split(whole, 1)
    trace = np.mean(np.sum(whole["x"] ** 2, axis=1))
    # The law of the quotients is the same wherever the weights are.
    found = landscape.batch_sharpness(regression, jnp.zeros(20), ones, rtol=1e-6)
    np.testing.assert_allclose(found.mean, trace, rtol=1e-4)
    assert found.num_matvecs == found.num_samples == 400
    covered = 0
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(400)
        drawn = (ones[i] for i in order)  # an iterator will do
        part = landscape.batch_sharpness(regression, jnp.ones(20), drawn, rtol=0.05, check=False)
        assert 10 <= part.num_matvecs < 100
        assert part.stderr <= 0.05 * part.mean
        low, high = part.interval
        covered += low < trace < high
    assert covered >= 34


def test_batch_sharpness_of_all_the_data_is_a_rayleigh_quotient(problem):
    params, batch, exact = problem
    op = landscape.hessian(networks.loss, params, [batch])
    g = np.asarray(op.ravel(jax.grad(networks.loss)(params, batch)), np.float64)
    for product in ("forward_over_reverse", "reverse_over_reverse", "finite_difference"):
        found = landscape.batch_sharpness(
            networks.loss, params, [batch], product=product, check=False
        )
        np.testing.assert_allclose(found.mean, g @ exact @ g / (g @ g), rtol=2e-3)
        assert math.isnan(found.stderr)
    # A tiny gradient has the same quotient.
    tiny = landscape.batch_sharpness(lambda w, b: 1e-12 * networks.loss(w, b), params, [batch])
    np.testing.assert_allclose(tiny.mean, 1e-12 * g @ exact @ g / (g @ g), rtol=1e-4)


def test_both_averages_are_as_defined():
    params, batch = networks.make(examples=96)
    batches = networks.split(batch, 8)
    rows = []
    for one in batches:
        op = landscape.hessian(networks.loss, params, [one], check=False)
        g = jax.grad(networks.loss)(params, one)
        flat, bent = op.ravel(g), op.ravel(op @ g)
        rows.append((flat @ bent, flat @ flat))
    above, below = np.array(rows, np.float64).T
    ratios = landscape.batch_sharpness(networks.loss, params, batches, rtol=1e-9)
    ratio = landscape.batch_sharpness(networks.loss, params, batches, average="ratio", rtol=1e-9)
    np.testing.assert_allclose(ratios.mean, np.mean(above / below), rtol=1e-5)
    np.testing.assert_allclose(ratio.mean, above.mean() / below.mean(), rtol=1e-5)
    np.testing.assert_allclose(ratios.stderr, np.std(above / below, ddof=1) / 12**0.5, rtol=1e-5)
    assert ratio.stderr != ratios.stderr


def test_batches_without_a_gradient_are_left_out():
    x = np.eye(4, dtype=np.float32)
    fits = {"x": x[:1], "y": np.ones(1, np.float32)}
    off = {"x": 2 * x[1:2], "y": np.zeros(1, np.float32)}
    found = landscape.batch_sharpness(regression, jnp.ones(4), [fits, off, fits, off])
    assert (found.mean, found.num_matvecs, found.num_samples) == (4.0, 4, 2)
    with pytest.raises(ValueError, match="gradients of all batches are zero"):
        landscape.batch_sharpness(regression, jnp.ones(4), [fits])
    with pytest.raises(ValueError, match="there is no batch"):
        landscape.batch_sharpness(regression, jnp.ones(4), [])
    with pytest.raises(ValueError, match=r"batches=\[batch\]"):
        landscape.batch_sharpness(regression, jnp.ones(4), fits)
    with pytest.raises(ValueError, match="below min_batches"):
        landscape.batch_sharpness(regression, jnp.ones(4), [off], max_batches=3)
    bad = {"x": np.full((1, 4), np.inf, np.float32), "y": np.ones(1, np.float32)}
    with pytest.raises(FloatingPointError, match="batch 1"):
        landscape.batch_sharpness(regression, jnp.ones(4), [off, bad])


def test_a_preconditioned_operator_is_the_similar_matrix(problem):
    params, batch, exact = problem
    op = landscape.hessian(networks.loss, params, [batch])
    tree = jax.tree.map(lambda leaf: 0.1 + jnp.abs(leaf), params)
    root = np.asarray(op.ravel(tree), np.float64) ** -0.5
    expected = root[:, None] * exact * root

    def apply_root(v):
        return jax.tree.map(lambda leaf, p: leaf / jnp.sqrt(p), v, tree)

    for scale in (tree, apply_root):
        found = networks.matrix_of(landscape.preconditioned(op, scale))
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    top = landscape.eigh_topk(landscape.preconditioned(op, tree), KEY, 2, which="LA")
    values = np.linalg.eigvals(np.diag(root**2) @ exact).real
    np.testing.assert_allclose(top.values, np.sort(values)[-2:][::-1], rtol=1e-4)
    block = landscape.hessian(networks.loss, params, [batch], where=lambda path, _: "first" in path)
    found = networks.matrix_of(landscape.preconditioned(block, tree))
    np.testing.assert_allclose(found, expected[:70, :70], atol=1e-5 * np.abs(expected).max())


def test_a_preconditioner_that_is_none_is_refused():
    op = landscape.from_matvec(lambda v: v, {"a": jnp.zeros(2), "b": jnp.zeros(1)})
    good = {"a": jnp.ones(2), "b": jnp.ones(1)}
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="at 'b'"):
            landscape.preconditioned(op, {**good, "b": jnp.full(1, wrong)})
    with pytest.raises(ValueError, match="the preconditioner has no leaf at 'b'"):
        landscape.preconditioned(op, {"a": jnp.ones(2)})


def test_gradient_descent_is_stable_below_the_threshold_and_adam_at_its_own():
    # 38 / eta: the EMA form of momentum 0.9 with a fixed preconditioner, by its spectral radius.
    matrix, _, _ = make_bowl(3, size=6, condition=10.0)
    scale = np.linspace(0.5, 2, 6)
    op = landscape.from_matvec(lambda v: jnp.asarray(matrix, jnp.float32) @ v, jnp.zeros(6))
    inner = landscape.preconditioned(op, jnp.asarray(scale, jnp.float32))
    top = landscape.eigh_topk(inner, KEY, 1).values[0]
    for factor, stable in ((0.99, True), (1.01, False)):
        eta = factor * 38 / top
        step = np.block(
            [
                [np.eye(6) - eta * 0.1 * matrix / scale[:, None], -eta * 0.9 * np.diag(1 / scale)],
                [0.1 * matrix, 0.9 * np.eye(6)],
            ]
        )
        assert (np.abs(np.linalg.eigvals(step)).max() < 1) == stable


def test_all_three_serve_as_rows_of_a_training_loop():
    whole = make_regression(examples=40, size=4)
    batches = networks.split(whole, 8)
    tx, rate, w = optax.adam(1.0), 0.05, jnp.zeros(4)
    state, rows = tx.init(w), []
    gradient = jax.jit(jax.grad(regression))
    for step in range(9):
        with jax.numpy_dtype_promotion("standard"):  # which optax needs outside of jit
            updates, state = tx.update(gradient(w, batches[step % 5]), state)
        if step % 4 == 0:
            down = jax.tree.map(jnp.negative, updates)
            op = landscape.hessian(regression, w, batches)
            nu = optax.tree.get(state, "nu")
            own = landscape.preconditioned(op, jnp.sqrt(nu / (1 - 0.999 ** (step + 1))) + 1e-8)
            rows.append(
                (
                    landscape.critical_sharpness(regression, w, down, batches, start=rate).value,
                    landscape.batch_sharpness(regression, w, batches).mean,
                    landscape.eigh_topk(own, KEY, 1).values[0],
                )
            )
        w = optax.apply_updates(w, rate * updates)
    assert np.isfinite(rows).all() and np.shape(rows) == (3, 3)


def masked_regression(w, batch):
    mask = batch["mask"].astype("float32")
    errors = mask * (batch["x"] @ w - batch["y"]) ** 2
    return 0.5 * jnp.sum(errors) / jnp.sum(mask)  # not a number where no example counts


def test_batches_of_which_no_example_counts_are_left_out():
    whole = make_regression(examples=6, size=3)
    batches = networks.split(whole | {"mask": np.ones(6, bool)}, 2)
    out = batches[0] | {"mask": np.zeros(2, bool)}
    expected = landscape.batch_sharpness(masked_regression, jnp.zeros(3), batches)
    for order in ([out, *batches], [*batches, out]):
        found = landscape.batch_sharpness(masked_regression, jnp.zeros(3), order)
        assert found == expected and found.num_matvecs == 3
    with pytest.raises(ValueError, match="no example of any batch counts"):
        landscape.batch_sharpness(masked_regression, jnp.zeros(3), [out, out])
    with pytest.raises(ValueError, match=r"scalar, not shape \(2,\)"):
        landscape.batch_sharpness(lambda w, b: b["x"] @ w, jnp.zeros(3), [out, *batches])


def test_batch_sharpness_asks_no_leaf_for_its_examples():
    whole = make_regression(examples=6, size=3)

    def loss(w, batch):
        errors = (batch["x"] @ w - batch["y"]) ** 2
        return 0.5 * jnp.mean(errors) * jnp.sum(batch["cw"])

    halves = np.full(2, 0.5, np.float32)
    odd = [b | {"cw": halves} for b in networks.split(whole, 3)]
    attention = [b | {"mask": np.ones((3, 1, 2, 2), bool)} for b in odd]
    expected = landscape.batch_sharpness(regression, jnp.zeros(3), networks.split(whole, 3))
    for batches in (odd, attention):
        found = landscape.batch_sharpness(loss, jnp.zeros(3), batches)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda w, b: b["x"] @ w, r"must return a scalar, not shape \(6,\)"),
        (lambda w, b: (regression(w, b), {}), "drop auxiliary outputs"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused_unchecked_too(loss, told, check):
    w, data = jnp.ones(3), [make_regression(examples=6, size=3)]
    for measure in (
        lambda: landscape.critical_sharpness(loss, w, w, data, check=check),
        lambda: landscape.batch_sharpness(loss, w, data, check=check),
        lambda: landscape.hessian(loss, w, data, check=check),
        lambda: landscape.hessian(loss, w, data, check=check, product="finite_difference"),
        lambda: landscape.sam_sharpness(loss, w, data, check=check),
        lambda: landscape.keskar_sharpness(loss, w, data, check=check),
        lambda: landscape.adaptive_sharpness(loss, w, data, check=check),
    ):
        with pytest.raises(ValueError, match=told):
            measure()
