"""What the Fisher matrix takes as outputs and as examples, and in which precision it adds up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from tests.landscape import networks
from tests.landscape.test_products import opaque

X = np.linspace(-1, 1, 12).reshape(4, 3).astype(np.float32)
W = jnp.asarray([0.5, -1.0, 2.0])


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("network", "told"),
    [
        (lambda w, x: x @ w, r"of shape \(4,\)"),
        (lambda w, x: (x @ w)[:, None], r"of shape \(4, 1\)"),
        (lambda w, x: jnp.sum(x @ w), r"of shape \(\)"),
        (lambda w, x: (x @ w, x @ w), "a tuple"),
    ],
)
def test_one_logit_an_example_is_refused_with_what_would_do(network, told, check):
    with pytest.raises(ValueError, match=rf"at least 2 classes.*{told}.*\[0, z\].*sigmoid loss"):
        landscape.fisher(network, W, [X], check=check)


def test_what_would_do_is_the_matrix_of_the_sigmoid():
    z = X @ np.asarray(W)
    p = 1 / (1 + np.exp(-z))
    exact = (X.T * (p * (1 - p))) @ X / 4

    def pair(w, x):
        return jnp.stack([jnp.zeros(len(x)), x @ w], axis=-1)

    def sigmoid_loss(z, x):
        return jnp.mean(jax.nn.softplus(z) - (z > 0).astype("float32") * z)

    for op in (
        landscape.fisher(pair, W, [X]),
        landscape.ggn(lambda w, x: x @ w, sigmoid_loss, W, [X]),
    ):
        np.testing.assert_allclose(networks.matrix_of(op), exact, atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "empirical"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_outputs_in_few_bits_lose_no_share_of_the_examples(kind, dtype):
    rng = np.random.default_rng(0)
    # A share of 1/384 is 0.2% off in bfloat16.
    x = rng.integers(-2, 3, size=(384, 4)).astype(np.float32)
    batch = {"x": x, "y": rng.integers(0, 3, 384).astype(np.int32)}
    w = jnp.asarray(rng.integers(-2, 3, size=(4, 3)) / 4, jnp.float32)

    def trace(kind_of_outputs):
        def network(w, batch):
            return (batch["x"] @ w).astype(kind_of_outputs)

        op = landscape.fisher(network, w, [batch], kind=kind, output_loss=networks.output_loss)
        return np.trace(networks.matrix_of(op))

    np.testing.assert_allclose(trace(dtype), trace("float32"), rtol=5e-4)


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_a_mask_that_is_none_of_examples_is_named(kind):
    batch = {"x": X, "mask": np.ones((4, 1, 3, 3), bool), "y": np.zeros(4, np.int32)}
    options = {"kind": kind, "output_loss": networks.output_loss, "weight_fn": lambda b: 4.0}

    def network(w, batch):
        return batch["x"] @ w

    w = jnp.ones((3, 2))
    remedy = r"shape \(4, 1, 3, 3\).*Give the entry another name, such as 'attention_mask'\."
    for check in (True, False):
        with pytest.raises(ValueError, match=remedy):
            landscape.fisher(network, w, [batch], check=check, **options)
    batch["attention_mask"] = batch.pop("mask")
    named = landscape.fisher(network, w, [batch], **options)
    plain = landscape.fisher(network, w, [{"x": X, "y": batch["y"]}], **options)
    np.testing.assert_array_equal(networks.matrix_of(named), networks.matrix_of(plain))


def test_a_loss_of_outputs_that_refuses_is_told_from_the_network():
    with pytest.raises(ValueError, match="callbacks do not support JVP") as caught:
        landscape.ggn(lambda w, x: x @ w, lambda z, x: jnp.sum(opaque(z)), W, [X])
    assert any("while differentiating output_loss" in note for note in caught.value.__notes__)
    for check in (True, False):
        with pytest.raises(ValueError, match=r"a scalar, not shape \(4,\)"):
            landscape.ggn(lambda w, x: x @ w, lambda z, x: z**2, W, [X], check=check)
