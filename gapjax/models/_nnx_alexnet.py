"""AlexNet with batch norm, as the code of Hoffer et al. (2017) has it."""

from typing import Any

import jax
from flax import nnx

from gapjax import _checks
from gapjax._precision import widen
from gapjax.models._images import image_of, image_shape, windows
from gapjax.models._nnx_layers import Layers, MaxPool, ReLU
from gapjax.models._norm import NnxBatchNorm, NnxNorm
from gapjax.models._recipe import Recipe, recipe
from gapjax.models._settings import check_settings
from gapjax.models._widths import thinned


class AlexNet(nnx.Module):
    """Five convolutions of 64, 192, 384, 256 and 256 channels, dense layers of 4096, and the last.

    As ``models/alexnet.py`` has it, a pool is 3x3 / 2 without padding, and what follows the five
    convolutions is: pool, norm, ReLU; pool, ReLU, norm; ReLU, norm; ReLU, norm; pool, ReLU, norm.
    Then [dense 4096, norm, ReLU, dropout 0.5] twice, and dense. Only the last layer has a bias.
    Weights as PyTorch draws them.

    Args:
        num_outputs: the width of the last layer.
        image: height, width and channels of an image.
        stem: size and stride of the first convolution, which is padded by two pixels: ``(11, 4)``
            for images of 224x224, ``(5, 1)`` for small ones.
        thin: what every hidden width is divided by.
        norm: what makes the norm of a layer; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation, by default that of inputs and parameters together.
            Parameters, statistics and outputs are float32 all the same.
        rngs: keys for weights and dropout.

    Raises:
        ValueError: a setting that cannot be, or an image that the pools leave nothing of.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from gapjax import models
        >>> images = jax.numpy.zeros((2, 224, 224, 3))
        >>> nnx.eval_shape(lambda: models.nnx.AlexNet(rngs=nnx.Rngs(0))(images)).shape
        (2, 1000)
    """

    def __init__(
        self,
        num_outputs: int = 1000,
        *,
        image: tuple[int, int, int] = (224, 224, 3),
        stem: tuple[int, int] = (11, 4),
        thin: int = 1,
        norm: NnxNorm = NnxBatchNorm,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        check_settings(num_outputs, norm, dtype, "nnx")
        layers, pool = Layers("torch", dtype, rngs), MaxPool(3, 2)
        *sizes, channels = image_shape(image)
        size, stride = _checked_stem(stem)
        a, b, c, d, dense = thinned((64, 192, 384, 256, 4096), thin)

        def convolution(
            channels: int, width: int, size: int, after: str, stride: int = 1, padding: Any = "SAME"
        ) -> list[Any]:
            found = {"pool": pool, "relu": ReLU(dtype), "norm": norm(width, rngs=rngs)}
            layer = layers.conv(channels, width, size, stride=stride, padding=padding, bias=False)
            return [layer, *(found[name] for name in after.split())]

        def hidden(fan_in: int) -> list[Any]:
            layer, drop = layers.dense(fan_in, dense, bias=False), nnx.Dropout(0.5, rngs=rngs)
            return [layer, norm(dense, rngs=rngs), ReLU(dtype), drop]

        self.features = nnx.Sequential(
            *convolution(channels, a, size, "pool norm relu", stride, 2),
            *convolution(a, b, 5, "pool relu norm"),
            *convolution(b, c, 3, "relu norm"),
            *convolution(c, d, 3, "relu norm"),
            *convolution(d, d, 3, "pool relu norm"),
        )
        pixels = 1
        for length in sizes:
            pixels *= pool.left(pool.left(pool.left(windows(length + 4, size, stride))))
        self.classifier = nnx.Sequential(
            *hidden(pixels * d), *hidden(dense), layers.dense(dense, num_outputs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, num_outputs]`` of images ``[B, H, W, C]``."""
        x = self.features(x)
        return widen(self.classifier(x.reshape(len(x), -1)))


def _checked_stem(stem: Any) -> tuple[int, int]:
    if not isinstance(stem, tuple | list) or len(stem) != 2:
        raise ValueError(f"stem must be (size, stride), such as (11, 4) or (5, 1), not {stem!r}.")
    size, stride = (_checks.positive_int("each number of stem", number) for number in stem)
    return size, stride


def alexnet(
    num_outputs: int = 1000, norm: NnxNorm = NnxBatchNorm, dtype: Any = None, *, thin: int = 1
) -> Recipe:
    """AlexNet with batch norm, for ImageNet at 224x224, as the code of Hoffer et al. (2017) has it.

    61,110,184 parameters: the variant of Krizhevsky (2014) with one tower, batch norm in place of
    local response normalization. :class:`gapjax.models.nnx.AlexNet` says layer by layer what it is.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of nnx; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation.
        thin: what every hidden width is divided by.

    Returns:
        A function from ``rngs`` and images ``[B, H, W, C]`` to an nnx module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> alexnet(100, thin=8)
        AlexNet(num_outputs=100, thin=8)

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, and `eladhoffer/bigBatch
        <https://github.com/eladhoffer/bigBatch>`_; Krizhevsky, `One weird trick
        <https://arxiv.org/abs/1404.5997>`_, 2014.
    """
    return _alexnet(num_outputs, (11, 4), thin, norm, dtype)


def alexnet_cifar(
    num_outputs: int = 10, norm: NnxNorm = NnxBatchNorm, dtype: Any = None, *, thin: int = 1
) -> Recipe:
    """:func:`alexnet` for images of 32x32: its first convolution is 5x5 and keeps every pixel.

    28,724,170 parameters. No paper's; the small AlexNet of the papers is :func:`c1`.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of nnx; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation.
        thin: what every hidden width is divided by.

    Returns:
        A function from ``rngs`` and images ``[B, H, W, C]`` to an nnx module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> alexnet_cifar()
        AlexNet(num_outputs=10, stem=(5, 1))
    """
    return _alexnet(num_outputs, (5, 1), thin, norm, dtype)


def _alexnet(
    num_outputs: int, stem: tuple[int, int], thin: int, norm: NnxNorm, dtype: Any
) -> Recipe:
    return recipe(
        AlexNet,
        image_of,
        num_outputs=num_outputs,
        stem=stem,
        thin=thin,
        norm=norm,
        dtype=dtype,
    )
