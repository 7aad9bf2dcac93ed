"""Growth: how large a batch may be, and batches that start small and grow.

* Ramps: ``constant_batch``, ``geometric_batch`` and ``piecewise_batch`` say how large each batch
  is; ``parse_batch_schedule`` and ``ramp_from_levanter`` and its kin read the ramps of others.
* Clocks: ``by_examples`` asks a schedule over examples by update, under any ramp;
  ``decay_of_half_life`` does so for averages.
* Growth in place of decay: ``seesaw`` for Adam and SGD, ``grow_instead_of_decay`` for a step
  schedule of SGD.
* Data: ``GrowingBatches`` cuts batches from one exact stream of examples and lays them over the
  devices; ``stream_rows`` gives the same stream as numbers.
* How large may it be: ``fit_critical_batch`` from steps to a target, ``branched_critical_batch``
  from branches of a run, ``gradient_noise_scale`` from the gradient's noise between parts of a
  batch, devices (``value_grad_and_device_noise``) or single examples (``gapjax.growth.linen``,
  ``gapjax.growth.nnx``). Controllers grow the batch by what was measured.
"""

from typing import TYPE_CHECKING

from gapjax._lazy import loading
from gapjax.growth._anneal import grow_instead_of_decay, seesaw
from gapjax.growth._batches import GrowingBatches, Switch
from gapjax.growth._branches import CriticalBatch, branched_critical_batch
from gapjax.growth._by_examples import by_examples, decay_of_half_life
from gapjax.growth._controllers import (
    Controller,
    ControllerState,
    Proposal,
    branching_controller,
    cabs_controller,
    noise_scale_controller,
    norm_test_controller,
)
from gapjax.growth._critical_batch import BatchFit, fit_critical_batch
from gapjax.growth._device_noise import mean_over_devices, value_grad_and_device_noise
from gapjax.growth._noise_scale import (
    NoiseScale,
    NoiseScaleState,
    average_noise_scale,
    gradient_noise_scale,
    noise_scale_record,
    noise_scale_tracker,
)
from gapjax.growth._ramp_strings import format_batch_schedule, parse_batch_schedule
from gapjax.growth._ramps import (
    ramp_from_levanter,
    ramp_from_maxtext,
    ramp_from_megatron,
    ramp_from_olmo_core,
    ramp_to_levanter,
    ramp_to_maxtext,
    ramp_to_olmo_core,
)
from gapjax.growth._reader import Batch
from gapjax.growth._schedules import (
    BatchSchedule,
    StepwiseBatch,
    constant_batch,
    geometric_batch,
    piecewise_batch,
)
from gapjax.growth._stream import Rows, epoch_order, stream_rows

if TYPE_CHECKING:
    from gapjax.growth import linen, nnx

__all__ = [
    "Batch",
    "BatchFit",
    "BatchSchedule",
    "Controller",
    "ControllerState",
    "CriticalBatch",
    "GrowingBatches",
    "NoiseScale",
    "NoiseScaleState",
    "Proposal",
    "Rows",
    "StepwiseBatch",
    "Switch",
    "average_noise_scale",
    "branched_critical_batch",
    "branching_controller",
    "by_examples",
    "cabs_controller",
    "constant_batch",
    "decay_of_half_life",
    "epoch_order",
    "fit_critical_batch",
    "format_batch_schedule",
    "geometric_batch",
    "gradient_noise_scale",
    "grow_instead_of_decay",
    "linen",
    "mean_over_devices",
    "nnx",
    "noise_scale_controller",
    "noise_scale_record",
    "noise_scale_tracker",
    "norm_test_controller",
    "parse_batch_schedule",
    "piecewise_batch",
    "ramp_from_levanter",
    "ramp_from_maxtext",
    "ramp_from_megatron",
    "ramp_from_olmo_core",
    "ramp_to_levanter",
    "ramp_to_maxtext",
    "ramp_to_olmo_core",
    "seesaw",
    "stream_rows",
    "value_grad_and_device_noise",
]


if not TYPE_CHECKING:  # Flax is loaded when a module is first asked for.
    __getattr__ = loading(__name__, ("linen", "nnx"))


def __dir__() -> list[str]:
    return __all__
