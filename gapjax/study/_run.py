"""Running a study: every regime in turn, each kept when it is done, then results and report."""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from gapjax import diffusion, training
from gapjax.study._findings._landscape import SEEDS, measure_landscape
from gapjax.study._findings._result import StudyResult, load_result, results_json
from gapjax.study._plan import Plan
from gapjax.study._population._convex import keep_convex
from gapjax.study._population._cost import flops_by
from gapjax.study._population._keep import Keeper, config_of, remove
from gapjax.study._population._levels import keep_levels
from gapjax.study._population._member import Member
from gapjax.study._population._setup import Setup
from gapjax.study._population._train import Advance, Outcome, measured_names, train
from gapjax.study._prepare import Prepared, prepare_study
from gapjax.study._report import _page, _words
from gapjax.study._results import _folder
from gapjax.study._results._identity import fingerprint
from gapjax.study._results._names import file_name
from gapjax.study._results._origin import describe, environment, versions
from gapjax.study._results._records import (
    Config,
    Curves,
    Diverged,
    RegimeRecord,
    Run,
    TaskFacts,
    over_seeds,
)
from gapjax.study._study import Study
from gapjax.study._tune import one_algorithm, rule_hyper, tune

Examples = dict[str, np.ndarray]


class StudyProgress(NamedTuple):
    """Where a running study is; handed to ``run_study``'s ``progress`` function.

    Attributes:
        regime: which regime trains, or what of the landscape is measured.
        phase: ``"train"``, ``"tune"`` or ``"landscape"``, whose updates are per cent.
        update: updates made.
        updates: updates of the whole regime.
        examples_per_second: examples trained on per second, over all members, 0 at the start.
        seconds_left: for this regime, None while unknown.
        metrics: what was measured at this update, the mean over members, by name (``train_loss``,
            ``test_accuracy``, ``distance``); empty where nothing was.
    """

    regime: str
    phase: str
    update: int
    updates: int
    examples_per_second: float
    seconds_left: float | None
    metrics: dict[str, float]


OnProgress = Callable[[StudyProgress], None]


def run_study(
    study: Study,
    out_dir: str | os.PathLike[str],
    *,
    progress: OnProgress | None = None,
    command: str | None = None,
    landscape: bool = False,
    batch_devices: int = 1,
) -> StudyResult:
    """Train every regime of a study and write its folder.

    Each regime is kept when it is done, and every half minute on the way there. Run again with the
    same study and folder after an interruption, and it goes on inside the regime that was under
    way; the numbers are those of an undisturbed run. At SIGTERM it saves and exits with code 143.

    Args:
        study: what to train.
        out_dir: the folder: ``config.json``, ``results.json``, ``history.csv``, ``report.html``,
            ``regimes/`` (a record and the results of every test example each) and ``checkpoints/``
            (the final networks).
        progress: called with a ``StudyProgress`` as the study goes.
        command: the command line that reproduces the run, for the report.
        landscape: whether to measure the solutions that were found, too: curvature, sharpness, the
            way from one end of the gap to the other. It is no part of the study: a folder that was
            trained without it gets it later.
        batch_devices: over how many devices the batch of each seed is split. Seeds (and rates)
            lie on all the devices there are by themselves, as evenly as they go; this is for more
            devices than seeds. Batches must divide by it.

    Returns:
        The ``StudyResult``.

    Raises:
        ValueError: something the study asks for does not fit, before anything is trained; or the
            folder belongs to another study, or cannot be written.

    Example:
        >>> import tempfile
        >>> small = Study(seeds=2, epochs=1, regimes=("SB", "LB"), evaluations=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = run_study(small, folder)
        >>> result.regimes["LB"].updates
        2
    """
    prepared = prepare_study(study, batch_devices)
    config = _config(prepared, command)
    training.check_agreement({**versions(), **config.study, "folder": pathlib.Path(out_dir).name})
    folder = pathlib.Path(out_dir).expanduser()
    training.on_first(lambda: _folder.open_folder(folder, config))
    if not (folder / "config.json").exists():
        raise ValueError(
            f"process {jax.process_index()} does not see what process 0 wrote to {folder}: give a "
            "folder that all hosts share with --out."
        )
    for plan in prepared.plans.values():
        if not _folder.regime_path(folder, plan.name).exists():
            _train_regime(prepared, plan, folder, progress)
        remove(_unfinished(folder, plan))
    if prepared.setup.study.controls:
        _convex(prepared, folder)
    result = load_result(folder)
    if landscape:
        found = training.on_first(
            functools.partial(
                measure_landscape,
                prepared.setup,
                folder,
                {name: r for name, r in result.regimes.items() if r.same_as is None},
                result.config,
                progress=_landscape_reporter(progress),
            )
        )
        result = dataclasses.replace(result, landscape=found)
    training.on_first(lambda: _write(result, folder))
    return result


def _convex(prepared: Prepared, folder: pathlib.Path) -> None:
    """The convex control, over the early phase of the small batch."""
    study = prepared.setup.study
    small = prepared.plans.get(study.baseline[0], next(iter(prepared.plans.values())))
    width = None if study.task.width is None else study.task.width(prepared.dataset)
    keep_convex(prepared.setup, width, min(small.boundaries, default=small.updates), folder)


def _config(prepared: Prepared, command: str | None) -> Config:
    study, network = prepared.setup.study, prepared.setup.network
    task = study.task
    described = describe(study, prepared.dataset, network)
    if not network.fresh_start:  # its own weights are the start of every seed
        inputs = prepared.setup.inputs(prepared.setup.sample())
        described["start"] = fingerprint(network.init(jax.random.key(0), inputs)[0])
    facts = TaskFacts(
        name=task.name,
        headline=task.headline,
        maximize=task.maximize,
        measures=list(task.measures),
        percent=list(task.percent),
        weighted=task.weight is not None,
    )
    return Config(described, facts, environment(command))


def _write(result: StudyResult, folder: pathlib.Path) -> None:
    """The files that people read."""
    _folder.write_json(folder / "results.json", results_json(result, _words.finding(result)))
    _folder.write_history(folder / "history.csv", result.regimes.values())
    _page.write_report(result, folder / "report.html")


def _train_regime(
    prepared: Prepared, plan: Plan, folder: pathlib.Path, progress: OnProgress | None
) -> None:
    """Tune a regime where the study tunes, train it, and keep what was found."""
    setup, seeds = prepared.setup, prepared.setup.study.all_seeds
    started = time.monotonic()
    plan = _following(plan, folder)
    by_rule = (plan.rate, rule_hyper(plan))
    settings, tuning, twin = [by_rule], None, None
    if prepared.splits is not None:
        alike = one_algorithm(prepared.plans, plan.name)
        if alike[0] == plan.name:
            plans = [plan, *(prepared.plans[name] for name in alike[1:])]
            place, report = _unfinished(folder, plan), _reporter(progress, plan, "tune")
            tuning = tune(setup, plans, *prepared.splits, place, report)
            best = tuning.trials[tuning.best]
            # What counts comes first; the rule's is trained beside it, as one population.
            settings = [(best.learning_rate, best.hyper)]
            settings += [by_rule] if by_rule != settings[0] else []
        else:
            twin = _folder.read_regime(folder, alike[0])
    members = [Member(seed, *setting) for setting in settings for seed in seeds]
    outcome = train(
        setup,
        plan,
        setup.train,
        setup.test,
        members,
        progress=_reporter(progress, plan, "train"),
        keeper=Keeper(_unfinished(folder, plan) / "train", config_of(members)),
        at_evaluation=keep_levels(folder, plan.name, setup.study.loss_levels, seeds[:SEEDS]),
    )
    own = jax.tree.map(lambda x: x[: len(seeds)], training.to_host(outcome.weights._asdict()))
    path = folder / "checkpoints" / file_name(plan.name)
    training.on_first(lambda: training.save_tree(path, own))
    runs = [_run(setup, outcome, *setting, i) for i, setting in enumerate(settings)]
    updates, stopped = outcome.curves.update, outcome.stopped
    examples = plan.batch_sizes.examples_before(int(updates[-1]))
    record = RegimeRecord(
        name=plan.name,
        remedies=[remedy.name for remedy in plan.regime.remedies],
        batch_size=plan.batch_size,
        batch_sizes=[(u, plan.batch_sizes(u)) for u in (0, *plan.batch_sizes.boundaries)],
        ghost_size=plan.ghost_size,
        updates=int(updates[-1]),
        epochs=examples / plan.num_examples,
        examples=examples,
        seconds=time.monotonic() - started,
        budget=plan.budget.said,
        boundaries=list(plan.boundaries),
        seeds=seeds,
        run=runs[0],
        rule=runs[1] if len(runs) > 1 else None,
        tuning=tuning,
        curves=_curves(setup, plan, outcome),
        stopped=None
        if stopped is None
        else [int(updates[row]) if row >= 0 else None for row in stopped[: len(seeds)]],
    )
    kept = _examples(setup, outcome, len(settings))
    if twin is not None:
        record, kept = _as_one(twin, _folder.read_examples(folder, twin), record, kept)
    training.on_first(lambda: _folder.keep_regime(folder, record, kept))


def _as_one(
    twin: RegimeRecord, tuned: Examples, record: RegimeRecord, by_rule: Examples
) -> tuple[RegimeRecord, Examples]:
    """A regime whose tuned run is that of its twin; its own is the one by its rule."""
    assert twin.tuning is not None
    best = twin.tuning.trials[twin.tuning.best]
    differs = (best.learning_rate, best.hyper) != (record.run.learning_rate, record.run.hyper)
    record = dataclasses.replace(
        twin,
        name=record.name,
        remedies=record.remedies,
        seconds=record.seconds,
        rule=record.run if differs else None,
        same_as=twin.name,
    )
    kept = {name: table for name, table in tuned.items() if not name.startswith("rule/")}
    if differs:
        kept |= {f"rule/{name}": x for name, x in by_rule.items() if name != "weight"}
    return record, kept


def _following(plan: Plan, folder: pathlib.Path) -> Plan:
    """The plan with the mean distance curve of the regime that it follows."""
    if plan.follows is None:
        return plan
    curves = _folder.read_regime(folder, plan.follows).curves
    distance = curves.array("distance")
    distance = distance[:, np.isfinite(distance).all(axis=0)]
    if not distance.size:
        raise ValueError(
            f"regime {plan.name} follows {plan.follows}, which diverged in every seed."
        )
    steps = np.array(curves.update)
    blank = np.full(len(steps), np.nan)
    reference = diffusion.DiffusionRecord(steps, distance.mean(axis=1), blank)
    return dataclasses.replace(plan, reference=reference)


def _run(setup: Setup, outcome: Outcome, rate: float, hyper: dict[str, float], which: int) -> Run:
    """The numbers of the members of one setting."""
    seeds, task = setup.study.all_seeds, setup.task
    part = slice(which * len(seeds), (which + 1) * len(seeds))
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


def _curves(setup: Setup, plan: Plan, outcome: Outcome) -> Curves:
    curves, seeds = outcome.curves, len(setup.study.all_seeds)
    updates = curves.update.tolist()
    return Curves(
        update=updates,
        examples=[plan.batch_sizes.examples_before(u) for u in updates],
        seconds=curves.seconds.tolist(),
        values={name: column[:, :seeds].tolist() for name, column in curves.values.items()},
        flops=flops_by(setup, plan, updates),
    )


def _examples(setup: Setup, outcome: Outcome, rates: int) -> Examples:
    """What every test example gave: ``[S, n]`` by name, of the rule under ``rule/``."""
    seeds = len(setup.study.all_seeds)
    found = {"weight": setup.evaluator.example_weights(setup.test)}
    for name in {"loss", setup.task.headline}:
        found[name] = outcome.examples[name][:seeds]
        if rates > 1:
            found[f"rule/{name}"] = outcome.examples[name][seeds:]
    return found


def _unfinished(folder: pathlib.Path, plan: Plan) -> pathlib.Path:
    """Where a regime keeps what it needs to go on, until it is done."""
    return folder / "checkpoints" / f"{file_name(plan.name)}.unfinished"


def _reporter(progress: OnProgress | None, plan: Plan, phase: str) -> Callable[[Advance], None]:
    def report(at: Advance) -> None:
        if progress is not None:
            progress(
                StudyProgress(
                    plan.name,
                    phase,
                    at.update,
                    plan.updates,
                    at.examples_per_second,
                    at.seconds_left,
                    at.metrics,
                )
            )

    return report


def _landscape_reporter(progress: OnProgress | None) -> Callable[[str, int, float | None], None]:
    def report(what: str, per_cent: int, left: float | None) -> None:
        if progress is not None:
            progress(StudyProgress(what, "landscape", per_cent, 100, 0.0, left, {}))

    return report
