"""What an update costs, told by its compiled program."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gapjax import training
from gapjax.study._plan import Plan
from gapjax.study._population._member import Member, as_arrays, member_functions
from gapjax.study._population._setup import Setup


def flops_by(setup: Setup, plan: Plan, updates: Sequence[int]) -> list[float | None]:
    """The floating-point operations of one seed until after each of some updates.

    Of one update they are counted in its compiled program, a loop within it once. None where the
    compiler does not tell.
    """
    each = {size: _of_update(setup, plan, size) for size in plan.batch_sizes.sizes()}
    told = {size: flops for size, flops in each.items() if flops is not None}
    if len(told) < len(each):
        return [None] * len(updates)
    starts = (0, *plan.batch_sizes.boundaries)
    ends = (*plan.batch_sizes.boundaries, max(updates))
    of = [told[plan.batch_sizes(start)] for start in starts]
    return [
        sum(
            flops * (min(update, end) - start)
            for flops, start, end in zip(of, starts, ends, strict=True)
            if update > start
        )
        for update in updates
    ]


def _of_update(setup: Setup, plan: Plan, size: int) -> float | None:
    step, init = member_functions(setup, plan)
    member = jax.tree.map(lambda x: x[0], as_arrays([Member(0, plan.rate)]))
    examples = setup.sample()
    state = jax.eval_shape(init, member, examples)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), examples)
    names = ("example",) if setup.augment is None else ("example", "epoch")
    rows = dict.fromkeys(names, jax.ShapeDtypeStruct((size,), np.int32))
    lowered = training.jit_once(step, run=False).lower(state, member, (batch, rows))
    found: Any = lowered.compile().cost_analysis()
    flops = found.get("flops") if found else None
    return float(flops) if flops is not None and flops > 0 else None
