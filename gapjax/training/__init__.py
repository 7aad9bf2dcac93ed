"""Training: states, pure steps, how they are compiled onto devices, the loop.

``make_train_step`` gives a pure step over a loss function and any optax chain, ``compile_step``
lays it out over the devices, ``fit`` runs it over batches. ``make_advance`` runs a whole population
of seeds and learning rates as one program.
"""

from gapjax.training._checkpoints import load_tree, save_tree
from gapjax.training._compile import CompiledStep, compile_step
from gapjax.training._hosts import check_agreement, connect, is_first, on_first
from gapjax.training._loop import History, fit
from gapjax.training._population import (
    Segment,
    lay_out,
    loop_for,
    make_advance,
    population_mesh,
    to_host,
)
from gapjax.training._state import TrainState, init_state
from gapjax.training._steps import TrainStep, make_eval_step, make_train_step

__all__ = [
    "CompiledStep",
    "History",
    "Segment",
    "TrainState",
    "TrainStep",
    "check_agreement",
    "compile_step",
    "connect",
    "fit",
    "init_state",
    "is_first",
    "lay_out",
    "load_tree",
    "loop_for",
    "make_advance",
    "make_eval_step",
    "make_train_step",
    "on_first",
    "population_mesh",
    "save_tree",
    "to_host",
]
