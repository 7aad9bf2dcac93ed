"""Controls: regimes that are trained beside those asked for, so that their numbers can be read."""

import dataclasses
from typing import Any

from gapjax.study._plan import make_plans
from gapjax.study._regimes import Regime
from gapjax.study._remedies import REMEDIES
from gapjax.study._study import Study

MORE = 1.05  # times the examples of the small batch, from which on a regime has seen more


def with_controls(study: Study, num_examples: int) -> Study:
    """The study, and where a regime sees more than the small batch a small batch that does, too.

    That is ``SB+LONG``: whether a remedy helps, or only that it saw more, is told beside it.
    """
    if not study.controls:
        return study
    plans = make_plans(study, study.all_regimes, num_examples)
    base = plans.get(study.baseline[0])
    fixed = [plan for plan in plans.values() if not plan.budget.stops]
    if base not in fixed or all(plan.examples <= MORE * base.examples for plan in fixed):
        return study
    control = longer(base.regime)
    same = {(regime.batch, _names(regime)) for regime in study.all_regimes}
    if control.name in plans or (control.batch, _names(control)) in same:
        return study
    return dataclasses.replace(study, regimes=(*study.all_regimes, control))


def longer(regime: Regime) -> Regime:
    """The regime with as many examples as the one that sees most."""
    long = REMEDIES["LONG"]
    kept = [own for own in regime.remedies if own.name not in long.excludes]
    return dataclasses.replace(regime, name=f"{regime.name}+LONG", remedies=(*kept, long))


def _names(regime: Any) -> frozenset[str]:
    return frozenset(remedy.name for remedy in regime.remedies)
