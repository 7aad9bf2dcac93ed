"""Which examples a population takes: the rows of its updates, a segment at a time."""

from collections.abc import Sequence

import numpy as np

from gapjax import growth
from gapjax.study._plan import Plan
from gapjax.study._population._setup import Setup

MOST_ROWS = 4_000_000  # of one segment, in int32: 16 MB


def row_names(setup: Setup) -> tuple[str, ...]:
    """What an update is told of each of its examples: where augmented, also which epoch it is.

    Augmentation draws anew in every epoch.
    """
    return ("example",) if setup.augment is None else ("example", "epoch")


def segment_length(plan: Plan, members: int, batch_size: int) -> int:
    """The most updates between two looks at the host."""
    widest = int(np.diff((0, *plan.marks)).max())
    return max(1, min(widest, MOST_ROWS // (members * batch_size)))


def segment_rows(
    setup: Setup,
    plan: Plan,
    seeds: Sequence[int],
    update: int,
    updates: int,
    length: int,
    num_examples: int,
) -> dict[str, np.ndarray]:
    """The rows of the next updates, ``[length, P, B]``; those past ``updates`` stay unused."""
    size = plan.batch_sizes(update)
    first = plan.batch_sizes.examples_before(update)
    names = row_names(setup)
    rows = {name: np.zeros((length, len(seeds), size), np.int32) for name in names}
    own = {
        seed: growth.stream_rows(seed, first, first + updates * size, num_examples=num_examples)
        for seed in set(seeds)
    }
    for place, seed in enumerate(seeds):
        for name in names:
            rows[name][:updates, place] = getattr(own[seed], name).reshape(updates, size)
    return rows
