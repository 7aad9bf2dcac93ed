"""C1 and C3 of Keskar et al. (2017) in nnx, as their code has them and as that of Hoffer et al."""

from typing import Any

import jax
from flax import nnx

from gapjax import _checks
from gapjax._precision import widen
from gapjax.models._images import image_of, image_shape
from gapjax.models._nnx_layers import Layers, MaxPool, ReLU
from gapjax.models._norm import NnxBatchNorm, NnxNorm
from gapjax.models._recipe import Recipe, recipe
from gapjax.models._settings import check_settings
from gapjax.models._starts import CODES
from gapjax.models._widths import thinned


class ConvNet(nnx.Module):
    """Two 5x5 convolutions of 64 channels with pools, dense layers of 384 and 192, and the last.

    * ``code="keskar"`` (``network_zoo.py``, ``shallownet``): [conv, norm, ReLU, pool 3x3 / 2]
      twice, padded as ``SAME``; [dense, norm, ReLU, dropout 0.5] twice; dense. Biases everywhere,
      weights as Keras draws them. The paper's table reads as if the convolutions had the stride; in
      the code they have stride 1, and the pools have stride 2.
    * ``code="hoffer"`` (``models/cifar_shallow.py``): [conv, pool 3x3 / 2, norm, ReLU] twice, pools
      not padded, so that 7x7 pixels are left of 32x32, and not 8x8. Only the last layer has a bias;
      weights as PyTorch draws them.

    Keskar's code normalizes with statistics of the batch in evaluation too. Here these are running
    statistics; ``gapjax.ghost.precise_statistics`` gives those of a data set.

    Args:
        num_outputs: the width of the last layer.
        image: height, width and channels of an image.
        code: whose code is followed.
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
        >>> images = jax.numpy.zeros((2, 32, 32, 3))
        >>> nnx.eval_shape(lambda: models.nnx.ConvNet(rngs=nnx.Rngs(0))(images)).shape
        (2, 10)
    """

    def __init__(
        self,
        num_outputs: int = 10,
        *,
        image: tuple[int, int, int] = (32, 32, 3),
        code: str = "keskar",
        thin: int = 1,
        norm: NnxNorm = NnxBatchNorm,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        check_settings(num_outputs, norm, dtype, "nnx")
        layers = Layers(CODES[_checks.one_of("code", code, CODES)], dtype, rngs)
        height, width, channels = image_shape(image)
        conv, first, second = thinned((64, 384, 192), thin)
        keskar = code == "keskar"
        relu, pool = ReLU(dtype), MaxPool(3, 2, "SAME" if keskar else "VALID")

        def convolution(channels: int) -> list[Any]:
            layer, own = layers.conv(channels, conv, 5, bias=keskar), norm(conv, rngs=rngs)
            return [layer, own, relu, pool] if keskar else [layer, pool, own, relu]

        def dense(fan_in: int, width: int) -> list[Any]:
            layer, own = layers.dense(fan_in, width, bias=keskar), norm(width, rngs=rngs)
            return [layer, own, relu, nnx.Dropout(0.5, rngs=rngs)]

        pixels = pool.left(pool.left(height)) * pool.left(pool.left(width))
        self.features = nnx.Sequential(*convolution(channels), *convolution(conv))
        self.classifier = nnx.Sequential(
            *dense(pixels * conv, first), *dense(first, second), layers.dense(second, num_outputs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, num_outputs]`` of images ``[B, H, W, C]``."""
        x = self.features(x)
        return widen(self.classifier(x.reshape(len(x), -1)))


def c1(
    num_outputs: int = 10,
    norm: NnxNorm = NnxBatchNorm,
    dtype: Any = None,
    *,
    code: str = "keskar",
    thin: int = 1,
) -> Recipe:
    """C1 of Keskar et al. (2017), for CIFAR-10: two convolutions, two dense layers.

    ``code="keskar"`` is the network of their code, 1,757,834 parameters; ``code="hoffer"`` what the
    code of Hoffer et al. (2017) makes of it, 1,388,490. :class:`gapjax.models.nnx.ConvNet` says
    layer by layer what they are; :class:`gapjax.models.ConvNet` is the same network in linen.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of nnx; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation.
        code: whose code is followed, ``"keskar"`` or ``"hoffer"``.
        thin: what every hidden width is divided by.

    Returns:
        A function from ``rngs`` and images ``[B, H, W, C]`` to an nnx module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> c1(thin=4)
        ConvNet(thin=4)

    References:
        Keskar et al., `On Large-Batch Training for Deep Learning
        <https://arxiv.org/abs/1609.04836>`_, 2017, and `keskarnitish/large-batch-training
        <https://github.com/keskarnitish/large-batch-training>`_; Hoffer, Hubara, Soudry, `Train
        longer, generalize better <https://arxiv.org/abs/1705.08741>`_, 2017, and
        `eladhoffer/bigBatch <https://github.com/eladhoffer/bigBatch>`_.
    """
    return recipe(
        ConvNet, image_of, num_outputs=num_outputs, code=code, thin=thin, norm=norm, dtype=dtype
    )


def c3(
    num_outputs: int = 100,
    norm: NnxNorm = NnxBatchNorm,
    dtype: Any = None,
    *,
    code: str = "keskar",
    thin: int = 1,
) -> Recipe:
    """C3 of Keskar et al. (2017): :func:`c1` for the 100 classes of CIFAR-100.

    1,775,204 parameters, or 1,405,860 with ``code="hoffer"``.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of nnx; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation.
        code: whose code is followed, ``"keskar"`` or ``"hoffer"``.
        thin: what every hidden width is divided by.

    Returns:
        A function from ``rngs`` and images ``[B, H, W, C]`` to an nnx module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> c3(code="hoffer")
        ConvNet(num_outputs=100, code='hoffer')
    """
    return c1(num_outputs, norm, dtype, code=code, thin=thin)
