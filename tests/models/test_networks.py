"""Every network with a name: as large as its paper or code says, in any type, of any width."""

import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gapjax import models

SHAPES = {
    **dict.fromkeys(("f1", "f1-hoffer"), (28, 28, 1)),
    "digits-mlp": (8, 8, 1),
    "f2": (360,),
    **dict.fromkeys(("alexnet", "resnet50"), (224, 224, 3)),
}


def _inputs(name):
    if "transformer" in name:
        return jax.ShapeDtypeStruct((2, 9), "int32")
    return jax.ShapeDtypeStruct((2, *SHAPES.get(name, (32, 32, 3))), "float32")


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _dense(*widths, bias=True, norm=True):
    """Parameters of dense layers, all but the last with a norm."""
    pairs = list(itertools.pairwise(widths))
    hidden, (fan_in, last) = pairs[:-1], pairs[-1]
    return sum(a * b + b * bias + 2 * b * norm for a, b in hidden) + fan_in * last + last


def _conv(size, *widths, bias=True):
    """Parameters of convolutions, each with a norm."""
    pairs = itertools.pairwise(widths)
    return sum(size**2 * a * b + b * (2 + bias) for a, b in pairs)


VGG16 = _conv(3, 3, 64, 64, 128, 128, 256, 256, 256, *(512,) * 6)


def _conv_net(classes):
    return _conv(5, 3, 64, 64) + _dense(8 * 8 * 64, 384, 192, classes)


def _hoffer_conv_net(classes):
    convolutions = _conv(5, 3, 64, 64, bias=False)
    return convolutions + _dense(7 * 7 * 64, 384, 192, classes, bias=False)


def _alexnet(stem, pixels, classes):
    convolutions = stem**2 * 3 * 64 + 2 * 64 + _conv(5, 64, 192, bias=False)
    convolutions += _conv(3, 192, 384, 256, 256, bias=False)
    return convolutions + _dense(pixels * 256, 4096, 4096, classes, bias=False)


def _residual(widths, blocks, classes):
    """Basic blocks with projections where widths change."""
    size = _conv(3, 3, widths[0], bias=False)
    before = widths[0]
    for width in widths:
        size += _conv(3, before, *(width,) * (2 * blocks), bias=False)
        size += _conv(1, before, width, bias=False) * (before != width)
        before = width
    return size + _dense(before, classes)


def _bottlenecks():
    size, before = _conv(7, 3, 64, bias=False), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        size += _conv(1, before, 4 * width, bias=False)
        for _ in range(blocks):
            size += _conv(1, before, width, bias=False) + _conv(3, width, width, bias=False)
            size += _conv(1, width, 4 * width, bias=False)
            before = 4 * width
    return size + _dense(before, 1000)


@pytest.mark.parametrize(
    ("name", "told", "counted"),
    [
        ("f1", 1_462_794, _dense(784, *(512,) * 5, 10)),
        ("f2", 2_780_085, _dense(360, *(512,) * 7, 1973)),
        ("digits-mlp", 43_402, _dense(64, 128, 128, 128, 10)),
        ("c1", 1_757_834, _conv_net(10)),
        ("c3", 1_775_204, _conv_net(100)),
        ("c1-hoffer", 1_388_490, _hoffer_conv_net(10)),
        ("c3-hoffer", 1_405_860, _hoffer_conv_net(100)),
        ("c2", 14_991_946, VGG16 + _dense(512, 512, 10)),
        ("c4", 15_038_116, VGG16 + _dense(512, 512, 100)),
        ("vgg", 33_646_666, VGG16 + _dense(512, 4096, 4096, 10, norm=False)),
        ("alexnet", 61_110_184, _alexnet(11, 6 * 6, 1000)),
        ("alexnet-cifar", 28_724_170, _alexnet(5, 3 * 3, 10)),
        ("resnet44", 661_338, _residual((16, 32, 64), 7, 10)),
        ("wrn16-4", 2_800_804, _residual((64, 128, 256), 2, 100)),
        ("resnet50", 25_557_032, _bottlenecks()),  # as torchvision's
    ],
)
def test_networks_are_as_large_as_their_papers_and_codes_say(name, told, counted):
    network = models.as_network(models.find_network(name))
    params, _ = jax.eval_shape(network.init, jax.random.key(0), _inputs(name))
    assert _size(params) == told == counted


# One of each kind.
KINDS = ("f1", "c1", "c1-hoffer", "c2", "vgg", "alexnet", "alexnet-cifar", "resnet8", "resnet50")


@pytest.mark.parametrize("name", [*KINDS, "transformer", "transformer-tiny"])
def test_networks_compute_in_the_type_and_have_the_width_asked_for(name):
    network, inputs = models.as_network(models.NETWORKS[name](7, dtype=jnp.bfloat16)), _inputs(name)
    params, state = jax.eval_shape(network.init, jax.random.key(0), inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {jnp.dtype("float32")}

    def apply(params, state, inputs):
        return network.apply(params, state, inputs, train=True, key=jax.random.key(0))

    with jax.numpy_dtype_promotion("standard"):
        jaxpr = jax.make_jaxpr(apply)(params, state, inputs)
    outputs, *after = jaxpr.out_avals
    assert outputs.shape[::2] == (2, 7) if "transformer" in name else outputs.shape == (2, 7)
    assert {aval.dtype for aval in (outputs, *after)} == {jnp.dtype("float32")}
    products = re.findall(r":(\w+)\[[^]]*\] = (?:dot_general|conv_general_dilated)\[", str(jaxpr))
    float32 = {"transformer": 5, "transformer-tiny": 3}.get(name, 0)  # scores, and logits
    assert products.count("bf16") == len(products) - float32 >= 4


@pytest.mark.parametrize("name", KINDS)
def test_norms_are_exchangeable(name):
    linen = isinstance(models.NETWORKS[name](), nn.Module)
    norm = (
        (lambda use_running_average: nn.GroupNorm(1))
        if linen
        else (lambda n, rngs: nnx.GroupNorm(n, 1, rngs=rngs))
    )
    network = models.as_network(models.NETWORKS[name](norm=norm))
    _, state = jax.eval_shape(network.init, jax.random.key(0), _inputs(name))
    assert not jax.tree.leaves(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.f1(0), "num_outputs must be a whole number of at least 1, not 0"),
        (lambda: models.c1("10"), "num_outputs must be a whole number of at least 1, not '10'"),
        (lambda: models.resnet44(dtype=int), "dtype must be a type of real numbers"),
        (lambda: models.vgg(dtype="bits"), "dtype must be a type of real numbers.* not 'bits'"),
        (lambda: models.c2(norm=nn.BatchNorm), "flax.nnx as this network is"),
        (lambda: models.f2(norm=nnx.BatchNorm), "flax.linen as this network is"),
        (lambda: models.resnet50(norm="batch"), "norm must make the norm of a layer"),
        (lambda: models.c1(code="hofer"), "Did you mean 'hoffer'"),
        (lambda: models.f1(code="torch"), "code must be one of 'keskar', 'hoffer'"),
        (lambda: models.c3(thin=5), "thin=5 does not divide a width of 64: use one of 1, 2, 4"),
        (lambda: models.wrn16_4(thin=0), "thin must be a whole number of at least 1"),
        (lambda: models.nnx.VGG(groups=6, rngs=nnx.Rngs(0)), "groups must be .* at most 5"),
        (lambda: models.nnx.VGG(image=(32, 32), rngs=nnx.Rngs(0)), "image must be .height, width"),
        (lambda: models.nnx.AlexNet(stem=11, rngs=nnx.Rngs(0)), "stem must be .size, stride"),
        (lambda: models.ResNet((1,), (4,), block="plain"), "block must be one of 'basic'"),
        (lambda: models.ResNet((0,), (4,)), "each of blocks must be a whole number"),
        (lambda: models.MLP((4,), start="keres"), "Did you mean 'keras'"),
        (lambda: models.MLP(128), "features must be the width of each hidden layer.* not 128"),
        (lambda: models.MLP("128"), "features must be the width of each hidden layer"),
        (lambda: models.MLP((4, 0)), "each of features must be a whole number of at least 1"),
        (lambda: models.ResNet((1, 1), (8, 4), shortcut="padding"), "widths must not fall"),
        (lambda: models.f1(norm=nn.LayerNorm), "LayerNorm has no use_running_average: norm=lambda"),
        (lambda: models.f1(norm=nn.BatchNorm()), "norm must make the norm of a layer"),
    ],
)
def test_mistakes_are_named_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("c1", (2, 784), r"takes images \[B, H, W, C\], not inputs of shape \[2, 784\]"),
        ("resnet8", (4, 28, 28), r"takes images \[B, H, W, C\], not inputs of shape"),
        ("alexnet", (2, 32, 32, 3), "the image is too small: 1 pixels are left where a pool"),
        ("c1-hoffer", (2, 4, 4, 3), "the image is too small"),
    ],
)
def test_images_that_do_not_fit(name, shape, message):
    network = models.as_network(models.find_network(name))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("make", "weights", "bounds"),
    [
        # Keras: sqrt(6 / (inputs + outputs)), biases 0; PyTorch: 1 / sqrt(inputs), biases too.
        (models.f1, ("Dense_1", "Dense_1"), ((6 / 1024) ** 0.5, 0)),
        (lambda: models.f1(code="hoffer"), ("Dense_1", "Dense_1"), (512**-0.5, 512**-0.5)),
        (models.c1, (("features", "layers", 4),) * 2, ((6 / (2 * 25 * 64)) ** 0.5, 0)),
        (
            lambda: models.c1(code="hoffer", thin=2),
            (("features", "layers", 4), ("classifier", "layers", 8)),
            ((25 * 32) ** -0.5, 96**-0.5),
        ),
    ],
)
def test_weights_start_uniform_as_the_codes_draw_them(make, weights, bounds):
    network = models.as_network(make())
    inputs = jnp.zeros((1, 8, 8, 3))

    @jax.jit  # compiles only what is drawn for these two
    def found(key):
        params, _ = network.init(key, inputs)
        picked = []
        for path, leaf in zip(weights, ("kernel", "bias"), strict=True):
            layer = params
            for name in (path,) if isinstance(path, str) else path:
                layer = layer[name]
            picked.append(layer[leaf])
        return picked

    for values, bound in zip(found(jax.random.key(0)), bounds, strict=True):
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        if bound:
            noise = 4 * bound / values.size**0.5
            np.testing.assert_allclose(values.std(), bound / 3**0.5, atol=noise)
            np.testing.assert_allclose(values.mean(), 0, atol=noise)


@pytest.mark.parametrize("name", [name for name in models.NETWORKS if "thin" in name])
def test_thin_siblings_are_small(name):
    network = models.as_network(models.find_network(name, 7))
    params, _ = jax.eval_shape(network.init, jax.random.key(0), _inputs(name))
    assert 10_000 < _size(params) < 600_000


def test_a_recipe_may_be_a_static_argument():
    assert hash(models.c1()) == hash(models.c1()) and models.c1() == models.c1()
    assert models.c1() != models.c1(thin=4)
