"""A regime that sees more examples gets a small batch that does, and no other study gets one."""

import pytest

from gapjax import study
from gapjax.study._controls import with_controls
from gapjax.study._plan import make_plans
from tests.study.conftest import tiny_study


def _names(**changes):
    return [r.name for r in with_controls(tiny_study(**changes), 64).all_regimes]


def test_a_control_sees_as_much_as_the_regime_that_sees_most():
    own = with_controls(tiny_study(regimes=("SB", "LB", "LB+RA")), 64)
    plans = make_plans(own, own.all_regimes, 64)
    assert list(plans) == ["SB", "LB", "LB+RA", "SB+LONG"]
    assert plans["SB+LONG"].examples == plans["LB+RA"].examples == 4 * plans["SB"].examples
    assert plans["SB+LONG"].batch_size == plans["SB"].batch_size


@pytest.mark.parametrize(
    "changes",
    [
        {"regimes": ("SB", "LB", "LB+LR")},  # none sees more
        {"regimes": ("SB", "LB", "LB+RA"), "controls": False},
        {"regimes": ("LB", "LB+RA")},  # no small batch
        {"regimes": ("SB", "LB", "LB+RA", "SB+LONG")},
        {"regimes": ("SB", "LB", "LB+RA", study.Regime("long", "small", ("LONG",)))},
    ],
)
def test_where_there_is_none(changes):
    assert _names(**changes) == [r.name for r in tiny_study(**changes).all_regimes]


def test_a_small_batch_of_another_name_keeps_its_remedies():
    changes = {"regimes": ("8+GBN+RA", "LB", "LB+RA"), "baseline": ("8+GBN+RA", "LB")}
    own = with_controls(tiny_study(**changes), 64).all_regimes[-1]
    assert own.name == "8+GBN+RA+LONG" and [r.name for r in own.remedies] == ["GBN", "LONG"]


def test_a_switch_is_a_switch():
    with pytest.raises(ValueError, match="controls must be True or False, not 'yes'"):
        tiny_study(controls="yes")
