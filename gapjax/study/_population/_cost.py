"""What an update costs, told by its compiled program."""

import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any

from gapjax.study._plan import Plan


class Costs:
    """What the updates of regimes cost, compiled in the background.

    A context: whoever leaves it does not wait for what is still to be compiled.

    Args:
        updates: the traced update of every regime at each of its batch sizes.
    """

    def __init__(self, updates: Mapping[str, Mapping[int, Any]]):
        self._updates = updates
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "gapjax-cost")
        self._found: dict[tuple[str, int], concurrent.futures.Future[float | None]] = {}

    def __enter__(self) -> "Costs":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def begin(self, plan: Plan) -> None:
        """Begin to count the operations of an update at each batch size of a plan."""
        for size in plan.batch_sizes.sizes():
            if (plan.name, size) not in self._found:
                # Lowered here: a thread does not see the settings of JAX that its caller made.
                lowered = self._updates[plan.name][size].lower()
                self._found[plan.name, size] = self._thread.submit(_flops, lowered)

    def flops_by(self, plan: Plan, updates: Sequence[int]) -> list[float | None]:
        """The floating-point operations of one seed until after each of some updates.

        Of one update they are counted in its compiled program, a loop within it once. None where
        the compiler does not tell.
        """
        self.begin(plan)
        each = {size: self._found[plan.name, size].result() for size in plan.batch_sizes.sizes()}
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


def _flops(lowered: Any) -> float | None:
    found = lowered.compile().cost_analysis()
    flops = found.get("flops") if found else None
    return float(flops) if flops is not None and flops > 0 else None
