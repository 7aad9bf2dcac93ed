"""The report's section on targets: what it takes to get as far as an end of the gap."""

from typing import Any

from gapjax.study._findings._result import StudyResult
from gapjax.study._findings._targets import COSTS, Target
from gapjax.study._report._numbers import NOTHING, fixed, spread
from gapjax.study._report._table import digits


def section(result: StudyResult) -> list[dict[str, Any]]:
    """A table per target."""
    return [_table(result, target) for target in result.targets]


def _table(result: StudyResult, target: Target) -> dict[str, Any]:
    task = result.config.task
    level = fixed(task.scale(task.headline) * target.level, digits(task, task.headline))
    name = task.headline.replace("_", " ")
    rows = []
    for regime, costs in target.costs.items():
        count = costs["examples"].count
        known = {cost: costs[cost] for cost in COSTS}
        rows.append(
            {
                "name": regime,
                "reached": f"{count} of {len(costs['examples'].values)}" if count else "never",
                **{cost: spread(one) if one.count else NOTHING for cost, one in known.items()},
            }
        )
    unit = task.unit(task.headline)
    return {"title": f"the test {name} at which {target.end} ends, {level}{unit}", "rows": rows}
