"""Running a sweep: every size under every remedy, each kept when it is done."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np

from gapjax import data, diffusion, training
from gapjax._paths import local_path
from gapjax.study._plan import Plan, make_plan
from gapjax.study._population._keep import Keeper, config_of, remove
from gapjax.study._population._member import Member
from gapjax.study._population._programs import Programs
from gapjax.study._population._setup import count
from gapjax.study._population._splits import num_left
from gapjax.study._population._train import Curves, Watch, train
from gapjax.study._prepare import Prepared, prepare_study
from gapjax.study._results._folder import hold
from gapjax.study._results._names import file_name
from gapjax.study._results._origin import describe, environment, versions
from gapjax.study._results._records import Curves as KeptCurves
from gapjax.study._results._records import hash_of, task_facts
from gapjax.study._run import OnProgress, reporter
from gapjax.study._study import Study
from gapjax.study._sweep import _page
from gapjax.study._sweep._findings import SweepResult, find_all
from gapjax.study._sweep._goal import Goal, make_goal
from gapjax.study._sweep._options import SWEEP_WITHOUT
from gapjax.study._sweep._records import (
    SizeRecord,
    SweepConfig,
    keep_record,
    open_folder,
    read_config,
    read_record,
    record_path,
)
from gapjax.study._sweep._sweep import Sweep
from gapjax.study._tune import random_trials

_PER_DECADE = 30  # evaluations; between two of them the curve is a line
_LEAST, _MOST = 1e-30, 1e30  # a rate, as float32 holds it
_TESTS = 8  # to a decade: how often the test set is looked at, for the budgets alone


def run_sweep(
    sweep: Sweep,
    out_dir: str | os.PathLike[str],
    *,
    progress: OnProgress | None = None,
    command: str | None = None,
) -> SweepResult:
    """Train every batch size of a sweep and write its folder.

    Each size is kept when it is done, and every half minute on the way there. Run again with the
    same folder and other sizes, other remedies or another target, and only what is missing is
    trained: the result is of all that lies in the folder.

    Args:
        sweep: what to train.
        out_dir: the folder: ``sweep.json``, ``sizes/`` (a record each), ``results.json``,
            ``sweep.csv`` and ``report.html``.
        progress: called with a ``StudyProgress`` as it goes.
        command: the command line that reproduces the run, for the report.

    Returns:
        The ``SweepResult``.

    Raises:
        ValueError: something does not fit, before anything is trained; a target that is met before
            the first update, or that no size reached; or a folder that belongs to something else.

    Example:
        >>> import tempfile
        >>> small = Sweep(Study(seeds=2), (32, 64, 128), target=0.3, rates=2, epochs=0.2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = run_sweep(small, folder)
        >>> [point.batch_size for point in result.lines["none"].points]
        [32, 64, 128]
    """
    if not isinstance(sweep, Sweep):
        raise ValueError(f"sweep must be a Sweep, not {sweep!r}.")
    jobs, prepared = prepare(sweep)
    config = _config(sweep, prepared, command)
    goal = make_goal(config.task, sweep.target, sweep.watch)
    shared = {**versions(), **config.sweep, "folder": pathlib.Path(out_dir).name}
    training.check_agreement(shared)
    folder = local_path("out_dir", out_dir)
    with contextlib.ExitStack() as stack:
        training.on_first(lambda: stack.enter_context(hold(folder)))
        training.on_first(lambda: open_folder(folder, config))
        assert prepared.splits is not None
        programs = stack.enter_context(Programs(prepared.setup, prepared.splits.train))
        due = {
            job.plan.name: (job.plan, job.members(sweep.study))
            for job in jobs
            if not _is_done(record_path(folder, job.plan.name), job, sweep, goal)
        }
        of = hash_of(config.sweep)
        for job in jobs:
            if due.pop(job.plan.name, None):
                later = list(due.values())
                _train(sweep, prepared, job, goal, folder, of, progress, programs, later)
            remove(_unfinished(folder, job.plan))
        result = find_all(read_config(folder), folder, goal)
        training.on_first(lambda: _page.write_files(result, folder))
    result.check_reached()
    return result


class Job(NamedTuple):
    """A size under a remedy.

    Attributes:
        remedy: the name of the curve.
        parts: its remedies, as its record names them.
        plan: of its regime, on what is left to train on.
        trials: what is tried: rates, and other hyperparameters.
    """

    remedy: str
    parts: list[str]
    plan: Plan
    trials: list[tuple[float, dict[str, float]]]

    def members(self, study: Study) -> list[Member]:
        """Who is trained: every trial with every seed."""
        return [Member(seed, *trial) for trial in self.trials for seed in study.all_seeds]


def prepare(sweep: Sweep) -> tuple[list[Job], Prepared]:
    """The jobs of a sweep, all of them checked; one update of each is traced.

    Raises:
        ValueError: something does not fit, such as a size beyond the data.
    """
    assert sweep.epochs is not None
    regimes = [
        sweep.regime(size, remedy) for remedy in sweep.remedies for size in sweep.batch_sizes
    ]
    names = [name for name, _ in sweep.remedies for _ in sweep.batch_sizes]
    dataset = sweep.study.load_dataset()
    _check_sizes(sweep, dataset)
    study = dataclasses.replace(
        sweep.study,
        dataset=dataset,
        regimes=regimes,
        baseline=Study.baseline,
        factorial=(),
        controller=None,
        schedule="constant",
        keep="updates",
        tune=1,
        tune_also=tuple(sweep.tune_also),
        controls=False,
        epochs=sweep.epochs * sweep.limit,
    )
    prepared = prepare_study(study)
    training.population_mesh(sweep.rates * study.seeds)
    assert prepared.splits is not None
    left = count(prepared.splits.train)
    most = sweep.most_updates(left)
    looks = {0, *diffusion.log_spaced(most, per_decade=_PER_DECADE), sweep.updates(left)}
    told = describe(study, prepared.dataset, prepared.setup.network)["regimes"]
    jobs = []
    for name, regime, described in zip(names, regimes, told, strict=True):
        plan = make_plan(study, regime, left)
        # No other size has a say, so that a size may go on beside others than it began with.
        equal = min(most, _same_examples(sweep, left, plan.batch_size))
        plan = dataclasses.replace(plan, looks=tuple(sorted({*looks, equal})))
        jobs.append(Job(name, described["remedies"], plan, _trials(sweep, plan)))
    return jobs, prepared


def _check_sizes(sweep: Sweep, dataset: data.Dataset) -> None:
    """Every size must fit what is left to train on."""
    if isinstance(dataset.train, data.StreamedSplit):
        return  # which is refused for all studies alike
    left = num_left(sweep.study, count(dataset.train))
    for size in sweep.batch_sizes:
        if size > left:
            raise ValueError(
                f"a batch of {size} is larger than the {left} training examples that "
                f"validation={sweep.study.validation:g} leaves: use at most {left}."
            )


def _same_examples(sweep: Sweep, num_examples: int, size: int) -> int:
    """The updates in which a size sees the budget of equal examples."""
    return max(1, round(sweep.updates(num_examples) * sweep.study.small_batch / size))


def _trials(sweep: Sweep, plan: Plan) -> list[tuple[float, dict[str, float]]]:
    """Rates around the rule of the plan, or the square root where it has none; or random draws."""
    rule = "sqrt" if plan.rule == "none" else plan.rule
    middle = diffusion.scale_learning_rate(
        plan.peak, batch_size=plan.batch_size, base_batch_size=plan.small_batch, rule=rule
    )
    below = sweep.rates // 2
    powers = np.arange(-below, sweep.rates - below)
    with np.errstate(over="ignore"):
        found = np.float64(middle) * np.float64(sweep.rate_factor) ** powers
    if not (found[0] >= _LEAST and found[-1] <= _MOST):
        raise ValueError(
            f"{sweep.rates} rates, each {sweep.rate_factor:g} times the one before, run from "
            f"{found[0]:.3g} to {found[-1]:.3g} at a batch of {plan.batch_size}: take fewer, or a "
            f"smaller rate_factor, so that all lie between {_LEAST:g} and {_MOST:g}."
        )
    if sweep.tune_also:
        return random_trials(plan, float(middle), sweep.rates, sweep.rate_factor ** max(below, 1))
    return [(rate, {}) for rate in found.tolist()]


def _config(sweep: Sweep, prepared: Prepared, command: str | None) -> SweepConfig:
    study = prepared.setup.study
    described = describe(study, prepared.dataset, prepared.setup.network)
    for name in (*SWEEP_WITHOUT, "regimes"):
        described.pop(name, None)
    own = {name: getattr(sweep, name) for name in ("rates", "rate_factor", "epochs", "limit")}
    own |= {"tune_also": list(sweep.tune_also)} if sweep.tune_also else {}
    assert prepared.splits is not None
    left = count(prepared.splits.train)
    updates = sweep.updates(left)
    return SweepConfig(
        {**described, **own, "watch": sweep.watch},
        task_facts(study.task),
        environment(command),
        left,
        updates,
        updates * study.small_batch,
        sweep.most_updates(left),
    )


def _is_done(path: pathlib.Path, job: Job, sweep: Sweep, goal: Goal) -> bool:
    """Whether a record is there that answers what is asked."""
    if not path.exists():
        return False
    record = read_record(path)
    if record.parts != job.parts:
        raise ValueError(
            f"{path} is of another remedy {job.remedy}: {', '.join(record.parts)} there, and "
            f"{', '.join(job.parts)} here. Give another folder (--out)."
        )
    if record.target is None:
        return True
    return sweep.stop_at_target and record.answers(goal, job.plan.updates)


def _train(
    sweep: Sweep,
    prepared: Prepared,
    job: Job,
    goal: Goal,
    folder: pathlib.Path,
    of: str,
    progress: OnProgress | None,
    programs: Programs,
    later: list[tuple[Plan, list[Member]]],
) -> None:
    """Train all rates and seeds of a size, and keep what was measured."""
    assert prepared.splits is not None
    setup, plan, (train_split, validation) = prepared.setup, job.plan, prepared.splits
    started, members = time.monotonic(), job.members(setup.study)
    looks = frozenset(plan.evaluations)
    rare = frozenset(_rare(sweep, plan, looks))
    watched = [Watch("validation", validation, looks), Watch("test", setup.test, rare)]
    if sweep.watch == "train":
        watched.append(Watch("train", train_split, looks))

    def look(curves: Curves, weights: Any) -> None:
        del weights
        goal.check_not_met(goal.cost(curves.values[goal.curve])[0])

    def enough(curves: Curves) -> bool:
        return goal.is_known(curves.update, curves.values[goal.curve], len(job.trials))

    outcome = train(
        setup,
        plan,
        train_split,
        validation,
        members,
        watched=watched,
        enough=enough if sweep.stop_at_target else lambda _: False,
        at_evaluation=look,
        progress=reporter(progress, plan, "train"),
        keeper=Keeper(
            _unfinished(folder, plan),
            {
                **config_of(of, plan.name, members),
                "looks": sorted(plan.evaluations),
                "parts": job.parts,
            },
        ),
        populate=lambda plan: programs.population(plan, members, later),
    )
    curves = outcome.curves
    record = SizeRecord(
        remedy=job.remedy,
        parts=job.parts,
        batch_size=plan.batch_size,
        ghost_size=plan.ghost_size,
        rates=[rate for rate, _ in job.trials],
        hyper=[hyper for _, hyper in job.trials],
        seeds=setup.study.all_seeds,
        flops=programs.flops_by(plan, [1])[0],
        diverged=outcome.diverged.tolist(),
        seconds=time.monotonic() - started,
        target=goal.value if sweep.stop_at_target else None,
        curves=KeptCurves(
            update=curves.update.tolist(),
            examples=(plan.batch_size * curves.update).tolist(),
            seconds=curves.seconds.tolist(),
            values={name: column.tolist() for name, column in curves.values.items()},
        ),
    )
    path = record_path(folder, plan.name)
    training.on_first(functools.partial(keep_record, path, record))


def _rare(sweep: Sweep, plan: Plan, looks: frozenset[int]) -> set[int]:
    """The updates at which the test set is looked at: few, and the ends of the budgets."""
    few = diffusion.log_spaced(plan.updates, per_decade=_TESTS)
    ends = {
        sweep.updates(plan.num_examples),
        _same_examples(sweep, plan.num_examples, plan.batch_size),
    }
    return ({0, *few} | ends) & looks


def _unfinished(folder: pathlib.Path, plan: Plan) -> pathlib.Path:
    """Where a size keeps what it needs to go on, until it is done."""
    return folder / "checkpoints" / f"{file_name(plan.name)}.unfinished"
