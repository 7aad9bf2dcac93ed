"""Growth: batches that start small and grow.

A batch-size schedule says how large each batch is, or a controller decides it from the measured
gradient noise; :class:`GrowingBatches` cuts such batches from one exact stream of examples and lays
them over the devices.
"""

from gapjax.growth._batches import GrowingBatches, Switch
from gapjax.growth._controllers import (
    Controller,
    ControllerState,
    Proposal,
    cabs_controller,
    noise_scale_controller,
    norm_test_controller,
)
from gapjax.growth._noise_scale import (
    NoiseScale,
    NoiseScaleState,
    gradient_noise_scale,
    noise_scale_record,
    noise_scale_tracker,
)
from gapjax.growth._reader import Batch
from gapjax.growth._schedules import (
    BatchSchedule,
    StepwiseBatch,
    constant_batch,
    geometric_batch,
    grow_instead_of_decay,
    piecewise_batch,
)
from gapjax.growth._stream import epoch_order

__all__ = [
    "Batch",
    "BatchSchedule",
    "Controller",
    "ControllerState",
    "GrowingBatches",
    "NoiseScale",
    "NoiseScaleState",
    "Proposal",
    "StepwiseBatch",
    "Switch",
    "cabs_controller",
    "constant_batch",
    "epoch_order",
    "geometric_batch",
    "gradient_noise_scale",
    "grow_instead_of_decay",
    "noise_scale_controller",
    "noise_scale_record",
    "noise_scale_tracker",
    "norm_test_controller",
    "piecewise_batch",
]
