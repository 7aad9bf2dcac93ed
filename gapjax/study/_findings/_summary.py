"""What was measured at the solutions of a study, over seeds, and one regime beside another."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gapjax import landscape
from gapjax.study._findings._intervals import (
    Interval,
    clipped,
    geometric_ratio,
    log_ratio,
    mean_interval,
    widened,
)
from gapjax.study._findings._measure import Measure, Number
from gapjax.study._findings._ranks import find_ranks
from gapjax.study._findings._surroundings import (
    Between,
    Curve,
    LandscapeFindings,
    Level,
    Observations,
    Part,
    Surroundings,
)
from gapjax.study._results._records import Config, OverSeeds, RegimeRecord, over_seeds

Measured = Mapping[str, Mapping[str, Any]]  # by measurement


def summarize(
    kept: Mapping[str, Mapping[int, Measured]],
    paths: Mapping[int, Mapping[str, Any]],
    levels: Mapping[float, Mapping[str, Mapping[int, tuple[int, Measured]]]],
    measures: Sequence[Measure],
    records: Mapping[str, RegimeRecord],
    config: Config,
    part: Part | None,
) -> LandscapeFindings:
    """All that was measured, over seeds and of one regime beside another.

    Args:
        kept: at the solutions, by regime and member.
        paths: from the small batch to the large, by member.
        levels: at equal loss, by level, regime and member, with the update.
        measures: which were taken.
        records: the regimes.
        config: of the study.
        part: the part of the training set that was measured on.
    """
    mode = (
        "Batch norm in evaluation mode at and around each solution: its own statistics, held fixed."
    )
    if paths:
        mode += (
            " On the way between the two ends, where neither's statistics fit, they are recomputed "
            "over the training set at every point."
        )
    if part is not None:
        mode += (
            f" Measured on {part.examples:,} of {part.of:,} training examples, drawn once at "
            "random, the same for all."
        )
    regimes = {
        name: _surroundings(list(found.values()), measures, records[name], list(found), part)
        for name, found in kept.items()
        if found
    }
    small, large = config.baseline
    ratios: dict[str, Interval] = {}
    between = observations = None
    if {small, large} <= set(regimes):
        both = [m for m in kept[small] if m in kept[large]]
        pair = [[kept[name][m] for m in both] for name in (small, large)]
        ratios = _ratios(pair[1], pair[0], measures, lambda number: number.compared, part)
        between = _between(list(paths.values())) if paths else None
        observations = _observations(pair, records, config)
    ranks = find_ranks(
        {name: one.numbers for name, one in regimes.items()},
        {name: one.seeds for name, one in regimes.items()},
        records,
        [n.name for m in measures for n in m.numbers if n.compared and n.name != "train_loss"],
    )
    return LandscapeFindings(
        mode,
        regimes,
        ratios,
        _level_findings(levels, measures, config, part),
        between,
        observations,
        ranks,
        part,
    )


def _each(found: Iterable[Any], get: Callable[[Any], Any]) -> np.ndarray:
    """One number per seed; None, which JSON has for what is not finite, as NaN."""
    return np.array([get(one) for one in found], np.float64)


def _ratios(
    over: Sequence[Measured],
    under: Sequence[Measured],
    measures: Iterable[Measure],
    wanted: Callable[[Any], bool],
    part: Part | None,
) -> dict[str, Interval]:
    """Ratios of numbers over paired seeds, and over the choice of examples where some were."""
    found = {}
    for measure in measures:
        for number in filter(wanted, measure.numbers):
            top, bottom = (
                _each(side, lambda m, n=number, k=measure: n.get(m[k.name]))  # type: ignore[misc]
                for side in (over, under)
            )
            ratio = geometric_ratio(top, bottom)
            if part is not None:
                parts = (_on_parts(side, measure, number) for side in (over, under))
                logs = log_ratio(top, bottom), log_ratio(*parts)
                ratio = widened(ratio, _sampling(*logs, part))
            found[number.name] = ratio
    return found


def _on_parts(found: Sequence[Measured], measure: Measure, number: Number) -> np.ndarray:
    """A number on each part of the examples, ``[seeds, parts]``."""
    return np.array([_each(one[measure.name]["parts"], number.get) for one in found])


def _sampling(whole: np.ndarray, parts: np.ndarray, part: Part) -> float:
    """Half of a 95% interval of the mean over seeds, over the choice of the examples.

    The disjoint parts are as many independent draws; of the mean over seeds on each, the spread
    gives the standard error. What is not linear in the data (a largest eigenvalue, a maximum) is
    biased where the examples are few, by something that falls with their number at least as fast
    as its root: what the parts have more or less than the whole bounds it. Both vanish as the
    examples become all that there are.

    Args:
        whole: on all the examples that were drawn, ``[seeds]``.
        parts: on each part of them, ``[seeds, parts]``.
        part: how many these are, and of how many.
    """
    fine = np.isfinite(parts).all(axis=1) & np.isfinite(whole)
    if not fine.any():
        return float("nan")
    each, missing = parts[fine].mean(axis=0), 1 - part.examples / part.of
    stderr = each.std(ddof=1) * np.sqrt(missing / part.parts)
    bias = abs(each.mean() - whole[fine].mean()) / (part.parts**0.5 - 1) * missing
    found = landscape.Estimate(0.0, stderr, 0, bias, part.parts)
    return float(found.interval[1])


def _surroundings(
    found: Sequence[Measured],
    measures: Iterable[Measure],
    record: RegimeRecord,
    members: Sequence[int],
    part: Part | None,
) -> Surroundings:
    numbers, errors, unresolved, sampling = {}, {}, {}, {}
    for measure in measures:
        each = [one[measure.name] for one in found]
        for number in measure.numbers:
            numbers[number.name] = over_seeds(_each(each, number.get))
            if number.error is not None:
                errors[number.name] = float(np.max(_each(each, number.error)))
            if number.unresolved is not None:
                unresolved[number.name] = float(np.max(_each(each, number.unresolved)))
            if number.compared and part is not None:
                parts = _on_parts(found, measure, number)
                half = _sampling(numbers[number.name].array, parts, part)
                if np.isfinite(half):
                    sampling[number.name] = half
    lines = [one["line"] for one in found if "line" in one]
    names = [name for name in (lines[0] if lines else ()) if name != "t"]
    density = found[0].get("density", {})
    return Surroundings(
        seeds=[record.seeds[member] for member in members],
        numbers=numbers,
        errors=errors,
        unresolved=unresolved,
        sampling=sampling,
        still_falling=over_seeds(_last_quarter(record)[list(members)]),
        density={k: density[k] for k in ("grid", "density", "low", "high") if k in density},
        line={name: _curve(lines, name) for name in names},
        t=lines[0]["t"] if lines else [],
    )


def _curve(found: Sequence[Mapping[str, Any]], name: str) -> Curve:
    values = _each(found, lambda one: one[name])
    std = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return Curve(list(values.mean(axis=0)), list(std))


def _last_quarter(record: RegimeRecord) -> np.ndarray:
    """By how much the training loss of each seed fell over the last quarter of its updates."""
    rows, loss = record.curves.measured("train_loss")
    update = np.array(record.curves.update)[rows]
    ends = np.array([stop or update[-1] for stop in record.stopped or [None] * len(record.seeds)])

    def at(when: np.ndarray) -> np.ndarray:
        row = np.searchsorted(update, when, side="right") - 1
        return loss[np.maximum(row, 0), np.arange(len(when))]

    return at(0.75 * ends) - at(ends)


def _between(found: Sequence[Mapping[str, Any]]) -> Between:
    names = [name for name in found[0] if name not in ("alpha", "barrier")]
    alpha = np.array(found[0]["alpha"], np.float64)
    at = [int(np.argmin(np.abs(alpha - end))) for end in (0.0, 1.0)]

    def barrier(name: str) -> Interval:
        return clipped(mean_interval(_each(found, lambda p: p["barrier"][name])), low=0.0)

    return Between(
        alpha=alpha.tolist(),
        curves={name: _curve(found, name) for name in names},
        barrier=barrier("train/loss"),
        test_barrier=barrier("test/loss"),
        higher_end=mean_interval(_each(found, lambda p: max(p["train/loss"][i] for i in at))),
    )


def _level_findings(
    levels: Mapping[float, Mapping[str, Mapping[int, tuple[int, Measured]]]],
    measures: Sequence[Measure],
    config: Config,
    part: Part | None,
) -> list[Level]:
    small, large = config.baseline
    found = []
    for loss, regimes in levels.items():
        numbers: dict[str, dict[str, OverSeeds]] = {}
        for name, members in regimes.items():
            if not members:
                continue
            each = [measured for _, measured in members.values()]
            numbers[name] = {
                "update": over_seeds(np.array([update for update, _ in members.values()], float))
            } | {
                number.name: over_seeds(
                    _each(each, lambda m, n=number, k=measure: n.get(m[k.name]))  # type: ignore[misc]
                )
                for measure in measures
                for number in measure.numbers
                if number.on_the_way
            }
        both = [m for m in regimes.get(small, {}) if m in regimes.get(large, {})]
        over, under = ([regimes[name][m][1] for m in both] for name in (large, small))
        ratios = {}
        if both:
            ratios = _ratios(over, under, measures, lambda n: n.on_the_way and n.compared, part)
        found.append(Level(loss, numbers, ratios))
    return found


def _observations(
    pair: Sequence[Sequence[Measured]], records: Mapping[str, RegimeRecord], config: Config
) -> Observations:
    small, large = (records[name] for name in config.baseline)
    headline = config.task.headline
    sign = 1.0 if config.task.maximize else -1.0

    train = [one.run.values[f"train_{headline}"].array for one in (large, small)]
    _, curve = large.curves.measured(f"test_{headline}")
    with np.errstate(invalid="ignore"):
        peak = np.nanmax(sign * curve, axis=0) - sign * curve[-1]

    def over_both(
        get: Callable[[Measured], float], *needed: str, **within: float
    ) -> dict[str, Interval]:
        return {
            name: clipped(
                mean_interval(_each(found, get) if {*needed} <= {*found[0]} else []), **within
            )
            for name, found in zip(config.baseline, pair, strict=True)
        }

    return Observations(
        train_difference=mean_interval(train[0] - train[1]),
        below_own_peak=clipped(mean_interval(peak), low=0.0),
        smallest_to_largest=over_both(
            lambda m: m["bottom"]["value"] / m["top"]["values"][0], "bottom", "top"
        ),
        negative_mass=over_both(
            lambda m: m["density"]["negative_mass"], "density", low=0.0, high=1.0
        ),
        distance_ratio=geometric_ratio(
            small.run.values["distance"].array, large.run.values["distance"].array
        ),
    )
