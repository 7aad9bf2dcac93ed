"""What is measured at one minimum."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax import data, landscape

TOP = 5
THRESHOLDS = (0.01, 0.1, 1.0, 10.0)
EPSILONS = (1e-3, 5e-4)
RHO = 0.05
Report = Callable[[Any], None]


class Minimum(NamedTuple):
    """Where one seed of one regime ended, with the loss around it.

    Attributes:
        params: the weights.
        loss_fn: ``loss_fn(params, batch) -> mean loss``, in evaluation mode.
        evaluate: ``evaluate(params) -> {"loss", "accuracy"}`` by ``"train"`` and ``"test"``.
        batches: the training set.
        hessian: of the training loss.
    """

    params: Any
    loss_fn: Callable[[Any, Any], jax.Array]
    evaluate: Mapping[str, Callable[..., Any]]
    batches: list[data.Split]
    hessian: landscape.Operator


def _top(at: Minimum, report: Report) -> dict[str, Any]:
    k = min(TOP, at.hessian.size)
    pairs = landscape.eigh_topk(at.hessian, jax.random.key(0), k, which="LA", progress=report)
    return {
        "values": pairs.values,
        "residuals": pairs.residuals,
        "converged": pairs.converged,
        "num_matvecs": pairs.num_matvecs,
    }


def _bottom(at: Minimum, report: Report) -> dict[str, Any]:
    pairs = landscape.eigh_topk(
        at.hessian, jax.random.key(1), 1, which="SA", tol=1e-2, max_matvecs=150, progress=report
    )
    return {
        "value": pairs.values[0],
        "residual": pairs.residuals[0],
        "converged": bool(pairs.converged[0]),
    }


def _trace(at: Minimum, report: Report) -> dict[str, Any]:
    found = landscape.trace(at.hessian, jax.random.key(2), 32, method="krylov", progress=report)
    return {"mean": found.mean, "stderr": found.stderr}


def _counts(at: Minimum, report: Report) -> dict[str, Any]:
    found = landscape.count_above(
        at.hessian,
        np.array(THRESHOLDS),
        key=jax.random.key(3),
        num_probes=4,
        num_steps=40,
        progress=report,
    )
    return {"mean": found.mean, "stderr": found.stderr, "bias": found.bias}


def _density(at: Minimum, report: Report) -> dict[str, Any]:
    found = landscape.spectral_density(
        at.hessian, jax.random.key(4), num_probes=4, num_steps=40, progress=report
    )
    negative = found.negative_mass()
    thin = slice(None, None, 4)  # still two points per width of the smoothing
    return {
        "grid": found.grid[thin],
        "density": found.density[thin],
        "stderr": found.stderr[thin],
        "negative_mass": {"mean": negative.mean, "stderr": negative.stderr},
    }


def _keskar(at: Minimum, report: Report) -> dict[str, Any]:
    found = [
        landscape.keskar_sharpness(
            at.loss_fn, at.params, at.batches, epsilon=epsilon, check=False, progress=report
        )
        for epsilon in EPSILONS
    ]
    return {"values": [f.value for f in found], "loss_max": [f.loss_max for f in found]}


def _sam(at: Minimum, report: Report) -> dict[str, Any]:
    found = landscape.sam_sharpness(
        at.loss_fn, at.params, at.batches, rho=RHO, check=False, progress=report
    )
    return {"value": found.value}


def _line(at: Minimum, report: Report) -> dict[str, Any]:
    # The same draw for all; filter by filter it is as long as the weights of each.
    direction = landscape.random_direction(jax.random.key(5), at.params)
    found = landscape.line(at.evaluate, at.params, direction, progress=report)
    return {"t": found.coords, **found.values}


MEASURES: dict[str, Callable[[Minimum, Report], dict[str, Any]]] = {
    "top": _top,
    "bottom": _bottom,
    "trace": _trace,
    "counts": _counts,
    "density": _density,
    "keskar": _keskar,
    "sam": _sam,
    "line": _line,
}

# On the way down, where regimes are compared at equal loss.
LEVEL_MEASURES = {name: MEASURES[name] for name in ("top", "bottom", "density", "keskar")}
