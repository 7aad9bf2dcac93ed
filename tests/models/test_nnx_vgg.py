"""VGG-16 for CIFAR as either code has it: the same numbers as loops in float64."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from gapjax import models
from tests.models import reference

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
FEATURES = "conv norm relu conv norm relu pool:2/2same " * 2 + "flatten "
CLASSIFIERS = {"keskar": "dense norm relu dense", "hoffer": "dense relu dense relu dense"}


def _build(code, **settings):
    shape = {"image": IMAGES.shape[1:], "thin": 32, "groups": 2}
    return functools.partial(models.nnx.VGG, 5, code=code, **shape | settings)


@pytest.mark.parametrize("code", CLASSIFIERS)
def test_outputs_equal_loops_in_float64(code):
    network, params, state = reference.drawn(_build(code), IMAGES)
    layers = [layer for layer in reference.nnx_layers(params, state) if layer]
    expected = reference.forward(IMAGES, FEATURES + CLASSIFIERS[code], layers)
    outputs, _ = jax.jit(functools.partial(network.apply, train=False))(params, state, IMAGES)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_where_the_codes_have_it():
    def rates(code):
        model = nnx.eval_shape(lambda: _build(code, groups=3)(rngs=nnx.Rngs(0)))
        layers = (*model.features.layers, *model.classifier.layers)
        return [layer.rate for layer in layers if isinstance(layer, nnx.Dropout)]

    # After all but the last convolution of each group; then around the dense layers.
    assert rates("keskar") == [0.3, 0.4, 0.4, 0.4, 0.5, 0.5]
    assert rates("hoffer") == [0.5, 0.5]
