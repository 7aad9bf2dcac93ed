"""AlexNet with batch norm: the same numbers as loops in float64, in the order of its code."""

import functools

import jax
import numpy as np

from gapjax import models
from tests.models import reference

PLAN = (
    "conv pool:3/2 norm relu conv pool:3/2 relu norm conv relu norm conv relu norm "
    "conv pool:3/2 relu norm flatten dense norm relu dense norm relu dense"
)


def test_outputs_equal_loops_in_float64():
    images = np.random.default_rng(0).normal(size=(2, 15, 15, 2)).astype(np.float32)
    network, params, state = reference.drawn(models.alexnet_cifar(5, thin=64), images)
    layers = reference.nnx_layers(params, state)
    expected = reference.forward(images, PLAN, layers)
    outputs, _ = jax.jit(functools.partial(network.apply, train=False))(params, state, images)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_images_of_imagenet_leave_six_by_six_pixels():
    network = models.as_network(models.alexnet())
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    params, _ = jax.eval_shape(network.init, jax.random.key(0), images)
    assert params["features"]["layers"][0]["kernel"].shape == (11, 11, 3, 64)
    assert params["classifier"]["layers"][0]["kernel"].shape == (6 * 6 * 256, 4096)
