"""What products share is kept where it may be, and changes no product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from gapjax.landscape import _linear
from tests.landscape import networks


@pytest.fixture(scope="module")
def problem():
    params, batch = networks.make()
    return params, networks.split(batch, 40)


def counted(loss, calls):
    def with_count(params, batch):
        # On the host, once for each time that the network is evaluated.
        jax.debug.callback(lambda: calls.append(1))
        return loss(params, batch)

    return with_count


OPERATORS = {
    "hessian": lambda loss, *args: landscape.hessian(loss, *args, check=False),
    "reversed": lambda loss, *args: landscape.hessian(
        loss, *args, product="reverse_over_reverse", check=False
    ),
    "ggn": lambda _, *args: landscape.ggn(networks.apply, networks.output_loss, *args),
    "fisher": lambda _, *args: landscape.fisher(networks.apply, *args),
}


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)
def test_kept_or_not_the_products_are_the_same(problem, monkeypatch, make):
    params, batches = problem
    kept = make(networks.loss, params, batches)
    fresh = make(networks.loss, params, lambda: iter(batches))
    monkeypatch.setattr(_linear, "KEPT", 10)
    large = make(networks.loss, params, batches)
    v = kept.space.embed(kept.space.normal(jax.random.key(0)))
    products = [op.ravel(op @ v) for op in (kept, kept, fresh, large)]
    for other in products[1:]:
        np.testing.assert_allclose(products[0], other, rtol=1e-5, atol=1e-6)


def test_the_network_is_evaluated_once_for_all_vectors(problem, monkeypatch):
    params, batches = problem
    v, calls = jax.tree.map(jnp.ones_like, params), []

    def evaluations(data, products=3):
        op = landscape.hessian(counted(networks.loss, calls), params, data, check=False)
        calls.clear()
        for _ in range(products):
            jax.block_until_ready(op @ v)
        jax.effects_barrier()
        return len(calls)

    assert evaluations(batches) == len(batches)
    assert evaluations(lambda: iter(batches)) == 3 * len(batches)
    monkeypatch.setattr(_linear, "KEPT", 10)
    assert evaluations(batches) == 3 * len(batches)


def test_loops_and_recomputation_are_differentiated_as_before():
    def loss(w, x):
        @jax.checkpoint
        def layer(h, _):
            return jnp.tanh(h @ w), None

        h, _ = jax.lax.scan(layer, x, None, length=3)
        # A number of steps that the data decide: forward mode only.
        scale = jax.lax.while_loop(lambda s: s < x.sum(), lambda s: 2 * s, jnp.float32(1))
        return jnp.mean(h**2) * jax.lax.stop_gradient(scale)

    w = 0.5 * jax.random.normal(jax.random.key(0), (3, 3))
    x = jax.random.uniform(jax.random.key(1), (5, 3))
    exact = jax.hessian(lambda flat: loss(flat.reshape(3, 3), x))(w.ravel())
    op = landscape.hessian(loss, w, [x])
    np.testing.assert_allclose(networks.matrix_of(op), exact, rtol=1e-4, atol=1e-5)
