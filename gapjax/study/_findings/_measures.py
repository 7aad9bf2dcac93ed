"""What is measured at a solution: a row per measurement, from which all else follows.

Numbers over seeds, the columns of the table, its notes and the JSON are made from these rows, so a
new measure of sharpness is a function and an entry in ``MEASURES``.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from gapjax import landscape
from gapjax.study._findings._measure import Measure, Number, OnStep, Solution

TOP = 5
THRESHOLDS = (0.01, 0.1, 1.0, 10.0)
EPSILONS = (1e-3, 5e-4)
DIRECTIONS = 100  # of a random subspace, as the paper has it
RHO = 0.05
PROBES = 4
STEPS = (40, 60)  # of Lanczos, at least and at most


def _top(at: Solution, on_step: OnStep) -> dict[str, Any]:
    k = min(TOP, at.hessian.size)
    pairs = landscape.eigh_topk(at.hessian, jax.random.key(0), k, which="LA", progress=on_step)
    return {
        "values": pairs.values,
        "residuals": pairs.residuals,
        "converged": pairs.converged,
        "num_matvecs": pairs.num_matvecs,
    }


def _bottom(at: Solution, on_step: OnStep) -> dict[str, Any]:
    pairs = landscape.eigh_topk(
        at.hessian, jax.random.key(1), 1, which="SA", tol=1e-2, max_matvecs=150, progress=on_step
    )
    return {
        "value": pairs.values[0],
        "residual": pairs.residuals[0],
        "converged": bool(pairs.converged[0]),
    }


def _trace(at: Solution, on_step: OnStep) -> dict[str, Any]:
    found = landscape.trace(at.hessian, jax.random.key(2), 32, method="krylov", progress=on_step)
    return {"mean": found.mean, "stderr": found.stderr, "margin": _margin(found)}


def _counts(at: Solution, on_step: OnStep) -> dict[str, Any]:
    def count(steps: int) -> landscape.Estimate:
        return landscape.count_above(
            at.hessian,
            np.array(THRESHOLDS),
            key=jax.random.key(3),
            num_probes=PROBES,
            num_steps=steps,
            progress=on_step,
        )

    few, most = STEPS
    try:
        found, steps = count(most), most
    except MemoryError:  # a basis too large: what fewer steps leave open is in the bias
        found, steps = count(few), few
    return {**found._asdict(), "margin": _margin(found), "num_steps": steps}


def _density(at: Solution, on_step: OnStep) -> dict[str, Any]:
    def density(steps: int, probes: int = PROBES, **resume: Any) -> landscape.Density:
        return landscape.spectral_density(
            at.hessian,
            jax.random.key(4),
            num_probes=probes,
            num_steps=steps,
            progress=on_step,
            **resume,
        )

    # One probe tells how many steps it takes, and is the first of all where these are enough.
    first, found, steps = density(STEPS[0], 1), None, STEPS[1]
    if first.negative_mass().bias > _error_of_probes(first, PROBES):
        with contextlib.suppress(MemoryError):  # a basis too large: what there is says its bias
            found = density(steps)
    if found is None:
        found, steps = density(STEPS[0], resume=first), STEPS[0]
    negative = found.negative_mass()
    thin = slice(None, None, 4)  # still two points per width of the smoothing
    low, high = found.interval
    return {
        "grid": found.grid[thin],
        "density": found.density[thin],
        "low": low[thin],
        "high": high[thin],
        "negative_mass": negative.mean,
        "negative_mass_stderr": negative.stderr,
        "negative_mass_bias": negative.bias,
        "negative_mass_margin": _margin(negative),
        "num_steps": steps,
    }


def _error_of_probes(found: landscape.Density, probes: int) -> float:
    """The standard error of the negative share over so many probes, as one of them foretells it.

    The weight of an eigenvalue in a random direction follows a chi-square law, see `Density`.
    """
    share = found.negative_mass().mean
    off = np.maximum(-found.nodes, 0) - share * np.abs(found.nodes)
    spread = 2 / (found.size + 2) * (found.weights * off**2).sum(axis=1).mean()
    length = (found.weights * np.abs(found.nodes)).sum(axis=1).mean()
    return float(np.sqrt(spread / probes) / max(length, np.finfo(float).tiny))


def _margin(found: landscape.Estimate) -> Any:
    """Half of the 95% interval of an estimate."""
    return found.interval[1] - found.mean


def _sharpness(
    measure: Callable[..., landscape.Sharpness], *kept: str, **settings: Any
) -> Callable[[Solution, OnStep], dict[str, Any]]:
    """A measure of sharpness with its settings, and what of its result is kept."""

    def compute(at: Solution, on_step: OnStep) -> dict[str, Any]:
        found = measure(
            at.loss_fn,
            at.params,
            at.batches,
            weight_fn=at.weight_fn,
            check=False,
            progress=on_step,
            **settings,
        )
        return {name: getattr(found, name) for name in kept}

    return compute


def _keskar(epsilon: float, directions: int | None = None) -> Callable[..., dict[str, Any]]:
    """Keskar's sharpness in a box of some size, along all directions or some random ones."""

    def compute(at: Solution, on_step: OnStep) -> dict[str, Any]:
        # The same directions for all; a tiny network may have fewer.
        some = directions and min(directions, at.hessian.size)
        measure = _sharpness(
            landscape.keskar_sharpness,
            "value",
            "loss_max",
            epsilon=epsilon,
            subspace_dim=some,
            key=jax.random.key(0),
            num_starts=at.searches,
        )
        return measure(at, on_step)

    return compute


def _line(at: Solution, on_step: OnStep) -> dict[str, Any]:
    # The same draw for all; filter by filter it is as long as the weights of each.
    direction = landscape.random_direction(jax.random.key(5), at.params)
    found = landscape.line(at.evaluate, at.params, direction, progress=on_step)
    return {"t": found.coords, **found.values}


def _loss(at: Solution, on_step: OnStep) -> dict[str, Any]:
    del on_step
    return {split: evaluate(at.params)["loss"] for split, evaluate in at.evaluate.items()}


def _value(found: Mapping[str, Any]) -> float:
    return found["value"]


def _lowest(t: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The lowest point of a curve, by a parabola through the lowest sample and its neighbours."""
    i = int(np.nanargmin(values))
    if not 0 < i < len(t) - 1:
        return float(t[i]), float(values[i])
    a, b, c = np.polyfit(t[i - 1 : i + 2] - t[i], values[i - 1 : i + 2], 2)
    if not (np.isfinite(a) and a > 0):
        return float(t[i]), float(values[i])
    return float(t[i] - b / (2 * a)), float(c - b**2 / (4 * a))


def _shift(line: Mapping[str, Any]) -> float:
    t = np.array(line["t"], np.float64)
    train, test = (
        _lowest(t, np.array(line[f"{s}/loss"], np.float64))[0] for s in ("train", "test")
    )
    return abs(test - train)


def _subscript(number: int) -> str:
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(number))


MEASURES: tuple[Measure, ...] = (
    Measure(
        "loss",
        _loss,
        (
            Number(
                "train_loss", "train loss", lambda m: m["train"], compared=True, on_the_way=True
            ),
            Number("test_loss", "test loss", lambda m: m["test"]),
        ),
    ),
    *(
        Measure(
            f"keskar_{epsilon:g}",
            _keskar(epsilon),
            (
                Number(
                    f"keskar_{epsilon:g}",
                    f"Keskar sharpness, ε = {epsilon:g}",
                    _value,
                    compared=epsilon == EPSILONS[0],
                    on_the_way=True,
                ),
            ),
            "Keskar sharpness: highest loss in the box |z| ≤ ε(|w| + 1), over the loss plus one, × "
            "100; full space, the best of two runs of bounded L-BFGS." * (epsilon == EPSILONS[0]),
        )
        for epsilon in EPSILONS
    ),
    Measure(
        "keskar_subspace",
        _keskar(EPSILONS[0], DIRECTIONS),
        (
            Number(
                "keskar_subspace",
                f"Keskar, {DIRECTIONS} directions",
                _value,
                compared=True,
                on_the_way=True,
            ),
        ),
        f"{DIRECTIONS} directions: Keskar sharpness, ε = {EPSILONS[0]:g}, along as many normal "
        "vectors, the same for all; their length, which the paper leaves open, sets its height.",
    ),
    Measure(
        "sam",
        _sharpness(landscape.sam_sharpness, "value", rho=RHO),
        (Number("sam", "SAM sharpness", _value, compared=True),),
        f"SAM sharpness: rise of the loss at distance {RHO:g} along the gradient.",
    ),
    Measure(
        "adaptive",
        _sharpness(landscape.adaptive_sharpness, "value", rho=RHO),
        (Number("adaptive", "adaptive sharpness", _value, compared=True, on_the_way=True),),
        f"adaptive sharpness: the highest rise of the loss where weights move by {RHO:g} in "
        "proportion to their size; scaling a layer up and the next down, which changes all others, "
        "leaves it as it is.",
    ),
    Measure(
        "top",
        _top,
        (
            Number(
                "top",
                "λ₁",
                lambda m: m["values"][0],
                error=lambda m: m["residuals"][0],
                compared=True,
                on_the_way=True,
            ),
            Number(
                f"top_{TOP}",
                f"λ{_subscript(TOP)}",
                lambda m: m["values"][-1],
                error=lambda m: m["residuals"][-1],
            ),
        ),
        "λ: eigenvalues of the Hessian of the training loss, ± the residual.",
    ),
    Measure(
        "bottom",
        _bottom,
        (Number("smallest", "λ smallest", _value, error=lambda m: m["residual"], on_the_way=True),),
    ),
    Measure(
        "density",
        _density,
        (
            Number(
                "negative_mass",
                "negative share %",
                lambda m: m["negative_mass"],
                scale=100.0,
                error=lambda m: m["negative_mass_margin"],
                on_the_way=True,
            ),
        ),
        "negative share: of the sum of absolute eigenvalues, by stochastic quadrature: "
        f"{PROBES} probes of {STEPS[0]} steps, {STEPS[-1]} where the second half of these "
        "moves it by more than a standard error.",
    ),
    Measure(
        "trace",
        _trace,
        (
            Number(
                "trace", "trace", lambda m: m["mean"], error=lambda m: m["margin"], compared=True
            ),
        ),
    ),
    Measure(
        "line",
        _line,
        (Number("shift", "shift of test curve", _shift),),
        "shift of test curve: between the lowest points of training and test loss on the line "
        "below.",
    ),
    Measure(
        "counts",
        _counts,
        tuple(
            Number(
                f"above_{threshold:g}",
                f"λ > {threshold:g}",
                lambda m, i=i: m["mean"][i],  # type: ignore[misc]
                error=lambda m, i=i: m["margin"][i],  # type: ignore[misc]
                unresolved=lambda m, i=i: m["unresolved"][i],  # type: ignore[misc]
            )
            for i, threshold in enumerate(THRESHOLDS)
        ),
        f"λ > t: how many eigenvalues are larger, by stochastic quadrature: {PROBES} probes of "
        f"{STEPS[-1]} steps.",
    ),
)


def find_measures(names: Collection[str]) -> tuple[Measure, ...]:
    """The measures of these names, and the loss, which all are read beside; all where none is."""
    return tuple(m for m in MEASURES if not names or m.name in (*names, MEASURES[0].name))
