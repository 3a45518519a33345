"""What `resnet-dist grid plan --on` does: what a grid would take on a cluster that is not at hand."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.storage.opening import Place, open_storage
from tune_jobs.actions.results import asked
from tune_jobs.grid.experiment import load_experiment
from tune_jobs.grid.experiment_file import Experiment
from tune_jobs.grid.forecast import Cluster, Forecast, forecast
from tune_jobs.grid.plan import Plan, make_plan


def forecast_grid(
    experiment: Experiment | Place,
    storage: Place,
    on: str,
    *,
    price: float | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    side_by_side: int | None = None,
) -> tuple[Plan, Forecast | None]:
    """A plan with the step times of another cluster, and what it would take there; None if nothing is left to run.

    on: `16xH100`, `16xH100,spot`, `16xH100,spot=0.1`; `here` is this machine, whose updates are measured.
    price: of a device for an hour, in whatever currency. The rest is as for `plan_grid`.
    """
    from tune_jobs.grid.calibration import calibrating

    cluster, opened, what = Cluster.parse(on), open_storage(storage), asked(experiment)
    changed = dict(settings or {})
    devices = {
        cell.config.run.device for table in load_experiment(what, changed, epochs).tables for cell in table.cells
    }
    with contextlib.ExitStack() as stack:
        if cluster.machine:
            calibration = cluster.machine.calibration(cluster.count)
        else:
            here = stack.enter_context(calibrating(devices.pop() if len(devices) == 1 else "auto"))
            calibration = replace(here, slots=cluster.count)
        planned = make_plan(what, opened, seeds, epochs, changed, calibration, side_by_side)
    return planned, forecast(planned, cluster, price)
