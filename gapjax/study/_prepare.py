"""Before anything is trained: a study's parts, checked against its data."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from gapjax import _checks, data, growth, training
from gapjax.study._members import Setup, make_setup
from gapjax.study._plan import Plan, make_plan
from gapjax.study._regimes import as_regime
from gapjax.study._study import Study

TUNING_SEEDS = 4


def populations(study: Study) -> dict[str, int]:
    """Phase -> how many members it trains at once: seeds times rates, in the order of phases."""
    if not study.tune:
        return {"train": study.seeds}
    # Trained at the rule's rate, and at the tuned one where that is another.
    return {"tune": study.tune * min(study.seeds, TUNING_SEEDS), "train": 2 * study.seeds}


class Prepared(NamedTuple):
    """A study whose parts were found to fit together.

    Attributes:
        dataset: the examples.
        setup: what the regimes share.
        splits: the training and validation examples of tuning, None where nothing is tuned.
        plans: the plan of every regime, by name.
    """

    dataset: data.Dataset
    setup: Setup
    splits: tuple[data.Split, data.Split] | None
    plans: dict[str, Plan]


def prepare_study(study: Study, batch_devices: int = 1) -> Prepared:
    """Load the data and check everything against it; nothing is computed.

    Raises:
        ValueError: something the study asks for does not fit.
    """
    dataset = study.load_dataset()
    if not isinstance(dataset.train, data.Split) or not isinstance(dataset.test, data.Split):
        raise ValueError(
            f"data set {dataset.name} does not fit in memory, which a study needs: take a part of "
            "it, such as gapjax.data.load(name, train='train[:10%]')."
        )
    network = study.make_network(dataset.num_classes)
    setup = make_setup(study, network, dataset.train, dataset.test)
    setup = setup._replace(devices_per_member=batch_devices)
    splits = _split(setup) if study.tune else None
    plans = {}
    for regime in study.regimes:
        plan = make_plan(study, as_regime(regime), len(dataset.train))
        plans[plan.regime.name] = plan
        if splits:  # what does not fit is said now
            _check_tuning(study, plan, len(splits[0]))
    _check_devices(study, batch_devices, plans)
    _check_network(setup, dataset.num_classes, plans)
    return Prepared(dataset, setup, splits, plans)


def _split(setup: Setup) -> tuple[data.Split, data.Split]:
    """Training and validation examples for tuning: the same cut for every regime and seed."""
    study, examples = setup.study, setup.train
    held = max(1, round(study.validation * len(examples)))
    order = growth.epoch_order(study.first_seed, 0, len(examples))
    parts = order[held:], order[:held]
    first, second = (jax.tree.map(lambda x, rows=rows: x[rows], examples) for rows in parts)
    return first, second


def _check_tuning(study: Study, plan: Plan, left: int) -> None:
    try:
        make_plan(study, plan.regime, left)
    except ValueError as error:
        held = f"validation={study.validation:g} of the training set held out for tuning"
        raise ValueError(f"with {held}, {error}") from None


def _check_devices(study: Study, batch_devices: int, plans: dict[str, Plan]) -> None:
    """Seeds, rates and batches must lie evenly on the devices there are."""
    _checks.positive_int("batch_devices", batch_devices)
    for members in populations(study).values():
        training.population_mesh(members, devices_per_member=batch_devices)
    for name, plan in plans.items():
        for size in plan.batch_sizes.sizes():
            if size % batch_devices:
                raise ValueError(
                    f"regime {name}: a batch of {size} does not split evenly over "
                    f"batch_devices={batch_devices}: use a number that divides {size}."
                )


def _check_network(setup: Setup, num_classes: int, plans: dict[str, Plan]) -> None:
    """Trace the network on the data before anything is trained; nothing is computed."""
    network = setup.network
    images = jax.ShapeDtypeStruct((2, *setup.train.images.shape[1:]), np.float32)
    try:
        params, state = jax.eval_shape(network.init, jax.random.key(0), images)
        logits, _ = jax.eval_shape(
            lambda p, s, x: network.apply(p, s, x, train=False), params, state, images
        )
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model {network.describe} does not run on images of shape {images.shape[1:]}: {reason}"
        ) from error
    if logits.shape != (2, num_classes):
        raise ValueError(
            f"model {network.describe} gives logits of shape {logits.shape[1:]} for "
            f"{num_classes} classes: make its last layer {num_classes} wide."
        )
    ghosts = [name for name, plan in plans.items() if plan.ghost_size]
    if ghosts and not jax.tree.leaves(state):
        raise ValueError(
            f"regime {ghosts[0]} wants ghost batch norm, but model {network.describe} has no "
            "batch norm: add one, or leave out the regimes with GBN."
        )
    if ghosts:  # the norms themselves say which ghosts are too small
        plan = plans[ghosts[0]]
        batch = jax.ShapeDtypeStruct((plan.batch_size, *images.shape[1:]), np.float32)
        ghostly = functools.partial(
            network.apply, train=True, key=jax.random.key(0), ghost_size=plan.ghost_size
        )
        jax.eval_shape(ghostly, params, state, batch)
