"""Training: states, pure steps, how they are compiled onto devices, the loop.

``make_train_step`` gives a pure step over a loss function and any optax chain, which follows the
gradient, or one of ``sam`` or ``penalize_gradient``; ``compile_step`` lays it out over the devices,
``compile_ahead`` sees to it that no batch size waits for its compilation, ``fit`` runs it over
batches; with ``Checkpoints`` it goes on where it was stopped. ``evaluation_params`` are the weights
to evaluate with, of ``average_weights`` say. ``make_advance`` runs a whole population of seeds and
hyperparameters as one program. ``inspect_program`` tells what a compiled program needs and sends
before anything runs.
"""

from gapjax.training._ahead import CompiledAhead, compile_ahead, largest_microbatch
from gapjax.training._averaging import average_weights, evaluation_params
from gapjax.training._checkpoints import (
    Checkpoint,
    Checkpoints,
    CheckpointWarning,
    load_tree,
    save_tree,
)
from gapjax.training._compile import CompiledStep, compile_step
from gapjax.training._compile_cache import enable_compile_cache
from gapjax.training._cores import use_cores
from gapjax.training._evaluation import make_eval_step
from gapjax.training._faults import NumericalFault, fault_path
from gapjax.training._gradients import GradientStrategy, ValueAndGrad, penalize_gradient, sam
from gapjax.training._history import History
from gapjax.training._hosts import check_agreement, connect, from_first, is_first, leave, on_first
from gapjax.training._loop import fit
from gapjax.training._population import (
    Segment,
    lay_out,
    loop_for,
    make_advance,
    member_of,
    over_members,
    population_mesh,
    stack_members,
    to_host,
)
from gapjax.training._preemption import Preempted, leave_on_sigterm, on_sigterm, resending_signals
from gapjax.training._program import Collective, Memory, Program, inspect_program
from gapjax.training._quick import jit_once
from gapjax.training._sharding import state_shardings
from gapjax.training._state import TrainState, init_state
from gapjax.training._steps import TrainStep, make_train_step

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "Checkpoints",
    "Collective",
    "CompiledAhead",
    "CompiledStep",
    "GradientStrategy",
    "History",
    "Memory",
    "NumericalFault",
    "Preempted",
    "Program",
    "Segment",
    "TrainState",
    "TrainStep",
    "ValueAndGrad",
    "average_weights",
    "check_agreement",
    "compile_ahead",
    "compile_step",
    "connect",
    "enable_compile_cache",
    "evaluation_params",
    "fault_path",
    "fit",
    "from_first",
    "init_state",
    "inspect_program",
    "is_first",
    "jit_once",
    "largest_microbatch",
    "lay_out",
    "leave",
    "leave_on_sigterm",
    "load_tree",
    "loop_for",
    "make_advance",
    "make_eval_step",
    "make_train_step",
    "member_of",
    "on_first",
    "on_sigterm",
    "over_members",
    "penalize_gradient",
    "population_mesh",
    "resending_signals",
    "sam",
    "save_tree",
    "stack_members",
    "state_shardings",
    "to_host",
    "use_cores",
]
