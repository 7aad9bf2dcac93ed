"""C2 and C4 of Keskar et al. (2017), and the VGG of Hoffer et al. (2017): VGG-16 for CIFAR."""

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

# The channels of VGG-16, a pool after each group.
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nnx.Module):
    """The thirteen 3x3 convolutions of VGG-16, each with a norm; a 2x2 pool after each group.

    * ``code="keskar"`` (``network_zoo.py``, ``deepnet``): each convolution but the last of its
      group is followed by dropout, 0.3 in the first group and 0.4 in the others; then dropout 0.5,
      [dense 512, norm, ReLU, dropout 0.5], dense. Weights as Keras draws them.
    * ``code="hoffer"`` (``models/vgg.py``): no dropout between convolutions; then [dense 4096,
      ReLU, dropout 0.5] twice, without a norm, and dense. Weights as PyTorch draws them.

    All layers have biases. Pools are padded as ``SAME``, which for 32x32 pixels is not at all.

    Args:
        num_outputs: the width of the last layer.
        image: height, width and channels of an image.
        code: whose code is followed.
        thin: what every hidden width is divided by.
        groups: how many groups of convolutions are kept: fewer for smaller images.
        norm: what makes the norm of a layer; called as ``norm(num_features, rngs=rngs)``.
        dtype: the type of the computation, by default that of inputs and parameters together.
            Parameters, statistics and outputs are float32 all the same.
        rngs: keys for weights and dropout.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from gapjax import models
        >>> images = jax.numpy.zeros((2, 32, 32, 3))
        >>> nnx.eval_shape(lambda: models.nnx.VGG(rngs=nnx.Rngs(0))(images)).shape
        (2, 10)
    """

    def __init__(
        self,
        num_outputs: int = 10,
        *,
        image: tuple[int, int, int] = (32, 32, 3),
        code: str = "keskar",
        thin: int = 1,
        groups: int = 5,
        norm: NnxNorm = NnxBatchNorm,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        check_settings(num_outputs, norm, dtype, "nnx")
        layers = Layers(CODES[_checks.one_of("code", code, CODES)], dtype, rngs)
        height, width, channels = image_shape(image)
        kept = _GROUPS[: _checks.whole("groups", groups, least=1, most=len(_GROUPS))]
        keskar, relu, pool = code == "keskar", ReLU(dtype), MaxPool(2, 2, "SAME")
        features: list[Any] = []
        for group in kept:
            for i, conv in enumerate(thinned(group, thin)):
                features += [layers.conv(channels, conv, 3), norm(conv, rngs=rngs), relu]
                if keskar and i < len(group) - 1:
                    features.append(nnx.Dropout(0.3 if group is kept[0] else 0.4, rngs=rngs))
                channels = conv
            features.append(pool)
            height, width = pool.left(height), pool.left(width)
        fan_in = height * width * channels
        classifier: list[Any] = [nnx.Dropout(0.5, rngs=rngs)] if keskar else []
        for unit in thinned((512,) if keskar else (4096, 4096), thin):
            classifier += [layers.dense(fan_in, unit), *([norm(unit, rngs=rngs)] if keskar else [])]
            classifier += [relu, nnx.Dropout(0.5, rngs=rngs)]
            fan_in = unit
        self.features = nnx.Sequential(*features)
        self.classifier = nnx.Sequential(*classifier, layers.dense(fan_in, num_outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``[B, num_outputs]`` of images ``[B, H, W, C]``."""
        x = self.features(x)
        return widen(self.classifier(x.reshape(len(x), -1)))


def c2(
    num_outputs: int = 10, norm: NnxNorm = NnxBatchNorm, dtype: Any = None, *, thin: int = 1
) -> Recipe:
    """C2 of Keskar et al. (2017), for CIFAR-10: VGG-16 with dropout, one dense layer of 512.

    14,991,946 parameters. The network of their code; :class:`gapjax.models.nnx.VGG` with
    ``code="keskar"`` says layer by layer what it is.

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
        >>> c2(thin=8)
        VGG(thin=8)

    References:
        Keskar et al., `On Large-Batch Training for Deep Learning
        <https://arxiv.org/abs/1609.04836>`_, 2017, and `keskarnitish/large-batch-training
        <https://github.com/keskarnitish/large-batch-training>`_.
    """
    return _vgg("keskar", num_outputs, norm, dtype, thin)


def c4(
    num_outputs: int = 100, norm: NnxNorm = NnxBatchNorm, dtype: Any = None, *, thin: int = 1
) -> Recipe:
    """C4 of Keskar et al. (2017): :func:`c2` for the 100 classes of CIFAR-100.

    15,038,116 parameters.

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
        >>> c4()
        VGG(num_outputs=100)
    """
    return _vgg("keskar", num_outputs, norm, dtype, thin)


def vgg(
    num_outputs: int = 10, norm: NnxNorm = NnxBatchNorm, dtype: Any = None, *, thin: int = 1
) -> Recipe:
    """The VGG of Hoffer et al. (2017), for CIFAR-10: VGG-16 with two dense layers of 4096.

    33,646,666 parameters. The code that came with the paper has no VGG. This is the one that the
    same author's convNet.pytorch has for CIFAR (``models/vgg.py``, of 2018), at its default depth;
    :class:`gapjax.models.nnx.VGG` with ``code="hoffer"`` says layer by layer what it is.

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
        >>> vgg(100)
        VGG(num_outputs=100, code='hoffer')

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017; `eladhoffer/convNet.pytorch
        <https://github.com/eladhoffer/convNet.pytorch>`_; Simonyan and Zisserman, `Very Deep
        Convolutional Networks <https://arxiv.org/abs/1409.1556>`_, 2014.
    """
    return _vgg("hoffer", num_outputs, norm, dtype, thin)


def _vgg(code: str, num_outputs: int, norm: NnxNorm, dtype: Any, thin: int) -> Recipe:
    return recipe(
        VGG, image_of, num_outputs=num_outputs, code=code, thin=thin, norm=norm, dtype=dtype
    )
