"""Many runs: experiments, grids on Ray Tune, results and reports.

docs/python.md teaches what a program or a notebook may import from here; nothing else is promised.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_jobs.actions.grid import GridRun as GridRun
    from tune_jobs.actions.grid import plan_grid as plan_grid
    from tune_jobs.actions.grid import run_grid as run_grid
    from tune_jobs.actions.report import write_report as write_report
    from tune_jobs.actions.results import Results as Results
    from tune_jobs.actions.results import read_results as read_results
    from tune_jobs.grid.experiment_file import Experiment as Experiment
    from tune_jobs.grid.observer import Observer as Observer
    from tune_jobs.grid.plan import Plan as Plan
    from tune_jobs.report.write import Report as Report

_PLACES = {
    "Experiment": "tune_jobs.grid.experiment_file",
    "GridRun": "tune_jobs.actions.grid",
    "Observer": "tune_jobs.grid.observer",
    "Plan": "tune_jobs.grid.plan",
    "Report": "tune_jobs.report.write",
    "Results": "tune_jobs.actions.results",
    "plan_grid": "tune_jobs.actions.grid",
    "read_results": "tune_jobs.actions.results",
    "run_grid": "tune_jobs.actions.grid",
    "write_report": "tune_jobs.actions.report",
}
"""Where each public name is defined."""
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: torch and Ray stay out of a process that only plans or reads."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]
