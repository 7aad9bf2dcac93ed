"""What training a population gave, as the records that are kept."""

import numpy as np

from gapjax import training
from gapjax.study._plan import Plan
from gapjax.study._population._cost import flops_by
from gapjax.study._population._setup import Setup
from gapjax.study._population._train import Outcome, measured_names
from gapjax.study._results._records import Curves, Diverged, Run, over_seeds


def run_of(setup: Setup, outcome: Outcome, rate: float, which: int) -> Run:
    """The numbers of one rate's members."""
    seeds, task = setup.study.all_seeds, setup.task
    part = slice(which * len(seeds), (which + 1) * len(seeds))
    values = {name: outcome.final(name)[part] for name in measured_names(setup)}
    train_value, test_value = (values[f"{split}_{task.headline}"] for split in ("train", "test"))
    sign = 1.0 if task.maximize else -1.0
    return Run(
        learning_rate=rate,
        hyper={},
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


def curves_of(setup: Setup, plan: Plan, outcome: Outcome) -> Curves:
    """What was measured on the way, of the rate that counts."""
    curves, seeds = outcome.curves, len(setup.study.all_seeds)
    updates = curves.update.tolist()
    return Curves(
        update=updates,
        examples=[plan.batch_sizes.examples_before(u) for u in updates],
        seconds=curves.seconds.tolist(),
        values={name: column[:, :seeds].tolist() for name, column in curves.values.items()},
        flops=flops_by(setup, plan, updates),
    )


def examples_of(setup: Setup, outcome: Outcome, rates: int) -> dict[str, np.ndarray]:
    """What every test example gave: ``[S, n]`` by name, of the rule under ``rule/``."""
    seeds = len(setup.study.all_seeds)
    found = {"weight": setup.evaluator.example_weights(setup.test)}
    for name in {"loss", setup.task.headline}:
        found[name] = outcome.examples[name][:seeds]
        if rates > 1:
            found[f"rule/{name}"] = outcome.examples[name][seeds:]
    return found
