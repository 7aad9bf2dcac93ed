"""Checkpoints of runs and of trees, by orbax: whole or not there, checked when they are read."""

from gapjax.training._checkpoints._contents import checksum
from gapjax.training._checkpoints._run import Checkpoint, Checkpoints, CheckpointWarning
from gapjax.training._checkpoints._trees import load_tree, save_tree

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "Checkpoints",
    "checksum",
    "load_tree",
    "save_tree",
]
