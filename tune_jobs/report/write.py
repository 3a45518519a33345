"""Write an experiment's report from what storage holds: Markdown, one HTML file, CSV and figures."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from resnet_dist.storage.interface import Storage
from tune_jobs.report.comparisons import Tested
from tune_jobs.report.csv_files import cells_csv, images_csv, trials_csv
from tune_jobs.report.curves import MEASURES
from tune_jobs.report.drawing import Drawing
from tune_jobs.report.figures import draw, draw_overview
from tune_jobs.report.html_page import html_page
from tune_jobs.report.links import RecordLinks
from tune_jobs.report.markdown import markdown
from tune_jobs.report.summary import ReportOptions, ReportSummary, TableSummary, summarise_experiment
from tune_jobs.report.terminal import terminal
from tune_jobs.results.trials import STATES, read_experiment

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Report:
    """A report that has been written."""

    summary: ReportSummary
    uris: tuple[str, ...]
    """Where its files lie; the HTML page is the last."""

    @property
    def html_uri(self) -> str:
        """Where the HTML page lies."""
        return self.uris[-1]

    @cached_property
    def terminal(self) -> "Group":
        """The tables, for `rich.print`."""
        return terminal(self.summary)

    def to_dict(self) -> dict[str, Any]:
        """The tables as plain values, for `--json`. Errors are fractions."""
        results = self.summary.results
        return {
            "experiment": results.name,
            "storage": results.uri,
            "notices": list(self.summary.notices),
            "study": self.summary.study,
            "comparable": self.summary.comparable,
            "smallest_difference": self.summary.options.smallest_difference,
            "trials": {state: results.count(state) for state in STATES},
            "tables": [_table_dict(table, self.summary.options.best_epoch) for table in self.summary.tables],
            "files": list(self.uris),
        }


def _table_dict(table: TableSummary, best_epoch: bool) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "baseline": table.baseline,
        "warnings": list(table.warnings),
        "notes": list(table.notes),
        "common": table.common,
        "cells": [
            {
                "label": cell.label,
                "ours": asdict(cell.ours) if cell.ours else None,
                "reference": cell.reference,
                "paper": cell.paper,
                "paper_difference": cell.paper_difference,
                "prediction": list(cell.prediction) if cell.prediction else None,
                "difference": cell.difference,
                "document": _tested_dict(cell.document),
                "baseline_difference": cell.baseline_difference,
                "baseline": _tested_dict(cell.against),
                "diverged": cell.row.diverged,
                "interim": cell.interim,
                **({"best_epoch_optimistic": asdict(cell.best) if cell.best else None} if best_epoch else {}),
                "trials": [{"trial": t.trial_id, "state": t.state, "reason": t.reason} for t in cell.trials],
            }
            for cell in table.cells
        ],
    }


def _tested_dict(tested: Tested | None) -> dict[str, Any] | None:
    if tested is None:
        return None
    return {
        "difference": tested.comparison.difference,
        "interval": list(tested.comparison.interval),
        "p": tested.p,
        "verdict": tested.verdict,
        "paired": tested.paired,
        "interval_other_images": list(tested.elsewhere.interval) if tested.elsewhere else None,
    }


def write_report(
    storage: Storage,
    name: str,
    now: datetime | None = None,
    options: ReportOptions | None = None,
    into: Storage | None = None,
) -> Report:
    """Read experiment `name` from storage and write its report to `<name>/report/`, or `into` another place.

    It may be called while the experiment runs. `now` is the time that the report bears. Raises what
    `read_experiment` raises.
    """
    summary = summarise_experiment(read_experiment(storage, name), options)
    written = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    where = RecordLinks(storage.uri, name, elsewhere=into is not None)
    overview = draw_overview(summary.tables)
    drawings = {
        table.name: [drawing for measure in MEASURES if (drawing := draw(table, measure))] for table in summary.tables
    }
    files: dict[str, bytes] = {}
    for drawing in (*([overview] if overview else []), *(one for drawn in drawings.values() for one in drawn)):
        files[f"{_path(drawing)}.svg"] = drawing.svg.encode()
        files[f"{_path(drawing)}.png"] = drawing.png
    files["results.csv"] = trials_csv(summary).encode()
    files["tables.csv"] = cells_csv(summary).encode()
    if summary.images:
        files["images.csv"] = images_csv(summary.images).encode()
    linked = {table: [_linked(drawing) for drawing in drawn] for table, drawn in drawings.items()}
    files["report.md"] = markdown(summary, where, [_linked(overview)] if overview else [], linked, written).encode()
    files["report.html"] = html_page(summary, where, overview, drawings, written).encode()
    target, prefix = (storage, f"{name}/report/") if into is None else (into, "")
    for path, data in files.items():
        target.put(f"{prefix}{path}", data)
    return Report(summary, tuple(f"{target.uri.rstrip('/')}/{prefix}{path}" for path in files))


def _path(drawing: Drawing) -> str:
    return f"figures/{drawing.name}"


def _linked(drawing: Drawing) -> tuple[str, str]:
    return f"{drawing.title}. {drawing.description}.", f"{_path(drawing)}.svg"
