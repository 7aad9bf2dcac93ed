"""The rows of a population are those of the stream of its seeds."""

import numpy as np

from gapjax import growth
from gapjax.study import Regime, make_plan
from gapjax.study._population._rows import segment_rows
from gapjax.study._population._setup import make_setup
from tests.study.conftest import tiny_study


def test_rows_are_those_of_the_stream():
    study = tiny_study(decay_at=(0.5,), augment=(lambda key, batch: batch,))
    setup = make_setup(study, study.load_dataset())
    plan = make_plan(study, Regime.parse("GROW"), 64)
    batches = growth.GrowingBatches({"i": np.arange(64)}, plan.batch_sizes, seed=3, with_index=True)
    for update in range(plan.updates):
        rows = segment_rows(setup, plan, [3, 4, 3], update, 1, 2, 64)
        wanted = next(batches)
        for place in (0, 2):
            np.testing.assert_array_equal(rows["example"][0, place], wanted.data["i"])
            np.testing.assert_array_equal(rows["epoch"][0, place], wanted.epoch)
        assert not np.array_equal(rows["example"][0, 0], rows["example"][0, 1])
        assert (rows["example"][1] == 0).all()
