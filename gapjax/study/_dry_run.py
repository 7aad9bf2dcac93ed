"""What a study will need and send, told by its compiled programs before anything is trained."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding

from gapjax import training
from gapjax._text import readable_bytes
from gapjax.study._plan import Plan, make_plan
from gapjax.study._population._member import Member, make_population
from gapjax.study._population._programs import arguments_of
from gapjax.study._population._setup import count
from gapjax.study._prepare import Prepared, populations, prepare_study, with_reference
from gapjax.study._report._table import Column
from gapjax.study._study import Study
from gapjax.study._tune import MOST_EXTENSIONS


class Needs(NamedTuple):
    """What a regime's program needs, at its largest batch; bytes are those of one device.

    Attributes:
        plan: the plan of the regime.
        phase: ``"train"``, or ``"tune"`` for the search for a learning rate before it.
        members: seeds times learning rates trained at once.
        more: of tuning, the members by which a grid may grow, each time it does; these are
            trained as one more program of this kind.
        mesh: the axes of devices that it runs on, by name.
        devices: how many devices that is.
        members_per_device: members of which a device holds at least a part.
        examples_per_device: examples of a member's batch on a device.
        parameters: of one member.
        parameter_bytes: of one member.
        state_bytes: parameters, optimizer and running statistics of all members on a device, and
            the weights that they start from, which their distance is measured to.
        data_bytes: the training examples, and their order over a segment.
        program: memory and collectives of the compiled program; its arguments count the weights
            of the start, which lie beside it.
        sent: the collectives of one update.
        by_turns: whether members take turns on one device, as on CPU they may. The temporaries are
            then those of one member, where a GPU or TPU has those of all on a device at once.
    """

    plan: Plan
    phase: str
    members: int
    more: int
    mesh: dict[str, int]
    devices: int
    members_per_device: int
    examples_per_device: int
    parameters: int
    parameter_bytes: int
    state_bytes: int
    data_bytes: int
    program: training.Program
    sent: tuple[training.Collective, ...]
    by_turns: bool = False


def dry_run(study: Study, *, batch_devices: int = 1) -> Iterator[Needs]:
    """Compile the programs of a study as ``run_study`` would, and tell what they need.

    Nothing is trained, nothing is written, no array of a network is made. The programs are those of
    training, at the largest batch of each regime; measuring between updates takes memory of its own
    (up to 8192 examples forward at once, over all members, or 128 MiB of their inputs).

    Args:
        study: what would be trained.
        batch_devices: over how many devices the batch of each seed is split.

    Yields:
        ``Needs`` of each regime, after those of its tuning where the study tunes.

    Raises:
        ValueError: something the study asks for does not fit.

    Example:
        >>> needs = next(dry_run(Study(seeds=2, epochs=1, regimes=("SB", "LB"))))
        >>> needs.plan.name, needs.members, needs.parameters, needs.sent
        ('SB', 2, 43402, ())
    """
    prepared = prepare_study(study, batch_devices)
    for plan in prepared.plans.values():
        members = populations(prepared.plans, plan.name)
        if "tune" in members:
            assert prepared.splits is not None
            split = prepared.splits.train
            tuned = make_plan(plan.study, plan.regime, count(split), plan.longest)
            needs = _needs(prepared, tuned, "tune", members["tune"], split)
            yield needs._replace(more=members.get("extend", 0))
        yield _needs(prepared, plan, "train", members["train"], prepared.setup.train)


def _needs(prepared: Prepared, plan: Plan, phase: str, members: int, split: Any) -> Needs:
    setup = prepared.setup
    population = make_population(setup, with_reference(plan, prepared.plans), members)

    everyone = [Member(0, plan.rate)] * members
    arguments = arguments_of(population, setup, plan, everyone, split, plan.batch_size)
    states, _, _, rows, _ = arguments
    compiled = population.advance.lower(*arguments).compile()
    program = training.inspect_program(compiled)
    if population.loop == "host":
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
    # Where all that lies is asked of the program itself.
    (at_states, _, at_examples, at_rows, *_), _ = compiled.input_shardings
    first, shape = at_rows["example"], rows["example"].shape
    if population.by_turns:  # on one device, in a program of one of them
        at_states = at_examples = at_rows = None
        *_, members_here, examples_here = shape
        start, state = _bytes(states.params), _bytes(states)
        beside = start + 2 * state - state // members  # the others, and what they became
    else:
        *_, members_here, examples_here = first.shard_shape(shape)
        start, state = _bytes(states.params, at_states.params), _bytes(states, at_states)
        beside = start
    return Needs(
        plan=plan,
        phase=phase,
        members=members,
        more=0,
        mesh=dict(first.mesh.shape) if isinstance(first, NamedSharding) else {},
        devices=len(first.device_set),
        members_per_device=members_here,
        examples_per_device=examples_here,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(states.params)) // members,
        parameter_bytes=_bytes(states.params) // members,
        state_bytes=state + start,
        data_bytes=_bytes(split, at_examples) + _bytes(rows, at_rows),
        program=_with(program, beside),
        sent=tuple(c for c in program.collectives if population.loop == "host" or c.in_loop),
        by_turns=population.by_turns,
    )


def _with(program: training.Program, beside: int) -> training.Program:
    """A program where it runs, beside so many bytes that it is not given."""
    if program.memory is None:
        return program
    memory = program.memory._replace(arguments=program.memory.arguments + beside)
    return program._replace(memory=memory)


def _bytes(tree: Any, shardings: Any = None) -> int:
    """Bytes of the arrays of a tree, of one device where shardings are given."""
    leaves = jax.tree.leaves(tree)
    shapes = [leaf.shape for leaf in leaves]
    if shardings is not None:
        at = jax.tree.leaves(shardings)
        shapes = [where.shard_shape(shape) for where, shape in zip(at, shapes, strict=True)]
    return sum(
        math.prod(shape) * leaf.dtype.itemsize for shape, leaf in zip(shapes, leaves, strict=True)
    )


NEEDS_COLUMNS = (
    Column("regime", numeric=False),
    Column("updates"),
    Column("batch"),
    Column("members"),
    Column("devices"),
    Column("on each"),
    Column("ghosts", numeric=False),
    Column("state"),
    Column("data"),
    Column("temporaries"),
    Column("peak memory"),
    Column("sent per update", numeric=False),
)


def needs_row(needs: Needs) -> list[str]:
    """The cells of a row of ``NEEDS_COLUMNS``.

    Args:
        needs: of a regime, from :func:`dry_run`.

    Returns:
        The cells, in the order of ``NEEDS_COLUMNS``.
    """
    plan, memory = needs.plan, needs.program.memory
    driven = plan.controller is not None
    sizes = plan.sizes if driven else plan.batch_sizes.values
    mesh = " × ".join(f"{name} {size}" for name, size in needs.mesh.items() if size > 1)
    kinds = training.Program(None, needs.sent).by_kind()
    return [
        plan.name + (" (tune)" if needs.phase == "tune" else ""),
        f"{'≤ ' if driven else ''}{plan.updates}",
        "→".join(dict.fromkeys(map(str, sizes))),
        f"{needs.members}" + (f" (+ {needs.more}, {MOST_EXTENSIONS}×)" if needs.more else ""),
        f"{needs.devices}" + (f": {mesh}" if mesh else ""),
        f"{needs.members_per_device} × {needs.examples_per_device}",
        _ghosts(plan, needs.examples_per_device),
        readable_bytes(needs.state_bytes),
        readable_bytes(needs.data_bytes),
        readable_bytes(memory.temporaries) if memory else "?",
        readable_bytes(memory.peak) if memory else "?",
        ", ".join(f"{count} {kind} {readable_bytes(size)}" for kind, (count, size) in kinds.items())
        or "nothing",
    ]


def _ghosts(plan: Plan, examples: int) -> str:
    """How ghosts lie on devices that hold so many examples of a batch."""
    size = plan.ghost_size
    if size is None:
        return "none"
    if examples % size == 0:
        return f"{size}: {examples // size} on each device"
    if size % examples == 0:
        return f"{size}: over {size // examples} devices each"
    return f"{size}: straddle devices"


def needs_notes(needs: Needs) -> list[str]:
    """What a reader of the table must know, from any of its rows.

    Args:
        needs: of any regime of the study.

    Returns:
        A sentence each.
    """
    kind, study = jax.devices()[0].device_kind, needs.plan.study
    grows = [
        "(tune): a grid at whose edge the best rate lies grows, at most "
        f"{MOST_EXTENSIONS} times, by the members behind the +: as many updates of these again. "
        "Regimes that differ only in the rule of the rate are tuned once, with the first of them."
    ]
    turns = [
        "On this CPU members take turns on one device, and temporaries are those of one. GPUs and "
        "TPUs lay members over all devices and train those of a device at once: ask there for what "
        "that takes."
    ]
    driven = [
        "GROW: batch shows the sizes that its controller can propose. How many updates it makes is "
        "known only afterwards; as many as stand here if it never grows."
    ]
    return [
        f"{needs.parameters:,} parameters, {readable_bytes(needs.parameter_bytes)} a member. "
        f"{jax.device_count()} × {kind}. Nothing was trained.",
        "on each: members × examples of a batch on a device. state: parameters, optimizer, running "
        "statistics and the weights of the start; data: the training examples and their order; all "
        "in bytes of one device, at the largest batch. peak memory: what the compiled update takes "
        "with all of these and temporaries; measuring between updates takes its own. sent: "
        "collectives of an update and the bytes they leave on a device.",
        *(turns if needs.by_turns and needs.members > 1 else []),
        *(grows if study.tune and not study.tune_also else []),
        *(driven if needs.plan.study.controller is not None else ()),
    ]
