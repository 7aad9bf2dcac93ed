"""The residual networks of the papers, by name: ResNet-44 and its family, WRN-16-4, ResNet-50."""

from typing import Any

from gapjax import _checks
from gapjax.models._norm import BatchNorm, Norm
from gapjax.models._resnet import ResNet
from gapjax.models._widths import thinned


def resnet(
    depth: int,
    num_outputs: int = 10,
    norm: Norm = BatchNorm,
    dtype: Any = None,
    shortcut: str = "projection",
    *,
    thin: int = 1,
) -> ResNet:
    """The CIFAR ResNet of a depth 6n + 2: three stages of n blocks, 16, 32 and 64 wide.

    Args:
        depth: how many layers have weights, those of shortcuts not counted.
        num_outputs: the width of the last layer.
        norm: what makes a norm, of linen; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation.
        shortcut: ``"projection"`` or ``"padding"``, see :class:`ResNet`.
        thin: what every width but the last is divided by.

    Returns:
        A linen module.

    Raises:
        ValueError: a depth that is not 6n + 2, or another setting that cannot be.

    Example:
        >>> resnet(20).blocks
        (3, 3, 3)

    References:
        He, Zhang, Ren, Sun, `Deep Residual Learning for Image Recognition
        <https://arxiv.org/abs/1512.03385>`_, 2016, section 4.2.
    """
    blocks, rest = divmod(_checks.positive_int("depth", depth) - 2, 6)
    if rest or not blocks:
        raise ValueError(
            f"depth must be 6n + 2 (two convolutions in each block of three stages, and the first "
            f"and the last layer), not {depth}: use {max(8, 6 * blocks + 2)} or "
            f"{max(14, 6 * blocks + 8)}."
        )
    widths = thinned((16, 32, 64), thin)
    return ResNet((blocks,) * 3, widths, num_outputs, shortcut, norm, dtype)


def resnet44(
    num_outputs: int = 10,
    norm: Norm = BatchNorm,
    dtype: Any = None,
    shortcut: str = "projection",
    *,
    thin: int = 1,
) -> ResNet:
    """ResNet-44, the network of the CIFAR-10 tables of Hoffer et al. (2017): ``resnet(44)``.

    661,338 parameters, or 658,586 with ``shortcut="padding"``, the choice of He et al. The default
    follows the code of Hoffer et al. (``models/resnet.py``).

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of linen; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation.
        shortcut: ``"projection"`` or ``"padding"``, see :class:`ResNet`.
        thin: what every width but the last is divided by.

    Returns:
        A linen module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> resnet44().blocks
        (7, 7, 7)

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, and `eladhoffer/bigBatch
        <https://github.com/eladhoffer/bigBatch>`_.
    """
    return resnet(44, num_outputs, norm, dtype, shortcut, thin=thin)


def wrn16_4(
    num_outputs: int = 100, norm: Norm = BatchNorm, dtype: Any = None, *, thin: int = 1
) -> ResNet:
    """WRN-16-4, the network of the CIFAR-100 tables of Hoffer et al. (2017).

    2,800,804 parameters for 100 classes: three stages of two blocks, 64, 128 and 256 wide. As in
    their code (``models/wide_resnet.py``), the first convolution has 64 channels, and a norm and a
    ReLU follow each convolution; the paper of wide residual networks has 16, and both before it.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of linen; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation.
        thin: what every width but the last is divided by.

    Returns:
        A linen module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> wrn16_4(thin=4).widths
        (16, 32, 64)

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017; Zagoruyko and Komodakis, `Wide Residual
        Networks <https://arxiv.org/abs/1605.07146>`_, 2016.
    """
    return ResNet((2, 2, 2), thinned((64, 128, 256), thin), num_outputs, norm=norm, dtype=dtype)


def resnet50(
    num_outputs: int = 1000, norm: Norm = BatchNorm, dtype: Any = None, *, thin: int = 1
) -> ResNet:
    """ResNet-50, for ImageNet at 224x224: stages of 3, 4, 6 and 3 bottleneck blocks.

    25,557,032 parameters. The stride of a block is in its 3x3 convolution, as in the code of Hoffer
    et al. and in torchvision; He et al. have it in the first 1x1 convolution.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of linen; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation.
        thin: what every width but the last is divided by.

    Returns:
        A linen module.

    Raises:
        ValueError: a setting that cannot be.

    Example:
        >>> resnet50().block
        'bottleneck'

    References:
        He, Zhang, Ren, Sun, `Deep Residual Learning for Image Recognition
        <https://arxiv.org/abs/1512.03385>`_, 2016, table 1; Goyal et al., `Accurate, Large
        Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017, section 5.1.
    """
    widths = thinned((64, 128, 256, 512), thin)
    return ResNet(
        (3, 4, 6, 3),
        widths,
        num_outputs,
        norm=norm,
        dtype=dtype,
        block="bottleneck",
        stem="imagenet",
    )
