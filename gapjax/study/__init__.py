"""Study: every regime over many seeds, what was measured, and the report.

``Study`` says what is trained, ``run_study`` trains it and writes a folder, ``load_result`` reads
the folder back, ``write_report`` draws the report again. ``dry_run`` compiles what ``run_study``
would and tells what it needs, before anything is trained.

``Sweep`` asks how large the batch may be, ``run_sweep`` trains many sizes to a target,
``load_sweep`` reads what came of it, ``write_sweep_report`` draws it again.

A ``Task`` is the only place that knows a loss and a metric (``classification``, ``multilabel``,
``regression``, ``next_token`` ship); a ``Regime`` is a batch and remedies, and ``REMEDIES`` are
those that ship.
"""

from gapjax.study._controllers import CONTROLLERS
from gapjax.study._dry_run import NEEDS_COLUMNS, Needs, dry_run, needs_notes, needs_row
from gapjax.study._findings._gap import Comparison, GapFindings
from gapjax.study._findings._intervals import Interval, paired_difference, share_of_gap
from gapjax.study._findings._measure import Measure, Number, Solution
from gapjax.study._findings._measures import MEASURES
from gapjax.study._findings._result import StudyResult, load_result
from gapjax.study._optimizers import OPTIMIZERS
from gapjax.study._plan import Plan, make_plan
from gapjax.study._presets._list import PRESETS, preset
from gapjax.study._presets._preset import Preset
from gapjax.study._regimes import BATCHES, Regime
from gapjax.study._remedies import REMEDIES, Remedy
from gapjax.study._report._cite import bibliography
from gapjax.study._report._export import format_table, write_figures
from gapjax.study._report._figures._curves import plot_curves, plot_distance, plot_growth
from gapjax.study._report._figures._gap import plot_gap_closed, plot_headline
from gapjax.study._report._figures._landscape import plot_lines, plot_spectrum, plot_way
from gapjax.study._report._figures._list import FIGURES, Figure
from gapjax.study._report._page import write_report
from gapjax.study._report._table import columns, notes, rows
from gapjax.study._report._words import finding
from gapjax.study._results._records import OverSeeds, RegimeRecord, Run
from gapjax.study._run import StudyProgress, run_study
from gapjax.study._schedules import SCHEDULES
from gapjax.study._study import Study
from gapjax.study._sweep._figures import plot_examples, plot_pareto, plot_steps
from gapjax.study._sweep._findings import SweepResult, load_sweep
from gapjax.study._sweep._options import SWEEP_HELP, SWEEP_WITHOUT, sweep_options
from gapjax.study._sweep._page import write_sweep_report
from gapjax.study._sweep._records import is_sweep
from gapjax.study._sweep._run import run_sweep
from gapjax.study._sweep._sweep import Sweep
from gapjax.study._sweep._words import (
    fit_columns,
    fit_rows,
    sweep_columns,
    sweep_finding,
    sweep_notes,
    sweep_rows,
)
from gapjax.study._task import (
    TASKS,
    Task,
    classification,
    multilabel,
    next_token,
    regression,
)

__all__ = [
    "BATCHES",
    "CONTROLLERS",
    "FIGURES",
    "MEASURES",
    "NEEDS_COLUMNS",
    "OPTIMIZERS",
    "PRESETS",
    "REMEDIES",
    "SCHEDULES",
    "SWEEP_HELP",
    "SWEEP_WITHOUT",
    "TASKS",
    "Comparison",
    "Figure",
    "GapFindings",
    "Interval",
    "Measure",
    "Needs",
    "Number",
    "OverSeeds",
    "Plan",
    "Preset",
    "Regime",
    "RegimeRecord",
    "Remedy",
    "Run",
    "Solution",
    "Study",
    "StudyProgress",
    "StudyResult",
    "Sweep",
    "SweepResult",
    "Task",
    "bibliography",
    "classification",
    "columns",
    "dry_run",
    "finding",
    "fit_columns",
    "fit_rows",
    "format_table",
    "is_sweep",
    "load_result",
    "load_sweep",
    "make_plan",
    "multilabel",
    "needs_notes",
    "needs_row",
    "next_token",
    "notes",
    "paired_difference",
    "plot_curves",
    "plot_distance",
    "plot_examples",
    "plot_gap_closed",
    "plot_growth",
    "plot_headline",
    "plot_lines",
    "plot_pareto",
    "plot_spectrum",
    "plot_steps",
    "plot_way",
    "preset",
    "regression",
    "rows",
    "run_study",
    "run_sweep",
    "share_of_gap",
    "sweep_columns",
    "sweep_finding",
    "sweep_notes",
    "sweep_options",
    "sweep_rows",
    "write_figures",
    "write_report",
    "write_sweep_report",
]
