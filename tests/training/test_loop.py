import itertools

import jax
import numpy as np
import pytest

from gapjax import training


@jax.jit
def _step(state, batch):
    return state + batch, {"loss": state * 2.0}


def test_history_holds_every_recorded_update_and_the_last():
    state, history = training.fit(
        _step, np.float32(0), itertools.repeat(np.float32(1)), num_updates=7, record_every=3
    )
    assert float(state) == 7
    np.testing.assert_array_equal(history.step, [3, 6, 7])
    np.testing.assert_array_equal(history.metrics["loss"], [4.0, 10.0, 12.0])


def test_callbacks_see_every_update():
    seen = []
    training.fit(
        _step,
        np.float32(0),
        itertools.repeat(np.float32(1)),
        num_updates=3,
        callbacks=[lambda update, state, metrics: seen.append((update, float(state)))],
    )
    assert seen == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_no_more_batches_are_taken_than_needed():
    batches = iter(np.arange(5, dtype=np.float32))
    training.fit(_step, np.float32(0), batches, num_updates=3)
    assert next(batches) == 3


def test_batches_that_end_early_are_an_error():
    with pytest.raises(ValueError, match="ended after 2 of num_updates=3"):
        training.fit(_step, np.float32(0), [np.float32(1)] * 2, num_updates=3)


@pytest.mark.parametrize("field", ["num_updates", "record_every", "in_flight"])
def test_numbers_must_be_positive(field):
    with pytest.raises(ValueError, match=f"{field} must be a whole number"):
        training.fit(_step, 0.0, [], **{"num_updates": 1, field: 0})
