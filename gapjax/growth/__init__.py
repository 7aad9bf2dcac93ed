"""Growth: batches that start small and grow."""

from gapjax.growth._schedules import (
    BatchSchedule,
    constant_batch,
    geometric_batch,
    grow_instead_of_decay,
    piecewise_batch,
)

__all__ = [
    "BatchSchedule",
    "constant_batch",
    "geometric_batch",
    "grow_instead_of_decay",
    "piecewise_batch",
]
