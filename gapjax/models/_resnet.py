"""Residual networks in linen (He et al. 2016): ResNet-44, WRN-16-4, ResNet-50."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gapjax import _checks
from gapjax._precision import widen
from gapjax.models._images import image_of
from gapjax.models._norm import BatchNorm, Norm
from gapjax.models._settings import check_settings, in_dtype
from gapjax.models._starts import STARTS

SHORTCUTS = ("projection", "padding")
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")


class ResNet(nn.Module):
    """A first convolution, stages of residual blocks, the mean over the image, a dense layer.

    Each stage but the first halves the image in its first block. A block is its convolutions, each
    with a norm, with ReLUs between them, plus its shortcut, and a ReLU. Convolutions have no bias;
    their kernels are drawn from N(0, 2 / (k^2 outputs)), the last layer as PyTorch draws it, as the
    code of Hoffer et al. (2017) does.

    Attributes:
        blocks: how many blocks each stage has.
        widths: the channels of each stage; the first convolution has those of the first.
        num_outputs: the width of the last layer: the number of classes, say.
        shortcut: where shapes change, ``"projection"`` (a 1x1 convolution and a norm: option B of
            the paper, and what the code of Hoffer et al. 2017 does) or ``"padding"`` (every second
            pixel, zeros for new channels: option A, the paper's choice for CIFAR-10).
        norm: what makes the norm of a layer; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation, by default that of inputs and parameters together.
            Parameters, statistics and outputs are float32 all the same.
        block: ``"basic"`` (two 3x3 convolutions) or ``"bottleneck"`` (1x1, 3x3, and 1x1 with four
            times the channels; the 3x3 one has the stride).
        stem: the first convolution: ``"cifar"`` (3x3) or ``"imagenet"`` (7x7 / 2, and a pool
            3x3 / 2).

    Example:
        >>> import jax
        >>> model = ResNet(blocks=(1, 1), widths=(4, 8))
        >>> images = jax.numpy.zeros((2, 8, 8, 3))
        >>> outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        >>> outputs.shape
        (2, 10)
    """

    blocks: Sequence[int]
    widths: Sequence[int] = (16, 32, 64)
    num_outputs: int = 10
    shortcut: str = "projection"
    norm: Norm = BatchNorm
    dtype: Any = None
    block: str = "basic"
    stem: str = "cifar"

    def __post_init__(self) -> None:
        check_settings(self.num_outputs, self.norm, self.dtype, "linen")
        check_stages(self.blocks, self.widths)
        for name, words in (("shortcut", SHORTCUTS), ("block", BLOCKS), ("stem", STEMS)):
            _checks.one_of(name, getattr(self, name), words)
        if self.shortcut == "padding" and list(self.widths) != sorted(self.widths):
            raise ValueError(
                f"shortcut='padding' adds channels and takes none away: widths must not fall, as "
                f"{self.widths!r} do. Use shortcut='projection'."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Outputs ``[B, num_outputs]`` of images ``[B, H, W, C]``."""
        image_of(x)

        def conv_norm(x: jax.Array, width: int, size: int = 3, stride: int = 1) -> jax.Array:
            x = nn.Conv(
                width,
                (size, size),
                stride,
                padding=size // 2,
                use_bias=False,
                kernel_init=STARTS["he"].kernel,
                dtype=self.dtype,
            )(x)
            return in_dtype(self.norm(use_running_average=not train)(x), self.dtype)

        def block(x: jax.Array, width: int, stride: int) -> jax.Array:
            if self.block == "basic":
                out = conv_norm(nn.relu(conv_norm(x, width, stride=stride)), width)
            else:
                out = nn.relu(conv_norm(nn.relu(conv_norm(x, width, 1)), width, stride=stride))
                out = conv_norm(out, 4 * width, 1)
            if x.shape != out.shape:
                if self.shortcut == "projection":
                    x = conv_norm(x, out.shape[-1], size=1, stride=stride)
                else:
                    more = [(0, 0)] * 3 + [(0, out.shape[-1] - x.shape[-1])]
                    x = jnp.pad(x[:, ::stride, ::stride], more)
            return nn.relu(out + x)

        if self.stem == "cifar":
            x = nn.relu(conv_norm(x, self.widths[0]))
        else:
            x = nn.relu(conv_norm(x, self.widths[0], size=7, stride=2))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for i in range(count):
                x = block(x, width, stride=2 if stage and not i else 1)
        start = STARTS["torch"]
        bias = start.bias(x.shape[-1])
        last = nn.Dense(
            self.num_outputs, kernel_init=start.kernel, bias_init=bias, dtype=self.dtype
        )
        return widen(last(x.mean((1, 2))))


def check_stages(blocks: Any, widths: Any) -> None:
    """Refuse stages that cannot be.

    Raises:
        ValueError: no stages, not as many in both, or sizes that are none.
    """
    listed = all(isinstance(x, Sequence) and not isinstance(x, str) for x in (blocks, widths))
    if not listed or not blocks or len(blocks) != len(widths):
        raise ValueError(
            f"blocks={blocks!r} and widths={widths!r} must name as many stages, at least one: "
            "blocks=(7, 7, 7) goes with widths=(16, 32, 64)."
        )
    for name, numbers in (("blocks", blocks), ("widths", widths)):
        for number in numbers:
            _checks.positive_int(f"each of {name}", number)
