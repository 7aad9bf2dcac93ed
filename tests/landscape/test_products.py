"""Curvature products by other ways of differentiating: the same matrix, or a refusal by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from tests.landscape import networks

OTHERS = [("reverse_over_reverse", 1e-6), ("finite_difference", 5e-4)]


@jax.custom_vjp
def squash(x):
    return jnp.tanh(x)


# The forward rule calls the function itself, as most do.
squash.defvjp(lambda x: (squash(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


@jax.custom_vjp
def opaque(x):
    """Its derivative comes from the host, and cannot be differentiated at all."""
    return jnp.tanh(x)


def _from_host(x, g):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return (g * jax.pure_callback(lambda y: 1 - np.tanh(np.asarray(y)) ** 2, shape, x),)


opaque.defvjp(lambda x: (jnp.tanh(x), x), _from_host)


def net(activation):
    def apply(params, batch):
        hidden = activation(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"])
        return hidden @ params["second"]["kernel"] + params["second"]["bias"]

    return apply


def loss_with(activation):
    return lambda params, batch: networks.output_loss(net(activation)(params, batch), batch)


@pytest.fixture(scope="module")
def problem():
    params, batch = networks.make()
    return params, networks.split(batch, 40), networks.dense(networks.loss, params, batch)


@pytest.mark.parametrize(("product", "error"), OTHERS)
def test_other_products_give_the_same_matrix(problem, product, error):
    params, batches, exact = problem
    op = landscape.hessian(networks.loss, params, batches, product=product)
    found = networks.matrix_of(op)
    np.testing.assert_allclose(found, exact, atol=error * np.abs(exact).max())
    block = landscape.hessian(
        networks.loss, params, batches, product=product, where=lambda path, _: "second" in path
    )
    part = networks.matrix_of(block)
    np.testing.assert_allclose(part, exact[-44:, -44:], atol=error * np.abs(exact).max())
    assert not np.any(op.ravel(op @ jax.tree.map(jnp.zeros_like, params)))


def test_differences_take_steps_in_units_of_the_parameters(problem):
    params, batches, _ = problem
    op = landscape.hessian(networks.loss, params, batches)
    near = landscape.hessian(networks.loss, params, batches, product="finite_difference")
    v = op.space.embed(op.space.normal(jax.random.key(0)))
    for size in (1e-6, 1.0, 1e6):
        long = jax.tree.map(lambda leaf, size=size: size * leaf, v)
        exact, found = op.ravel(op @ long), op.ravel(near @ long)
        assert np.linalg.norm(found - exact) < 1e-3 * np.linalg.norm(exact)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    one, two = (
        landscape.hessian(networks.loss, p, batches, product="finite_difference")
        for p in (half, wide)
    )
    v = jax.tree.map(jnp.ones_like, wide)
    found = op.ravel(one @ v)
    np.testing.assert_allclose(found, op.ravel(two @ v), rtol=0.01, atol=1e-3)


def test_what_refuses_forward_mode_is_told_what_will_do(problem):
    params, batches, exact = problem
    with pytest.raises(ValueError, match="'reverse_over_reverse' or 'finite_difference'"):
        landscape.hessian(loss_with(squash), params, batches)
    with pytest.raises(ValueError, match=r"by product='forward_over_reverse' .*custom_vjp"):
        landscape.hessian(loss_with(squash), params, batches, check=False)
    for product, error in OTHERS:
        op = landscape.hessian(loss_with(squash), params, batches, product=product)
        np.testing.assert_allclose(networks.matrix_of(op), exact, atol=error * np.abs(exact).max())
    for product in ("forward_over_reverse", "reverse_over_reverse"):
        with pytest.raises(ValueError, match="pass product='finite_difference'"):
            landscape.hessian(loss_with(opaque), params, batches, product=product)
    with pytest.raises(ValueError, match="'finite_difference', not 'fd'"):
        landscape.hessian(networks.loss, params, batches, product="fd")


def test_gauss_newton_and_fisher_say_so_too(problem):
    params, batches, _ = problem
    for make in (
        lambda: landscape.ggn(net(squash), networks.output_loss, params, batches),
        lambda: landscape.fisher(net(squash), params, batches),
    ):
        with pytest.raises(ValueError, match="cannot be differentiated forward"):
            make()


def test_a_mistake_in_the_loss_is_told_in_its_own_words(problem):
    params, batches, _ = problem

    def wrong(params, batch):
        return jnp.sum(params["first"]["kernel"] @ batch["nothing"])

    with pytest.raises(KeyError, match="nothing"):
        landscape.hessian(wrong, params, batches, check=False)


def test_the_trial_is_not_traced_again(problem):
    params, batches, _ = problem
    traced = []

    def counted(params, batch):
        traced.append(1)
        return networks.loss(params, batch)

    op = landscape.hessian(counted, params, batches[:2], check=False)
    once = len(traced)
    op @ params
    op @ params
    assert len(traced) == once > 0
