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


@pytest.mark.parametrize("method", ["hutchinson", "krylov"])
def test_the_standard_error_covers(op, matrix, method):
    exact, within, scores = np.trace(matrix), 0, []
    for seed in range(100):
        found = landscape.trace(op, jax.random.key(seed), method=method)
        assert found.num_matvecs == 30
        within += abs(found.mean - exact) <= 3 * found.stderr
        scores.append((found.mean - exact) / found.stderr)
    assert within >= 95
    assert 0.8 < np.std(scores) < 1.4, "the standard error should be neither small nor idle"


def test_the_krylov_method_has_less_noise_where_outliers_rule():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(200, 200)))
    values = np.r_[np.linspace(20, 30, 8), np.linspace(-0.1, 1, 192)]
    dense = jnp.asarray((turn * values) @ turn.T, jnp.float32)
    op = landscape.from_matvec(jax.jit(lambda v: dense @ v), dense[0])
    plain, known = (
        [landscape.trace(op, jax.random.key(seed), method=method) for seed in range(20)]
        for method in ("hutchinson", "krylov")
    )
    assert np.mean([e.stderr for e in known]) < 0.2 * np.mean([e.stderr for e in plain])
    assert sum(abs(e.mean - values.sum()) <= 3 * e.stderr for e in known) >= 19


def test_a_space_that_is_spanned_gives_the_exact_trace():
    found = landscape.trace(diagonal([1, 2, 3]), jax.random.key(0), 8, method="krylov")
    np.testing.assert_allclose(found.mean, 6, rtol=1e-6)
    assert found[1:4] == (0.0, 3, 0.0)


def test_bad_input_is_refused(op):
    with pytest.raises(ValueError, match="'krylov'"):
        landscape.trace(op, jax.random.key(0), method="krilov")
    with pytest.raises(ValueError, match="at least 2"):
        landscape.trace(op, jax.random.key(0), 1)
    with pytest.raises(ValueError, match="at least 4"):
        landscape.trace(op, jax.random.key(0), 3, method="krylov")
