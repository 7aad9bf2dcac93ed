"""Floating-point operations: those of the network, by hand, and their sum over a growing batch."""

import pytest

from gapjax.study._population._cost import Costs
from gapjax.study._prepare import prepare_study
from tests.study.conftest import tiny_study


def _flops(regime, updates, **changes):
    prepared = prepare_study(tiny_study(regimes=("SB", regime), **changes))
    with Costs(prepared.updates) as costs:
        return costs.flops_by(list(prepared.plans.values())[-1], updates)


def test_an_update_costs_about_three_passes_of_the_network():
    (one, ten) = _flops("LB", [1, 10])
    passes = 3 * 2 * 32 * (4 * 5 + 5 * 3)  # forward, and backward to weights and inputs
    assert ten == pytest.approx(10 * one) and passes < one < 4 * passes


def test_a_compiler_that_does_not_tell_leaves_it_open():
    prepared = prepare_study(tiny_study(regimes=("SB",)))

    class Silent:
        def lower(self):
            return self

        compile = lower

        def cost_analysis(self):
            return None

    with Costs({"SB": dict.fromkeys(prepared.updates["SB"], Silent())}) as costs:
        assert costs.flops_by(prepared.plans["SB"], [1, 10]) == [None, None]


def test_a_growing_batch_costs_what_its_sizes_do():
    starts = [8, 16, 24, 40]  # updates; the batch grows from 8 to 32
    grown = _flops("GROW", [*starts], schedule="step", decay_factor=0.25, decay_at=(0.5,))
    small, large = _flops("8", [1])[0], _flops("LB", [1])[0]
    wanted = [8 * small, 16 * small, 16 * small + 8 * large, 16 * small + 24 * large]
    assert grown == pytest.approx(wanted, rel=0.05)  # what looks up the rate differs
