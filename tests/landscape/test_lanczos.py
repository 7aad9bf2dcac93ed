import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from gapjax.landscape import _memory
from tests.landscape import networks


@pytest.fixture(scope="module")
def op():
    params, batch = networks.make()
    return landscape.hessian(networks.loss, params, networks.split(batch, 40))


def diagonal(values):
    values = jnp.asarray(values, jnp.float32)
    return landscape.from_matvec(jax.jit(lambda v: values * v), values)


def test_the_basis_is_orthonormal_and_tridiagonalizes(op):
    state = landscape.lanczos(op, jax.random.key(0), 50)
    basis = np.asarray(state.basis, np.float64)
    assert basis.shape == (50, op.size)
    assert state.alpha.shape == state.beta.shape == (50,)
    np.testing.assert_allclose(basis @ basis.T, np.eye(50), atol=2e-6)
    seen = basis @ networks.matrix_of(op) @ basis.T
    tridiagonal = np.diag(state.alpha) + np.diag(state.beta[:-1], 1) + np.diag(state.beta[:-1], -1)
    np.testing.assert_array_equal(state.projection, tridiagonal)
    np.testing.assert_allclose(seen, tridiagonal, atol=1e-5 * np.abs(seen).max())


def test_it_agrees_with_matfree(op):
    decomp = pytest.importorskip("matfree.decomp")
    start = jax.random.normal(jax.random.key(3), (op.size,))
    own = landscape.lanczos(op, jax.random.key(0), 8, start=op.unravel(start))
    matrix = jnp.asarray(networks.matrix_of(op))
    other = decomp.tridiag_sym(8, materialize=True)(
        lambda v: matrix @ v, start / jnp.linalg.norm(start)
    )
    np.testing.assert_allclose(own.projection, other.J_small, atol=1e-4)


def test_no_ghost_copies_after_90_float32_steps(op):
    state = landscape.lanczos(op, jax.random.key(0), 90)
    ritz = np.linalg.eigvalsh(state.projection)[::-1]
    exact = np.linalg.eigvalsh(np.asarray(networks.matrix_of(op), np.float64))[::-1]
    np.testing.assert_allclose(ritz[:10], exact[:10], rtol=2e-6)


def test_resuming_equals_a_straight_run(op):
    key = jax.random.key(1)
    straight = landscape.lanczos(op, key, 40)
    kept = []
    landscape.lanczos(op, key, 23, progress=lambda p: kept.append(p.partial()))
    assert [len(state.coupling) for state in kept] == list(range(1, 24))
    for partial in (kept[4], kept[15], kept[-1]):
        resumed = landscape.lanczos(op, key, 40, resume=partial)
        np.testing.assert_array_equal(resumed.projection, straight.projection)
        assert resumed.num_matvecs == 40
    with pytest.raises(ValueError, match="saved state is for 114"):
        landscape.lanczos(diagonal(np.ones(5)), key, 3, resume=kept[0])


def test_a_closed_space_goes_on_from_a_new_direction():
    state = landscape.lanczos(diagonal([5, 5, 2, 2, 2]), jax.random.key(0), 5)
    np.testing.assert_allclose(np.linalg.eigvalsh(state.projection), [2, 2, 2, 5, 5], rtol=1e-6)
    np.testing.assert_allclose(state.basis @ state.basis.T, np.eye(5), atol=1e-5)


def test_bad_input_is_refused(op, monkeypatch):
    with pytest.raises(ValueError, match="at least 1"):
        landscape.lanczos(op, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="at most 114 steps"):
        landscape.lanczos(op, jax.random.key(0), 115)
    with pytest.raises(ValueError, match="not zero"):
        landscape.lanczos(op, jax.random.key(0), 2, start=op.unravel(jnp.zeros(op.size)))
    monkeypatch.setattr(_memory, "_available_bytes", lambda: 5000)
    with pytest.raises(MemoryError, match=r"11 vectors of 114 parameters takes 5016 bytes.*where="):
        landscape.lanczos(op, jax.random.key(0), 10)
