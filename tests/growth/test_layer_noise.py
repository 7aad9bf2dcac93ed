"""Gradient noise from normalization layers, against the gradients of single examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec

from gapjax import training
from gapjax.growth import average_noise_scale, gradient_noise_scale
from gapjax.growth import linen as in_linen
from gapjax.growth import nnx as in_nnx
from tests.meshes import data_mesh

EXAMPLES, POSITIONS, FEATURES = 8, 5, 4


class Linen(nn.Module):
    """Every kind of layer, on [B, T, D]."""

    dtype: object = None

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.LayerNorm(dtype=self.dtype)(x))
        x = jnp.tanh(nn.RMSNorm(dtype=self.dtype, name="rms")(x))
        x = jnp.tanh(nn.GroupNorm(num_groups=2, dtype=self.dtype)(x))
        x = jnp.tanh(nn.InstanceNorm(dtype=self.dtype)(x))
        x = nn.LayerNorm(use_bias=False, reduction_axes=(1, 2), feature_axes=(1, 2))(x)
        return nn.Dense(3)(jnp.tanh(nn.LayerNorm(use_scale=False, use_bias=False)(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(FEATURES, rngs=rngs)
        self.blocks = nnx.List(
            [
                nnx.RMSNorm(FEATURES, rngs=rngs),
                nnx.Linear(FEATURES, FEATURES, rngs=rngs),
                nnx.GroupNorm(FEATURES, num_groups=1, rngs=rngs),
            ]
        )
        self.out = nnx.Linear(FEATURES, 3, rngs=rngs)

    def __call__(self, x):
        x = jnp.tanh(self.blocks[1](jnp.tanh(self.blocks[0](self.norm(x)))))
        # GroupNorm of nnx repeats its statistics along axis 1: only [B, C] is what it says
        return self.out(jnp.tanh(self.blocks[2](x.mean(axis=1))))[:, None]


def _data(shape=(EXAMPLES, POSITIONS, FEATURES)):
    return (
        jax.random.normal(jax.random.key(0), shape)
        * jnp.linspace(0.5, 2, shape[0])[(slice(None),) + (None,) * (len(shape) - 1)]
    )


def _jittered(tree):
    """Gains and biases away from 1 and 0."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), tree)


def _error(output, x):
    """Squared, of targets that no network here knows."""
    return jnp.mean(jnp.square(output.astype(jnp.float32) - jnp.cos(3 * x[..., :3])))


def _linen(dtype=None):
    model, x = Linen(dtype), _data()
    variables = _jittered(model.init(jax.random.key(1), x))

    def loss(variables, x):
        return _error(model.apply(variables, x), x)

    return loss, variables, x


def _expected(loss, params, x, layers):
    """The estimates by layer, from one gradient per example, in float64."""
    single = jax.jit(jax.vmap(lambda x: jax.grad(loss)(params, x[None])))(x)
    found = {}
    for name, pick in layers.items():
        rows = np.concatenate(
            [
                np.asarray(leaf, np.float64).reshape(len(x), -1)
                for leaf in jax.tree.leaves(pick(single))
            ],
            axis=1,
        )
        found[name] = gradient_noise_scale(
            np.mean(np.sum(rows**2, axis=1)),
            np.sum(rows.mean(axis=0) ** 2),
            part_size=1,
            batch_size=len(x),
        )
    return found


LINEN_LAYERS = {
    name: (lambda tree, name=name: tree["params"][name])
    for name in ("LayerNorm_0", "rms", "GroupNorm_0", "InstanceNorm_0", "LayerNorm_1")
}


def _assert_same_noise(noise, expected, rtol=1e-5):
    assert set(noise) == set(expected)
    for name, one in expected.items():
        scale = abs(float(one.trace)) + abs(float(one.squared_norm))
        for field in ("trace", "squared_norm"):
            ours, theirs = (float(getattr(found, field)) for found in (noise[name], one))
            assert ours == pytest.approx(theirs, rel=rtol, abs=rtol * scale), (name, field)


def test_linen_agrees_with_single_examples():
    loss, variables, x = _linen()
    value, grads, noise = jax.jit(in_linen.value_grad_and_noise(loss))(variables, x)
    expected_value, expected_grads = jax.jit(jax.value_and_grad(loss))(variables, x)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), grads, expected_grads
    )
    _assert_same_noise(noise, _expected(loss, variables, x, LINEN_LAYERS))


def test_nnx_agrees_with_single_examples_and_leaves_the_model_alone():
    model, x = Nnx(nnx.Rngs(0)), _data()
    nnx.update(model, _jittered(nnx.state(model)))
    told = in_nnx.reporting(model)
    assert jax.tree.structure(nnx.state(told)) == jax.tree.structure(nnx.state(model))
    np.testing.assert_array_equal(told(x), model(x))
    assert type(model.norm) is nnx.LayerNorm

    def loss(model, x):
        return _error(model(x), x)

    value, grads, noise = nnx.jit(in_nnx.value_grad_and_noise(loss))(told, x)
    expected_value, expected_grads = nnx.value_and_grad(loss)(model, x)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    graph, params = nnx.split(model)
    layers = {
        "norm": lambda tree: tree["norm"],
        "blocks/0": lambda tree: tree["blocks"][0],
        "blocks/2": lambda tree: tree["blocks"][2],
    }
    functional = lambda params, x: loss(nnx.merge(graph, params), x)  # noqa: E731
    expected = _expected(functional, params, x, layers)
    _assert_same_noise(noise, expected)
    # taken apart by hand
    graph, params = nnx.split(told)
    _, _, noise = in_nnx.value_grad_and_noise(lambda params, x: loss(nnx.merge(graph, params), x))(
        params, x
    )
    _assert_same_noise(noise, expected)


def test_other_variables_of_an_nnx_model_are_updated():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.batch_norm = nnx.BatchNorm(FEATURES, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.norm = nnx.LayerNorm(FEATURES, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.dropout(self.batch_norm(x)))

    model = in_nnx.reporting(Model(nnx.Rngs(0)))
    compute = in_nnx.value_grad_and_noise(
        lambda model: (jnp.mean(model(_data()) ** 4), "aux"), has_aux=True
    )
    (_, aux), grads, noise = compute(model)
    assert aux == "aux"
    assert list(noise) == ["norm"]
    assert set(grads) == {"batch_norm", "norm"}
    assert float(jnp.abs(model.batch_norm.mean[...]).sum()) > 0


def test_bfloat16_layers_are_measured_in_float32():
    with jax.numpy_dtype_promotion("standard"):
        loss, variables, x = _linen(jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        _, _, noise = jax.jit(in_linen.value_grad_and_noise(loss))(variables, x)
    exact_loss, _, _ = _linen()
    _assert_same_noise(noise, _expected(exact_loss, variables, x, LINEN_LAYERS), rtol=0.05)


def test_a_population_of_seeds():
    loss, variables, x = _linen()
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), variables)
    _, _, noise = jax.jit(jax.vmap(in_linen.value_grad_and_noise(loss), in_axes=(0, None)))(many, x)
    for member in range(2):
        alone = jax.tree.map(lambda leaf, member=member: leaf[member], many)
        expected = _expected(loss, alone, x, LINEN_LAYERS)
        ours = jax.tree.map(lambda leaf, member=member: leaf[member], noise)
        _assert_same_noise(ours, expected)


def test_a_program_in_the_cache_is_not_called_for_another_pass():
    loss, variables, x = _linen()
    inner = jax.jit(loss)
    inner(variables, x)
    expected = _expected(loss, variables, x, LINEN_LAYERS)
    for _ in range(2):
        _, _, noise = in_linen.value_grad_and_noise(inner)(variables, x)
        _assert_same_noise(noise, expected)
    np.testing.assert_array_equal(inner(variables, x), jax.jit(loss)(variables, x))


@pytest.mark.parametrize("lift", ["remat", "scan"])
def test_inside_lifted_transforms(lift):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            x = jnp.tanh(nn.Dense(FEATURES)(nn.LayerNorm()(x)))
            return (x, None) if lift == "scan" else x

    if lift == "remat":
        model = nn.Sequential([nn.remat(Block)(), nn.remat(Block)()])
        apply = model.apply
    else:
        scanned = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )()
        apply = lambda variables, x: scanned.apply(variables, x, None)[0]  # noqa: E731
        model = scanned
    x = _data()
    variables = model.init(jax.random.key(1), x, *([None] if lift == "scan" else []))

    def loss(variables, x):
        return _error(apply(variables, x)[..., :3], x)

    _, _, noise = jax.jit(in_linen.value_grad_and_noise(loss))(variables, x)
    blocks = variables["params"] if lift == "remat" else {"": variables["params"]}
    layers = {
        "/".join(filter(None, (name, "LayerNorm_0"))): (
            lambda tree, name=name: (tree["params"][name] if name else tree["params"])[
                "LayerNorm_0"
            ]
        )
        for name in blocks
    }
    _assert_same_noise(noise, _expected(loss, variables, x, layers))


def test_parameters_with_names_of_axes():
    """What ``nn.with_partitioning`` boxes is measured, and its gradient boxed again."""
    ones = nn.with_partitioning(nn.initializers.ones, ("embed",))
    model = nn.Sequential([nn.LayerNorm(scale_init=ones), jnp.tanh, nn.Dense(3)])
    x = _data()
    boxed = model.init(jax.random.key(1), x)

    def loss(variables, x):
        return _error(model.apply(variables, x), x)

    _, grads, noise = jax.jit(in_linen.value_grad_and_noise(loss))(boxed, x)
    assert jax.tree.structure(grads) == jax.tree.structure(boxed)
    layers = {"layers_0": lambda tree: tree["params"]["layers_0"]}
    _assert_same_noise(noise, _expected(loss, boxed, x, layers))


def test_shares_of_devices_average_to_an_unbiased_estimate():
    loss, variables, x = _linen()
    mesh = data_mesh(4)

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
    )
    def shares(variables, x):
        local = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), variables)
        _, _, noise = in_linen.value_grad_and_noise(loss)(local, x)
        return {name: jax.lax.pmean(jnp.stack(one[:2]), "data") for name, one in noise.items()}

    found = shares(variables, x)
    parts = [
        _expected(loss, variables, part, LINEN_LAYERS) for part in x.reshape(4, -1, *x.shape[1:])
    ]
    for name, pair in found.items():
        expected = np.mean([np.array(part[name][:2]) for part in parts], axis=0)
        np.testing.assert_allclose(pair, expected, rtol=1e-4, atol=1e-6)


def test_a_sharded_batch_gives_the_same():
    loss, variables, x = _linen()
    sharding = jax.sharding.NamedSharding(data_mesh(4), PartitionSpec("data"))
    compute = jax.jit(in_linen.value_grad_and_noise(loss))
    _assert_same_noise(compute(variables, jax.device_put(x, sharding))[2], compute(variables, x)[2])


@pytest.mark.parametrize("parts", [1, 2])
def test_in_a_train_step(parts):
    loss, variables, x = _linen()
    tx = optax.sgd(0.01)
    step = training.make_train_step(loss, tx, gradient=in_linen.layer_noise, microbatched=parts > 1)
    batch = x if parts == 1 else x.reshape(parts, -1, *x.shape[1:])
    state = training.init_state(variables, tx, key=jax.random.key(0))
    after, metrics = jax.jit(step)(state, batch)
    plain = training.make_train_step(loss, tx, microbatched=parts > 1)
    expected_after, expected_metrics = jax.jit(plain)(state, batch)
    np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        after.params,
        expected_after.params,
    )
    of_parts = [
        _expected(loss, variables, part, LINEN_LAYERS)
        for part in x.reshape(parts, -1, *x.shape[1:])
    ]
    for field in ("trace", "squared_norm"):
        by_layer = {
            name: np.mean([float(getattr(part[name], field)) for part in of_parts])
            for name in LINEN_LAYERS
        }
        for name, value in by_layer.items():
            np.testing.assert_allclose(
                metrics[f"noise_{field}/{name}"], value, rtol=1e-4, atol=1e-6
            )
        np.testing.assert_allclose(metrics[f"noise_{field}"], sum(by_layer.values()), rtol=1e-4)
    noise = average_noise_scale([metrics["noise_trace"]], [metrics["noise_squared_norm"]])
    assert np.isfinite(noise.noise_scale)


def _apply(*layers):
    model = nn.Sequential(list(layers))
    variables = model.init(jax.random.key(0), _data())
    return lambda variables: jnp.mean(model.apply(variables, _data())), variables


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = nn.LayerNorm()
        return norm(norm(x))


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.mean(nn.LayerNorm()(x)) + jnp.mean(nn.RMSNorm()(x.reshape(-1, FEATURES)))


class First(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm(reduction_axes=0, feature_axes=0)(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _apply(nn.Dense(3)), "No normalization layer with a gain or a bias was called"),
        (lambda: _apply(nn.BatchNorm(use_running_average=True)), "No normalization layer"),
        (lambda: _apply(Shared()), "'layers_0/LayerNorm_0' is called more than once"),
        (lambda: _apply(Two()), "LayerNorm_0: 8, layers_0/RMSNorm_0: 40"),
        (lambda: _apply(First()), "no leading axis of examples"),
    ],
)
def test_bad_input(make, message):
    loss, variables = make()
    with pytest.raises(ValueError, match=message):
        in_linen.value_grad_and_noise(loss)(variables)


def test_an_nnx_model_without_such_layers():
    with pytest.raises(ValueError, match="was found in Linear"):
        in_nnx.reporting(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    model = nnx.LayerNorm(FEATURES, rngs=nnx.Rngs(0))
    compute = in_nnx.value_grad_and_noise(lambda model: jnp.mean(model(_data())))
    with pytest.raises(ValueError, match="No normalization layer"):
        compute(model)


def test_of_a_padded_batch_only_real_examples_count():
    loss, variables, x = _linen()
    real = 5
    batch = {"x": x.at[real:].set(7.0), "mask": np.arange(EXAMPLES) < real}
    expected = _expected(loss, variables, x[:real], LINEN_LAYERS)

    def weighted(variables, batch):
        losses = jax.vmap(lambda x: loss(variables, x[None]))(batch["x"])
        return jnp.mean(losses, where=batch["mask"])

    def at_once(variables, batch):
        outputs = Linen().apply(variables, batch["x"])
        errors = jnp.square(outputs - jnp.cos(3 * batch["x"][..., :3])).mean(axis=(1, 2))
        return jnp.mean(errors, where=batch["mask"])

    value, _, noise = jax.jit(in_linen.value_grad_and_noise(at_once))(variables, batch)
    np.testing.assert_allclose(value, weighted(variables, batch), rtol=1e-5)
    _assert_same_noise(noise, expected)
    tx = optax.sgd(0.01)
    step = training.make_train_step(at_once, tx, gradient=in_linen.layer_noise)
    _, metrics = jax.jit(step)(training.init_state(variables, tx, key=jax.random.key(0)), batch)
    trace = sum(float(one.trace) for one in expected.values())
    np.testing.assert_allclose(metrics["noise_trace"], trace, rtol=1e-4)
    batch["mask"] = batch["mask"][: EXAMPLES // 2]
    with pytest.raises(ValueError, match="mask is of 4 examples, and normalization layers see 8"):
        in_linen.value_grad_and_noise(lambda variables, batch: loss(variables, batch["x"]))(
            variables, batch
        )


def test_of_a_padded_batch_an_nnx_model_counts_real_examples_too():
    model, x = Nnx(nnx.Rngs(0)), _data()
    nnx.update(model, _jittered(nnx.state(model)))
    told, mask = in_nnx.reporting(model), np.arange(EXAMPLES) < 3

    def loss(model, x, mask):
        errors = jnp.square(model(x) - jnp.cos(3 * x[..., :3])).mean(axis=(1, 2))
        return jnp.mean(errors, where=mask)

    noise = in_nnx.value_grad_and_noise(lambda model, b: loss(model, b["x"], b["mask"]))(
        told, {"x": x, "mask": mask}
    )[2]
    graph, params = nnx.split(told)
    expected = _expected(
        lambda params, x: loss(nnx.merge(graph, params), x, np.ones(len(x), bool)),
        params,
        x[:3],
        {
            "norm": lambda tree: tree["norm"],
            "blocks/0": lambda tree: tree["blocks"][0],
            "blocks/2": lambda tree: tree["blocks"][2],
        },
    )
    _assert_same_noise(noise, expected)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_in_float64_gradients_and_noise_are_as_precise(kind):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # Flax mixes types
        x = jnp.asarray(np.random.default_rng(3).normal(size=(EXAMPLES, FEATURES)))
        gain = jnp.asarray(np.random.default_rng(4).normal(1, 0.3, FEATURES))
        wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        if kind == "linen":
            model = nn.LayerNorm(**wide)
            params = {"params": {"scale": gain, "bias": gain - 1}}
            loss = lambda params, x: jnp.mean(jnp.tanh(model.apply(params, x)) ** 3)  # noqa: E731
            compute = in_linen.value_grad_and_noise(loss)
        else:
            told = nnx.LayerNorm(FEATURES, rngs=nnx.Rngs(0), **wide)
            told.scale[...], told.bias[...] = gain, gain - 1
            graph, params = nnx.split(in_nnx.reporting(nnx.List([told])))
            loss = lambda params, x: jnp.mean(jnp.tanh(nnx.merge(graph, params)[0](x)) ** 3)  # noqa: E731
            compute = in_nnx.value_grad_and_noise(loss)
        _, grads, noise = jax.jit(compute)(params, x)
        expected = jax.grad(loss)(params, x)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), grads, expected)
        (found,) = noise.values()
        single = jax.vmap(lambda x: jax.grad(loss)(params, x[None]))(x)
        rows = np.concatenate(
            [np.asarray(g).reshape(EXAMPLES, -1) for g in jax.tree.leaves(single)], 1
        )
        trace = np.sum(rows.var(axis=0, ddof=1))
        np.testing.assert_allclose(found.trace, trace, rtol=1e-12)
        np.testing.assert_allclose(
            found.squared_norm, np.sum(rows.mean(axis=0) ** 2) - trace / EXAMPLES, rtol=1e-9
        )
