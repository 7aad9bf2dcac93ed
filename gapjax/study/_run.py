"""Running a study: every regime in turn, each kept when it is done, then results and report."""

import contextlib
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
from gapjax._lock import FolderLock
from gapjax._paths import local_path
from gapjax.study._findings._landscape import measure_landscape
from gapjax.study._findings._result import StudyResult, load_result, results_json
from gapjax.study._plan import Plan
from gapjax.study._population._convex import keep_convex
from gapjax.study._population._keep import Keeper, config_of, remove
from gapjax.study._population._levels import keep_levels, kept_weights
from gapjax.study._population._member import Member
from gapjax.study._population._programs import Programs
from gapjax.study._population._records_of import (
    as_one,
    curves_of,
    examples_of,
    run_of,
    stops_of,
)
from gapjax.study._population._setup import Setup
from gapjax.study._population._splits import Splits
from gapjax.study._population._train import Advance, train
from gapjax.study._prepare import Prepared, prepare_study
from gapjax.study._remedies import REMEDIES
from gapjax.study._report import _page, _words
from gapjax.study._results import _files, _folder
from gapjax.study._results._files import repairing
from gapjax.study._results._identity import fingerprint
from gapjax.study._results._names import file_name
from gapjax.study._results._origin import describe, environment, versions
from gapjax.study._results._records import (
    Config,
    RegimeRecord,
    Tuning,
    task_facts,
)
from gapjax.study._study import Study
from gapjax.study._tune import one_algorithm, rule_hyper, tune


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
    wait: bool = False,
    repair: bool = False,
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
        wait: whether to wait where another process writes to the folder, as long as it takes.
        repair: whether to delete what is damaged in the folder, the least there is, and make it
            again; a warning names it. Without, it is an error that names it.

    Returns:
        The ``StudyResult``.

    Raises:
        ValueError: something the study asks for does not fit, before anything is trained; or the
            folder belongs to another study, is written to by another process, cannot be written, or
            something in it is not what was written there.

    Example:
        >>> import tempfile
        >>> small = Study(seeds=2, epochs=1, regimes=("SB", "LB"), evaluations=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = run_study(small, folder)
        >>> result.regimes["LB"].updates
        2
    """
    folder = local_path("out_dir", out_dir)
    prepared = prepare_study(study, batch_devices)
    config = _config(prepared, command)
    training.check_agreement({**versions(), **config.study, "folder": folder.name})
    with contextlib.ExitStack() as stack:
        held = training.on_first(lambda: stack.enter_context(_folder.hold(folder, wait=wait)))
        out = _Folder(folder, config, held)
        # Of several processes only the first knows that something is damaged.
        again = repair and jax.process_count() == 1
        return repairing(lambda: _run_in(out, prepared, progress, landscape, repair), again)


class _Folder(NamedTuple):
    """The folder of a study under way: where it is, what it belongs to, the right to write there.

    The lock is None in all processes but the first.
    """

    path: pathlib.Path
    config: Config
    lock: FolderLock | None


def _run_in(
    out: _Folder,
    prepared: Prepared,
    progress: OnProgress | None,
    landscape: bool,
    repair: bool,
) -> StudyResult:
    """Train, and measure, what a folder does not hold yet."""
    folder, config = out.path, out.config
    training.on_first(lambda: repairing(lambda: _folder.open_folder(folder, config), repair))
    if not (folder / "config.json").exists():
        raise ValueError(
            f"process {jax.process_index()} does not see what process 0 wrote to {folder}: give a "
            "folder that all hosts share with --out."
        )
    plans = list(prepared.plans.values())
    with Programs(prepared.setup, prepared.setup.train) as programs:
        for place, plan in enumerate(plans):
            if not _folder.regime_path(folder, plan.name).exists():
                later = _known(prepared, plans[place + 1 :], folder)
                _train_regime(prepared, plan, out, progress, programs, later)
            remove(_unfinished(folder, plan))
    if prepared.setup.study.controls:
        _convex(prepared, out)
    result = load_result(folder)
    if landscape:
        found = training.on_first(
            functools.partial(
                measure_landscape,
                prepared.setup,
                folder,
                {name: r for name, r in result.regimes.items() if r.same_as is None},
                result.config,
                command=config.environment["command"],
                progress=_landscape_reporter(progress),
            )
        )
        result = dataclasses.replace(result, landscape=found)
    training.on_first(lambda: _write(result, folder))
    return result


def _convex(prepared: Prepared, out: _Folder) -> None:
    """The convex control, over the early phase of the small batch."""
    study = prepared.setup.study
    small = prepared.plans.get(study.baseline[0], next(iter(prepared.plans.values())))
    width = None if study.task.width is None else study.task.width(prepared.dataset)
    keep_convex(
        prepared.setup, width, min(small.boundaries, default=small.updates), out.path, out.config
    )


def _config(prepared: Prepared, command: str | None) -> Config:
    study, network = prepared.setup.study, prepared.setup.network
    task = study.task
    described = describe(study, prepared.dataset, network)
    if not network.fresh_start:  # its own weights are the start of every seed
        inputs = prepared.setup.inputs(prepared.setup.sample())
        described["start"] = fingerprint(network.init(jax.random.key(0), inputs)[0])
    return Config(described, task_facts(task), environment(command))


def _write(result: StudyResult, folder: pathlib.Path) -> None:
    """The files that people read."""
    _files.write_json(folder / "results.json", results_json(result, _words.finding(result)))
    _folder.write_history(folder / "history.csv", result.regimes.values())
    _page.write_report(result, folder / "report.html")


_Due = tuple[Plan, list[Member]]


def _known(prepared: Prepared, plans: list[Plan], folder: pathlib.Path) -> list[_Due]:
    """Of the regimes still to be trained those of which it is known who is trained, and on what."""
    seeds = prepared.setup.study.all_seeds
    return [
        (plan, [Member(seed, plan.rate, rule_hyper(plan)) for seed in seeds])
        for plan in plans
        if prepared.splits is None
        and plan.follows is None
        and not _folder.regime_path(folder, plan.name).exists()
    ]


def _train_regime(
    prepared: Prepared,
    plan: Plan,
    out: _Folder,
    progress: OnProgress | None,
    programs: Programs,
    later: list[_Due],
) -> None:
    """Tune a regime where the study tunes, train it, and keep what was found."""
    setup, folder = prepared.setup, out.path
    seeds, started = setup.study.all_seeds, time.monotonic()
    plan = _following(plan, out)
    by_rule = (plan.rate, rule_hyper(plan))
    settings, tuning, twin = [by_rule], None, None
    if prepared.splits is not None:
        alike = one_algorithm(prepared.plans, plan.name)
        if alike[0] == plan.name:
            plans = [plan, *(prepared.plans[name] for name in alike[1:])]
            tuning = _tuned(setup, plans, prepared.splits, out, progress)
            best = tuning.trials[tuning.best]
            # What counts comes first; the rule's is trained beside it, as one population.
            settings = [(best.learning_rate, best.hyper)]
            settings += [by_rule] if by_rule != settings[0] else []
        else:
            twin = _folder.read_regime(folder, alike[0], out.config)
    members = [Member(seed, *setting) for setting in settings for seed in seeds]
    on_the_way = setup.study.loss_levels, seeds[: setup.study.landscape_seeds]
    outcome = train(
        setup,
        plan,
        setup.train,
        setup.test,
        members,
        progress=reporter(progress, plan, "train"),
        keeper=_keeper(out, plan, "train", members),
        at_evaluation=keep_levels(folder, plan.name, *on_the_way),
        populate=lambda plan: programs.population(plan, members, later),
    )
    training.on_first(lambda: _folder.check_hold(folder, out.lock))
    own = jax.tree.map(lambda x: x[: len(seeds)], training.to_host(outcome.weights._asdict()))
    path = _folder.network_path(folder, plan.name)
    training.on_first(lambda: training.save_tree(path, own))
    plan = outcome.plan
    made = [
        (
            run_of(setup, outcome, *setting, which),
            curves_of(setup, outcome, programs, which),
            stops_of(setup, outcome, which),
        )
        for which, setting in enumerate(settings)
    ]
    run, curves, stopped = made[0]
    rule, rule_curves, rule_stopped = made[1] if len(made) > 1 else (None, None, None)
    updates = curves.update[-1]  # where the loss decides, fewer than planned
    sizes = [(u, plan.batch_sizes(u)) for u in (0, *plan.batch_sizes.boundaries) if u < updates]
    record = RegimeRecord(
        name=plan.name,
        remedies=[remedy.name for remedy in plan.regime.remedies],
        batch_size=max(size for _, size in sizes),
        batch_sizes=sizes,
        ghost_size=plan.ghost_size,
        updates=updates,
        epochs=curves.examples[-1] / plan.num_examples,
        examples=curves.examples[-1],
        seconds=time.monotonic() - started,
        budget=plan.budget.said,
        boundaries=[boundary for boundary in plan.boundaries if boundary < updates],
        seeds=seeds,
        run=run,
        rule=rule,
        tuning=tuning,
        curves=curves,
        stopped=stopped,
        rule_curves=rule_curves,
        rule_stopped=rule_stopped,
        study=out.config.fingerprint,
        network=fingerprint(own),
        decisions=list(plan.decisions),
        sources={
            remedy.name: remedy.source
            for remedy in plan.regime.remedies
            if remedy.name not in REMEDIES and remedy.source
        },
    )
    examples = examples_of(setup, outcome, len(settings))
    if twin is not None:
        record, examples = as_one(twin, _folder.read_examples(folder, twin), record, examples)
    trees = [path, *kept_weights(folder, plan.name, *on_the_way)]
    training.on_first(lambda: _folder.keep_regime(folder, record, examples, trees))


def _tuned(
    setup: Setup, plans: list[Plan], splits: Splits, out: _Folder, progress: OnProgress | None
) -> Tuning:
    """The tuning of a regime, and of those that are one with it; kept when it is done."""
    plan = plans[0]
    kept = _unfinished(out.path, plan) / "tuning.json"
    of = {"study": out.config.fingerprint, "regime": plan.name}
    if kept.exists():
        return _files.read(kept, Tuning, of=of, cost="its rates are tried again")
    found = tune(
        setup,
        plans,
        *splits,
        report=reporter(progress, plan, "tune"),
        keeper=lambda phase, members: _keeper(out, plan, phase, members),
    )

    def keep() -> None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _files.keep(kept, found, of=of)

    training.on_first(keep)
    return found


def _keeper(out: _Folder, plan: Plan, phase: str, members: list[Member]) -> Keeper:
    """The checkpoints of a population under way."""
    config = config_of(out.config.fingerprint, plan.name, members)
    return Keeper(_unfinished(out.path, plan) / phase, config)


def _following(plan: Plan, out: _Folder) -> Plan:
    """The plan with the mean distance curve of the regime that it follows."""
    if plan.follows is None:
        return plan
    curves = _folder.read_regime(out.path, plan.follows, out.config).curves
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


def _unfinished(folder: pathlib.Path, plan: Plan) -> pathlib.Path:
    """Where a regime keeps what it needs to go on, until it is done."""
    return folder / "checkpoints" / f"{file_name(plan.name)}.unfinished"


def reporter(progress: OnProgress | None, plan: Plan, phase: str) -> Callable[[Advance], None]:
    def report(at: Advance) -> None:
        if progress is not None:
            progress(
                StudyProgress(
                    plan.name,
                    phase,
                    at.update,
                    at.updates,
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
