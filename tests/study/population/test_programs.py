"""The programs of regimes: the ones that train, made once, and what they say an update costs."""

import logging

import jax
import pytest

from gapjax.study._population._member import Member
from gapjax.study._population._programs import Programs
from gapjax.study._population._train import train
from gapjax.study._prepare import prepare_study
from tests.study.conftest import tiny_study

SLOW = pytest.mark.slow
# The program of a segment, or of an update; what splits its rows is none.
_IS_COMPILED = "XLA compilation of jit(here)"


def _programs(**changes):
    prepared = prepare_study(tiny_study(**changes))
    return prepared, Programs(prepared.setup, prepared.setup.train)


def _members(prepared, plan, seeds=2):
    return [Member(seed, plan.rate) for seed in range(seeds)]


def _flops(regime, updates, seeds=2, **changes):
    prepared, programs = _programs(regimes=("SB", regime), **changes)
    plan = list(prepared.plans.values())[-1]
    with programs:
        programs.population(plan, _members(prepared, plan, seeds))
        return programs.flops_by(plan, updates)


def test_an_update_costs_about_three_passes_of_the_network():
    (one, ten) = _flops("LB", [1, 10])
    passes = 3 * 2 * 32 * (4 * 5 + 5 * 3)  # forward, and backward to weights and inputs
    assert ten == pytest.approx(10 * one) and passes < one < 4 * passes


@pytest.mark.parametrize("seeds", [1, 2, 3, 8, 12])  # on one device, or one or several on each
def test_what_one_seed_costs_does_not_depend_on_how_many_there_are(seeds):
    assert _flops("LB", [1], seeds) == pytest.approx(_flops("LB", [1]), rel=0.02)


def test_a_compiler_that_does_not_tell_leaves_it_open(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "cost_analysis", lambda self: None)
    assert _flops("LB", [1, 10]) == [None, None]


def test_a_growing_batch_costs_what_its_sizes_do():
    starts = [8, 16, 24, 40]  # updates; the batch grows from 8 to 32
    grown = _flops("GROW", [*starts], schedule="step", decay_factor=0.25, decay_at=(0.5,))
    small, large = _flops("8", [1])[0], _flops("LB", [1])[0]
    wanted = [8 * small, 16 * small, 16 * small + 8 * large, 16 * small + 24 * large]
    assert grown == pytest.approx(wanted, rel=0.05)  # what looks up the rate differs


@pytest.mark.parametrize(
    "changes",
    [
        {"regimes": ("SB", "LB+LR+GBN")},
        {"regimes": ("GROW", "SB"), "schedule": "step", "decay_factor": 0.25, "decay_at": (0.5,)},
        {"regimes": ("SB", "LB"), "keep": "loss=0.5"},
        pytest.param({"regimes": ("SB",), "model": "c1-thin", "dataset": "digits"}, marks=SLOW),
    ],
)
def test_what_is_compiled_ahead_is_what_trains(caplog, changes):
    """Told by shapes alone; one of them wrong, and the compiler would be asked once more."""
    prepared, programs = _programs(**changes)
    setup, met = prepared.setup, []
    all_members = [(plan, _members(prepared, plan)) for plan in prepared.plans.values()]

    def spied(population):
        def advance(*arguments):
            caplog.clear()
            out = population.advance(*arguments)
            met.extend(r.getMessage() for r in caplog.records if _IS_COMPILED in r.getMessage())
            return out

        return population._replace(advance=advance)

    with programs, jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        made = [programs.population(*each, all_members) for each in all_members]
        for plan in prepared.plans.values():
            programs.flops_by(plan, [plan.updates])  # waits for the compiler
        for (plan, members), one in zip(all_members, map(spied, made), strict=True):
            parts = setup, plan, setup.train, setup.test, members
            train(*parts, populate=lambda _, one=one: one)
    assert not met
