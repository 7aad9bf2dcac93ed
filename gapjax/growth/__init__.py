"""Growth: batches that start small and grow.

A batch-size schedule says how large each batch is; :class:`GrowingBatches` cuts such batches from
one exact stream of examples and lays them over the devices.
"""

from gapjax.growth._batches import GrowingBatches, Switch
from gapjax.growth._reader import Batch
from gapjax.growth._schedules import (
    BatchSchedule,
    constant_batch,
    geometric_batch,
    grow_instead_of_decay,
    piecewise_batch,
)

__all__ = [
    "Batch",
    "BatchSchedule",
    "GrowingBatches",
    "Switch",
    "constant_batch",
    "geometric_batch",
    "grow_instead_of_decay",
    "piecewise_batch",
]
