"""Study: every regime over many seeds, what was measured, and the report.

``Study`` says what is trained, ``run_study`` trains it and writes a folder, ``load_result`` reads
the folder back, ``write_report`` draws the report again. ``dry_run`` compiles what ``run_study``
would and tells what it needs, before anything is trained.
"""

from gapjax.study._dry_run import NEEDS_COLUMNS, Needs, dry_run, needs_notes, needs_row
from gapjax.study._figures import (
    plot_accuracy,
    plot_curves,
    plot_distance,
    plot_gap_closed,
    plot_growth,
)
from gapjax.study._landscape_report import plot_lines, plot_spectrum, plot_way
from gapjax.study._plan import Plan, make_plan
from gapjax.study._regimes import REGIMES, Regime
from gapjax.study._report import write_report
from gapjax.study._result import StudyResult, load_result
from gapjax.study._run import run_study
from gapjax.study._study import PRESETS, Study, preset
from gapjax.study._table import COLUMNS, finding, notes, rows
from gapjax.study._train import Progress

__all__ = [
    "COLUMNS",
    "NEEDS_COLUMNS",
    "PRESETS",
    "REGIMES",
    "Needs",
    "Plan",
    "Progress",
    "Regime",
    "Study",
    "StudyResult",
    "dry_run",
    "finding",
    "load_result",
    "make_plan",
    "needs_notes",
    "needs_row",
    "notes",
    "plot_accuracy",
    "plot_curves",
    "plot_distance",
    "plot_gap_closed",
    "plot_growth",
    "plot_lines",
    "plot_spectrum",
    "plot_way",
    "preset",
    "rows",
    "run_study",
    "write_report",
]
