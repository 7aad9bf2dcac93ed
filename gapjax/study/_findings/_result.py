"""The result of a study: what was measured, and what it says; read from its folder."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from gapjax._paths import local_path
from gapjax.study._findings._factorial import Effect, find_effects
from gapjax.study._findings._gap import Examples, GapFindings, find_gap
from gapjax.study._findings._landscape import LandscapeFindings, read_landscape
from gapjax.study._findings._targets import Target, find_targets
from gapjax.study._findings._travel import Travel, convex_travel, find_travel
from gapjax.study._population._convex import read_convex
from gapjax.study._results import _folder
from gapjax.study._results._records import FORMAT, Config, Convex, RegimeRecord, Run, to_plain


@dataclasses.dataclass(frozen=True, repr=False)
class StudyResult:
    """What a study found.

    Attributes:
        config: what the study is, what its numbers mean, how it was run.
        regimes: per regime what was measured.
        gap: the gap of the headline metric, and what closes it, at the rates that count.
        rule_gap: the same at the rates of the rules, where others were tuned.
        effects: of each remedy and of pairs of them, where all combinations were trained.
        targets: what every regime takes to reach the level of either end of the gap.
        travel: per regime how its weights travel.
        convex: how those of a convex network do, beside them; None where none was trained.
        landscape: what the solutions look like; None where they were not measured.
    """

    config: Config
    regimes: dict[str, RegimeRecord]
    gap: GapFindings
    rule_gap: GapFindings | None
    effects: list[Effect]
    targets: list[Target]
    travel: dict[str, Travel | None]
    convex: Travel | None = None
    landscape: LandscapeFindings | None = None

    def __repr__(self) -> str:
        """In one line: the regimes, and the gap as it is measured, with its interval."""
        gap, (small, large) = self.gap.gap, self.config.baseline
        ends = () if gap is None else (gap.mean, gap.low, gap.high)
        told = [f"{end:.4g}" for end in ends if end is not None] or ["not known"]
        interval = f" [{', '.join(told[1:])}]" if told[1:] else ""
        return (
            f"StudyResult({', '.join(self.regimes)}; test {self.config.task.headline}, {small} - "
            f"{large}: {told[0]}{interval})"
        )

    @property
    def ends(self) -> tuple[RegimeRecord | None, RegimeRecord | None]:
        """The two regimes between which the gap lies, None where one was not trained."""
        small, large = (self.regimes.get(name) for name in self.config.baseline)
        return small, large

    @property
    def is_tuned(self) -> bool:
        """Whether the learning rates of all regimes were tuned."""
        return all(record.is_tuned for record in self.regimes.values())


def load_result(folder: str | os.PathLike[str]) -> StudyResult:
    """The result of a study, read from its folder; of one under way, the regimes that are done.

    Args:
        folder: of the study, as ``run_study`` was given it.

    Returns:
        The result.

    Raises:
        ValueError: no study is there, none of its regimes is done, or a file is not as it was
            written; in one line.
    """
    folder = local_path("folder", folder)
    config = _folder.read_config(folder)
    done = [name for name in config.regimes if _folder.regime_path(folder, name).exists()]
    if not done:
        raise ValueError(f"no regime of the study in {folder} is done yet: run it first.")
    records = {name: _folder.read_regime(folder, name, config) for name in done}
    examples = {name: _folder.read_examples(folder, record) for name, record in records.items()}
    return find_all(
        config,
        records,
        examples,
        convex=read_convex(folder, config),
        landscape=read_landscape(folder, config, records),
    )


def find_all(
    config: Config,
    records: Mapping[str, RegimeRecord],
    examples: Examples,
    *,
    convex: Convex | None = None,
    landscape: LandscapeFindings | None = None,
) -> StudyResult:
    """The result of what was measured."""
    tuned = any(record.rule is not None for record in records.values())
    return StudyResult(
        config,
        dict(records),
        find_gap(records, examples, config),
        find_gap(records, examples, config, "rule") if tuned else None,
        find_effects(records, examples, config),
        find_targets(records, config.baseline, config.task),
        find_travel(records, config.baseline[0], config.study),
        None if convex is None else convex_travel(convex),
        landscape,
    )


def results_json(result: StudyResult, finding: str) -> dict[str, Any]:
    """What ``results.json`` holds, for readers without gapjax."""
    return {
        "format": FORMAT,
        "finding": finding,
        "task": to_plain(result.config.task),
        "baseline": list(result.config.baseline),
        "gap": to_plain(result.gap.gap),
        "comparisons": to_plain(result.gap.comparisons),
        "effects": to_plain(result.effects),
        "targets": to_plain(result.targets),
        "convex": to_plain(result.convex),
        "regimes": {name: _regime_json(result, name) for name in result.regimes},
    }


# Not in `results.json` as they are: curves are in `history.csv`, runs are told apart.
_APART = {
    *("name", "run", "rule", "curves", "rule_curves", "rule_stopped"),
    *("study", "network", "files"),
}


def _regime_json(result: StudyResult, name: str) -> dict[str, Any]:
    record = result.regimes[name]
    rule = None
    if record.rule is not None and result.rule_gap is not None:
        own = record.at("rule")
        rule = {
            "updates": own.updates,
            "examples": own.examples,
            "stopped": own.stopped,
            **_run_json(record.rule),
            **_share_json(result.rule_gap, name),
        }
    facts = {
        field.name: to_plain(getattr(record, field.name))
        for field in dataclasses.fields(record)
        if field.name not in _APART
    }
    return {
        **facts,
        # `seconds` of the facts are those of everything, compiling and measuring too.
        "training_seconds": record.curves.seconds[-1] if record.curves.seconds else None,
        "flops": record.curves.flops[-1] if record.curves.flops else None,
        **_run_json(record.run),
        **_share_json(result.gap, name, record.same_as),
        "rule": rule,
        "diffusion": to_plain(result.travel[name]),
    }


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "learning_rate": run.learning_rate,
        "hyper": run.hyper,
        **to_plain(run.values),
        "gap": to_plain(run.gap),
        "diverged": to_plain(run.diverged),
    }


def _share_json(found: GapFindings, name: str, same_as: str | None = None) -> dict[str, Any]:
    share = found.shares.get(same_as or name)
    keys = ("mean", "low", "high")
    return {"gap_closed": {key: share and getattr(share, key) for key in keys}}
