"""The landscape in the report: its table, the observations in words, and its figures."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from gapjax.study import _figures
from gapjax.study._result import StudyResult
from gapjax.study._table import Column, count

Numbers = Mapping[str, Any]


def section(result: StudyResult) -> dict[str, Any] | None:
    """What the template shows, or None where nothing was measured."""
    found = result.landscape
    if found is None or not found["regimes"]:
        return None
    drawings = {"spectrum": plot_spectrum, "lines": plot_lines}
    if "paths" in found:
        drawings["path"] = plot_way
    return {
        "columns": columns(found),
        "rows": rows(found),
        "names": {name: list(result.regimes).index(name) for name in found["regimes"]},
        "observations": observations(found),
        "levels": level_rows(found),
        "sharpness": sharpness(found),
        "mode": found["mode"],
        "seeds": max(len(regime["seeds"]) for regime in found["regimes"].values()),
        "residual": f"{max(r['top_residual'] for r in found['regimes'].values()):.1g}",
        "converged": all(regime["top_converged"] for regime in found["regimes"].values()),
        "counts": _count_notes(found),
        "rho": found["settings"]["rho"],
        "figures": {
            f"landscape_{name}": _figures.to_svg(functools.partial(draw, result))
            for name, draw in drawings.items()
        },
    }


def columns(found: Numbers) -> list[Column]:
    """The columns of the table."""
    settings = found["settings"]
    return [
        Column("regime", numeric=False),
        Column("train loss"),
        Column("still falling by"),
        *(Column(f"Keskar sharpness, ε = {e:g}") for e in settings["epsilons"]),
        Column("SAM sharpness"),
        Column("λ₁"),
        Column(f"λ{_lower(len(next(iter(found['regimes'].values()))['top']))}"),
        Column("λ smallest"),
        Column("negative share %"),
        Column("trace"),
        *(Column(f"λ > {t:g}") for t in settings["thresholds"]),
        Column("shift of test curve"),
    ]


def rows(found: Numbers) -> list[list[str]]:
    """A row of text per regime."""
    return [
        [
            name,
            _spread(regime["train_loss"]),
            _spread(regime["still_falling"]),
            *map(_spread, regime["keskar"]),
            _spread(regime["sam"]),
            _spread(regime["top"][0]),
            _spread(regime["top"][-1]),
            _spread(regime["smallest"]),
            _spread(regime["negative_mass"], 100),
            _spread(regime["trace"]),
            *map(_spread, regime["counts"]),
            _spread(regime["shift"]),
        ]
        for name, regime in found["regimes"].items()
    ]


def level_rows(found: Numbers) -> list[list[str]]:
    """A row of text per level of the loss and regime: level, regime, and what was measured."""
    return [
        [
            _short(level["loss"]) if name == next(iter(level["regimes"])) else "",
            name,
            _spread(at["update"]),
            _spread(at["train_loss"]),
            _spread(at["keskar"]),
            _spread(at["keskar_half"]),
            _spread(at["top"]),
            _spread(at["smallest"]),
            _spread(at["negative_mass"], 100),
            _range(level["ratios"]["keskar"]) if name == "LB" else "",
            _range(level["ratios"]["top"]) if name == "LB" else "",
        ]
        for level in found.get("levels", ())
        for name, at in level["regimes"].items()
    ]


def sharpness(found: Numbers) -> str | None:
    """How much sharper the large batch's minima are, in words."""
    if "ratios" not in found:
        return None
    ratios, epsilons = found["ratios"], found["settings"]["epsilons"]
    if ratios["keskar"]["mean"] is None:
        return None
    return (
        f"Keskar's sharpness is {_times(ratios['keskar'])} as high at LB as at SB at "
        f"ε = {epsilons[0]:g}, and {_times(ratios['keskar_half'])} at ε = {epsilons[1]:g} "
        f"(Keskar et al., 2017, found 9 to 220 on their networks); the largest eigenvalue is "
        f"{_times(ratios['top'])}, the trace {_times(ratios['trace'])}. These are not minima of "
        f"equal loss: the training loss at LB is {_times(ratios['train_loss'])} that at SB."
    )


def observations(found: Numbers) -> list[tuple[str, str]]:
    """What Keskar et al. (2017, section 2.1) put forward, each answered with numbers."""
    if "observations" not in found:
        return []
    seen = found["observations"]
    over, saddles = seen["overfitting"], seen["saddle_points"]
    barrier = seen["different_minima"]
    return [
        (
            "Does the large batch overfit?",
            f"LB's training accuracy differs from SB's by {_points(over['train_accuracy'])} points "
            f"and its test accuracy by {_points(over['test_accuracy'])}. It ends "
            f"{_points(over['below_own_peak'])} points below the best that its own test curve ever "
            "reached: no more than that could be won by stopping early.",
        ),
        (
            "Is it drawn to saddle points?",
            " ".join(
                f"At {name} the smallest eigenvalue is "
                f"{_range(saddles[name]['smallest_to_largest'])} times the largest, and "
                f"{_range(saddles[name]['negative_mass'], 100)}% of the absolute spectrum is "
                "negative."
                for name in ("SB", "LB")
            ),
        ),
        (
            "Does it stop at the nearest minimum?",
            f"SB ends {_times(seen['nearest_minimum']['distance_ratio'])} as far from the start as "
            "LB (3 to 10 in the paper).",
        ),
        (
            "Are the minima different ones?",
            "On the straight line from SB to LB the training loss rises by at most "
            f"{_range(barrier['barrier'])} above the chord between its ends, of which the higher "
            f"lies at {_range(barrier['higher_end'])}."
            + (" There is no barrier between them." if not barrier["barrier"]["mean"] else ""),
        ),
    ]


def _count_notes(found: Numbers) -> str:
    """The worst of what each count leaves open."""
    notes = []
    for i, threshold in enumerate(found["settings"]["thresholds"]):
        error, bias = (
            max(np.array(regime[k], np.float64)[:, i].max() for regime in found["regimes"].values())
            for k in ("counts_stderr", "counts_bias")
        )
        notes.append(f"λ > {threshold:g} ± {error:.2g} ± {bias:.2g}")
    return ", ".join(notes)


def _lower(number: int) -> str:
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(digit)] for digit in str(number))


def _short(value: float) -> str:
    """Three digits, without an exponent where none is needed."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return np.format_float_positional(
            float(f"{value:.3g}"), trim="-" if abs(value) >= 100 else "k"
        ).rstrip(".")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _spread(value: Numbers, scale: float = 1.0) -> str:
    """Mean and deviation over seeds; of a single seed the number alone."""
    if value["mean"] is None:
        return "none"
    deviation = float(f"{scale * value['std']:.2g}")
    spread = f" ± {_short(deviation)}" if count(value) > 1 else ""
    return _short(scale * value["mean"]) + spread


def _range(value: Numbers, scale: float = 1.0) -> str:
    """A mean with its interval."""
    if value["mean"] is None:
        return "an unknown number"
    if value["low"] is None:
        return _short(scale * value["mean"])
    low, mean, high = (_short(scale * value[k]) for k in ("low", "mean", "high"))
    return f"{mean} [{low}, {high}]"


def _times(value: Numbers) -> str:
    return f"{_range(value)} times"


def _points(value: Numbers) -> str:
    return _range({k: v if v is None else round(100 * v, 3) for k, v in value.items()})


def plot_spectrum(result: StudyResult, axis: Any) -> None:
    """The spectral density of the first seed of each regime, with two standard errors."""
    found, floor = _found(result), 1e-4
    for name, i in _colors(result).items():
        at = found["regimes"][name]["density"]
        grid, density, error = (np.array(at[k], np.float64) for k in ("grid", "density", "stderr"))
        low, high = (np.maximum(density + s * error, floor) for s in (-2, 2))
        axis.fill_between(grid, low, high, color=_figures.color(i), alpha=0.15, lw=0)
        axis.plot(grid, np.maximum(density, floor), color=_figures.color(i), lw=1.3)
    axis.set_yscale("log")
    axis.set_ylim(bottom=floor)
    axis.set_xlabel("eigenvalue")
    axis.set_ylabel("density")


def plot_lines(result: StudyResult, axis: Any) -> None:
    """Training (solid) and test loss (dashed) along one line through each minimum."""
    found = _found(result)
    for name, i in _colors(result).items():
        line = found["regimes"][name]["line"]
        for split, style in (("train", "-"), ("test", "--")):
            axis.plot(
                line["t"], line[f"{split}/loss"]["mean"], color=_figures.color(i), ls=style, lw=1.4
            )
    _log_loss(axis)
    axis.set_xlabel("position on the line, in lengths of the filters")


def plot_way(result: StudyResult, axis: Any) -> None:
    """Loss (left) and accuracy (right) from SB to LB, training solid, test dashed."""
    paths = _found(result)["paths"]
    other = axis.twinx()
    for split, style in (("train", "-"), ("test", "--")):
        loss, accuracy = (paths[f"{split}/{metric}"]["mean"] for metric in ("loss", "accuracy"))
        axis.plot(paths["alpha"], loss, color=_figures.PALETTE[0], ls=style)
        other.plot(
            paths["alpha"], 100 * np.array(accuracy), color=_figures.PALETTE[1], ls=style, lw=1.2
        )
    for place, label in ((0, "SB"), (1, "LB")):
        axis.axvline(place, color=_figures.MUTED, lw=1, ls=":")
        axis.annotate(
            label,
            (place, 1),
            (4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=_figures.MUTED,
            va="top",
        )
    _log_loss(axis)
    axis.yaxis.label.set_color(_figures.PALETTE[0])
    axis.set_xlabel("α: (1 − α) SB + α LB")
    other.set_ylabel("accuracy, %", color=_figures.PALETTE[1])
    other.grid(visible=False)
    other.spines["right"].set_visible(True)


def _log_loss(axis: Any) -> None:
    axis.set_yscale("log")
    axis.set_ylabel("mean cross entropy")


def _found(result: StudyResult) -> Numbers:
    if result.landscape is None:
        raise ValueError(
            "this study has no landscape: run it again with landscape=True (--landscape)."
        )
    return result.landscape


def _colors(result: StudyResult) -> dict[str, int]:
    """Each regime that was measured, with the number of its colour."""
    return {name: list(result.regimes).index(name) for name in _found(result)["regimes"]}
