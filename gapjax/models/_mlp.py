"""Fully connected networks: F1 of Keskar et al. (2017), and its small sibling for the digits."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from gapjax.models._norm import BatchNorm, Norm


class MLP(nn.Module):
    """Dense layers, each followed by a norm and a ReLU; a dense layer for the logits.

    Attributes:
        features: the width of each hidden layer.
        num_classes: the number of logits.
        norm: what makes the norm of a layer; called as ``norm(use_running_average=not train)``.
        dtype: the type of the computation, by default that of inputs and parameters together.

    Example:
        >>> import jax
        >>> model = MLP(features=(32, 32))
        >>> variables = model.init(jax.random.key(0), jax.numpy.zeros((4, 8, 8, 1)))
        >>> model.apply(variables, jax.numpy.zeros((4, 8, 8, 1))).shape
        (4, 10)
    """

    features: Sequence[int]
    num_classes: int = 10
    norm: Norm = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits ``[B, num_classes]`` of inputs ``[B, ...]``, flattened."""
        x = x.reshape(x.shape[0], -1)
        for width in self.features:
            x = nn.Dense(width, dtype=self.dtype)(x)
            x = self.norm(use_running_average=not train)(x)
            x = nn.relu(x)
        return nn.Dense(self.num_classes, dtype=self.dtype)(x)


def f1(num_classes: int = 10, norm: Norm = BatchNorm, dtype: Any = None) -> MLP:
    """F1 of Keskar et al. (2017), Appendix B: 784 - 5 x [Dense 512, norm, ReLU] - Dense 10.

    Example:
        >>> f1().features
        (512, 512, 512, 512, 512)
    """
    return MLP((512,) * 5, num_classes, norm, dtype)


def digits_mlp(num_classes: int = 10, norm: Norm = BatchNorm, dtype: Any = None) -> MLP:
    """The shape of F1 cut down for 8x8 digits: 64 - 3 x [Dense 128, norm, ReLU] - Dense 10.

    Example:
        >>> digits_mlp().features
        (128, 128, 128)
    """
    return MLP((128,) * 3, num_classes, norm, dtype)
