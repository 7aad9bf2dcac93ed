"""Landscape: curvature and sharpness of the loss around a solution.

"Sharp" means many large positive eigenvalues of the Hessian, "flat" many small ones (Keskar et al.
2017). Everything here takes a loss, parameters and data, leaves the parameters as they are, and
returns numbers with their uncertainty and their cost.

* Operators that are never formed: `hessian`, `ggn`, `fisher`, `from_matvec`; `recorded` keeps
  their products on disk so that long work can be resumed.
* Spectra: `lanczos`, `eigh_topk`, `spectral_density`, `trace`, `count_above`.
* Sharpness: `keskar_sharpness`, `sam_sharpness`, `adaptive_sharpness`.
"""

from gapjax.landscape._ascent import Sharpness
from gapjax.landscape._eigen import Eigenpairs, eigh_topk
from gapjax.landscape._keskar import keskar_sharpness
from gapjax.landscape._lanczos import LanczosState, lanczos
from gapjax.landscape._operators import Operator, fisher, from_matvec, ggn, hessian
from gapjax.landscape._progress import Progress
from gapjax.landscape._record import recorded
from gapjax.landscape._sharpness import adaptive_sharpness, sam_sharpness
from gapjax.landscape._spectrum import Density, count_above, spectral_density
from gapjax.landscape._trace import Estimate, trace

__all__ = [
    "Density",
    "Eigenpairs",
    "Estimate",
    "LanczosState",
    "Operator",
    "Progress",
    "Sharpness",
    "adaptive_sharpness",
    "count_above",
    "eigh_topk",
    "fisher",
    "from_matvec",
    "ggn",
    "hessian",
    "keskar_sharpness",
    "lanczos",
    "recorded",
    "sam_sharpness",
    "spectral_density",
    "trace",
]
