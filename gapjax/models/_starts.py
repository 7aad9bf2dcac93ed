"""How weights start, as the code behind each paper draws them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer


class Start(NamedTuple):
    """The distribution of the weights of a layer.

    Attributes:
        kernel: of its kernel.
        bias: of its bias, by how many inputs each unit has.
    """

    kernel: Initializer
    bias: Callable[[int], Initializer]


def _zeros(fan_in: int) -> Initializer:
    return initializers.zeros


def _uniform(fan_in: int) -> Initializer:
    """``U(-b, b)``, b = 1 / sqrt(inputs of a unit)."""

    def init(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        bound = fan_in**-0.5
        return jax.random.uniform(
            key, shape, dtype or jnp.float32, -bound, bound, out_sharding=out_sharding
        )

    return init


STARTS = {
    # Flax: N(0, 1 / inputs), truncated.
    "lecun": Start(initializers.lecun_normal(), _zeros),
    # Keras (Glorot and Bengio 2010): U(-b, b), b = sqrt(6 / (inputs + outputs)).
    "keras": Start(initializers.glorot_uniform(), _zeros),
    # PyTorch: U(-b, b), b = 1 / sqrt(inputs), of kernels and biases.
    "torch": Start(initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform),
    # He et al. (2015): N(0, 2 / (k^2 outputs)), as the code of Hoffer et al. (2017) draws kernels.
    "he": Start(initializers.variance_scaling(2.0, "fan_out", "normal"), _uniform),
}

# Whose code a network follows, and the start of its weights there. The scales of batch norms start
# at 1 here, also where PyTorch drew them from U(0, 1), as it did until the end of 2018.
CODES = {"keskar": "keras", "hoffer": "torch"}
