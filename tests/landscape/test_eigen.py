import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gapjax import landscape
from tests.landscape import networks
from tests.landscape.test_lanczos import diagonal


@pytest.fixture(scope="module")
def problem():
    params, batch = networks.make()
    op = landscape.hessian(networks.loss, params, networks.split(batch, 40))
    return op, networks.dense(networks.loss, params, batch)


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
def test_top_ten_within_1e_6_once_converged(problem, which):
    op, exact = problem
    values = np.linalg.eigvalsh(exact)
    wanted = {"LM": values[np.argsort(-np.abs(values))], "LA": values[::-1], "SA": values}[which]
    pairs = landscape.eigh_topk(op, jax.random.key(0), 10, which=which)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, wanted[:10], rtol=1e-6)
    vectors = np.asarray(jax.vmap(op.ravel)(pairs.vectors), np.float64)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(10), atol=1e-5)
    true = np.linalg.norm(vectors @ exact - pairs.values[:, None] * vectors, axis=1)
    # The reported residuals hold the true ones, without being idle.
    assert (true <= 2 * pairs.residuals + 1e-9).all()
    assert pairs.vectors["first"]["kernel"].shape == (10, 6, 10)


def test_a_small_basis_restarts_and_still_converges(problem):
    op, exact = problem
    pairs = landscape.eigh_topk(op, jax.random.key(0), 4, which="LA", basis_size=8)
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(exact)[::-1][:4], rtol=1e-6)


def test_what_did_not_converge_is_said(problem):
    op, _ = problem
    pairs = landscape.eigh_topk(op, jax.random.key(0), 5, max_matvecs=8)
    assert pairs.num_matvecs == 8
    assert not pairs.converged.all()
    assert (pairs.residuals[~pairs.converged] > 1e-4 * np.abs(pairs.values[~pairs.converged])).all()


def test_resuming_costs_only_the_missing_products(problem):
    op, _ = problem
    calls = []

    def counted(vector):
        calls.append(1)
        return op.apply(vector)

    counting = landscape.Operator(counted, op.space)
    key, kept = jax.random.key(2), []
    straight = landscape.eigh_topk(counting, key, 3, progress=lambda p: kept.append(p.partial()))
    assert len(calls) == straight.num_matvecs
    calls.clear()
    resumed = landscape.eigh_topk(counting, key, 3, resume=kept[9])
    assert len(calls) == straight.num_matvecs - 10
    np.testing.assert_array_equal(resumed.values, straight.values)


@pytest.mark.parametrize("k", [1, 5])
def test_products_stay_within_the_most_that_are_allowed(k):
    op, calls = diagonal(np.arange(40.0)), []
    counting = landscape.Operator(lambda v: calls.append(1) or op.apply(v), op.space)
    key = jax.random.key(0)
    for most in (k + 1, k + 4):
        calls.clear()
        pairs = landscape.eigh_topk(counting, key, k, max_matvecs=most)
        assert len(calls) == pairs.num_matvecs == most
        assert len(pairs.values) == k and not pairs.converged.all()
    with pytest.raises(ValueError, match=f"max_matvecs >= {k + 1}"):
        landscape.eigh_topk(counting, key, k, max_matvecs=k)
    state = landscape.lanczos(op, key, 10)
    with pytest.raises(ValueError, match="max_matvecs >= 11"):
        landscape.eigh_topk(counting, key, k, max_matvecs=10, resume=state)
    assert landscape.eigh_topk(counting, key, k, max_matvecs=11, resume=state).num_matvecs == 11


@settings(max_examples=15, deadline=None)
@example([7.0, 1.0, 7.0, 2.0, 2.0, 0.0, 2.0, -3.0])
@example([0.0, -3.0, 2.0, 7.0, 7.0, 1.0, 1.0, 7.0])
@given(st.lists(st.sampled_from([-3.0, 0.0, 1.0, 2.0, 7.0]), min_size=8, max_size=8))
def test_multiple_eigenvalues_are_found_with_their_copies(values):
    pairs = landscape.eigh_topk(diagonal(values), jax.random.key(0), 4, which="LA")
    np.testing.assert_allclose(pairs.values, sorted(values)[::-1][:4], atol=1e-5)
    assert pairs.converged.all()


COPIES = np.concatenate([[9.0] * 3, [8.0] * 2, [5.0], np.linspace(0, 1, 94)])


@pytest.mark.parametrize(("which", "sign"), [("LM", 1), ("LM", -1), ("LA", 1), ("SA", -1)])
@pytest.mark.parametrize("basis_size", [None, 8, 6])
@pytest.mark.parametrize("k", [2, 4])
def test_copies_above_a_bulk_are_found(which, sign, basis_size, k):
    # A chain does not close here before all its leading pairs pass.
    op, calls = diagonal(sign * COPIES), []
    counting = landscape.Operator(lambda v: calls.append(1) or op.apply(v), op.space)
    options = {"which": which, "basis_size": basis_size}
    pairs = landscape.eigh_topk(counting, jax.random.key(1), k, **options)
    np.testing.assert_allclose(pairs.values, sign * COPIES[:k], rtol=1e-6)
    assert pairs.converged.all() and len(calls) == pairs.num_matvecs
    rows = np.asarray(pairs.vectors, np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(k), atol=1e-5)
    true = np.linalg.norm(rows * (sign * COPIES - pairs.values[:, None]), axis=1)
    assert (true <= 2 * pairs.residuals + 1e-6).all()


def test_copies_of_both_signs_and_nearly_equal_ones():
    values = np.concatenate([[9, -9, 8.9999, -9, 8.99], np.linspace(-1, 1, 95)])
    pairs = landscape.eigh_topk(diagonal(values), jax.random.key(1), 5)
    np.testing.assert_allclose(sorted(pairs.values), sorted(values[:5]), rtol=1e-5)
    assert pairs.converged.all()


@pytest.mark.parametrize("basis_size", [None, 8])
def test_a_resumed_search_finds_the_same_copies(basis_size):
    op, key, kept = diagonal(COPIES), jax.random.key(1), []
    options = {"basis_size": basis_size}
    straight = landscape.eigh_topk(
        op, key, 4, progress=lambda p: kept.append(p.partial()), **options
    )
    assert any(state.coupling.ndim == 2 for state in kept)
    states = kept + [landscape.lanczos(op, key, steps) for steps in range(1, 8)]
    for state in states:
        resumed = landscape.eigh_topk(op, key, 4, resume=state, **options)
        np.testing.assert_allclose(resumed.values, straight.values, rtol=1e-6)
        assert resumed.converged.all()
    if basis_size is None:
        for state in kept:
            assert landscape.eigh_topk(op, key, 4, resume=state).num_matvecs == (
                max(straight.num_matvecs, state.num_matvecs + 1)
            )
    # Nor is a state that holds several chains changed by going on from it.
    basis = np.asarray(kept[-1].basis, np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
    assert landscape.lanczos(op, key, 40, resume=kept[-1]).basis.shape == (40, 100)


def test_converged_waits_for_the_search_for_copies():
    op, key = diagonal(COPIES), jax.random.key(1)
    straight = landscape.eigh_topk(op, key, 4)
    for most in range(5, straight.num_matvecs):
        pairs = landscape.eigh_topk(op, key, 4, max_matvecs=most)
        assert pairs.num_matvecs == most and not pairs.converged.all()
        wrong = np.abs(pairs.values - COPIES[:4]) > 1e-3
        assert not pairs.converged[wrong].any()


def test_distinct_values_cost_few_products_more(problem):
    op, _ = problem
    for k, most in ((1, 14), (5, 35)):
        pairs = landscape.eigh_topk(op, jax.random.key(0), k)
        assert pairs.converged.all() and pairs.num_matvecs <= most


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_whole_of_a_tiny_space(size):
    values = np.arange(1, size + 1)
    pairs = landscape.eigh_topk(diagonal(values), jax.random.key(0), size)
    np.testing.assert_allclose(pairs.values, values[::-1], rtol=1e-6)


def test_float64_parameters_give_float64_accuracy():
    with jax.enable_x64(True):
        values = jnp.linspace(1.0, 2.0, 60, dtype=jnp.float64) ** 8
        op = landscape.from_matvec(lambda v: values * v, values)
        pairs = landscape.eigh_topk(op, jax.random.key(0), 3, tol=1e-9)
        assert pairs.converged.all()
        np.testing.assert_allclose(pairs.values, np.asarray(values)[::-1][:3], rtol=1e-13)


def test_bad_input_is_refused(problem):
    op, _ = problem
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="k must be a whole number of at least 1, not 0"):
        landscape.eigh_topk(op, key, 0)
    with pytest.raises(ValueError, match="k <= 114"):
        landscape.eigh_topk(op, key, 115)
    with pytest.raises(ValueError, match="Did you mean 'LA'"):
        landscape.eigh_topk(op, key, 1, which="LAA")
    with pytest.raises(ValueError, match="tol"):
        landscape.eigh_topk(op, key, 1, tol=0)
    with pytest.raises(ValueError, match="at least k"):
        landscape.eigh_topk(op, key, 5, basis_size=6)
