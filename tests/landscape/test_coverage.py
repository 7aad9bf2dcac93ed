"""Intervals of spectra cover what they say, against a dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from gapjax.landscape._density import _smooth
from gapjax.landscape._quadrature import fewer_steps
from tests.landscape import networks
from tests.landscape.test_lanczos import diagonal


def probed(size, num_probes, num_steps):
    """Eigenvalues of a network's Hessian, and the quadratures of many random directions.

    A direction sees a matrix through its eigenvalues and its own squared parts along their vectors.
    """
    params, batch = networks.make(features=size, hidden=size)
    values = np.linalg.eigvalsh(networks.dense(networks.loss, params, batch))
    parts = np.random.default_rng(1).normal(size=(num_probes, len(values))) ** 2
    parts /= parts.sum(1, keepdims=True)
    nodes, weights = fewer_steps(np.tile(values, (num_probes, 1)), parts, num_steps)
    return values, _smooth(nodes, weights, None, None, len(values), 0, np.finfo(float).eps)


def coverage(values, pool, num_probes):
    """The share of groups of probes whose intervals hold the truth: negative mass, density."""
    exact = -values[values < 0].sum() / np.abs(values).sum()
    grid, sigma = pool.grid[::20], pool.sigma
    bumps = np.exp(-0.5 * ((grid[:, None] - values) / sigma) ** 2)
    density = bumps.mean(1) / (sigma * np.sqrt(2 * np.pi))
    seen = density > 1e-3 * density.max()
    mass, points = [], []
    for start in range(0, len(pool.nodes), num_probes):
        some = slice(start, start + num_probes)
        own = pool.nodes[some], pool.weights[some]
        part = _smooth(*own, grid, sigma, len(values), 0, np.finfo(float).eps)
        low, high = part.negative_mass().interval
        mass.append(low <= exact <= high)
        low, high = part.interval
        points.append(((low <= density) & (density <= high))[seen].mean())
    return np.mean(mass), np.mean(points)


def test_intervals_cover():
    values, pool = probed(6, 240, 20)
    mass, density = coverage(values, pool, 4)
    # Of 60 groups: 95% within three standard errors of the simulation.
    assert mass >= 0.86
    assert 0.9 <= density <= 0.99


@pytest.fixture(scope="module")
def large():
    return probed(12, 1200, 30)


@pytest.mark.montecarlo
@pytest.mark.parametrize("num_probes", [4, 8])
def test_coverage_is_95_per_cent(large, num_probes):
    values, pool = large
    assert len(values) == 208
    mass, density = coverage(values, pool, num_probes)
    error = (0.05 * 0.95 * num_probes / 1200) ** 0.5
    assert 0.93 - error <= mass <= 0.97 + error
    assert 0.93 <= density <= 0.97


def test_fewer_steps_are_read_off_more():
    values = np.random.default_rng(0).gamma(0.5, size=80) - 0.2
    op, key = diagonal(values), jax.random.key(2)
    grid = np.linspace(-1, 3, 50)
    options = {"num_probes": 3, "grid": grid, "sigma": 0.1}
    long = landscape.spectral_density(op, key, num_steps=20, **options)
    short = landscape.spectral_density(op, key, num_steps=10, **options)
    nodes, weights = fewer_steps(long.nodes, long.weights, 10)
    np.testing.assert_allclose(nodes, short.nodes, atol=1e-4)
    np.testing.assert_allclose(weights, short.weights, atol=1e-4)
    np.testing.assert_allclose(long.bias, np.abs(long.density - short.density), atol=1e-3)
    moved = long.negative_mass().mean - short.negative_mass().mean
    np.testing.assert_allclose(long.negative_mass().bias, abs(moved), atol=1e-4)


def test_a_space_that_closed_early_has_no_bias():
    values = np.r_[np.full(40, -1.0), np.full(60, 2.0)]
    found = landscape.spectral_density(diagonal(values), jax.random.key(0), num_steps=12)
    assert found.negative_mass().bias < 1e-6
    assert np.max(found.bias) < 1e-3 * np.max(found.density)
    low, high = found.interval
    assert np.isfinite(low).all() and np.isfinite(high).all()
    assert (low <= found.density + 1e-12).all() and (found.density <= high + 1e-12).all()


def test_one_step_and_one_probe_are_an_interval_or_none():
    op = diagonal(np.linspace(-1, 1, 30))
    one = landscape.spectral_density(op, jax.random.key(0), num_probes=1, num_steps=1)
    low, high = one.interval
    assert np.isfinite(low).all() and np.isfinite(high).all()
    assert np.isnan(one.negative_mass().interval).all()
    assert np.isnan(one.stderr).all()


def test_students_interval():
    found = landscape.Estimate(1.0, 0.5, 8, 0.0, num_samples=4)
    np.testing.assert_allclose(found.interval, (1 - 3.18245 * 0.5, 1 + 3.18245 * 0.5), rtol=1e-5)
    bounded = landscape.Estimate(1.0, 0.0, 8, 0.3)
    assert bounded.interval[0] <= 0.7 and bounded.interval[1] >= 1.3
    several = landscape.Estimate(np.ones(3), np.array([0.0, 1, 2]), 8, np.zeros(3), 5)
    assert np.shape(several.interval) == (2, 3)
    exact = landscape.trace(diagonal(np.arange(4.0)), jax.random.key(0), 8, method="krylov")
    assert exact.interval == (exact.mean, exact.mean)
    assert isinstance(found.interval[0], float)
    assert jnp.isfinite(jnp.asarray(exact.interval)).all()
