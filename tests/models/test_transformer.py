"""A transformer that looks back only, the same in every way of computing it."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType

from gapjax import models, study
from gapjax.models._transformer import rotate, rotations

SIZES = {"width": 16, "layers": 3, "heads": 2}
VOCABULARY = 11
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (4, 9)).astype(np.int32)
KEY = jax.random.key(1)


def _network(**settings):
    return models.as_network(models.transformer(VOCABULARY, **SIZES | settings))


@functools.cache
def _params(**settings):
    """Weights far from their start, so that every part counts."""
    params, state = jax.jit(_network(**settings).init)(jax.random.key(0), TOKENS)
    assert state == {}
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: x + rng.normal(size=x.shape).astype(np.float32) * 0.2, params)


def _logits(params, tokens=TOKENS, train=False, **settings):
    network = _network(**settings)
    return jax.jit(lambda p, t: network.apply(p, {}, t, train=train, key=KEY)[0])(params, tokens)


def _stacked(params):
    """Parameters of a list of layers as those of one stacked layer."""
    layers = [params["blocks"][i] for i in sorted(params["blocks"], key=int)]
    return {**params, "blocks": jax.tree.map(lambda *x: jnp.stack(x), *layers)}


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    ("token", "dtype"),
    [(-1, "int32"), (-VOCABULARY, "int32"), (VOCABULARY, "int32"), (-1, "int8"), (255, "uint8")],
)
def test_a_token_outside_the_vocabulary_makes_its_sequence_nan(token, dtype, scan):
    params = _stacked(_params()) if scan else _params()
    other = TOKENS.astype(dtype)
    good = _logits(params, other, scan=scan)
    np.testing.assert_allclose(good, _logits(_params()), atol=1e-5)
    other[1, 4] = token
    found = _logits(params, other, scan=scan)
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(np.delete(found, 1, 0), np.delete(good, 1, 0))


def test_a_later_token_changes_no_earlier_logit():
    other = TOKENS.copy()
    other[:, 5] = (other[:, 5] + 1) % VOCABULARY
    one, two = _logits(_params()), _logits(_params(), other)
    np.testing.assert_array_equal(one[:, :5], two[:, :5])
    assert (np.abs(one - two)[:, 5:].max(-1) > 1e-4).all()


@pytest.mark.parametrize(
    "settings", [{}, {"activation": "swiglu", "norm": nnx.RMSNorm, "tied": False}], ids=str
)
def test_logits_equal_loops_in_float64(settings):
    """GPT-2 with rotary positions, written out; or with what came later."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), _params(**settings))

    def norm(x, p):
        if not settings:
            x = x - x.mean(-1, keepdims=True)
        scale = p["scale"] / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * scale + p.get("bias", 0)

    def turned(x, t):
        half = len(x) // 2
        pairs = (x[:half] + 1j * x[half:]) * np.exp(1j * t * 10_000.0 ** (-np.arange(half) / half))
        return np.concatenate([pairs.real, pairs.imag])

    def attention(x, p):
        q, k, v = np.moveaxis(np.einsum("tw,wchd->tchd", x, p["qkv"]["kernel"]), 1, 0)
        mixed = np.zeros_like(q)
        for t, head in np.ndindex(*q.shape[:2]):
            scores = [turned(q[t, head], t) @ turned(k[s, head], s) for s in range(t + 1)]
            weights = np.exp(np.array(scores) / np.sqrt(q.shape[-1]))
            mixed[t, head] = weights @ v[: t + 1, head] / weights.sum()
        return np.einsum("thd,hdw->tw", mixed, p["out"]["kernel"])

    def hidden(x, kernel):
        if settings:
            gate, value = np.einsum("tw,wcm->ctm", x, kernel)
            return gate / (1 + np.exp(-gate)) * value
        x = x @ kernel
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    rows = params["embed"]["embedding"]
    last = params["unembed" if settings else "embed"]["embedding"]
    for tokens, logits in zip(TOKENS, _logits(_params(**settings), **settings), strict=True):
        x = rows[tokens]
        for i in range(SIZES["layers"]):
            p = params["blocks"][i]
            x = x + attention(norm(x, p["attention_norm"]), p)
            x = x + hidden(norm(x, p["mlp_norm"]), p["up"]["kernel"]) @ p["down"]["kernel"]
        np.testing.assert_allclose(logits, norm(x, params["norm"]) @ last.T, atol=2e-4)


def test_rotations_see_only_how_far_apart_two_positions_are():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    everywhere = jnp.broadcast_to(q, (1, 12, 1, 8)), jnp.broadcast_to(k, (1, 12, 1, 8))
    q, k = (rotate(x, rotations(12, 8))[0, :, 0] for x in everywhere)
    products = np.asarray(q @ k.T)
    for apart in range(-11, 12):
        diagonal = np.diagonal(products, apart)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert len(np.unique(products[0].round(3))) == 12
    np.testing.assert_allclose(jnp.linalg.norm(q, axis=-1), jnp.linalg.norm(q[0]), rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}], ids=str
)
def test_scanned_and_computed_again_it_is_the_same(settings):
    def loss(network, params):
        logits, _ = network.apply(params, {}, TOKENS, train=True)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, TOKENS).mean()

    def value_and_grad(params, **settings):
        return jax.jit(jax.value_and_grad(functools.partial(loss, _network(**settings))))(params)

    params = _params()
    value, grads = value_and_grad(params)
    stack = _stacked if settings.get("scan") else lambda tree: tree
    expected = (value, stack(grads))
    chex.assert_trees_all_close(
        value_and_grad(stack(params), **settings), expected, atol=1e-5, rtol=1e-4
    )


def test_computed_again_keeps_less():
    def kept(remat):
        network = _network(remat=remat, layers=2)
        _, backward = jax.eval_shape(
            lambda p: jax.vjp(lambda p: network.apply(p, {}, TOKENS, train=True)[0], p),
            jax.eval_shape(network.init, KEY, TOKENS)[0],
        )
        return _size(backward)

    assert kept(True) < kept(False) / 2


def test_untied_with_the_same_weights_is_the_same():
    untied = {**_params(), "unembed": _params()["embed"]}
    np.testing.assert_array_equal(_logits(_params()), _logits(untied, tied=False))


@pytest.mark.parametrize(("scan", "remat"), [(False, False), (True, False), (True, True)])
def test_dropout_follows_its_key_and_evaluation_needs_none(scan, remat):
    params = _stacked(_params()) if scan else _params()
    network = _network(scan=scan, remat=remat, dropout=0.5)

    @jax.jit
    def trained(params, key):
        return network.apply(params, {}, TOKENS, train=True, key=key)[0]

    one, again, other = (trained(params, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    evaluated, _ = jax.jit(functools.partial(network.apply, train=False))(params, {}, TOKENS)
    np.testing.assert_allclose(evaluated, _logits(params, scan=scan), atol=1e-6)
    with pytest.raises(ValueError, match="has no key to draw with"):
        network.apply(params, {}, TOKENS, train=True)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize("norm", [nnx.LayerNorm, nnx.RMSNorm])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_as_many_as_the_formula_says(activation, norm, tied):
    build = models.transformer(
        50, norm, width=32, layers=3, heads=4, mlp_factor=2.5, activation=activation, tied=tied
    )
    params, _ = jax.eval_shape(models.as_network(build).init, jax.random.key(0), TOKENS)
    dense = 4 * 32 * 32 + (3 if activation == "swiglu" else 2) * 80 * 32
    norms = 7 * 32 * (2 if norm is nnx.LayerNorm else 1)
    assert _size(params) == 50 * 32 * (1 if tied else 2) + 3 * dense + norms


@pytest.mark.parametrize(
    ("name", "size"), [("transformer", 821_504), ("transformer-tiny", 115_328)]
)
def test_sizes_of_those_with_a_name(name, size):
    network = models.as_network(models.find_network(name, 256))
    params, _ = jax.eval_shape(network.init, jax.random.key(0), TOKENS)
    assert _size(params) == size


def test_weights_start_as_in_gpt2_and_losses_at_the_logarithm_of_the_vocabulary():
    network = models.as_network(models.transformer(256, width=64, layers=2, heads=2))
    tokens = np.random.default_rng(0).integers(0, 256, (4, 33))
    params, _ = jax.jit(network.init)(jax.random.key(0), tokens)
    block = params["blocks"][1]
    weights = {
        "embed": params["embed"]["embedding"],
        **{name: block[name]["kernel"] for name in ("qkv", "out", "up", "down")},
    }
    for name, value in weights.items():
        std = 0.02 / (2 if name in ("out", "down") else 1)  # sqrt(2 layers)
        np.testing.assert_allclose(value.std(), std, rtol=0.05, err_msg=name)
        np.testing.assert_allclose(value.mean(), 0, atol=4 * std / value.size**0.5)
    logits, _ = jax.jit(functools.partial(network.apply, train=False))(params, {}, tokens[:, :-1])
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    np.testing.assert_allclose(losses.mean(), np.log(256), atol=0.05)


@jax.numpy_dtype_promotion("standard")  # jax's own attention needs it
def test_bfloat16_computes_in_it_but_for_softmax_norms_and_logits():
    network = _network(dtype=jnp.bfloat16)
    plain, half = _logits(_params()), _logits(_params(), dtype=jnp.bfloat16)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(plain - half).max() < 0.1 * np.abs(plain).max()
    text = str(jax.make_jaxpr(lambda p: network.apply(p, {}, TOKENS, train=False)[0])(_params()))
    for name in ("exp", "rsqrt"):  # of the softmax, of the norms
        found = re.findall(rf":(\w+)\[[^]]*\] = {name} ", text)
        assert found and set(found) == {"f32"}
    products = re.findall(r":(\w+)\[[^]]*\] = dot_general\[", text)
    assert products.count("bf16") == 5 * SIZES["layers"]  # all but scores and logits
    assert len(products) == 6 * SIZES["layers"] + 1
    chex.assert_trees_all_equal_dtypes(
        jax.eval_shape(network.init, KEY, TOKENS)[0], jax.tree.map(jnp.asarray, _params())
    )


@pytest.mark.parametrize("scan", [False, True])
@jax.numpy_dtype_promotion("standard")  # jax's own attention needs it
def test_by_default_it_computes_in_the_type_of_its_parameters(scan):
    params = _stacked(_params()) if scan else _params()
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    network = _network(scan=scan)
    text = str(jax.make_jaxpr(lambda p: network.apply(p, {}, TOKENS, train=False)[0])(half))
    products = re.findall(r":(\w+)\[[^]]*\] = dot_general\[", text)
    layers = 1 if scan else SIZES["layers"]
    assert products.count("bf16") == 5 * layers and len(products) == 6 * layers + 1
    rounded = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    expected = _logits(rounded, scan=scan, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(_logits(half, scan=scan), expected)


@pytest.mark.parametrize(("kind", "scan"), [(AxisType.Auto, True), (AxisType.Explicit, False)])
def test_split_over_data_and_model_it_is_the_same(kind, scan):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    sizes = {"heads": 4, "width": 32, "layers": 1, "scan": scan}
    network, params = _network(**sizes), _params(**sizes)
    rules = (("heads", "model"), ("mlp", "model"), ("vocab", None), ("embed", None))
    specs = nn.logical_to_mesh(network.partition_specs(TOKENS), (*rules, ("layers", None)))
    shardings = jax.tree.map(
        lambda spec: jax.NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, jax.P)
    )
    split = jax.device_put(params, shardings)
    block = split["blocks"] if scan else split["blocks"][0]
    assert block["qkv"]["kernel"].addressable_shards[0].data.shape[-2] == 1  # a head each
    assert block["up"]["kernel"].addressable_shards[0].data.shape[-1] == 32

    @functools.partial(jax.value_and_grad, has_aux=True)
    def logits_and_grads(params, tokens):
        logits, _ = network.apply(params, {}, tokens, train=True)
        return jnp.square(logits).mean(), logits

    expected = jax.jit(logits_and_grads)(params, TOKENS)
    with jax.set_mesh(mesh):
        tokens = jax.device_put(TOKENS, jax.NamedSharding(mesh, jax.P("data")))
        found = jax.device_get(jax.jit(logits_and_grads)(split, tokens))
    chex.assert_trees_all_close(found, jax.device_get(expected), rtol=1e-3, atol=1e-4)


@jax.numpy_dtype_promotion("standard")  # optax needs it
def test_it_learns_to_count():
    task, network = study.next_token(), _network(layers=1)
    starts = np.random.default_rng(0).integers(0, 4, (16, 1))
    batch = {"tokens": (starts + np.arange(9)) % 4}  # each token follows from the one before
    tx = optax.adam(1e-2)

    def loss_fn(params):
        outputs, _ = network.apply(params, {}, task.select(batch), train=True)
        return task.loss(outputs, batch).mean()

    def update(carry, _):
        params, opt_state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    params, _ = network.init(jax.random.key(0), task.select(batch))
    _, losses = jax.jit(lambda *carry: jax.lax.scan(update, carry, length=60))(
        params, tx.init(params)
    )
    np.testing.assert_allclose(losses[0], np.log(VOCABULARY), atol=0.05)
    assert losses[-1] < 0.1


def test_networks_of_the_same_settings_are_the_same_to_a_study():
    build = functools.partial(models.transformer, width=16, heads=2)
    assert build(layers=1) == build(layers=1) != build(layers=2)
    assert repr(build(layers=1)) == "Transformer(width=16, heads=2, layers=1)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 20, "heads": 4}, "use 16 or 24"),
        ({"width": 4, "heads": 4}, "use 8"),
        ({"heads": 0}, "heads must be a whole number of at least 1"),
        ({"layers": "4"}, "layers must be a whole number"),
        ({"activation": "glu"}, "must be one of 'gelu', 'swiglu', not 'glu'"),
        ({"dropout": 1.0}, "dropout must be a finite number of at least 0 and below 1"),
        ({"mlp_factor": -1}, "mlp_factor must be a finite number above 0"),
        ({"mlp_factor": 0.001}, "mlp_factor . width must be"),
        ({"scan": "yes"}, "scan must be True or False"),
        ({"num_outputs": 0}, "num_outputs must be"),
        ({"norm": nn.LayerNorm}, "norm must make the norm of a layer, of flax.nnx"),
        ({"norm": "rms"}, "norm must make the norm of a layer"),
        ({"dtype": "int8"}, "dtype must be a type of real numbers"),
    ],
)
def test_mistakes_are_named_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        models.transformer(**settings)


@pytest.mark.parametrize("tokens", [TOKENS.astype(np.float32), TOKENS[0], TOKENS[..., None]])
def test_tokens_are_whole_numbers(tokens):
    with pytest.raises(ValueError, match=r"takes tokens, whole numbers \[B, T\], not an array of"):
        _logits(_params(), tokens)
