"""The report as CSV: a line for every trial of every cell, for every cell, and for every test image.

Errors are fractions.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from tune_jobs.report.comparisons import Tested
from tune_jobs.report.images import Images
from tune_jobs.report.notices import shown_source
from tune_jobs.report.summary import CellSummary, ReportSummary

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

_TRIAL_FIELDS = ("table", "cell", "seed", "trial", "name", "state", "reason", "epochs_done", "epochs")
_RESULT_FIELDS = (
    *("top1_error", "top5_error", "test_loss", "train_loss"),
    *("seconds", "images_per_second", "workers", "device", "parameters", "attempts", "energy_joules"),
)
_SOURCE_FIELDS = ("commit", "dirty", "patch_sha256", "data_source", "data_fingerprint", "python", "torch", "host")


def trials_csv(summary: ReportSummary) -> str:
    """A line for every trial of every cell; one that stands in several tables has a line in each."""
    best = ["best_top1_error_optimistic"] if summary.options.best_epoch else []
    rows = []
    for table in summary.tables:
        for cell in table.cells:
            for trial in cell.trials:
                provenance = {**trial.provenance, "data_source": shown_source(trial.config["data"]["source"])}
                rows.append(
                    [table.name, cell.label, trial.seed, trial.trial_id, trial.name, trial.state, trial.reason]
                    + [trial.epochs_done, trial.epochs]
                    + [trial.result.get(key) for key in _RESULT_FIELDS]
                    + [trial.result.get("best_top1_error") for _ in best]
                    + [trial.config["run"]["precision"], cell.reference, cell.paper]
                    + [provenance.get(key) for key in _SOURCE_FIELDS]
                )
    return _csv([*_TRIAL_FIELDS, *_RESULT_FIELDS, *best, "precision", "reference", "paper", *_SOURCE_FIELDS], rows)


_CELL_FIELDS = (
    *("table", "cell", "n", "trials", "diverged", "interim", "mean", "sd", "low", "high"),
    *("prediction_low", "prediction_high"),
    *("reference", "difference", "reference_low", "reference_high", "reference_p", "reference_equivalence_p"),
    *("verdict", "paper", "paper_difference"),
    *("baseline", "baseline_difference", "baseline_low", "baseline_high", "baseline_p", "baseline_equivalence_p"),
    "baseline_verdict",
)


def cells_csv(summary: ReportSummary) -> str:
    """A line for every row of every table."""
    best = ["best_mean_optimistic", "best_sd_optimistic"] if summary.options.best_epoch else []
    rows = [
        [table.name, *_cell(cell), table.baseline, cell.baseline_difference]
        + _tested(cell.against)
        + ([cell.best.mean if cell.best else None, cell.best.sd if cell.best else None] if best else [])
        for table in summary.tables
        for cell in table.cells
    ]
    return _csv([*_CELL_FIELDS, *best], rows)


def images_csv(images: Images) -> str:
    """A line for every test image."""
    return _csv(
        ["image", "trials_wrong", "trials"],
        ([index, count, images.trials] for index, count in enumerate(images.wrong)),
    )


def _cell(cell: CellSummary) -> list[Any]:
    ours = cell.ours
    sample = [ours.mean, ours.sd, ours.low, ours.high] if ours else [None] * 4
    return [
        *(cell.label, ours.n if ours else 0, len(cell.trials), cell.row.diverged, cell.interim, *sample),
        *(*(cell.prediction or (None, None)), cell.reference, cell.difference, *_tested(cell.document)),
        *(cell.paper, cell.paper_difference),
    ]


def _tested(tested: Tested | None) -> list[Any]:
    if tested is None:
        return [None] * 5
    return [*tested.comparison.interval, tested.p, tested.equivalence_p, tested.verdict]


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return out.getvalue()


def _plain(value: Any) -> Any:
    """Numbers to twelve digits; text that a spreadsheet would take for a formula gets an apostrophe in front."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
