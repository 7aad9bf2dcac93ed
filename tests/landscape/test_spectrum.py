import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from tests.landscape import networks
from tests.landscape.test_lanczos import diagonal


@pytest.fixture(scope="module")
def matrix():
    params, batch = networks.make()
    return networks.dense(networks.loss, params, batch)


@pytest.fixture(scope="module")
def op(matrix):
    dense = jnp.asarray(matrix, jnp.float32)
    return landscape.from_matvec(jax.jit(lambda v: dense @ v), dense[0])


def test_moments_and_shares_are_covered(op, matrix):
    values = np.linalg.eigvalsh(matrix)
    exact = [values.mean(), np.mean(values**2), np.mean(values**3)]
    exact.append(-values[values < 0].sum() / np.abs(values).sum())
    within = np.zeros(4)
    for seed in range(100):
        density = landscape.spectral_density(
            op, jax.random.key(seed), num_probes=10, num_steps=8, grid=np.zeros(1)
        )
        found = [*map(density.moment, (1, 2, 3)), density.negative_mass()]
        within += [abs(f.mean - e) <= 3 * f.stderr for f, e in zip(found, exact, strict=True)]
    assert (within >= 95).all(), within


def test_the_density_is_the_smoothed_spectrum(op, matrix):
    values = np.linalg.eigvalsh(matrix)
    density = landscape.spectral_density(op, jax.random.key(0), num_probes=40, num_steps=60)
    np.testing.assert_allclose(np.trapezoid(density.density, density.grid), 1, rtol=1e-6)
    bumps = np.exp(-0.5 * ((density.grid[:, None] - values) / density.sigma) ** 2)
    exact = bumps.mean(1) / (density.sigma * np.sqrt(2 * np.pi))
    close = np.abs(density.density - exact) <= 3 * density.stderr + 0.01 * exact.max()
    assert close.mean() > 0.95
    assert density.nodes.shape == density.weights.shape == (40, 60)
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-6)


def test_probes_can_be_added_later(op):
    key, kept = jax.random.key(0), []
    options = {"num_steps": 20, "num_probes": 6}
    straight = landscape.spectral_density(
        op, key, **options, progress=lambda p: kept.append(p.partial())
    )
    assert [len(k.nodes) for k in kept[::20]] == [0, 1, 2, 3, 4, 5]
    resumed = landscape.spectral_density(op, key, **options, resume=kept[70])
    np.testing.assert_array_equal(resumed.nodes, straight.nodes)
    np.testing.assert_array_equal(resumed.density, straight.density)
    assert resumed.num_matvecs == straight.num_matvecs == 120
    with pytest.raises(ValueError, match="20 steps"):
        landscape.spectral_density(op, key, num_steps=10, resume=straight)


def test_counts_are_covered_with_the_stated_bias(op, matrix):
    values = np.linalg.eigvalsh(matrix)
    # One in the gap after the outliers, then through the bulk and at its edge.
    thresholds = np.array([values[-3:-1].mean(), 0.1 * values[-1], 0.01 * values[-1], 0.0])
    exact = (values[:, None] > thresholds).sum(0)
    within = np.zeros(4)
    for seed in range(20):
        found = landscape.count_above(op, thresholds, key=jax.random.key(seed), num_steps=24)
        if not seed:
            square = landscape.count_above(
                op, thresholds.reshape(2, 2), key=jax.random.key(seed), num_steps=24
            )
            np.testing.assert_array_equal(square.mean, found.mean.reshape(2, 2))
            np.testing.assert_array_equal(square.bias, found.bias.reshape(2, 2))
        within += np.abs(found.mean - exact) <= 3 * found.stderr + found.bias + 1e-6
    assert (within >= 19).all(), within
    np.testing.assert_allclose(found.mean[0], exact[0], atol=1e-3)
    assert found.stderr[0] < 1e-3
    assert found.bias[0] < 1e-3


@pytest.mark.parametrize("copies", [1, 5, 40])
def test_copies_of_an_eigenvalue_are_all_counted(copies):
    values = np.r_[np.full(copies, 10.0), np.full(100 - copies, 0.1)]
    found = landscape.count_above(diagonal(values), 5, key=jax.random.key(1), num_steps=30)
    assert abs(found.mean - copies) <= 3 * found.stderr + found.bias + 1e-5
    assert copies > 20 or found.stderr < 1e-5
    assert isinstance(found.mean, float)


@pytest.mark.parametrize("cluster", [0.0, 1e-9, 1.0, -2.0])
def test_a_threshold_within_a_cluster_says_so(cluster):
    op = diagonal(np.r_[5.0, 4.0, 3.0, np.full(97, cluster)])
    at = np.float32(cluster)
    found = landscape.count_above(op, at, key=jax.random.key(0))
    assert abs(found.mean - 3) <= 3 * found.stderr + 1e-4
    assert found.bias >= found.unresolved >= 96
    assert found.interval[0] <= 3 and found.interval[1] >= 100
    # Away from it by what float32 can resolve, there is no doubt.
    beside = np.array([at + 1e-3, at - 1e-3, 4.0, 3.999, 4.001])
    found = landscape.count_above(op, beside, key=jax.random.key(0))
    np.testing.assert_allclose(found.mean, [3, 100, 1, 2, 1], atol=1e-3)
    np.testing.assert_allclose(found.bias, [0, 0, 1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(found.unresolved, [0, 0, 1, 0, 0], atol=1e-3)


def test_all_or_none_above():
    op = diagonal(np.linspace(1, 2, 30))
    for limit, count in ((0.5, 30), (3.0, 0)):
        found = landscape.count_above(op, limit, key=jax.random.key(0), num_steps=10)
        np.testing.assert_allclose(found.mean, count, atol=1e-4)


def test_bad_input_is_refused(op):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="num_probes"):
        landscape.spectral_density(op, key, num_probes=0)
    with pytest.raises(ValueError, match="sigma"):
        landscape.spectral_density(op, key, sigma=-1.0)
    with pytest.raises(ValueError, match="no standard error"):
        landscape.count_above(op, 1, key=key, num_probes=1)
    with pytest.raises(ValueError, match="finite"):
        landscape.count_above(op, np.nan, key=key)


@pytest.mark.parametrize("scale", [1e-6, 2.0, -3e6])
def test_the_density_of_a_single_eigenvalue_is_wider_than_rounding(scale):
    op = diagonal(np.full(40, scale))
    density = landscape.spectral_density(op, jax.random.key(0), num_steps=20)
    eps = np.finfo(np.float32).eps
    assert 50 * eps <= density.sigma / abs(scale) <= 1e-3
    peak = 1 / (density.sigma * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(density.density.max(), peak, rtol=0.01)
    np.testing.assert_allclose(np.trapezoid(density.density, density.grid), 1, rtol=1e-6)
    assert landscape.spectral_density(diagonal(np.zeros(5)), jax.random.key(0)).sigma == 0.01


def test_what_is_no_grid_no_density_and_no_parameter_is_refused():
    op, key = diagonal(np.arange(5)), jax.random.key(0)
    for grid in (np.zeros((2, 3)), [], [0.0, np.nan], 1.0):
        with pytest.raises(ValueError, match="grid must be a non-empty row of finite numbers"):
            landscape.spectral_density(op, key, grid=grid)
    for resume in (3, np.zeros(2)):
        with pytest.raises(ValueError, match="resume must be a Density"):
            landscape.spectral_density(op, key, resume=resume)
    empty = {"a": jnp.zeros((0, 3)), "b": jnp.zeros(0)}
    with pytest.raises(ValueError, match=r"hold no number: a has shape \(0, 3\), b has"):
        landscape.from_matvec(lambda v: v, empty)
    op = landscape.from_matvec(lambda v: v, empty | {"c": jnp.ones(2)})
    np.testing.assert_allclose(landscape.spectral_density(op, key, num_probes=1).nodes, 1)
