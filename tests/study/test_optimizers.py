"""Optimizers by name against closed forms and optax; functions; hyperparameters that do not fit."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax.study import OPTIMIZERS, Study
from gapjax.study._optimizers import in_words, make_optimizer

PARAMS = {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "scale": jnp.ones(3)}
GRADS = {"kernel": jnp.full((2, 3), 0.1), "scale": jnp.full(3, -0.2)}


def _step(optimizer, hyper=None, clip=None, grads=GRADS, rate=0.01):
    tx = make_optimizer(optimizer, optax.constant_schedule(rate), hyper or {}, clip)
    with jax.numpy_dtype_promotion("standard"):  # some of optax's own mix types
        updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    return updates


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_against_the_gradient(name):
    updates = _step(
        name, {"weight_decay": 0.0} if "weight_decay" in OPTIMIZERS[name].defaults else {}
    )
    for leaf, grad in zip(jax.tree.leaves(updates), jax.tree.leaves(GRADS), strict=True):
        assert leaf.shape == grad.shape and (leaf * grad < 0).all()


def test_decay_is_added_to_the_gradient_or_decoupled_as_the_name_says():
    rate, decay = 0.01, 0.3
    sgd = _step("sgd", {"momentum": 0.0, "weight_decay": decay})
    np.testing.assert_allclose(
        sgd["kernel"], -rate * (GRADS["kernel"] + decay * PARAMS["kernel"]), rtol=1e-6
    )
    # Adam's first step is the sign of what it is given, whatever its size.
    l2 = _step("adam-l2", {"weight_decay": decay})
    np.testing.assert_allclose(l2["kernel"], -rate, rtol=1e-4)
    decoupled = _step("adamw", {"weight_decay": decay})
    np.testing.assert_allclose(
        decoupled["kernel"], -rate * (1 + decay * PARAMS["kernel"]), rtol=1e-4
    )


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_layerwise_optimizers_leave_norms_and_biases_out(name):
    hyper = {"weight_decay": 0.0, **({"momentum": 0.0} if name == "lars" else {})}
    once, thrice = (
        _step(name, hyper, grads=jax.tree.map(lambda g: s * g, GRADS)) for s in (1.0, 3.0)
    )
    norm = float(jnp.linalg.norm(PARAMS["kernel"]))
    trust = 0.001 if name == "lars" else 1.0
    for updates in (once, thrice):  # as long as the layer says, whatever the gradient
        length = float(jnp.linalg.norm(updates["kernel"]))
        np.testing.assert_allclose(length, 0.01 * trust * norm, rtol=1e-4)
    ratio = 3.0 if name == "lars" else 1.0  # Adam's own step does not grow with the gradient
    np.testing.assert_allclose(thrice["scale"], ratio * once["scale"], rtol=1e-3)
    decayed = _step(name, {**hyper, "weight_decay": 0.5})
    np.testing.assert_allclose(decayed["scale"], once["scale"], rtol=1e-6)


def test_gradients_are_clipped_before_a_named_optimizer_alone():
    wild = jax.tree.map(lambda g: 1e3 * g, GRADS)
    hyper = {"momentum": 0.0, "weight_decay": 0.0}
    clipped = _step("sgd", hyper, clip=1.0, grads=wild)
    np.testing.assert_allclose(optax.tree.norm(clipped), 0.01, rtol=1e-5)
    own = _step(lambda lr: optax.sgd(lr), clip=1.0, grads=wild)
    np.testing.assert_allclose(optax.tree.norm(own), 0.01 * optax.tree.norm(wild), rtol=1e-5)


def test_optax_is_passed_what_its_signature_takes():
    study = Study(optimizer=optax.adamw, weight_decay=0.3, b2=0.95)
    updates = _step(study.optimizer, study.hyperparameters)
    np.testing.assert_allclose(updates["kernel"], -0.01 * (1 + 0.3 * PARAMS["kernel"]), rtol=1e-4)
    with pytest.raises(ValueError, match="optimizer sgd has no b1; it takes momentum"):
        Study(optimizer=optax.sgd, b1=0.9)
    with pytest.raises(ValueError, match=r"no weight_decay; .*Use adamw .* or adam-l2"):
        Study(optimizer="adam", weight_decay=0.1)
    with pytest.raises(ValueError, match=r"optimizer .*lambda.* has no momentum; it takes none"):
        Study(optimizer=lambda lr: optax.sgd(lr), momentum=0.5)


def test_momentum_of_zero_keeps_no_trace():
    tx = make_optimizer("sgd", optax.constant_schedule(0.1), {"momentum": 0.0}, None)
    assert not [x for x in jax.tree.leaves(tx.init(PARAMS)) if x.ndim]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("sgdd", "Did you mean 'sgd'"),
        (optax.sgd(0.1), "function from a learning-rate schedule"),
        (3, "function from a learning-rate schedule"),
    ],
)
def test_what_is_no_optimizer(optimizer, message):
    with pytest.raises(ValueError, match=message):
        Study(optimizer=optimizer)


def test_a_function_that_gives_no_chain():
    with pytest.raises(ValueError, match="gave None for a schedule; it must give an optax chain"):
        make_optimizer(lambda lr: None, optax.constant_schedule(0.1), {}, None)


def test_multi_steps_are_a_chain():
    tx = make_optimizer(
        lambda lr: optax.MultiSteps(optax.sgd(lr), 2), optax.constant_schedule(0.1), {}, None
    )
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_told_of_an_optimizer_is_what_it_does(name):
    found = re.findall(r"(\w+) ([\d.e-]+)[,)]", in_words(name, {}, None))
    told = {of: float(value) for of, value in found}
    assert told.keys() == OPTIMIZERS[name].defaults.keys()
    for ours, explicit in zip(
        jax.tree.leaves(_step(name)), jax.tree.leaves(_step(name, told)), strict=True
    ):
        np.testing.assert_array_equal(ours, explicit)
    fields = {field.name: field.metadata["help"] for field in dataclasses.fields(Study)}
    for of, value in told.items():
        assert f"{name} {value:g}" in fields[of]
