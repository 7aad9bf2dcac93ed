"""The target: of an error, a loss, or what more is better of; when a curve reaches it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapjax.study._results._records import TaskFacts
from gapjax.study._sweep._goal import is_certain, make_goal, reached


def facts(headline="accuracy", maximize=True, percent=("accuracy",)):
    return TaskFacts("x", headline, maximize, ["loss", headline], list(percent), False)


def test_the_target_of_an_accuracy_is_an_error():
    goal = make_goal(facts(), 0.1, "validation")
    assert goal.curve == "validation_accuracy"
    assert np.allclose(goal.cost([0.8, 0.95]), [0.2, 0.05])
    assert goal.target == 0.1 and goal.text == "validation error (1 - accuracy) of 0.1"


@pytest.mark.parametrize("target", [0, 1, -0.1, 90, float("nan"), "0.1", True])
def test_an_error_lies_between_0_and_1(target):
    with pytest.raises(ValueError, match=r"0\.1 for an accuracy of 90%"):
        make_goal(facts(), target, "validation")


def test_the_target_of_a_loss_is_the_loss():
    goal = make_goal(facts("loss", maximize=False), 2.5, "validation")
    assert (goal.curve, goal.target, goal.cost(3.0)) == ("validation_loss", 2.5, 3.0)
    assert make_goal(facts(), 2.5, "train").curve == "train_loss"


def test_of_what_more_is_better_the_target_is_to_be_exceeded():
    goal = make_goal(facts("score", percent=()), 7.0, "validation")
    assert goal.target == 7.0
    assert (goal.cost([6.0, 8.0]) <= goal.value).tolist() == [False, True]


@given(st.integers(2, 12), st.integers(0, 1000), st.floats(0.1, 0.9))
def test_reached_is_the_first_crossing_of_the_polygon(length, seed, value):
    rng = np.random.default_rng(seed)
    update = np.cumsum(rng.integers(1, 9, length))
    cost = rng.uniform(size=(length, 3))
    fine = np.linspace(update[0], update[-1], 20_001)
    for member, found in enumerate(reached(update, cost, value)):
        below = np.interp(fine, update, cost[:, member]) <= value
        if not below.any():
            assert found == np.inf
        else:
            assert abs(found - fine[below.argmax()]) <= 2 * (fine[1] - fine[0])


def test_a_curve_that_diverged_does_not_reach():
    cost = np.array([[0.9, 0.9], [np.nan, np.nan], [0.1, np.nan]])
    assert reached(np.array([1, 2, 4]), cost, 0.5).tolist() == [4.0, np.inf]


@pytest.mark.parametrize(
    ("steps", "now", "certain"),
    [
        ([[3.0, 5.0], [np.inf, np.inf]], 6, True),  # it takes more than 6, and the other 3.9
        ([[20.0, 20.0], [2.0, np.inf]], 21, False),  # sqrt(2 * 21) may still be less than 20
        ([[4.0, np.inf], [np.inf, np.inf]], 9, False),
        ([[4.0, 5.0], [4.5, 4.5]], 9, True),
    ],
)
def test_a_rate_is_certain_once_no_other_can_overtake_it(steps, now, certain):
    assert is_certain(np.array(steps).ravel(), now, 2) == certain
