"""The batch norm of the networks here: what ``norm=`` is unless told otherwise."""

import functools
from collections.abc import Callable

import flax.linen as nn

from gapjax.ghost.linen import GhostBatchNorm

Norm = Callable[..., nn.Module]

# One ghost unless told otherwise: Flax's batch norm at less cost. The momentum is the fraction kept
# per update. Flax's default of 0.99 needs some 400 updates to forget the start, more than a
# large-batch run may ever make: its evaluation would suffer from that alone.
BatchNorm: Norm = functools.partial(GhostBatchNorm, momentum=0.9)
