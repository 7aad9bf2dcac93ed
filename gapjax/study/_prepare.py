"""Before anything is trained: all parts of a study, checked against each other and its data."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax import _checks, data, diffusion, ghost, training
from gapjax.study._controls import with_controls
from gapjax.study._errors import first_line, naming
from gapjax.study._plan import Plan, make_plan, make_plans, warn_of_rules
from gapjax.study._population._branches import check_branches
from gapjax.study._population._member import member_functions, one_member
from gapjax.study._population._noise import noise_function
from gapjax.study._population._room import check_memory, check_time
from gapjax.study._population._rows import row_names
from gapjax.study._population._setup import Setup, count, make_setup
from gapjax.study._population._splits import Splits, hold_out
from gapjax.study._population._train import measured_names
from gapjax.study._study import Study
from gapjax.study._tune import SEEDS, extension, first_trials, one_algorithm


class Prepared(NamedTuple):
    """A study whose parts were found to fit together.

    Attributes:
        dataset: the examples.
        setup: what the regimes share.
        splits: the training and validation examples of tuning, None where nothing is tuned.
        plans: the plan of every regime, by name, in the order of training.
    """

    dataset: data.Dataset
    setup: Setup
    splits: Splits | None
    plans: dict[str, Plan]


def populations(plans: Mapping[str, Plan], name: str) -> dict[str, int]:
    """Phase -> how many members a regime trains at once: seeds times rates, in order.

    ``"extend"`` is a grid that grows, where the best rate lies at its edge. Regimes that are one
    algorithm are tuned once, over the union of their grids, with the first of them.
    """
    study, alike = plans[name].study, one_algorithm(plans, name)
    if not study.tune or alike[0] != name:
        return {"train": study.seeds}
    seeds = min(study.seeds, SEEDS)
    tried = first_trials([plans[other] for other in alike])
    more = {} if study.tune_also else {"extend": extension(study.tune) * seeds}
    # Trained at the rule's rate, and at the tuned one where that is another.
    return {"tune": len(tried) * seeds, **more, "train": 2 * study.seeds}


def prepare_study(study: Study, batch_devices: int = 1) -> Prepared:
    """Load the data and check everything against it; one update of every regime is traced.

    Raises:
        ValueError: something the study asks for does not fit.
    """
    dataset = study.load_dataset()
    if any(isinstance(part, data.StreamedSplit) for part in (dataset.train, dataset.test)):
        raise ValueError(
            f"data set {dataset.name} does not fit in memory, which a study needs: take a part of "
            "it, such as gapjax.data.load(name, train='train[:10%]')."
        )
    study = with_controls(study, count(dataset.train))
    setup = make_setup(study, dataset, batch_devices)
    plans = make_plans(study, study.all_regimes, setup.num_examples)
    for plan in plans.values():
        check_time(plan)
    splits = hold_out(study, setup.train) if study.tune else None
    if splits is not None:
        for plan in plans.values():
            _check_tuning(study, plan, count(splits.train))
    _check_devices(batch_devices, plans)
    _check_outputs(setup, dataset)
    for name, plan in plans.items():
        warn_of_rules(plan)
        members = max(populations(plans, name).values())
        _trace(setup, with_reference(plan, plans), members)
    return Prepared(dataset, setup, splits, plans)


def with_reference(plan: Plan, plans: Mapping[str, Plan]) -> Plan:
    """The plan with a curve of the size of the one that it follows, which is not known yet."""
    if plan.follows is None:
        return plan
    steps = np.array(plans[plan.follows].marks)
    blank = np.full(len(steps), np.nan)
    record = diffusion.DiffusionRecord(steps, np.log1p(steps), blank)
    return dataclasses.replace(plan, reference=record)


def _check_tuning(study: Study, plan: Plan, left: int) -> None:
    try:
        make_plan(study, plan.regime, left, plan.longest)
    except ValueError as error:
        held = f"validation={study.validation:g} of the training set held out for tuning"
        raise ValueError(f"with {held}, {error}") from None


def _check_devices(batch_devices: int, plans: Mapping[str, Plan]) -> None:
    """Seeds, rates and batches must lie evenly on the devices there are."""
    _checks.positive_int("batch_devices", batch_devices)
    for name, plan in plans.items():
        for members in populations(plans, name).values():
            training.population_mesh(members, devices_per_member=batch_devices)
        for size in plan.sizes:
            if size % batch_devices:
                raise ValueError(
                    f"regime {name}: a batch of {size} does not split evenly over "
                    f"batch_devices={batch_devices}: use a number that divides {size}."
                )


def _check_outputs(setup: Setup, dataset: data.Dataset) -> None:
    """Trace network and task on a few examples; nothing is computed."""
    network, task = setup.network, setup.task
    batch = setup.sample()
    inputs = jax.eval_shape(setup.inputs, batch)
    shape = jax.tree.map(lambda x: list(x.shape[1:]), inputs)
    try:
        params, state = jax.eval_shape(network.init, jax.random.key(0), inputs)
        outputs, _ = jax.eval_shape(
            lambda p, s, x: network.apply(p, s, x, train=False), params, state, inputs
        )
    except Exception as error:  # whatever a network of the user's raises
        raise ValueError(
            f"model {network.describe} does not run on inputs of shape {shape}: {first_line(error)}"
        ) from error
    width = None if task.width is None else task.width(dataset)
    # One number per example may stand without an axis of its own.
    last = (1, *outputs.shape[1:])[-1] if hasattr(outputs, "shape") else None
    fits = last is None or width is None or last == width or (last > width and task.wider)
    if not fits:
        raise ValueError(
            f"model {network.describe} gives outputs of shape {list(outputs.shape[1:])} for "
            f"{width} {'classes' if task.name == 'classification' else 'targets'}: make its "
            f"last layer {'at least ' * task.wider}{width} wide."
        )
    try:
        jax.eval_shape(lambda o, b: (task.measure(o, b), task.weights(b)), outputs, batch)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"task {task.name!r} does not fit outputs of shape "
            f"{list(getattr(outputs, 'shape', ()))} and its data: {first_line(error)}"
        ) from error
    if not ghost.batch_norms(state):
        for regime in setup.study.all_regimes:
            if regime.has("GBN"):
                raise ValueError(
                    f"regime {regime.name} wants ghost batch norm, but model {network.describe} "
                    "has no batch norm: add one, or leave out the regimes with GBN."
                )


def _trace(setup: Setup, plan: Plan, members: int) -> None:
    """Trace the start of a regime of so many members, and an update at each of its batch sizes."""
    rates = [float(plan.schedule()(u)) for u in (0, plan.updates - 1)]
    if not all(np.isfinite(rates)):
        raise ValueError(f"regime {plan.name}: its learning rate is {rates}, and must be finite.")
    with naming(f"regime {plan.name}"):
        step, init = member_functions(setup, plan)
        member, state = one_member(setup, plan, init)
        examples = setup.sample()
        check_memory(plan, state, members, len(measured_names(setup)))
        for size in plan.sizes:
            batch = jax.tree.map(
                lambda x, n=size: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), examples
            )
            rows = dict.fromkeys(row_names(setup), jax.ShapeDtypeStruct((size,), np.int32))
            try:
                after, _ = jax.eval_shape(step, state, member, (batch, rows))
            except Exception as error:
                raise ValueError(
                    f"regime {plan.name}, batch {size}: {first_line(error)}"
                ) from error
            _check_same(plan, state, after)
        if plan.branches:
            check_branches(setup, plan)
        if setup.study.measures_noise:
            jax.eval_shape(noise_function(setup, plan), state, setup.train)


def _check_same(plan: Plan, before: Any, after: Any) -> None:
    """An update must leave a state of the same shapes and types, or it cannot be repeated."""
    structures = [str(jax.tree.structure(state)) for state in (before, after)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"regime {plan.name}: an update changes the structure of the state; optimizer and "
            "network must keep theirs."
        )
    for (path, old), (_, new) in zip(
        *(jax.tree_util.tree_leaves_with_path(state) for state in (before, after)), strict=True
    ):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"regime {plan.name}: an update turns state{jax.tree_util.keystr(path)} from "
                f"{old.dtype}{list(old.shape)} into {new.dtype}{list(new.shape)}; the optimizer "
                "must keep shapes and types."
            )
