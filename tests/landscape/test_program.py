"""What a loss closes over is read at each call; what is compiled is shared where it is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from gapjax.landscape import _data, _program
from tests.landscape import networks

KEY = jax.random.key(0)
SILENT = {"progress": False}
W = jnp.array([1.0, 2.0])
DATA = [jnp.array([[1.0, 0.5], [0.3, -1.0]]), jnp.ones((1, 2))]


def output_loss(outputs, batch):
    return jnp.mean(outputs**2) / 2


def logits(outputs):
    return jnp.stack([outputs, -outputs], axis=-1)


# Each of a network whose outputs are scaled by what it closes over.
MEASURES = {
    "hessian": lambda f: landscape.hessian(lambda_of(f), W, DATA) @ W,
    "ggn": lambda f: landscape.ggn(f, output_loss, W, DATA) @ W,
    "exact fisher": lambda f: landscape.fisher(f, W, DATA) @ W,
    "empirical fisher": lambda f: (
        landscape.fisher(f, W, DATA, kind="empirical", output_loss=output_loss) @ W
    ),
    "keskar": lambda f: landscape.keskar_sharpness(lambda_of(f), W, DATA, key=KEY, **SILENT).value,
    "sam": lambda f: landscape.sam_sharpness(lambda_of(f), W, DATA, **SILENT).value,
    "adaptive": lambda f: landscape.adaptive_sharpness(lambda_of(f), W, DATA, **SILENT).value,
    "critical": lambda f: landscape.critical_sharpness(lambda_of(f), W, W, DATA, **SILENT).value,
    "batch": lambda f: landscape.batch_sharpness(lambda_of(f), W, DATA, **SILENT).mean,
    "evaluator": lambda f: landscape.evaluator(lambda_of(f), DATA)(W),
}
LOSSES = {}


def lambda_of(apply):
    """The one loss of a network: the same function at every call."""
    return LOSSES.setdefault(apply, lambda w, batch: output_loss(apply(w, batch) ** 2, batch))


@pytest.mark.parametrize(
    ("name", "where"),
    [*((name, "array") for name in MEASURES), *(("hessian", w) for w in ("number", "jit", "key"))],
)
def test_what_a_loss_closes_over_is_read_at_each_call(name, where):
    measure = MEASURES[name]

    def network(scale):
        def apply(w, batch):
            now = scale[0]
            if where == "key":
                now = jnp.abs(jax.random.normal(jax.random.key(int(now))))
            elif where == "array":
                now = jnp.full(len(batch), now)
            elif where == "jit":
                held = jnp.full(len(batch), now)
                return spread(jax.jit(lambda x: x * held)(batch @ w))
            return spread(batch @ w * now)

        def spread(outputs):
            return logits(outputs) if name == "exact fisher" else outputs

        return apply

    held = [1.0]
    one = network(held)
    measure(one)
    held[0] = 3.0
    found, expected = measure(one), measure(network([3.0]))
    np.testing.assert_array_equal(found, expected)
    assert np.any(np.not_equal(found, measure(network([1.0]))))
    held[0] = 1.0
    np.testing.assert_array_equal(measure(one), measure(network([1.0])))


def test_the_product_is_that_of_the_new_constant():
    stats = [1.0]

    def loss(w, batch):
        return jnp.mean((stats[0] * (batch @ w)) ** 2) / 2

    for stats[0] in (1.0, 3.0):
        rows = np.concatenate(DATA)
        exact = stats[0] ** 2 * rows.T @ rows / len(rows) @ np.asarray(W)
        np.testing.assert_allclose(landscape.hessian(loss, W, DATA) @ W, exact, rtol=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_a_second_call_compiles_nothing(name, caplog):
    def apply(w, batch):
        return logits(batch @ w * 2.5) if name == "exact fisher" else batch @ w * 2.5

    MEASURES[name](apply)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        MEASURES[name](apply)
    told = [record.getMessage() for record in caplog.records]
    assert not [text for text in told if "compil" in text.lower()], told
    # The loss itself is traced once more, to see whether it is what it was.
    assert len([text for text in told if text.startswith("Finished tracing <lambda>")]) == 1, told


def test_a_network_is_traced_once_a_call():
    params, batch = networks.make()
    batches, calls = networks.split(batch, 45), []

    def loss(p, b):
        calls.append(1)
        return networks.loss(p, b)

    updates = jax.grad(networks.loss)(params, batch)
    for _ in range(2):
        calls.clear()
        landscape.critical_sharpness(loss, params, updates, batches, **SILENT)
    assert len(calls) == 1


def test_a_custom_derivative_is_told_by_no_address():
    @jax.custom_vjp
    def square(x):
        return x**2

    def loss(w, batch):
        local = jax.custom_jvp(lambda x: 3 * x)
        local.defjvp(lambda x, dx: (local(*x), 3 * dx[0]))
        return jnp.mean(square(local(batch @ w)))

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * g * x,))
    args = [_program.as_partial(loss)], W, _data.Batches(DATA)
    one, two = (_data.check_repeatable(*args)[0] for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
