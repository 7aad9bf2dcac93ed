"""Modules that are called, draw and keep things in any way, and functions that make them."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gapjax import models

X = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 2)


def _trained(model, key=KEYS[0], inputs=X):
    """Outputs in training, and the state after it."""
    network = models.as_network(model)
    params, state = network.init(jax.random.key(7), inputs)
    return network.apply(params, state, inputs, train=True, key=key)


def _evaluated(model, inputs=X):
    network = models.as_network(model)
    params, state = network.init(jax.random.key(7), inputs)
    outputs, kept = network.apply(params, state, inputs, train=False)
    assert kept is state
    return outputs


class LinenNoise(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        if not train:
            return x
        keys = [self.make_rng(name) for name in ("noise", "dropout", "params")]
        return jnp.stack([jax.random.normal(key, x.shape) for key in keys])


class NnxNoise(nnx.Module):
    def __init__(self, rngs):
        own = nnx.Rngs(params=rngs(), noise=1, dropout=2)  # streams of its own, by any name
        self.drops = nnx.List([nnx.Dropout(0.5, rngs=own) for _ in range(2)])
        self.noise = own.noise.fork()
        self.split = own.dropout.split(3)

    def __call__(self, x):
        drawn = [drop(jnp.ones_like(x)) for drop in self.drops]
        drawn.append(jax.random.normal(self.noise(), x.shape))
        drawn.extend(jax.random.normal(key, x.shape) for key in self.split.key[...])
        return jnp.stack(drawn)


@pytest.mark.parametrize("model", [LinenNoise(), NnxNoise, NnxNoise(nnx.Rngs(0))])
def test_all_that_is_drawn_follows_the_key_and_no_two_draws_are_alike(model):
    one, state = _trained(model)
    again, _ = _trained(model)
    other, _ = _trained(model, KEYS[1])
    assert state == {}  # keys are no state
    chex.assert_trees_all_equal(one, again)
    for a, b in zip(one, other, strict=True):
        assert not np.allclose(a, b)
    for i in range(len(one)):
        for j in range(i):
            assert not np.allclose(one[i], one[j])


class LinenDrop(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5)(x, deterministic=not train)


class NnxDrop(nnx.Module):
    def __init__(self, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(x)


@pytest.mark.parametrize("model", [LinenDrop(), NnxDrop])
def test_training_without_a_key_is_refused_where_one_is_needed(model):
    with pytest.raises(ValueError, match=r"draws random numbers in training.* key=key\)"):
        _trained(model, None)
    np.testing.assert_array_equal(_evaluated(model), X)


class LinenSample(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


class NnxSample(nnx.Module):
    def __init__(self, rngs):
        self.noise = rngs.noise.fork()

    def __call__(self, x):
        return x + jax.random.normal(self.noise(), x.shape)


@pytest.mark.parametrize("model", [LinenSample(), NnxSample, NnxSample(nnx.Rngs(0))])
def test_what_draws_in_evaluation_needs_a_key_there_too(model):
    with pytest.raises(ValueError, match=r"draws random numbers in evaluation.*train=False, key="):
        _evaluated(model)
    network = models.as_network(model)
    params, state = network.init(jax.random.key(7), X)
    one, again, other = (
        network.apply(params, state, X, train=False, key=key)[0]
        for key in (KEYS[0], KEYS[0], KEYS[1])
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


class ByArgument(nn.Module):
    @nn.compact
    def __call__(self, x, training):
        return x + training


class ByKeyword(nn.Module):
    @nn.compact
    def __call__(self, x, *, is_training, deterministic):
        assert is_training is not deterministic
        return x + is_training


class ByAnotherName(nn.Module):
    @nn.compact
    def __call__(self, x, is_train=False, inference=True):
        assert is_train is not inference
        return x + is_train


class ByAttribute(nn.Module):
    train: bool = True

    @nn.compact
    def __call__(self, x):
        return x + self.train


class ByEither(nn.Module):
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic=None):
        return x + (not nn.merge_param("deterministic", self.deterministic, deterministic))


class NoFlag(nn.Module):
    train: str = "text"  # another meaning

    @nn.compact
    def __call__(self, x):
        return x + (self.train != "text")


@pytest.mark.parametrize(
    "model", [ByArgument(), ByKeyword(), ByAnotherName(), ByAttribute(), ByEither(), ByEither(True)]
)
def test_linen_modules_are_told_that_they_train(model):
    np.testing.assert_array_equal(_trained(model)[0], X + 1)
    np.testing.assert_array_equal(_evaluated(model), X)


def test_attributes_of_another_meaning_are_left_alone():
    np.testing.assert_array_equal(_trained(NoFlag())[0], X)


class NnxFlags(nnx.Module):
    def __init__(self, rngs):
        self.training, self.deterministic, self.inner = None, None, nnx.Dict(drop=NnxDrop(rngs))

    def __call__(self, x):
        assert self.training is not self.deterministic
        assert self.inner["drop"].drop.deterministic is self.deterministic
        return x + self.training


def test_nnx_modules_are_told_by_attributes():
    np.testing.assert_array_equal(_trained(NnxFlags)[0], X + 1)
    np.testing.assert_array_equal(_evaluated(NnxFlags), X)


def test_layers_are_networks_too():
    norm = nn.BatchNorm(use_running_average=False)
    np.testing.assert_allclose(_trained(norm)[0].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(_evaluated(norm), X / np.sqrt(1 + 1e-5), rtol=1e-5)
    network = models.as_network(functools.partial(nnx.BatchNorm, 5))
    assert network.init(jax.random.key(0), X)[0]["scale"].shape == (5,)


class ByName(nn.Module):
    @nn.compact
    def __call__(self, *, tokens):
        return nn.Dense(3)(tokens)


class Several(nn.Module):
    @nn.compact
    def __call__(self, x, mask, scale=1.0):
        return scale * nn.Dense(3)(x) * mask[:, None]


class Whole(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x["x"])


class NnxSeveral(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x, mask, deterministic=True):
        return self.dense(x) * mask[:, None]


MASK = np.arange(8, dtype=np.float32)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (ByName(), X),
        (ByName(), {"tokens": X}),
        (Several(), {"x": X, "mask": MASK}),
        (Several(), {"x": X, "mask": MASK, "scale": 2.0}),
        (Whole(), {"x": X}),
        (Whole(), {"x": X, "mask": MASK}),
        (NnxSeveral, {"mask": MASK, "x": X}),
    ],
)
def test_inputs_go_in_whole_or_by_name(model, inputs):
    outputs, _ = _trained(model, inputs=inputs)
    assert outputs.shape == (8, 3)
    if isinstance(inputs, dict) and "mask" in inputs and not isinstance(model, Whole):
        np.testing.assert_array_equal(outputs[0], 0)
    np.testing.assert_array_equal(_evaluated(model, inputs), outputs)


@pytest.mark.parametrize("inputs", [X, {"x": X, "masks": MASK}])
def test_inputs_that_do_not_say_which_is_which(inputs):
    with pytest.raises(ValueError, match=r"takes x, mask, so its inputs must be a dict with these"):
        models.as_network(Several()).init(jax.random.key(0), inputs)


class LinenLeaving(nn.Module):
    @nn.compact
    def __call__(self, x):
        count = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
        if not self.is_initializing() and self.is_mutable_collection("counters"):
            count.value += 1
        self.sow("intermediates", "x", x)
        self.sow("losses", "activity", jnp.abs(x).mean())
        return self.perturb("x", nn.Dense(2)(x))


class NnxLeaving(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.calls = nnx.Linear(5, 2, rngs=rngs), nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls[...] += 1
        self.sow(nnx.Intermediate, "x", x)
        return self.perturb("y", self.dense(x))


@pytest.mark.parametrize("model", [LinenLeaving(), NnxLeaving])
def test_state_is_kept_and_what_is_left_behind_is_dropped(model):
    network = models.as_network(model)
    params, state = network.init(jax.random.key(0), X)
    (before,) = jax.tree.leaves(state)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params, state, batch):
        return network.apply(params, state, batch, train=True)

    for batch in (X, X[::-1]):  # under one trace: the state keeps its shape
        _, state = step(params, state, batch)
    (after,) = jax.tree.leaves(state)
    assert (before, after) == (0, 2)
    assert network.apply(params, state, X[:3], train=True)[0].shape == (3, 2)


class NeedsMore(nnx.Module):
    def __init__(self, width, depth=2, *, rngs):
        self.dense = nnx.Linear(5, width, rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


def from_inputs(rngs, inputs):
    return nnx.Linear(inputs.shape[-1], 4, rngs=rngs)


@pytest.mark.parametrize(
    "build",
    [
        functools.partial(NeedsMore, 4),
        functools.partial(NeedsMore, width=4, depth=3),
        lambda rngs: NeedsMore(4, rngs=rngs),
        lambda key: NeedsMore(4, rngs=key),
        lambda *, rngs: NeedsMore(4, rngs=rngs),
        lambda rngs, width=4: NeedsMore(width, rngs=rngs),
        from_inputs,
        lambda r, inputs: from_inputs(r, inputs),
    ],
)
def test_nnx_modules_are_made_by_any_function_of_rngs(build):
    assert _trained(build)[0].shape == (8, 4)
    network = models.as_network(build)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(X.shape, "f4"))
    chex.assert_trees_all_equal_shapes(shapes, network.init(jax.random.key(0), X))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (NeedsMore, r"needs width besides rngs: lambda rngs: NeedsMore\(width=\.\.\., rngs=rngs\)"),
        (lambda: NnxDrop(nnx.Rngs(0)), "takes no rngs to draw its weights from"),
        (lambda *, key: NnxDrop(key), "takes no rngs"),
        ((lambda: 0, lambda: 0), r"models\.Network\(init, apply\)"),
    ],
)
def test_functions_that_cannot_make_a_module(build, message):
    with pytest.raises(ValueError, match=message):
        models.as_network(build)


def test_what_a_function_makes_must_be_a_module():
    network = models.as_network(lambda rngs: 3)
    with pytest.raises(ValueError, match="gave int when called with rngs"):
        network.init(jax.random.key(0), X)


def _annotated(kind):
    names = ("embed", "mlp")
    if kind == "nnx":
        metadata = {"out_sharding": names, "eager_sharding": False}
        return lambda rngs: nnx.Linear(5, 3, kernel_metadata=metadata, rngs=rngs)
    with_names = nn.with_partitioning if kind == "linen" else nn.with_logical_partitioning
    return nn.Dense(3, kernel_init=with_names(nn.initializers.lecun_normal(), names))


@pytest.mark.parametrize("kind", ["linen", "linen, logical", "nnx"])
def test_annotations_of_parameters_are_told_apart_from_them(kind):
    network = models.as_network(_annotated(kind))
    params, _ = network.init(jax.random.key(0), X)
    assert all(isinstance(leaf, jax.Array) for leaf in (params["kernel"], params["bias"]))
    specs = network.partition_specs(jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert specs == {"kernel": jax.P("embed", "mlp"), "bias": jax.P()}
    on_mesh = nn.logical_to_mesh(specs, (("mlp", "model"), ("embed", None)))
    assert on_mesh["kernel"] == jax.P(None, "model")


def test_names_of_axes_may_be_unknown_to_the_mesh_at_hand():
    network = models.as_network(_annotated("nnx"))
    params, state = network.init(jax.random.key(0), X)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        outputs, _ = jax.jit(functools.partial(network.apply, train=True))(params, state, X)
    np.testing.assert_allclose(outputs, X @ params["kernel"] + params["bias"], atol=1e-5)
