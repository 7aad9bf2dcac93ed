import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax.diffusion import random_potential_walk
from gapjax.diffusion._walk import _fractional_brownian, _spectrum, _valley_distance


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_the_potential_has_the_increments_it_should(alpha):
    spectrum = _spectrum(alpha, 256)
    keys = jax.random.split(jax.random.key(0), 4000)
    potential = jax.vmap(lambda key: _fractional_brownian(key, spectrum)[:256])(keys)
    for start, distance in [(0, 1), (0, 16), (100, 16), (0, 255), (55, 200)]:
        rise = np.asarray(potential[:, start + distance] - potential[:, start], np.float64)
        assert np.mean(rise**2) == pytest.approx(distance**alpha, rel=4.5 * (2 / 4000) ** 0.5)
        assert abs(rise.mean()) < 4.5 * distance ** (alpha / 2) / 4000**0.5


def exact_distances(potential, num_doublings):
    """E|x| after 1.5 * 2^k steps from the middle: the propagator, squared again and again.

    Every entry stays positive and rows are normalized, so even the smallest escape probability
    keeps its relative accuracy. Half a step is smeared to forget the parity of the site.
    """
    sites = len(potential) + 1
    padded = np.concatenate([[np.inf], potential, [np.inf]]).astype(np.float64)
    right = 1 / (1 + np.exp(np.clip(padded[1:] - padded[:-1], -700, 700)))
    hop = np.diag(right[:-1], 1) + np.diag(1 - right[1:], -1)
    hop = (hop @ hop + hop) / 2
    distance, result = np.abs(np.arange(sites) - sites // 2), []
    for _ in range(num_doublings):
        result.append(hop[sites // 2] @ distance)
        hop = hop @ hop
        hop /= hop.sum(axis=1, keepdims=True)
    return np.array(result)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_valleys_agree_with_the_exact_propagator(alpha):
    times = 1.5 * 2.0 ** np.arange(22)  # to 3e6
    spectrum = _spectrum(alpha, 120)
    keys = jax.random.split(jax.random.key(1), 40)
    potentials = 3 * jax.vmap(lambda key: _fractional_brownian(key, spectrum)[:120])(keys)
    valley = np.asarray(jax.vmap(lambda v: _valley_distance(v, times))(potentials)).T
    exact = np.stack([exact_distances(v, 22) for v in np.asarray(potentials)], axis=1)
    ratio = valley.mean(axis=1) / exact.mean(axis=1)
    rms = np.sqrt(np.mean((valley - exact) ** 2, axis=1)) / exact.mean(axis=1)
    # 40 potentials, each off by rms: the mean ratio is uncertain by about 0.04 itself.
    np.testing.assert_allclose(ratio[2:], 1, atol=0.13)
    assert ratio[2:].mean() == pytest.approx(1, abs=0.04)
    assert rms[2:].max() < 0.4
    assert rms[14:].mean() < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_valleys_agree_with_plain_steps(alpha):
    def walk(method):
        return random_potential_walk(
            jax.random.key(2),
            alpha=alpha,
            num_steps=20_000,
            num_walkers=400,
            strength=2.0,
            num_records=24,
            method=method,
        )

    valley, step = walk("valley"), walk("step")
    np.testing.assert_array_equal(valley.step, step.step)
    late = step.step >= 50
    np.testing.assert_allclose(valley.distance[late], step.distance[late], rtol=0.15)


def exponent(walk, first):
    """The slope of log distance on log log t."""
    used = np.asarray(walk.step) >= first
    x = np.log(np.log(np.asarray(walk.step, np.float64)[used]))
    return np.polyfit(x, np.log(np.asarray(walk.distance)[used]), 1)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "strength"), [(1.0, 2.0), (1.5, 3.0)])
def test_the_law_over_twenty_decades(alpha, strength):
    walk = jax.jit(
        lambda key: random_potential_walk(
            key, alpha=alpha, num_steps=1e25, num_walkers=100, strength=strength
        )
    )
    slopes = np.array([exponent(walk(jax.random.key(i)), 1e5) for i in range(6)])
    # Student's 95% interval over six independent sets of potentials.
    half = 2.57 * slopes.std(ddof=1) / 6**0.5
    assert half < 0.25
    assert abs(slopes.mean() - 2 / alpha) < half + 0.05


@pytest.mark.slow
def test_without_a_potential_the_walk_is_free():
    walk = random_potential_walk(
        jax.random.key(0), alpha=1.0, num_steps=10_000, num_walkers=1000, strength=0, method="step"
    )
    late = np.asarray(walk.step) >= 10
    slope = np.polyfit(np.log(walk.step[late]), np.log(walk.distance[late]), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.02)
    expected = np.sqrt(2 * np.asarray(walk.step) / np.pi)
    np.testing.assert_array_less(np.abs(walk.distance - expected)[late], 4.5 * walk.stderr[late])
    valley = random_potential_walk(
        jax.random.key(0), alpha=1.0, num_steps=1e8, num_walkers=1, strength=0
    )
    slope = np.polyfit(np.log(valley.step[20:]), np.log(valley.distance[20:]), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("num_walkers", "known"), [(1, False), (2, True)])
def test_one_walker_tells_no_error(num_walkers, known):
    walk = random_potential_walk(
        jax.random.key(0), alpha=1.0, num_steps=100, num_walkers=num_walkers
    )
    assert (np.isfinite(walk.stderr) == known).all() and np.isfinite(walk.distance).all()


def test_walks_are_pure_and_compile():
    walk = lambda key: random_potential_walk(  # noqa: E731
        key, alpha=1.5, num_steps=1000, num_walkers=8, num_records=10
    )
    one, other = walk(jax.random.key(3)), jax.jit(walk)(jax.random.key(3))
    np.testing.assert_allclose(one.distance, other.distance, rtol=1e-4)
    assert one.step[0] == 1
    assert one.step[-1] == 1000
    assert one.distance.shape == one.stderr.shape == one.step.shape
    assert (jnp.diff(one.step) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 2.0}, r"alpha must be in \(0, 2\), not 2.0"),
        ({"alpha": 0.0}, "alpha must be in"),
        ({"num_walkers": 0}, "num_walkers must be"),
        ({"num_records": 0}, "num_records must be"),
        ({"num_steps": 1}, "num_steps must be above 1 and up to 1e[+]38"),
        ({"num_steps": 1e12, "method": "step"}, "up to 2.15e[+]09 for method='step'"),
        ({"method": "steps"}, "Did you mean 'step'"),
        ({"strength": -1.0}, "strength must be"),
        ({"alpha": 0.2, "num_steps": 1e20}, "Raise strength or alpha, or lower num_steps"),
    ],
)
def test_bad_input(change, message):
    good = {"alpha": 1.0, "num_steps": 100, "num_walkers": 2}
    with pytest.raises(ValueError, match=message):
        random_potential_walk(jax.random.key(0), **{**good, **change})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["valley", "step"])
def test_where_numbers_have_64_bits_the_walk_is_the_same(method):
    def walk():
        key = jax.random.key(0, impl="threefry2x32")
        return random_potential_walk(key, alpha=1.0, num_steps=50, num_walkers=4, method=method)

    usual = walk()
    with jax.enable_x64(True):
        np.testing.assert_allclose(walk().distance, usual.distance, rtol=1e-5)
