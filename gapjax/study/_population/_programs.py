"""The compiled programs of populations: several made at once, and what an update of each costs."""

import concurrent.futures
import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gapjax._cores import cores
from gapjax.study._plan import Plan
from gapjax.study._population._flops import of_later_turns
from gapjax.study._population._member import (
    MEMBERS,
    ROWS,
    Member,
    Population,
    as_arrays,
    make_population,
)
from gapjax.study._population._rows import row_names, segment_length
from gapjax.study._population._setup import Setup

_MOST = 8  # regimes ahead: what is compiled takes memory, and the first of them waits for all
Cost = concurrent.futures.Future[float | None]


class Programs:
    """The programs that train the regimes of a study, compiled before they run.

    The compiler is one thread to a program, so several are compiled at once, on as many cores,
    while the next are traced and the first of them gets its start; never while one trains, whose
    seconds are told.

    A context: whoever leaves it does not wait for what is still to be compiled.

    Args:
        setup: what the regimes share.
        split: what they train on.
    """

    def __init__(self, setup: Setup, split: Any):
        self._setup, self._split = setup, split
        self._made: dict[str, tuple[Plan, Population]] = {}
        self._costs: dict[tuple[str, int], Cost] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor(
            min(cores(), _MOST), "gapjax-compiler"
        )

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def population(
        self,
        plan: Plan,
        members: Sequence[Member],
        later: Sequence[tuple[Plan, Sequence[Member]]] = (),
    ) -> Population:
        """What trains so many members in a regime; its first update waits for the compiler.

        Args:
            plan: the plan of the regime.
            members: who is trained.
            later: what is asked for next. Some of them are compiled along, if this one has to be.
        """
        if plan.name not in self._made or self._made[plan.name][0] is not plan:
            self._begin(plan, members)
            if jax.process_count() == 1:
                for other, others in later[: _MOST - 1]:
                    if other.name not in self._made:
                        with contextlib.suppress(Exception):  # it fails again, where it is due
                            self._begin(other, others)
        made = self._made[plan.name][1]

        def advance(*arguments: Any) -> Any:
            concurrent.futures.wait(list(self._costs.values()))
            return made.advance(*arguments)

        return made._replace(advance=advance)

    def _begin(self, plan: Plan, members: Sequence[Member]) -> None:
        population = make_population(self._setup, plan, len(members))
        for size in plan.batch_sizes.sizes():
            if (plan.name, size) not in self._costs:
                arguments = arguments_of(population, self._setup, plan, members, self._split, size)
                # Lowered here: a thread does not see the settings of JAX that its caller made.
                traced = population.advance.trace(*arguments)
                together = 1 if population.by_turns else len(members)
                # What is traced is a group of devices' program, what is compiled a device's.
                later = of_later_turns(traced.jaxpr.jaxpr) * math.prod(
                    population.mesh.shape[axis] for axis in MEMBERS
                )
                self._costs[plan.name, size] = self._threads.submit(
                    _flops, traced.lower(), population.mesh.size / together, later / together
                )
        self._made[plan.name] = plan, population

    def flops_by(self, plan: Plan, updates: Sequence[int]) -> list[float | None]:
        """The floating-point operations of one seed until after each of some updates.

        Of one update they are counted in the compiled program that trains; of loops within it, the
        turns after the first by their matrix products and convolutions. None where the compiler
        does not tell.
        """
        starts = (0, *plan.batch_sizes.boundaries)
        ends = (*plan.batch_sizes.boundaries, max(updates))
        found = [self._costs[plan.name, plan.batch_sizes(start)].result() for start in starts]
        of = [flops for flops in found if flops is not None]
        if len(of) < len(found):
            return [None] * len(updates)
        return [
            sum(
                flops * (min(update, end) - start)
                for flops, start, end in zip(of, starts, ends, strict=True)
                if update > start
            )
            for update in updates
        ]


def arguments_of(
    population: Population,
    setup: Setup,
    plan: Plan,
    members: Sequence[Member],
    split: Any,
    size: int,
) -> tuple[Any, ...]:
    """What ``population.advance`` is called with at a batch size, told by shapes alone."""

    def lie(tree: Any, *axes: str | None) -> Any:
        sharding = NamedSharding(population.mesh, PartitionSpec(*axes))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=sharding, weak_type=getattr(x, "weak_type", False)
            ),
            tree,
        )

    states = jax.tree.map(lambda x: x.update(shape=(len(members), *x.shape)), population.one)
    hyper: dict[str, Any] = {**as_arrays(members)}
    if plan.stopping is not None:
        hyper["going"] = jax.ShapeDtypeStruct((len(members),), jnp.bool)
    length = segment_length(plan, len(members), size)
    rows = jax.ShapeDtypeStruct((length, len(members), size), jnp.int32)
    named = dict.fromkeys(row_names(setup), rows)
    return lie(states, *MEMBERS), lie(hyper, *MEMBERS), lie(split), lie(named, *ROWS), 1


def _flops(lowered: Any, of_one: float, later: float) -> float | None:
    """Of one member, where this much of a device's program is its own, and in later turns."""
    found = lowered.compile().cost_analysis()
    flops = found.get("flops") if found else None
    return float(flops) * of_one + later if flops is not None and flops > 0 else None
