"""Landscape: curvature and sharpness of the loss around a solution.

"Sharp" means many large positive eigenvalues of the Hessian, "flat" many small ones (Keskar et al.
2017). Everything here takes a loss, parameters and data, leaves the parameters as they are, and
returns numbers with their uncertainty and their cost.

GPUs and TPUs round what they multiply by default, float32 to 11 bits (TF32) or 8 (bfloat16). Then
no eigenpair is within the usual tolerance, small eigenvalues are rounding, and a loss a small step
away is that of other weights. Measure there under ``jax.default_matmul_precision("highest")``.

* Operators that are never formed: `hessian`, `ggn`, `fisher`, `from_matvec`; `recorded` keeps
  their products on disk so that long work can be resumed; `preconditioned` sees one in the
  metric of an optimizer.
* Spectra: `lanczos`, `eigh_topk`, `spectral_density`, `trace`, `count_above`.
* Sharpness: `keskar_sharpness`, `sam_sharpness`, `adaptive_sharpness`; as an optimizer
  meets it, cheap enough for every hundredth update: `critical_sharpness`, `batch_sharpness`.
* Pictures: `interpolate`, `line`, `along` and `plane` evaluate what `evaluator` makes;
  `random_direction`, `plane_through`, `trajectory_pca` and `fit_curve` say where; `plot_path`,
  `plot_contour`, `plot_surface`, `plot_trajectory` and `plot_density` draw.
"""

from gapjax.landscape._ascent import Sharpness
from gapjax.landscape._count import count_above
from gapjax.landscape._curves import Curve, curve_point, fit_curve
from gapjax.landscape._data import evaluator
from gapjax.landscape._density import Density, spectral_density
from gapjax.landscape._directions import (
    PlaneBasis,
    TrajectoryPCA,
    plane_through,
    random_direction,
    trajectory_pca,
)
from gapjax.landscape._edge import batch_sharpness, critical_sharpness, preconditioned
from gapjax.landscape._eigen import Eigenpairs, eigh_topk
from gapjax.landscape._estimate import Estimate
from gapjax.landscape._keskar import keskar_sharpness
from gapjax.landscape._lanczos import LanczosState, lanczos
from gapjax.landscape._operators import Operator, fisher, from_matvec, ggn, hessian
from gapjax.landscape._paths import Path, Plane, along, interpolate, line, plane
from gapjax.landscape._plots import (
    plot_contour,
    plot_density,
    plot_path,
    plot_surface,
    plot_trajectory,
)
from gapjax.landscape._progress import Progress
from gapjax.landscape._record import recorded
from gapjax.landscape._sharpness import adaptive_sharpness, sam_sharpness
from gapjax.landscape._trace import trace

__all__ = [
    "Curve",
    "Density",
    "Eigenpairs",
    "Estimate",
    "LanczosState",
    "Operator",
    "Path",
    "Plane",
    "PlaneBasis",
    "Progress",
    "Sharpness",
    "TrajectoryPCA",
    "adaptive_sharpness",
    "along",
    "batch_sharpness",
    "count_above",
    "critical_sharpness",
    "curve_point",
    "eigh_topk",
    "evaluator",
    "fisher",
    "fit_curve",
    "from_matvec",
    "ggn",
    "hessian",
    "interpolate",
    "keskar_sharpness",
    "lanczos",
    "line",
    "plane",
    "plane_through",
    "plot_contour",
    "plot_density",
    "plot_path",
    "plot_surface",
    "plot_trajectory",
    "preconditioned",
    "random_direction",
    "recorded",
    "sam_sharpness",
    "spectral_density",
    "trace",
    "trajectory_pca",
]
