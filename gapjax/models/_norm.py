"""The batch norms of the networks here: what ``norm=`` is unless told otherwise."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax import nnx

from gapjax.ghost import linen as ghost_linen
from gapjax.ghost import nnx as ghost_nnx

# Of linen: norm(use_running_average=not train). Of nnx: norm(num_features, rngs=rngs).
Norm = Callable[..., nn.Module]
NnxNorm = Callable[..., nnx.Module]

# One ghost unless told otherwise: Flax's batch norm at less cost. The momentum is the fraction kept
# per update. Flax's default of 0.99 needs some 400 updates to forget the start, more than a
# large-batch run may ever make: its evaluation would suffer from that alone.
BatchNorm: Norm = functools.partial(ghost_linen.GhostBatchNorm, momentum=0.9)
NnxBatchNorm: NnxNorm = functools.partial(ghost_nnx.GhostBatchNorm, momentum=0.9)


def check_norm(norm: Any, kind: str) -> None:
    """Refuse what makes no norm, one of the other kind, or one that is not told of training.

    Args:
        norm: what a network was given.
        kind: ``"linen"`` or ``"nnx"``, of the network.

    Raises:
        ValueError: it does not fit.
    """
    made = functools.partial(norm).func if callable(norm) else norm
    other = nnx.Module if kind == "linen" else nn.Module
    ready = isinstance(made, nn.Module | nnx.Module)  # not what makes one
    if not callable(norm) or ready or (inspect.isclass(made) and issubclass(made, other)):
        raise ValueError(
            f"norm must make the norm of a layer, of flax.{kind} as this network is: "
            f"functools.partial(gapjax.ghost.{kind}.GhostBatchNorm, ghost_size=128), say, not "
            f"{norm!r}."
        )
    if kind == "linen" and inspect.isclass(made) and issubclass(made, nn.Module):
        flag = "use_running_average"  # of a norm without statistics there is none
        if flag not in made.__dataclass_fields__:
            raise ValueError(
                f"norm is called as norm({flag}=not train), and {made.__name__} has no {flag}: "
                f"norm=lambda {flag}: nn.{made.__name__}()."
            )
