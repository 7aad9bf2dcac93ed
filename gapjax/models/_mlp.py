"""Fully connected networks: F1 and F2 of Keskar et al. (2017), and a sibling for the digits."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from gapjax import _checks
from gapjax._precision import widen
from gapjax.models._norm import BatchNorm, Norm
from gapjax.models._settings import check_settings, in_dtype
from gapjax.models._starts import CODES, STARTS
from gapjax.models._widths import thinned


class MLP(nn.Module):
    """Dense layers, each followed by a norm and a ReLU; a dense layer for the outputs.

    Attributes:
        features: the width of each hidden layer.
        num_outputs: the width of the last layer: the number of classes, say.
        norm: what makes the norm of a layer; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation, by default that of inputs and parameters together.
            Parameters, statistics and outputs are float32 all the same.
        start: how weights are drawn: ``"lecun"`` (as Flax does), ``"keras"`` (Glorot uniform),
            ``"torch"`` (uniform, biases too) or ``"he"``.

    Example:
        >>> import jax
        >>> model = MLP(features=(32, 32))
        >>> variables = model.init(jax.random.key(0), jax.numpy.zeros((4, 8, 8, 1)))
        >>> model.apply(variables, jax.numpy.zeros((4, 8, 8, 1))).shape
        (4, 10)
    """

    features: Sequence[int]
    num_outputs: int = 10
    norm: Norm = BatchNorm
    dtype: Any = None
    start: str = "lecun"

    def __post_init__(self) -> None:
        check_settings(self.num_outputs, self.norm, self.dtype, "linen")
        if not isinstance(self.features, Sequence) or isinstance(self.features, str):
            raise ValueError(
                f"features must be the width of each hidden layer, such as (128, 128), not "
                f"{self.features!r}."
            )
        for width in self.features:
            _checks.positive_int("each of features", width)
        _checks.one_of("start", self.start, STARTS)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Outputs ``[B, num_outputs]`` of inputs ``[B, ...]``, flattened."""
        start = STARTS[self.start]

        def dense(x: jax.Array, width: int) -> jax.Array:
            bias = start.bias(x.shape[-1])
            layer = nn.Dense(width, kernel_init=start.kernel, bias_init=bias, dtype=self.dtype)
            return layer(x)

        x = x.reshape(x.shape[0], -1)
        for width in self.features:
            x = self.norm(use_running_average=not train)(dense(x, width))
            x = nn.relu(in_dtype(x, self.dtype))
        return widen(dense(x, self.num_outputs))


def f1(
    num_outputs: int = 10,
    norm: Norm = BatchNorm,
    dtype: Any = None,
    *,
    code: str = "keskar",
    thin: int = 1,
) -> MLP:
    """F1 of Keskar et al. (2017), for MNIST: 784 - 5 x [Dense 512, norm, ReLU] - Dense 10.

    1,462,794 parameters. The paper's table of networks, in its appendix; Keskar's code has no F1.
    That of Hoffer et al. (``models/mnist_f1.py``) has the same layers.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of linen; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation.
        code: whose start of the weights: ``"keskar"`` (Keras, Glorot uniform) or ``"hoffer"``
            (PyTorch, uniform).
        thin: what every hidden width is divided by.

    Returns:
        A linen module.

    Raises:
        ValueError: an unknown code, or a width that ``thin`` does not divide.

    Example:
        >>> f1().features
        (512, 512, 512, 512, 512)

    References:
        Keskar et al., `On Large-Batch Training for Deep Learning
        <https://arxiv.org/abs/1609.04836>`_, 2017; Hoffer, Hubara, Soudry, `Train longer,
        generalize better <https://arxiv.org/abs/1705.08741>`_, 2017.
    """
    return _keskar_mlp(5, num_outputs, norm, dtype, code, thin)


def f2(
    num_outputs: int = 1973,
    norm: Norm = BatchNorm,
    dtype: Any = None,
    *,
    code: str = "keskar",
    thin: int = 1,
) -> MLP:
    """F2 of Keskar et al. (2017), for TIMIT: 360 - 7 x [Dense 512, norm, ReLU] - Dense 1973.

    2,780,085 parameters. As :func:`f1` but for its depth and its data, which nobody may pass on.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of linen; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation.
        code: as of :func:`f1`.
        thin: what every hidden width is divided by.

    Returns:
        A linen module.

    Raises:
        ValueError: an unknown code, or a width that ``thin`` does not divide.

    Example:
        >>> len(f2().features)
        7

    References:
        Keskar et al., `On Large-Batch Training for Deep Learning
        <https://arxiv.org/abs/1609.04836>`_, 2017.
    """
    return _keskar_mlp(7, num_outputs, norm, dtype, code, thin)


def digits_mlp(num_outputs: int = 10, norm: Norm = BatchNorm, dtype: Any = None) -> MLP:
    """The shape of F1 cut down for 8x8 digits: 64 - 3 x [Dense 128, norm, ReLU] - Dense 10.

    43,402 parameters, drawn as Flax draws them.

    Args:
        num_outputs: the width of the last layer.
        norm: what makes a norm, of linen; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation.

    Returns:
        A linen module.

    Example:
        >>> digits_mlp().features
        (128, 128, 128)
    """
    return MLP((128,) * 3, num_outputs, norm, dtype)


def _keskar_mlp(depth: int, num_outputs: int, norm: Norm, dtype: Any, code: str, thin: int) -> MLP:
    _checks.one_of("code", code, CODES)
    return MLP(thinned((512,) * depth, thin), num_outputs, norm, dtype, CODES[code])
