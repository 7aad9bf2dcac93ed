"""What the nnx networks are made of: layers that start as in a code, and what is between."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from gapjax.models._images import windows
from gapjax.models._settings import in_dtype
from gapjax.models._starts import STARTS


@dataclasses.dataclass(frozen=True)
class ReLU:
    """``max(x, 0)``, in the type of the computation, which a norm may have widened."""

    dtype: Any = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """The same for every element."""
        return nnx.relu(in_dtype(x, self.dtype))


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """The maximum of square windows."""

    window: int
    stride: int
    padding: str = "VALID"

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images ``[B, H, W, C]`` to smaller ones."""
        sizes = (self.window, self.window), (self.stride, self.stride)
        return nnx.max_pool(x, *sizes, self.padding)

    def left(self, size: int) -> int:
        """How many pixels are left of so many along an axis."""
        return windows(size, self.window, self.stride, self.padding)


class Layers:
    """Makes layers of one start and one type.

    Args:
        start: how weights are drawn.
        dtype: the type of the computation.
        rngs: keys.
    """

    def __init__(self, start: str, dtype: Any, rngs: nnx.Rngs):
        self._start, self._dtype, self._rngs = STARTS[start], dtype, rngs

    def conv(
        self,
        channels: int,
        width: int,
        size: int,
        *,
        stride: int = 1,
        padding: Any = "SAME",
        bias: bool = True,
    ) -> nnx.Conv:
        """A square convolution."""
        return nnx.Conv(
            channels,
            width,
            (size, size),
            stride,
            padding=padding,
            use_bias=bias,
            kernel_init=self._start.kernel,
            bias_init=self._start.bias(size * size * channels),
            dtype=self._dtype,
            rngs=self._rngs,
        )

    def dense(self, fan_in: int, width: int, *, bias: bool = True) -> nnx.Linear:
        """A dense layer."""
        return nnx.Linear(
            fan_in,
            width,
            use_bias=bias,
            kernel_init=self._start.kernel,
            bias_init=self._start.bias(fan_in),
            dtype=self._dtype,
            rngs=self._rngs,
        )
