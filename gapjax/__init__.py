"""gapjax: study and close the large-batch generalization gap, in JAX.

The folders are the ideas of the field:

* ``gapjax.ghost``: ghost batch normalization,
* ``gapjax.diffusion``: how far and how fast the weights travel,
* ``gapjax.growth``: batches that grow,
* ``gapjax.landscape``: curvature and sharpness,
* ``gapjax.training``: train states, pure steps, how they are compiled onto devices,
* ``gapjax.data`` and ``gapjax.models``: data sets and the networks of the papers,
* ``gapjax.study``: every regime over many seeds, and the report.

Each is loaded when it is first touched, so ``import gapjax`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from gapjax._lazy import loading

if TYPE_CHECKING:
    from gapjax import data, diffusion, ghost, growth, landscape, models, study, training

__version__ = "0.2.0"

__all__ = [
    "__version__",
    "data",
    "diffusion",
    "ghost",
    "growth",
    "landscape",
    "models",
    "study",
    "training",
]


if not TYPE_CHECKING:
    __getattr__ = loading(__name__, __all__)


def __dir__() -> list[str]:
    return __all__
