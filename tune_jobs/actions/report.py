"""The report of an experiment: what `resnet-dist grid report` and `tune_jobs.write_report` do."""

from cluster.storage.opening import Place, open_storage
from tune_jobs.actions.results import stored_name
from tune_jobs.grid.experiment_file import Experiment
from tune_jobs.report import write
from tune_jobs.report.statistics import SMALLEST_DIFFERENCE
from tune_jobs.report.summary import ReportOptions
from tune_jobs.report.write import Report


def write_report(
    experiment: Experiment | Place,
    storage: Place,
    *,
    into: Place | None = None,
    smallest_difference: float = SMALLEST_DIFFERENCE,
    best_epoch: bool = False,
    preface: str = "",
    renewed_after: float | None = None,
) -> Report:
    """Write an experiment's report from what storage holds, also while it runs: Markdown, HTML, CSV and figures.

    experiment: its name, the path of its TOML file, or an `Experiment`.
    storage: a directory or `s3://bucket/prefix`; the report goes to `<experiment>/report/` in it.
    into: another directory or `s3://…` for the report, to publish it.
    smallest_difference: the smallest difference of two errors that matters, a fraction.
    best_epoch: also show each row's best epoch, which is optimistic: it is chosen on the test set.
    preface: a paragraph of yours that the report begins with.
    renewed_after: seconds after which the report will be written again: the page in a browser then renews itself.

    Raises a `UserError` of one line if storage has no such experiment.
    """
    opened = open_storage(storage)
    options = ReportOptions(smallest_difference, best_epoch, preface, renewed_after)
    target = open_storage(into) if into is not None else None
    return write.write_report(opened, stored_name(experiment, opened), options=options, into=target)
