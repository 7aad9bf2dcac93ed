"""C1 and C3 of Keskar et al. (2017) in linen."""

from typing import Any

import flax.linen as nn
import jax

from gapjax import _checks
from gapjax._precision import widen
from gapjax.models._images import image_of, windows
from gapjax.models._norm import BatchNorm, Norm
from gapjax.models._settings import check_settings, in_dtype
from gapjax.models._starts import CODES, STARTS
from gapjax.models._widths import thinned


class ConvNet(nn.Module):
    """C1 and C3 of Keskar et al. (2017) in linen: the network of :func:`c1`, layer by layer.

    Attributes:
        num_outputs: the width of the last layer.
        code: whose code is followed, ``"keskar"`` or ``"hoffer"``.
        thin: what every hidden width is divided by.
        norm: what makes the norm of a layer; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation, by default that of inputs and parameters together.
            Parameters, statistics and outputs are float32 all the same.

    Example:
        >>> import jax
        >>> images = jax.numpy.zeros((2, 32, 32, 3))
        >>> outputs, _ = jax.eval_shape(ConvNet().init_with_output, jax.random.key(0), images)
        >>> outputs.shape
        (2, 10)
    """

    num_outputs: int = 10
    code: str = "keskar"
    thin: int = 1
    norm: Norm = BatchNorm
    dtype: Any = None

    def __post_init__(self) -> None:
        check_settings(self.num_outputs, self.norm, self.dtype, "linen")
        _checks.one_of("code", self.code, CODES)
        thinned((64, 384, 192), self.thin)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Outputs ``[B, num_outputs]`` of images ``[B, H, W, C]``."""
        image_of(x)
        keskar, start = self.code == "keskar", STARTS[CODES[self.code]]
        padding = "SAME" if keskar else "VALID"
        conv, first, second = thinned((64, 384, 192), self.thin)

        def convolution(x: jax.Array) -> jax.Array:
            bias = start.bias(25 * x.shape[-1])
            return nn.Conv(
                conv,
                (5, 5),
                use_bias=keskar,
                kernel_init=start.kernel,
                bias_init=bias,
                dtype=self.dtype,
            )(x)

        def dense(x: jax.Array, width: int, bias: bool = keskar) -> jax.Array:
            return nn.Dense(
                width,
                use_bias=bias,
                kernel_init=start.kernel,
                bias_init=start.bias(x.shape[-1]),
                dtype=self.dtype,
            )(x)

        def active(x: jax.Array) -> jax.Array:
            x = self.norm(use_running_average=not train)(x)
            return nn.relu(in_dtype(x, self.dtype))

        def pool(x: jax.Array) -> jax.Array:
            for size in x.shape[1:3]:
                windows(size, 3, 2, padding)
            return nn.max_pool(x, (3, 3), (2, 2), padding)

        for _ in range(2):
            x = convolution(x)
            x = pool(active(x)) if keskar else active(pool(x))
        x = x.reshape(x.shape[0], -1)
        for width in (first, second):
            x = nn.Dropout(0.5, deterministic=not train)(active(dense(x, width)))
        return widen(dense(x, self.num_outputs, bias=True))
