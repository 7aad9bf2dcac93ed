"""What training a population gave, as the records that are kept."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gapjax import training
from gapjax.study._population._programs import Programs
from gapjax.study._population._setup import Setup
from gapjax.study._population._train import Outcome, measured_names
from gapjax.study._results._records import (
    Curves,
    Diverged,
    RegimeRecord,
    Run,
    over_seeds,
)


def run_of(setup: Setup, outcome: Outcome, rate: float, hyper: dict[str, float], which: int) -> Run:
    """The numbers of the members of one setting."""
    seeds, task, part = setup.study.all_seeds, setup.task, _members_of(setup, which)
    values = {name: outcome.final(name)[part] for name in measured_names(setup)}
    train_value, test_value = (values[f"{split}_{task.headline}"] for split in ("train", "test"))
    sign = 1.0 if task.maximize else -1.0
    return Run(
        learning_rate=rate,
        hyper=hyper,
        values={name: over_seeds(value) for name, value in values.items()},
        gap=over_seeds(sign * (train_value - test_value)),
        diverged=[
            Diverged(seed, int(update), training.fault_path(outcome.states.params, fault))
            for seed, update, fault in zip(
                seeds, outcome.diverged[part], outcome.fault[part], strict=True
            )
            if update
        ],
    )


def _members_of(setup: Setup, which: int) -> slice:
    """Where the members of one setting are in a population: its seeds, one after the other."""
    seeds = len(setup.study.all_seeds)
    return slice(which * seeds, (which + 1) * seeds)


def curves_of(setup: Setup, outcome: Outcome, programs: Programs, which: int) -> Curves:
    """What was measured on the way of the members of one setting, and what it cost."""
    curves, plan, part = outcome.curves, outcome.plan, _members_of(setup, which)
    rows = _rows_of(outcome, part)
    updates = curves.update[:rows].tolist()
    # The settings are trained as one population: each has its share of the time.
    share = len(setup.study.all_seeds) / len(outcome.diverged)
    return Curves(
        update=updates,
        examples=[plan.batch_sizes.examples_before(u) for u in updates],
        seconds=(curves.seconds[:rows] * share).tolist(),
        values={name: column[:rows, part].tolist() for name, column in curves.values.items()},
        flops=programs.flops_by(plan, updates),
    )


def _rows_of(outcome: Outcome, part: slice) -> int:
    """How many rows there are until the last of some members ended.

    Where the loss stops them, members at other rates, which are trained beside them, may go on.
    """
    update = outcome.curves.update
    if outcome.stopped is None:
        return len(update)
    ends = []
    for stop, lost in zip(outcome.stopped[part], outcome.diverged[part], strict=True):
        if stop < 0 and not lost:
            return len(update)
        ends.append(stop if stop >= 0 else int(np.searchsorted(update, lost)))
    looked_at = np.isin(update, list(outcome.plan.evaluations))
    return int(np.flatnonzero(looked_at & (np.arange(len(update)) >= max(ends)))[0]) + 1


def examples_of(setup: Setup, outcome: Outcome, rates: int) -> dict[str, np.ndarray]:
    """What every test example gave: ``[S, n]`` by name, of the rule under ``rule/``."""
    seeds = len(setup.study.all_seeds)
    found = {"weight": setup.evaluator.example_weights(setup.test)}
    for name in {"loss", setup.task.headline}:
        found[name] = outcome.examples[name][:seeds]
        if rates > 1:
            found[f"rule/{name}"] = outcome.examples[name][seeds:]
    return found


def stops_of(setup: Setup, outcome: Outcome, which: int) -> list[int | None] | None:
    """The updates at which the loss stopped the seeds of a setting; None where it was not asked."""
    if outcome.stopped is None:
        return None
    rows = outcome.stopped[_members_of(setup, which)]
    return [int(outcome.curves.update[row]) if row >= 0 else None for row in rows]


def as_one(
    twin: RegimeRecord,
    tuned: Mapping[str, np.ndarray],
    record: RegimeRecord,
    by_rule: Mapping[str, np.ndarray],
) -> tuple[RegimeRecord, dict[str, np.ndarray]]:
    """A regime whose tuned run is that of its twin; its own is the one by its rule.

    Args:
        twin: the record of the regime that it is one with.
        tuned: what every test example gave there.
        record: of the regime, trained by its rule alone.
        by_rule: what every test example gave there.
    """
    assert twin.tuning is not None
    best = twin.tuning.trials[twin.tuning.best]
    differs = (best.learning_rate, best.hyper) != (record.run.learning_rate, record.run.hyper)
    merged = dataclasses.replace(
        twin,
        name=record.name,
        remedies=record.remedies,
        sources=record.sources,
        seconds=record.seconds,
        rule=record.run if differs else None,
        rule_curves=record.curves if differs else None,
        rule_stopped=record.stopped if differs else None,
        same_as=twin.name,
        network=record.network,
    )
    kept = {name: table for name, table in tuned.items() if not name.startswith("rule/")}
    if differs:
        kept |= {f"rule/{name}": x for name, x in by_rule.items() if name != "weight"}
    return merged, kept
