import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.study import REGIMES, Regime, Study, make_plan

STUDY = Study()


@pytest.mark.parametrize(
    ("name", "batch", "updates", "epochs", "rate", "boundaries"),
    [
        ("SB", 16, 1600, 20, 0.05, (800, 1200)),
        ("LB", 640, 40, 20, 0.05, (20, 30)),
        ("LB+LR", 640, 40, 20, 0.05 * 40**0.5, (20, 30)),
        ("LB+LR+GBN+RA", 640, 1600, 800, 0.05 * 40**0.5, (800, 1200)),
    ],
)
def test_budgets_of_the_default_preset(name, batch, updates, epochs, rate, boundaries):
    plan = make_plan(STUDY, REGIMES[name], 1280)
    assert (plan.batch_size, plan.updates, plan.epochs) == (batch, updates, epochs)
    assert plan.boundaries == boundaries
    np.testing.assert_allclose(plan.learning_rate, rate, rtol=1e-6)
    drops = [u for u in range(1, updates) if plan.schedule(u) < 0.5 * plan.schedule(u - 1)]
    assert tuple(drops) == boundaries
    np.testing.assert_allclose(plan.schedule(updates - 1), rate * 0.01, rtol=1e-5)


def test_linear_rule_and_own_batch():
    plan = make_plan(STUDY, Regime("x", batch=32, rule="linear"), 1280)
    np.testing.assert_allclose(plan.learning_rate, 0.1, rtol=1e-6)
    assert plan.updates == 800


def test_what_does_not_fit_the_data():
    with pytest.raises(ValueError, match="regime LB: a batch of 640 is larger than the 600"):
        make_plan(STUDY, REGIMES["LB"], 600)
    with pytest.raises(ValueError, match="multiple of ghost_size=48: use 32 or 40 or 64"):
        make_plan(Study(ghost_size=48), REGIMES["LB+LR+GBN"], 1280)


@settings(max_examples=25, deadline=None)
@given(st.integers(700, 5000), st.floats(0.1, 30), st.sampled_from(list(REGIMES)))
def test_marks_end_with_an_evaluation_of_the_last_update(examples, epochs, name):
    plan = make_plan(Study(epochs=epochs), REGIMES[name], examples)
    assert plan.marks[-1] == plan.updates
    assert plan.updates in plan.evaluations
    assert plan.evaluations <= set(plan.marks)


def test_growth_takes_the_place_of_decay_at_the_same_epochs():
    plan = make_plan(STUDY, REGIMES["GROW"], 1280)
    # 10 epochs by 16, 5 epochs by 160, 5 by 640 where the rate makes up for the missing growth
    assert plan.batch_sizes.boundaries == (800, 840)
    assert plan.batch_sizes.values == (16, 160, 640)
    assert (plan.updates, plan.epochs, plan.batch_size) == (850, 20, 640)
    rates = [float(plan.schedule(u)) for u in (0, 799, 800, 840, 849)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.05, 0.02, 0.02], rtol=1e-5)


def test_hybrid_grows_first_and_decays_then():
    plan = make_plan(STUDY, REGIMES["HYBRID"], 1280)
    assert (plan.batch_sizes.boundaries, plan.batch_sizes.values) == ((800,), (16, 160))
    assert plan.updates == 880
    rates = [float(plan.schedule(u)) for u in (800, 839, 840)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005], rtol=1e-5)


def test_noise_is_that_of_the_small_batch():
    assert make_plan(STUDY, REGIMES["LB"], 1280).noise_std == 0
    np.testing.assert_allclose(make_plan(STUDY, REGIMES["LB+NOISE"], 1280).noise_std, 39**0.5)


def test_every_size_of_a_growing_batch_must_fit():
    with pytest.raises(ValueError, match="regime GROW: a batch of 640 is larger"):
        make_plan(STUDY, REGIMES["GROW"], 600)
    with pytest.raises(ValueError, match=r"regime GROW\+GBN: a batch of 16 is not a multiple"):
        make_plan(Study(ghost_size=32), REGIMES["GROW+GBN"], 1280)
