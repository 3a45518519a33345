"""Write an experiment's report from what storage holds: Markdown, one HTML file, CSV and figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from resnet_dist.configuration.sections import choices
from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import Storage
from tune_jobs.report.columns import columns
from tune_jobs.report.comparisons import Pair, Tested, tested
from tune_jobs.report.csv_files import cells_csv, images_csv, trials_csv
from tune_jobs.report.curves import MEASURES
from tune_jobs.report.figures import draw, draw_overview
from tune_jobs.report.html_page import html_page
from tune_jobs.report.links import RecordLinks
from tune_jobs.report.markdown import markdown
from tune_jobs.report.rendering import Drawing
from tune_jobs.report.statistics import LEAST_SEEDS
from tune_jobs.report.summary import ReportOptions, ReportSummary, TableSummary, summarise_experiment
from tune_jobs.report.terminal import terminal
from tune_jobs.report.verdicts import row_verdict
from tune_jobs.results.html_table import html_table
from tune_jobs.results.trials import STATES, read_experiment

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, repr=False)
class Report:
    """A report that has been written."""

    summary: ReportSummary
    uris: tuple[str, ...]
    """Where its files lie; the HTML page is the last."""
    figures: Mapping[str, Drawing]
    """Its figures by the names of their files: `overview`, `<table>-test-error`, `<table>-train-loss`."""

    @property
    def tables(self) -> tuple[TableSummary, ...]:
        """Its tables; a table's `cells` are its rows, and a row's `ours` its mean, deviation, interval and n."""
        return self.summary.tables

    @property
    def html_uri(self) -> str:
        """Where the HTML page lies."""
        return self.uris[-1]

    @cached_property
    def terminal(self) -> "Group":
        """The tables, for `rich.print`."""
        return terminal(self.summary)

    def compare(self, row: str, other: str, table: str = "") -> Tested:
        """One row less another of a table (by default the first): difference, 95 % interval, p and verdict.

        A test of one question: p is not adjusted for others that are asked. Raises a `UserError` if there is no such
        row, or if one of them has too few seeds to be tested.
        """
        found = next((one for one in self.tables if one.name == (table or self.tables[0].name)), None)
        if found is None:
            raise UserError(f"{table}: no such table; there are {', '.join(one.name for one in self.tables)}")
        for label in (row, other):
            choices("row", label, tuple(cell.label for cell in found.cells))
        first, second = (self.summary.tests.rows[found.name, label] for label in (row, other))
        (record,) = (one for one in self.summary.results.record["tables"] if one["name"] == found.name)
        pair = Pair(first, second, bool(record.get("paired", False)))
        if pair.comparison is None:
            raise UserError(f"{row} and {other}: a test takes {LEAST_SEEDS} finished seeds of each, none diverged")
        margin = self.summary.options.smallest_difference
        test = tested({row: pair.comparison}, row_verdict, margin, pair.paired)[row]
        return replace(test, elsewhere=pair.elsewhere)

    def __repr__(self) -> str:
        return f"<report of {self.summary.results.name}: {counted(len(self.tables), 'table')}>"

    def _repr_html_(self) -> str:
        overview = self.figures.get("overview")  # which an experiment of one table has not
        parts = [f"<p><b>{escape(notice)}</b></p>" for notice in self.summary.notices]
        for table in self.tables:
            shown = columns(table, self.summary)
            rows = [(cell.label, *(column.full(cell) for column in shown)) for cell in table.cells]
            parts.append(html_table(("Row", *(column.title for column in shown)), rows, table.title))
            parts += [f"<p>Warning: {escape(warning)}</p>" for warning in table.warnings]
            parts += [f"<p>{escape(note)}</p>" for note in table.notes]
        drawn = [overview] if overview else list(self.figures.values())
        return "".join([*parts, *(drawing.to_html() for drawing in drawn)])

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
                "document": cell.document.to_dict() if cell.document else None,
                "baseline_difference": cell.baseline_difference,
                "baseline": cell.against.to_dict() if cell.against else None,
                "diverged": cell.row.diverged,
                "interim": cell.interim,
                **({"best_epoch_optimistic": asdict(cell.best) if cell.best else None} if best_epoch else {}),
                "trials": [{"trial": t.trial_id, "state": t.state, "reason": t.reason} for t in cell.trials],
            }
            for cell in table.cells
        ],
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
    every = [*([overview] if overview else []), *(one for drawn in drawings.values() for one in drawn)]
    for drawing in every:
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
    figures = {drawing.name: drawing for drawing in every}
    return Report(summary, tuple(f"{target.uri.rstrip('/')}/{prefix}{path}" for path in files), figures)


def _path(drawing: Drawing) -> str:
    return f"figures/{drawing.name}"


def _linked(drawing: Drawing) -> tuple[str, str]:
    return f"{drawing.title}. {drawing.description}.", f"{_path(drawing)}.svg"
