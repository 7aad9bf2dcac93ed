"""Any Flax module becomes two pure functions: linen, nnx, with dropout, with other train flags."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gapjax import ghost, models


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.BatchNorm(use_running_average=deterministic, momentum=0.5)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=deterministic)(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(self.norm(self.first(x))))


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


X = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
MODELS = {"linen": Linen(), "nnx": Nnx, "nnx instance": Nnx(nnx.Rngs(0))}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_training_is_random_and_moves_statistics_and_evaluation_neither(model):
    network = models.as_network(model)
    params, state = network.init(jax.random.key(0), X)
    apply = jax.jit(network.apply, static_argnames=("train", "ghost_size"))
    a, moved = apply(params, state, X, train=True, key=jax.random.key(1))
    b, _ = apply(params, state, X, train=True, key=jax.random.key(1))
    c, _ = apply(params, state, X, train=True, key=jax.random.key(2))
    assert (a == b).all() and not (a == c).all()
    mean = [leaf for p, leaf in jax.tree_util.tree_leaves_with_path(moved) if "mean" in str(p)]
    assert mean and not (mean[0] == 0).all()
    d, kept = apply(params, state, X, train=False)
    e, _ = apply(params, state, X[:3], train=False)
    np.testing.assert_allclose(d[:3], e, atol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), kept, state))


@pytest.mark.parametrize("model", [MODELS["linen"], MODELS["nnx"]], ids=["linen", "nnx"])
def test_ghost_size_reaches_norms_of_a_model_that_knows_nothing_of_it(model):
    network = models.as_network(model)
    params, state = network.init(jax.random.key(0), X)
    whole, one = network.apply(params, state, X, train=True, key=jax.random.key(1), ghost_size=8)
    plain, two = network.apply(params, state, X, train=True, key=jax.random.key(1))
    ghosts, three = network.apply(params, state, X, train=True, key=jax.random.key(1), ghost_size=4)
    np.testing.assert_allclose(whole, plain, atol=1e-5)
    assert not np.allclose(ghosts, plain, atol=1e-3)
    same = jax.tree.structure
    assert same(one) == same(two) == same(three) == same(state)


@pytest.mark.parametrize(
    ("model", "fresh"), [("linen", True), ("nnx", True), ("nnx instance", False)]
)
def test_whether_starts_follow_the_key(model, fresh):
    network = models.as_network(MODELS[model])
    assert network.fresh_start is fresh
    starts = [network.init(jax.random.key(seed), X)[0] for seed in (0, 1)]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), *starts)
    assert all(jax.tree.leaves(same)) is not fresh


def test_population_of_nnx_networks_is_a_vmap():
    network = models.as_network(Nnx)
    keys = jax.random.split(jax.random.key(0), 3)
    params, state = jax.vmap(network.init, (0, None))(keys, jnp.asarray(X))
    logits, _ = jax.vmap(lambda p, s, k: network.apply(p, s, X, train=True, key=k))(
        params, state, keys
    )
    assert logits.shape == (3, 8, 3)


def test_networks_without_state_or_flags():
    network = models.as_network(Bare())
    params, state = network.init(jax.random.key(0), X)
    assert state == {}
    logits, state = network.apply(params, state, X, train=True, key=jax.random.key(0))
    assert logits.shape == (8, 3) and state == {}
    assert models.as_network(network) is network


@pytest.mark.parametrize("model", [Linen, 3, "f1"])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match="model must be a linen module"):
        models.as_network(model)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_statistics_of_a_batch_are_those_that_its_norm_sees(model):
    network = models.as_network(model)
    params, state = network.init(jax.random.key(0), X)
    (found,) = jax.jit(network.batch_statistics)(params, state, X).values()
    kernel, bias = jax.tree.leaves(params)[-1], None
    first = next(p for p in params.values() if "kernel" in p and p["kernel"].shape == (5, 8))
    kernel, bias = first["kernel"], first["bias"]
    hidden = np.asarray(X, np.float64) @ np.asarray(kernel) + np.asarray(bias)
    np.testing.assert_allclose(found["mean"], hidden.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["var"], hidden.var(0), rtol=1e-4)
    pooled = ghost.precise_statistics(
        lambda p, x: network.batch_statistics(p, state, x), params, [X[:3], X[3:]]
    )
    (replaced,) = ghost.batch_norms(ghost.with_statistics(state, pooled)).values()
    np.testing.assert_allclose(replaced["mean"], hidden.mean(0), atol=1e-5)
    np.testing.assert_allclose(replaced["var"], hidden.var(0), rtol=1e-4)


class DropsFirst(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.BatchNorm(use_running_average=not train)(x)


class DropsFirstNnx(nnx.Module):
    def __init__(self, rngs):
        self.drop, self.norm = nnx.Dropout(0.5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.drop(x))


@pytest.mark.parametrize("model", [DropsFirst(), DropsFirstNnx], ids=["linen", "nnx"])
def test_statistics_repeat_for_a_batch_and_average_over_masks(model):
    network = models.as_network(model)
    # One number tells them apart.
    batches = jnp.ones((64, 8, 5)).at[:, 0, 0].set(jnp.arange(64.0))
    params, state = network.init(jax.random.key(0), batches[0])
    statistics = jax.jit(lambda x: network.batch_statistics(params, state, x))
    ((path, first),) = statistics(batches[3]).items()
    np.testing.assert_array_equal(first["mean"], statistics(batches[3])[path]["mean"])
    over = jax.vmap(statistics)(batches)[path]["mean"]
    np.testing.assert_allclose(over[3], first["mean"], rtol=1e-6)
    # Kept and doubled, or dropped: 1 on average, of all masks.
    np.testing.assert_allclose(np.mean(over, 0)[1:], 1, atol=0.2)


def test_a_network_without_batch_norm_has_no_statistics():
    network = models.as_network(Bare())
    params, state = network.init(jax.random.key(0), X)
    assert network.batch_statistics(params, state, X) == {}


class Masked(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        hidden = nn.Dense(4)(inputs["x"]) * inputs["mask"][..., None]
        return nn.Dense(2)(hidden.sum(1))


def test_inputs_may_be_any_tree_of_arrays():
    network = models.as_network(Masked())
    inputs = {"x": jnp.ones((3, 6, 2)), "mask": jnp.ones((3, 6))}
    params, state = network.init(jax.random.key(0), inputs)
    outputs, _ = network.apply(params, state, inputs, train=True, key=jax.random.key(0))
    assert outputs.shape == (3, 2)


def needs_no_width(rngs):
    return Nnx(rngs)


def with_a_width(num_outputs, width=4):
    return models.MLP((width,), num_outputs)


class Wide(nn.Module):
    hidden: int = 4
    last: int = 5

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.last)(nn.Dense(self.hidden)(x))


class Named(Wide):
    num_classes: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(nn.Dense(self.hidden)(x))


class WideNnx(nnx.Module):
    def __init__(self, num_classes=3, *, rngs):
        self.last = nnx.Linear(X.shape[-1], num_classes, rngs=rngs)

    def __call__(self, x):
        return self.last(x)


class Hidden(nn.Module):
    hidden: int = 4

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dense(self.hidden)(x))


class Classed(nn.Module):
    @nn.compact
    def __call__(self, x, classes=3):  # of the call, not of the last layer
        return nn.Dense(classes)(x)


READY = Classed()


def of_nothing():
    return models.MLP((4,), 3)


def by_any_name(k):
    return models.MLP((4,), k)


def by_another_default(k=3):
    return models.MLP((4,), k)


def broken(k):
    raise RuntimeError("boom")


def of_rngs(r):
    return Nnx(rngs=r)


def of_two(width, depth):
    return models.MLP((width,) * depth, 3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digits-mlp", (7,)),
        ("gapjax.models:f1", (7,)),
        (f"{__name__}:Nnx", (3,)),
        (f"{__name__}:needs_no_width", (3,)),
        (f"{__name__}:with_a_width", (7,)),
        (f"{__name__}:Bare", (3,)),
        (f"{__name__}:Wide", (5,)),
        (f"{__name__}:Named", (7,)),
        (f"{__name__}:of_nothing", (3,)),
        (f"{__name__}:by_any_name", (7,)),
        (f"{__name__}:by_another_default", (3,)),
        (f"{__name__}:Hidden", (3,)),
        (f"{__name__}:WideNnx", (7,)),
        (f"{__name__}:READY", (3,)),
    ],
)
def test_networks_are_found_by_name(name, shape):
    found = models.find_network(name, 7) if name[-4:] != "Bare" else Bare()
    network = models.as_network(found)
    params, state = network.init(jax.random.key(0), X)
    outputs, _ = network.apply(params, state, X, train=False)
    assert outputs.shape == (8, *shape)


def test_what_has_a_default_and_another_name_keeps_it():
    assert models.find_network(f"{__name__}:Hidden", 7).hidden == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit-mlp", "Did you mean 'digits-mlp'.*package.module:name"),
        ("no.such:thing", "'no.such' cannot be imported"),
        ("gapjax.models:f3", "has no 'f3'. Did you mean 'f"),
        (f"{__name__}:of_two", "it needs width, depth, and is given the width"),
        ("gapjax.models:resnet", "it needs depth, and is given the width"),
        ("gapjax.models:MLP", "it needs features, and is given the width"),
        (f"{__name__}:broken", r"calling it with k=7 failed .RuntimeError: boom"),
        (f"{__name__}:of_rngs", r"calling it with r=7 failed .*one from rngs= to an nnx module"),
    ],
)
def test_networks_that_are_not_there(name, message):
    with pytest.raises(ValueError, match=message):
        models.find_network(name, 7)
