"""Ghost batch normalization: statistics of small ghosts inside a large batch.

The pure core works on arrays; ``gapjax.ghost.linen`` and ``gapjax.ghost.nnx`` hold the Flax
modules.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gapjax.ghost._moments import Moments, ghost_moments, normalize
from gapjax.ghost._precise import precise_statistics
from gapjax.ghost._running import Running, update_running

if TYPE_CHECKING:
    from gapjax.ghost import linen, nnx

__all__ = [
    "Moments",
    "Running",
    "ghost_moments",
    "linen",
    "nnx",
    "normalize",
    "precise_statistics",
    "update_running",
]


def __getattr__(name: str) -> Any:
    # Flax is loaded when a module is first asked for.
    if name in ("linen", "nnx"):
        return importlib.import_module(f"gapjax.ghost.{name}")
    raise AttributeError(f"module 'gapjax.ghost' has no attribute {name!r}")
