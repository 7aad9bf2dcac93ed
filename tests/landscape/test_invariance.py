"""Scaling weights without a change of the function: which measures stay, and which move.

Dinh et al. (2017): the same function has parameters at which an eigenvalue is as large as one
likes, so a measure that moves says something of the parameters, not of the function alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from tests.landscape import networks

KEY = jax.random.key(0)
ADAPTIVE = [{"norm": "l2"}, {"norm": "linf"}, {"mode": "average", "num_draws": 4}]


def product(w, batch):
    """Two layers of one weight each: the same function along w[0] w[1] = const."""
    return 0.5 * jnp.mean((w[0] * w[1] * batch - batch) ** 2)


@pytest.mark.parametrize("a", [0.1, 1.0, 3.0, 10.0])
def test_two_weights_in_closed_form(a):
    w, data = jnp.array([a, 1 / a]), [jnp.ones(4)]
    op = landscape.hessian(product, w, data)
    top = landscape.eigh_topk(op, KEY, 1).values[0]
    np.testing.assert_allclose(top, a**2 + a**-2, rtol=1e-4)
    own = landscape.preconditioned(op, w**-2)
    np.testing.assert_allclose(landscape.eigh_topk(own, KEY, 1).values[0], 2, rtol=1e-4)
    np.testing.assert_allclose(landscape.trace(own, KEY, 64).mean, 2, atol=0.6)
    # The gradient is zero here, or rounding: the ascent must not stay.
    rho = 0.01
    ball = landscape.adaptive_sharpness(product, w, data, rho=rho)
    np.testing.assert_allclose(ball.value / (rho**2 / 2), 2, rtol=0.01)
    box = landscape.adaptive_sharpness(product, w, data, rho=rho, norm="linf")
    np.testing.assert_allclose(box.value, 0.5 * ((1 + rho) ** 2 - 1) ** 2, rtol=0.01)


def relu_net(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"])
    return networks.output_loss(hidden @ params["second"]["kernel"], batch)


def normed_net(params, batch):
    """Batch statistics before the nonlinearity, so the first kernel's scale does nothing."""
    hidden = batch["x"] @ params["first"]["kernel"]
    hidden = (hidden - hidden.mean(0)) / jnp.std(hidden, axis=0) + params["first"]["bias"]
    return networks.output_loss(jax.nn.relu(hidden) @ params["second"]["kernel"], batch)


def relu_pair(params):
    first = jax.tree.map(lambda leaf: 4 * leaf, params["first"])
    return {"first": first, "second": {"kernel": params["second"]["kernel"] / 4}}


def before_a_norm(params):
    first = {**params["first"], "kernel": params["first"]["kernel"] * 0.3}
    return {**params, "first": first}


CHANGES = {"relu": (relu_net, relu_pair), "batch norm": (normed_net, before_a_norm)}


@pytest.fixture(scope="module", params=list(CHANGES))
def pair(request):
    """A loss, the data, and two parameters of the same function."""
    loss, change = CHANGES[request.param]
    params, batch = networks.make(2, hidden=6)
    params = {"first": params["first"], "second": {"kernel": params["second"]["kernel"]}}
    both = params, change(params)
    np.testing.assert_allclose(*(loss(p, batch) for p in both), rtol=1e-5)
    return loss, [batch], both


def _change(measure, pair):
    loss, data, both = pair
    one, two = (measure(loss, params, data) for params in both)
    return np.max(np.abs(np.asarray(two) / np.asarray(one) - 1))


def inverse_squares(params):
    return jax.tree.map(lambda leaf: leaf**-2, params)


def gradient(loss, params, data):
    return jax.grad(loss)(params, data[0])


STAY = {
    **{
        f"adaptive {options}": lambda *at, o=options: (
            landscape.adaptive_sharpness(*at, rho=0.05, key=KEY, **o).value
        )
        for options in ADAPTIVE
    },
    "top of |w| H |w|": lambda loss, params, data: (
        landscape.eigh_topk(
            landscape.preconditioned(
                landscape.hessian(loss, params, data), inverse_squares(params)
            ),
            KEY,
            2,
        ).values
    ),
    "line, filter by filter": lambda loss, params, data: landscape.line(
        lambda p: loss(p, data[0]), params, landscape.random_direction(KEY, params), [-0.5, 0.5]
    ).values["value"],
}
MOVE = {
    "keskar": lambda *at: landscape.keskar_sharpness(*at, epsilon=1e-2, num_starts=1).value,
    "sam": lambda *at: landscape.sam_sharpness(*at).value,
    "top": lambda *at: landscape.eigh_topk(landscape.hessian(*at), KEY, 1).values,
    "trace": lambda *at: landscape.trace(landscape.hessian(*at), KEY, 16).mean,
    "batch": lambda *at: landscape.batch_sharpness(*at).mean,
    "critical": lambda loss, params, data: (
        landscape.critical_sharpness(loss, params, gradient(loss, params, data), data).value
    ),
    "line, plain": lambda loss, params, data: landscape.line(
        lambda p: loss(p, data[0]),
        params,
        landscape.random_direction(KEY, params, normalize=None),
        [-0.5, 0.5],
    ).values["value"],
}


@pytest.mark.parametrize("name", STAY)
def test_what_stays(pair, name):
    assert _change(STAY[name], pair) < 0.01


@pytest.mark.parametrize("name", MOVE)
def test_what_moves(pair, name):
    assert _change(MOVE[name], pair) > 0.03
