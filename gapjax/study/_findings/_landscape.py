"""What the solutions of a study look like: curvature, sharpness, and what lies between them.

The loss is the same function for every regime: the mean over the training set, in evaluation mode.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gapjax.study._findings._bench import Bench
from gapjax.study._findings._intervals import Interval, geometric_ratio, mean_interval
from gapjax.study._findings._measures import MEASURES, Measure
from gapjax.study._findings._ranks import find_ranks
from gapjax.study._findings._surroundings import (
    Between,
    Curve,
    LandscapeFindings,
    Level,
    Observations,
    Surroundings,
)
from gapjax.study._population._levels import crossed, weights_path
from gapjax.study._population._setup import Setup
from gapjax.study._results import _folder
from gapjax.study._results._files import keep, read
from gapjax.study._results._names import file_name
from gapjax.study._results._records import Config, OverSeeds, RegimeRecord, over_seeds

SEEDS = 3
Measured = Mapping[str, Mapping[str, Any]]  # by measurement


def measure_landscape(
    setup: Setup,
    folder: pathlib.Path,
    records: Mapping[str, RegimeRecord],
    config: Config,
    *,
    seeds: int = SEEDS,
    progress: Callable[[str, int, float | None], None] = lambda *_: None,
) -> LandscapeFindings:
    """Measure the solutions that a finished study kept, and write ``landscape.json``.

    Every measurement is kept in ``landscape/`` when it is done, and a later call goes on from
    there. Solutions are those at the learning rate that counts; a seed that diverged has none.

    Args:
        setup: of the study.
        folder: of the study.
        records: the regimes that are done.
        config: of the study.
        seeds: how many seeds of each regime.
        progress: called as ``progress(what, per cent, seconds left)``.
    """
    (folder / "landscape").mkdir(exist_ok=True)
    bench = Bench(setup)

    def place(stem: str, *of: RegimeRecord) -> _Place:
        return _Place(folder / "landscape" / f"{stem}.json", _folder.origin(config, of, stem))

    kept: dict[str, dict[int, Measured]] = {}
    for name, record in records.items():
        alive = _alive(record, seeds)
        report = _Reporter(progress, name, len(alive) * len(MEASURES))
        kept[name] = {}
        for member in alive:
            make = functools.partial(bench.solution, folder, record, member)
            stem = f"{file_name(name)}-{record.seeds[member]}"
            kept[name][member] = _measured(place(stem, record), MEASURES, make, report)
    levels = _levels(setup, bench, folder, records, place, seeds, progress)
    ends, paths = config.baseline, {}
    if set(ends) <= set(records):
        small, large = ends
        pairs = [member for member in kept[small] if member in kept[large]]
        report = _Reporter(progress, f"{small} to {large}", len(pairs))
        way = Measure("path", bench.between)
        for member in pairs:
            stem = f"{file_name(small)} to {file_name(large)}-{records[small].seeds[member]}"
            pair = records[small], records[large]
            both = functools.partial(bench.ends, folder, pair, member)
            paths[member] = _measured(place(stem, *pair), (way,), both, report)["path"]
    found = _summarize(kept, paths, levels, records, config)
    keep(folder / "landscape.json", found, of=_folder.origin(config, records.values(), "all"))
    # As every later reader has it.
    return read_landscape(folder, config, records)  # type: ignore[return-value]


def read_landscape(
    folder: pathlib.Path, config: Config, records: Mapping[str, RegimeRecord]
) -> LandscapeFindings | None:
    """What was measured at the solutions of a study; None where nothing was."""
    path = folder / "landscape.json"
    if not path.exists():
        return None
    of = _folder.origin(config, records.values(), "all")
    return read(path, LandscapeFindings, of=of, cost="--landscape puts it together again")


class _Place(NamedTuple):
    """Where a measurement is kept, and what it belongs to."""

    path: pathlib.Path
    of: dict[str, Any]


def _levels(
    setup: Setup,
    bench: Bench,
    folder: pathlib.Path,
    records: Mapping[str, RegimeRecord],
    place: Callable[..., _Place],
    seeds: int,
    progress: Callable[[str, int, float | None], None],
) -> dict[float, dict[str, dict[int, tuple[int, Measured]]]]:
    """What was measured where the training loss first fell to each level, by regime and member."""
    measures = [measure for measure in MEASURES if measure.on_the_way]
    found: dict[float, dict[str, dict[int, tuple[int, Measured]]]] = {}
    for level in setup.study.loss_levels:
        found[level] = {}
        for name, record in records.items():
            rows, losses = record.curves.measured("train_loss")
            at = crossed(losses, level)[:seeds]
            there = [int(member) for member in np.flatnonzero(at >= 0)]
            report = _Reporter(progress, f"{name} at {level:g}", len(there) * len(measures))
            found[level][name] = {}
            for member in there:
                seed = record.seeds[member]
                weights = weights_path(folder, name, seed, level)
                make = functools.partial(bench.on_the_way, folder, record, weights)
                stem = f"{file_name(name)}-{seed} at loss {level:g}"
                where = place(stem, record)
                update = record.curves.update[int(rows[at[member]])]
                found[level][name][member] = update, _measured(where, measures, make, report)
    return found


def _alive(record: RegimeRecord, seeds: int) -> list[int]:
    """The first members that did not diverge."""
    lost = {one.seed for one in record.run.diverged}
    return [i for i, seed in enumerate(record.seeds[:seeds]) if seed not in lost]


def _measured(
    place: _Place,
    measures: Iterable[Measure],
    make: Callable[[], Any],
    report: "_Reporter",
) -> dict[str, Any]:
    """What a file holds, with what is missing measured; each is kept when it is done."""
    found: dict[str, Any] = _read(place) if place.path.exists() else {}
    subject = None
    for measure in measures:
        if measure.name not in found:
            subject = make() if subject is None else subject
            found[measure.name] = measure.compute(subject, report.inside)
            keep(place.path, found, of=place.of)
            found = _read(place)  # as a run that was interrupted here would have it
        report.done()
    return found


def _read(place: _Place) -> dict[str, Any]:
    return read(place.path, dict[str, dict[str, Any]], of=place.of, cost="it is measured again")


class _Reporter:
    """Turns the progress of one measurement into per cent of all of a regime."""

    def __init__(self, progress: Callable[[str, int, float | None], None], what: str, total: int):
        self.progress, self.what, self.total = progress, what, total
        self.finished, self.at_start, self.started = 0, 0, time.monotonic()
        self.working, self.inner = False, 0.0

    def inside(self, at: Any) -> None:
        if not self.working:  # what an earlier run has done took no time in this one
            self.working, self.at_start, self.started = True, self.finished, time.monotonic()
        # One measurement may run several searches, each with a count of its own.
        self.inner = max(self.inner, at.done / max(at.total, at.done, 1))
        self._tell(self.inner)

    def done(self) -> None:
        self.finished, self.inner = self.finished + 1, 0.0
        self._tell(self.inner)

    def _tell(self, part: float) -> None:
        here = self.finished + part
        share = (here - self.at_start) / (self.total - self.at_start or 1)
        elapsed = time.monotonic() - self.started
        left = elapsed / share * (1 - share) if self.working and share > 0 else None
        self.progress(self.what, int(100 * here / self.total), left)


def _each(found: Iterable[Any], get: Callable[[Any], Any]) -> np.ndarray:
    """One number per seed; None, which JSON has for what is not finite, as NaN."""
    return np.array([get(one) for one in found], np.float64)


def _summarize(
    kept: Mapping[str, Mapping[int, Measured]],
    paths: Mapping[int, Mapping[str, Any]],
    levels: Mapping[float, Mapping[str, Mapping[int, tuple[int, Measured]]]],
    records: Mapping[str, RegimeRecord],
    config: Config,
) -> LandscapeFindings:
    mode = (
        "Batch norm in evaluation mode at and around each solution: its own statistics, held fixed."
    )
    if paths:
        mode += (
            " On the way between the two ends, where neither's statistics fit, they are recomputed "
            "over the training set at every point."
        )
    regimes = {
        name: _surroundings(list(found.values()), records[name], list(found))
        for name, found in kept.items()
        if found
    }
    small, large = config.baseline
    ratios: dict[str, Interval] = {}
    between = observations = None
    if {small, large} <= set(regimes):
        both = [m for m in kept[small] if m in kept[large]]
        pair = [[kept[name][m] for m in both] for name in (small, large)]
        ratios = _ratios(pair[1], pair[0], lambda number: number.compared)
        between = _between(list(paths.values())) if paths else None
        observations = _observations(pair, both, records, config)
    ranks = find_ranks(
        {name: one.numbers for name, one in regimes.items()},
        {name: one.seeds for name, one in regimes.items()},
        records,
        [n.name for m in MEASURES for n in m.numbers if n.compared and n.name != "train_loss"],
    )
    return LandscapeFindings(
        mode, regimes, ratios, _level_findings(levels, config), between, observations, ranks
    )


def _ratios(
    over: Sequence[Measured], under: Sequence[Measured], wanted: Callable[[Any], bool]
) -> dict[str, Interval]:
    """Ratios of numbers over paired seeds."""
    return {
        number.name: geometric_ratio(
            *(
                _each(side, lambda m, n=number, k=measure: n.get(m[k.name]))  # type: ignore[misc]
                for side in (over, under)
            )
        )
        for measure in MEASURES
        for number in measure.numbers
        if wanted(number)
    }


def _surroundings(
    found: Sequence[Measured], record: RegimeRecord, members: Sequence[int]
) -> Surroundings:
    numbers, errors = {}, {}
    for measure in MEASURES:
        each = [one[measure.name] for one in found]
        for number in measure.numbers:
            numbers[number.name] = over_seeds(_each(each, number.get))
            if number.error is not None:
                errors[number.name] = float(np.max(_each(each, number.error)))
    lines = [one["line"] for one in found if "line" in one]
    names = [name for name in (lines[0] if lines else ()) if name != "t"]
    density = found[0].get("density", {})
    return Surroundings(
        seeds=[record.seeds[member] for member in members],
        numbers=numbers,
        errors=errors,
        still_falling=over_seeds(_last_quarter(record)[list(members)]),
        density={k: density[k] for k in ("grid", "density", "stderr") if k in density},
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
    before = loss[int(np.searchsorted(update, 0.75 * update[-1], side="right")) - 1]
    return before - loss[-1]


def _between(found: Sequence[Mapping[str, Any]]) -> Between:
    names = [name for name in found[0] if name not in ("alpha", "barrier")]
    alpha = np.array(found[0]["alpha"], np.float64)
    at = [int(np.argmin(np.abs(alpha - end))) for end in (0.0, 1.0)]
    return Between(
        alpha=alpha.tolist(),
        curves={name: _curve(found, name) for name in names},
        barrier=mean_interval(_each(found, lambda p: p["barrier"]["train/loss"])),
        test_barrier=mean_interval(_each(found, lambda p: p["barrier"]["test/loss"])),
        higher_end=mean_interval(_each(found, lambda p: max(p["train/loss"][i] for i in at))),
    )


def _level_findings(
    levels: Mapping[float, Mapping[str, Mapping[int, tuple[int, Measured]]]], config: Config
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
                for measure in MEASURES
                for number in measure.numbers
                if number.on_the_way
            }
        both = [m for m in regimes.get(small, {}) if m in regimes.get(large, {})]
        over, under = ([regimes[name][m][1] for m in both] for name in (large, small))
        ratios = _ratios(over, under, lambda n: n.on_the_way and n.compared) if both else {}
        found.append(Level(loss, numbers, ratios))
    return found


def _observations(
    pair: Sequence[Sequence[Measured]],
    members: Sequence[int],
    records: Mapping[str, RegimeRecord],
    config: Config,
) -> Observations:
    small, large = (records[name] for name in config.baseline)
    headline = config.task.headline
    sign = 1.0 if config.task.maximize else -1.0

    def difference(split: str) -> Interval:
        name = f"{split}_{headline}"
        return mean_interval(large.run.values[name].array - small.run.values[name].array)

    _, curve = large.curves.measured(f"test_{headline}")
    with np.errstate(invalid="ignore"):
        peak = np.nanmax(sign * curve, axis=0) - sign * curve[-1]

    def over_both(get: Callable[[Measured], float], *needed: str) -> dict[str, Interval]:
        return {
            name: mean_interval(_each(found, get) if {*needed} <= {*found[0]} else [])
            for name, found in zip(config.baseline, pair, strict=True)
        }

    return Observations(
        train_difference=difference("train"),
        test_difference=difference("test"),
        below_own_peak=mean_interval(peak),
        smallest_to_largest=over_both(
            lambda m: m["bottom"]["value"] / m["top"]["values"][0], "bottom", "top"
        ),
        negative_mass=over_both(lambda m: m["density"]["negative_mass"], "density"),
        distance_ratio=geometric_ratio(
            small.run.values["distance"].array, large.run.values["distance"].array
        ),
    )
