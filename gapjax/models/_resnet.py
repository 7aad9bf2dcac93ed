"""Residual networks for small images (He et al. 2016, section 4.2), ResNet-44 among them."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gapjax import _checks
from gapjax.models._norm import BatchNorm, Norm

SHORTCUTS = ("projection", "padding")
# N(0, 2 / (k^2 out)), as He et al. (2015) and the code of Hoffer et al. (2017) draw kernels.
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet(nn.Module):
    """A 3x3 convolution, stages of basic blocks, the mean over the image, a dense layer.

    Each stage but the first halves the image in its first block. A block is conv, norm, ReLU, conv,
    norm, plus its shortcut, ReLU; convolutions are 3x3 and have no bias.

    Attributes:
        blocks: how many blocks each stage has.
        widths: the channels of each stage; the stem has those of the first.
        num_classes: the number of logits.
        shortcut: where shapes change, ``"projection"`` (a 1x1 convolution and a norm: option B of
            the paper, and what the code of Hoffer et al. 2017 does) or ``"padding"`` (every second
            pixel, zeros for new channels: option A, the paper's choice for CIFAR-10).
        norm: what makes the norm of a layer; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation, by default that of inputs and parameters together.

    Example:
        >>> import jax
        >>> model = ResNet(blocks=(1, 1), widths=(4, 8))
        >>> images = jax.numpy.zeros((2, 8, 8, 3))
        >>> variables = model.init(jax.random.key(0), images)
        >>> model.apply(variables, images).shape
        (2, 10)
    """

    blocks: Sequence[int]
    widths: Sequence[int] = (16, 32, 64)
    num_classes: int = 10
    shortcut: str = "projection"
    norm: Norm = BatchNorm
    dtype: Any = None

    def __post_init__(self) -> None:
        _checks.one_of("shortcut", self.shortcut, SHORTCUTS)
        if not self.blocks or len(self.blocks) != len(self.widths):
            raise ValueError(
                f"blocks={self.blocks!r} and widths={self.widths!r} must name as many stages, at "
                "least one: blocks=(7, 7, 7) goes with widths=(16, 32, 64)."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits ``[B, num_classes]`` of images ``[B, H, W, C]``."""

        def conv_norm(x: jax.Array, width: int, size: int = 3, stride: int = 1) -> jax.Array:
            x = nn.Conv(
                width,
                (size, size),
                stride,
                padding=size // 2,
                use_bias=False,
                kernel_init=_INIT,
                dtype=self.dtype,
            )(x)
            return self.norm(use_running_average=not train)(x)

        def block(x: jax.Array, width: int, stride: int) -> jax.Array:
            out = conv_norm(nn.relu(conv_norm(x, width, stride=stride)), width)
            if stride > 1 or x.shape[-1] != width:
                if self.shortcut == "projection":
                    x = conv_norm(x, width, size=1, stride=stride)
                else:
                    more = [(0, 0)] * 3 + [(0, width - x.shape[-1])]
                    x = jnp.pad(x[:, ::stride, ::stride], more)
            return nn.relu(out + x)

        x = nn.relu(conv_norm(x, self.widths[0]))
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for i in range(count):
                x = block(x, width, stride=2 if stage and not i else 1)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x.mean((1, 2)))


def resnet(
    depth: int,
    num_classes: int = 10,
    norm: Norm = BatchNorm,
    dtype: Any = None,
    shortcut: str = "projection",
) -> ResNet:
    """The CIFAR ResNet of a depth 6n + 2: three stages of n blocks, 16, 32 and 64 wide.

    He et al. (2016), "Deep residual learning for image recognition", section 4.2.

    Raises:
        ValueError: a depth that is not 6n + 2.

    Example:
        >>> resnet(20).blocks
        (3, 3, 3)
    """
    blocks, rest = divmod(_checks.positive_int("depth", depth) - 2, 6)
    if rest or not blocks:
        raise ValueError(
            f"depth must be 6n + 2 (two convolutions in each block of three stages, and the first "
            f"and the last layer), not {depth}: use {max(8, 6 * blocks + 2)} or "
            f"{max(14, 6 * blocks + 8)}."
        )
    return ResNet((blocks,) * 3, num_classes=num_classes, shortcut=shortcut, norm=norm, dtype=dtype)


def resnet44(
    num_classes: int = 10,
    norm: Norm = BatchNorm,
    dtype: Any = None,
    shortcut: str = "projection",
) -> ResNet:
    """ResNet-44, the network of the CIFAR-10 tables of Hoffer et al. (2017), as ``resnet(44)``.

    Example:
        >>> resnet44().blocks
        (7, 7, 7)
    """
    return resnet(44, num_classes, norm, dtype, shortcut)
