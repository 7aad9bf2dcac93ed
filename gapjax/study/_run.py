"""Running a study: every regime in turn, each kept when it is done, then results and report."""

import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import gapjax
from gapjax import data, diffusion, training
from gapjax.study import _folder, _keep, _measure, _report
from gapjax.study._landscape import SEEDS, measure_landscape
from gapjax.study._levels import keep_levels
from gapjax.study._members import Setup
from gapjax.study._origin import environment, fingerprint, versions
from gapjax.study._plan import Plan, make_plan
from gapjax.study._prepare import TUNING_SEEDS, prepare_study
from gapjax.study._result import StudyResult, load_result
from gapjax.study._study import Study, describe
from gapjax.study._train import Outcome, Progress, train

OnProgress = Callable[[Progress], None]
_TUNING_FACTOR = 2.0


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
            ``regimes/`` (one file each) and ``checkpoints/`` (the final networks).
        progress: called with a ``Progress`` as the study goes.
        command: the command line that reproduces the run, for the report.
        landscape: whether to measure the minima that were found, too: curvature, sharpness, the way
            from SB to LB. It is no part of the study: a folder that was trained without it gets it
            later.
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
        >>> result.regimes["LB"]["updates"]
        2
    """
    dataset, setup, splits, plans = prepare_study(study, batch_devices)
    described = {
        **describe(study),
        "data": fingerprint((dataset.train, dataset.test)),
        "gapjax": gapjax.__version__,
    }
    if not setup.network.fresh_start:  # its own weights are the start of every seed
        weights, _ = setup.network.init(jax.random.key(0), setup.train.images[:2])
        described["start"] = fingerprint(weights)
    training.check_agreement({**versions(), **described, "the folder": pathlib.Path(out_dir).name})
    folder = pathlib.Path(out_dir).expanduser()
    training.on_first(lambda: _folder.open_folder(folder, described, environment(command)))
    if not (folder / "config.json").exists():
        raise ValueError(
            f"process {jax.process_index()} does not see what process 0 wrote to {folder}: give a "
            "folder that all hosts share with --out."
        )
    for plan in plans.values():
        kept = folder / "regimes" / f"{plan.regime.name}.json"
        if not kept.exists():
            reference = _reference(folder, plan)
            tuning = _tune(setup, plan, splits, reference, folder, progress) if splits else None
            record = _train_and_keep(setup, plan, tuning, reference, folder, progress)
            training.on_first(functools.partial(_folder.keep_json, kept, record))
        _keep.remove(_unfinished(folder, plan))
    result = load_result(folder)
    if landscape:
        found = training.on_first(
            lambda: measure_landscape(
                setup, folder, result.regimes, result.history, progress=progress
            )
        )
        result = result._replace(landscape=found)
    training.on_first(lambda: _write(result, folder))
    return result


def _write(result: StudyResult, folder: pathlib.Path) -> None:
    """The files that people read."""
    _folder.write_json(folder / "results.json", {"regimes": result.regimes})
    rows = [
        row
        for name, history in result.history.items()
        for row in _folder.history_rows(name, result.regimes[name]["seeds"], history)
    ]
    _folder.write_history(folder / "history.csv", rows)
    _report.write_report(result, folder / "report.html")


def _reference(folder: pathlib.Path, plan: Plan) -> diffusion.DiffusionRecord | None:
    """The mean distance curve of the regime that this one follows."""
    if plan.regime.match is None:
        return None
    history = _folder.read_json(folder / "regimes" / f"{plan.regime.match}.json")["history"]
    distance = np.array(history["distance"], np.float64)
    distance = distance[:, np.isfinite(distance).all(axis=0)]
    if not distance.size:
        raise ValueError(
            f"regime {plan.regime.name} follows {plan.regime.match}, which diverged in every seed."
        )
    step = np.array(history["update"])
    return diffusion.DiffusionRecord(step, distance.mean(axis=1), np.full(len(step), np.nan))


def _tune(
    setup: Setup,
    plan: Plan,
    splits: tuple[data.Split, data.Split],
    reference: diffusion.DiffusionRecord | None,
    folder: pathlib.Path,
    progress: OnProgress | None,
) -> dict[str, Any]:
    """Rates around the regime's rule, judged by validation accuracy over a few seeds."""
    kept = _unfinished(folder, plan) / "tuning.json"
    if kept.exists():
        return _folder.read_json(kept)
    study = setup.study
    plan = make_plan(study, plan.regime, len(splits[0]))
    powers = range(-(study.tune // 2), study.tune - study.tune // 2)
    rates = [plan.learning_rate * _TUNING_FACTOR**power for power in powers]
    seeds = _seeds(study)[:TUNING_SEEDS]
    members = [(seed, rate) for rate in rates for seed in seeds]
    report = _reporter(progress, plan, "tune")
    outcome = train(
        setup,
        plan,
        *splits,
        members,
        reference=reference,
        progress=report,
        keeper=_keep.Keeper(kept.parent / "tune", members),
    )
    accuracy = _final(outcome, "test_accuracy").reshape(len(rates), len(seeds))
    # A rate at which any seed diverged is not a rate to recommend.
    best = int(np.argmax(np.nan_to_num(accuracy.mean(axis=1), nan=-1.0)))
    tuning = {
        "rule_learning_rate": plan.learning_rate,
        "learning_rate": rates[best],
        "at_edge": len(rates) > 1 and best in (0, len(rates) - 1),
        "rates": [
            {"learning_rate": rate, "validation_accuracy": _measure.over_seeds(row)}
            for rate, row in zip(rates, accuracy, strict=True)
        ],
    }
    training.on_first(lambda: _folder.keep_json(kept, tuning))
    return tuning


def _train_and_keep(
    setup: Setup,
    plan: Plan,
    tuning: dict[str, Any] | None,
    reference: diffusion.DiffusionRecord | None,
    folder: pathlib.Path,
    progress: OnProgress | None,
) -> dict[str, Any]:
    """Train at the rule's rate, and at the tuned one where there is one, as one population."""
    seeds = _seeds(setup.study)
    rates = [plan.learning_rate]
    if tuning and tuning["learning_rate"] != plan.learning_rate:
        rates.append(tuning["learning_rate"])
    members = [(seed, rate) for rate in rates for seed in seeds]
    started = time.perf_counter()
    outcome = train(
        setup,
        plan,
        setup.train,
        setup.test,
        members,
        reference=reference,
        progress=_reporter(progress, plan, "train"),
        keeper=_keep.Keeper(_unfinished(folder, plan) / "train", members),
        at_evaluation=keep_levels(folder, plan.regime.name, setup.study.loss_levels, seeds[:SEEDS]),
    )
    states = outcome.states
    final = training.to_host({"params": states.params, "model_state": states.model_state})
    training.on_first(lambda: training.save_tree(folder / "checkpoints" / plan.regime.name, final))

    def numbers(which: int) -> dict[str, Any]:
        part = slice(which * len(seeds), (which + 1) * len(seeds))
        values = {name: _final(outcome, name)[part] for name in _measure.METRICS}
        gap = values["train_accuracy"] - values["test_accuracy"]
        return {name: _measure.over_seeds(v) for name, v in {**values, "gap": gap}.items()} | {
            "diverged": [
                {
                    "seed": seed,
                    "update": int(update),
                    "where": training.fault_path(states.params, fault),
                }
                for seed, update, fault in zip(
                    seeds, outcome.diverged[part], outcome.fault[part], strict=True
                )
                if update
            ]
        }

    result = {
        "batch_size": plan.batch_size,
        "batch_sizes": [
            [update, plan.batch_sizes(update)] for update in (0, *plan.batch_sizes.boundaries)
        ],
        "ghost_size": plan.ghost_size,
        "updates": plan.updates,
        "epochs": plan.epochs,
        "budget": plan.budget,
        "learning_rate": plan.learning_rate,
        "boundaries": plan.boundaries,
        "seeds": seeds,
        **numbers(0),
        "tuned": tuning and {**tuning, **numbers(len(rates) - 1)},
    }
    history = {
        name: column if column.ndim == 1 else column[:, : len(seeds)]
        for name, column in outcome.history.items()
    }
    return {"result": result, "history": history, "seconds": time.perf_counter() - started}


def _unfinished(folder: pathlib.Path, plan: Plan) -> pathlib.Path:
    """Where a regime keeps what it needs to go on, until it is done."""
    return folder / "checkpoints" / f"{plan.regime.name}.unfinished"


def _final(outcome: Outcome, name: str) -> np.ndarray:
    """A metric after the last update, NaN for members that diverged."""
    return np.where(outcome.diverged > 0, np.nan, outcome.history[name][-1])


def _seeds(study: Study) -> list[int]:
    return list(range(study.first_seed, study.first_seed + study.seeds))


def _reporter(
    progress: OnProgress | None, plan: Plan, phase: str
) -> Callable[[int, float, float | None], None]:
    def report(update: int, speed: float, left: float | None) -> None:
        if progress is not None:
            progress(Progress(plan.regime.name, phase, update, plan.updates, speed, left))

    return report
