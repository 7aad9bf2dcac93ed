"""What the solutions of a study look like: curvature, sharpness, and what lies between them.

The loss is the same function for every regime: the mean over the training set, or over a part of it
that is the same for all, in evaluation mode.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax.study._findings._bench import Bench
from gapjax.study._findings._measure import Measure
from gapjax.study._findings._measures import find_measures
from gapjax.study._findings._summary import Measured, summarize
from gapjax.study._findings._surroundings import LandscapeFindings
from gapjax.study._population._levels import crossed, weights_path
from gapjax.study._population._setup import Setup
from gapjax.study._results import _folder
from gapjax.study._results._files import keep, read
from gapjax.study._results._names import file_name
from gapjax.study._results._origin import environment
from gapjax.study._results._records import Config, RegimeRecord


def measure_landscape(
    setup: Setup,
    folder: pathlib.Path,
    records: Mapping[str, RegimeRecord],
    config: Config,
    *,
    command: str | None = None,
    progress: Callable[[str, int, float | None], None] = lambda *_: None,
) -> LandscapeFindings:
    """Measure the solutions that a finished study kept, and write ``landscape.json``.

    Every measurement is kept in ``landscape/`` when it is done, and a later call goes on from
    there. Solutions are those at the learning rate that counts; a seed that diverged has none.
    Products of matrices are in full precision, unless ``jax.default_matmul_precision`` is set.

    Args:
        setup: of the study.
        folder: of the study.
        records: the regimes that are done.
        config: of the study.
        command: the command line that asks for it now, which need not be that of the training.
        progress: called as ``progress(what, per cent, seconds left)``.
    """
    seeds = setup.study.landscape_seeds
    measures = find_measures(setup.study.landscape_measures)
    _check_kept(folder, records, setup.study.loss_levels, seeds)
    (folder / "landscape").mkdir(exist_ok=True)
    bench = Bench(setup)

    def place(stem: str, *of: RegimeRecord) -> _Place:
        if bench.part is not None:  # on other examples it is another measurement
            stem = f"{stem} on {bench.part.examples} of {bench.part.of}"
        return _Place(folder / "landscape" / f"{stem}.json", _folder.origin(config, of, stem))

    kept: dict[str, dict[int, Measured]] = {}
    for name, record in records.items():
        alive = _alive(record, seeds)
        report = _Reporter(progress, name, len(alive) * len(measures))
        kept[name] = {}
        for member in alive:
            make = functools.partial(bench.solution, folder, record, member)
            stem = f"{file_name(name)}-{record.seeds[member]}"
            kept[name][member] = _measured(place(stem, record), measures, make, report)
    levels = _levels(setup, measures, bench, folder, records, place, progress)
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
    found = summarize(kept, paths, levels, measures, records, config, bench.part)
    found = dataclasses.replace(found, environment=environment(command))
    keep(folder / "landscape.json", found, of=_origin(config, records))
    # As every later reader has it.
    return read_landscape(folder, config, records)  # type: ignore[return-value]


def _check_kept(
    folder: pathlib.Path,
    records: Mapping[str, RegimeRecord],
    levels: Sequence[float],
    seeds: int,
) -> None:
    """Refuse seeds whose weights on the way down were not kept, since fewer were asked for then."""
    for name, record in records.items():
        _, losses = record.curves.measured("train_loss")
        for level in levels:
            there = np.flatnonzero(crossed(losses, level)[:seeds] >= 0)
            paths = (weights_path(folder, name, record.seeds[i], level) for i in there)
            kept = [_folder.is_kept(folder, record, path) for path in paths]
            if not all(kept):
                most = there[kept.index(False)]
                raise ValueError(
                    f"landscape_seeds={seeds}, but weights on the way to the losses of loss_levels "
                    f"were kept of the first {most} alone, as was asked for when {name} trained: "
                    f"measure {most}, or train in a new folder."
                )


def read_landscape(
    folder: pathlib.Path, config: Config, records: Mapping[str, RegimeRecord]
) -> LandscapeFindings | None:
    """What was measured at the solutions of a study; None where nothing was."""
    path = folder / "landscape.json"
    if not path.exists():
        return None
    of = _origin(config, records)
    return read(path, LandscapeFindings, of=of, cost="--landscape puts it together again")


def _origin(config: Config, records: Mapping[str, RegimeRecord]) -> dict[str, Any]:
    """What the findings belong to: the networks, of which regimes that are one have one."""
    return _folder.origin(config, [r for r in records.values() if r.same_as is None], "all")


class _Place(NamedTuple):
    """Where a measurement is kept, and what it belongs to."""

    path: pathlib.Path
    of: dict[str, Any]


def _levels(
    setup: Setup,
    measures: Sequence[Measure],
    bench: Bench,
    folder: pathlib.Path,
    records: Mapping[str, RegimeRecord],
    place: Callable[..., _Place],
    progress: Callable[[str, int, float | None], None],
) -> dict[float, dict[str, dict[int, tuple[int, Measured]]]]:
    """What was measured where the training loss first fell to each level, by regime and member."""
    measures = [measure for measure in measures if measure.on_the_way]
    seeds = setup.study.landscape_seeds
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
    lost = record.run.lost
    return [i for i, seed in enumerate(record.seeds[:seeds]) if seed not in lost]


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    # By default accelerators round what they multiply to 8 or 11 bits, in float32 too: eigenpairs
    # then do not converge, and a small step away from the weights is partly lost.
    asked = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    with jax.default_matmul_precision(asked or "highest"):
        yield


@_full_precision()
def _measured(
    place: _Place,
    measures: Sequence[Measure],
    make: Callable[[], Any],
    report: "_Reporter",
) -> dict[str, Any]:
    """What was measured, from a file and where it is missing there now; each is kept when done."""
    found: dict[str, Any] = _read(place) if place.path.exists() else {}
    subject = None
    for measure in measures:
        if measure.name not in found:
            subject = make() if subject is None else subject
            found[measure.name] = measure.compute(subject, report.inside)
            if measure.over_parts and subject.parts:
                found[measure.name]["parts"] = [
                    measure.compute(part, report.inside) for part in subject.parts
                ]
            keep(place.path, found, of=place.of)
            found = _read(place)  # as a run that was interrupted here would have it
        report.done()
    return {measure.name: found[measure.name] for measure in measures}


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
