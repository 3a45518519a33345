"""Write an experiment's report from what storage holds: Markdown, one HTML file, CSV and figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from resnet_dist.storage import Storage
from tune_jobs import report_text
from tune_jobs.figures import Drawing, Measure, draw, inline_svg
from tune_jobs.results import STATES, ExperimentResults, read_experiment
from tune_jobs.summary import ReportSummary, TableSummary, summarise_experiment

if TYPE_CHECKING:
    from rich.console import Group

MEASURES: tuple[Measure, ...] = ("train-loss", "test-error")
_MANY_TRIALS = 60


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
        return report_text.terminal(self.summary)

    def to_dict(self) -> dict[str, Any]:
        """The tables as plain values, for `--json`. Errors are fractions."""
        results = self.summary.results
        return {
            "experiment": results.name,
            "storage": results.uri,
            "notices": list(self.summary.notices),
            "comparable": self.summary.comparable,
            "trials": {state: results.count(state) for state in STATES},
            "tables": [_table_dict(table) for table in self.summary.tables],
            "files": list(self.uris),
        }


def _table_dict(table: TableSummary) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "baseline": table.baseline,
        "warnings": list(table.warnings),
        "notes": list(table.notes),
        "cells": [
            {
                "label": cell.label,
                "ours": asdict(cell.ours) if cell.ours else None,
                "reference": cell.reference,
                "paper": cell.paper,
                "difference": cell.difference,
                "reference_p": cell.reference_p,
                "verdict": cell.verdict,
                "baseline_difference": cell.baseline_difference,
                "baseline_p": cell.baseline_p,
                "trials": [{"trial": t.trial_id, "state": t.state, "reason": t.reason} for t in cell.trials],
            }
            for cell in table.cells
        ],
    }


def write_report(storage: Storage, name: str, now: datetime | None = None) -> Report:
    """Read experiment `name` from storage and write its report to `<name>/report/`.

    It may be called while the experiment runs. `now` is the time that the report bears. Raises what
    `read_experiment` raises.
    """
    summary = summarise_experiment(read_experiment(storage, name))
    written = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    drawings = {
        table.name: [drawing for measure in MEASURES if (drawing := draw(table, measure))] for table in summary.tables
    }
    files: dict[str, bytes] = {}
    paths: dict[str, list[str]] = {}
    for table_name, drawn in drawings.items():
        for drawing in drawn:
            path = f"figures/{table_name}-{drawing.measure}"
            files[f"{path}.svg"] = drawing.svg.encode()
            files[f"{path}.png"] = drawing.png
            paths.setdefault(table_name, []).append(f"{path}.svg")
    files["results.csv"] = report_text.csv_text(summary).encode()
    files["report.md"] = report_text.markdown(summary, paths, written).encode()
    files["report.html"] = _html(summary, drawings, written).encode()
    for path, data in files.items():
        storage.put(f"{name}/report/{path}", data)
    return Report(summary, tuple(f"{storage.uri.rstrip('/')}/{name}/report/{path}" for path in files))


def _html(summary: ReportSummary, drawings: Mapping[str, list[Drawing]], written: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("tune_jobs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results: ExperimentResults = summary.results
    trials = [(trial, report_text.trial_fields(trial)) for trial in results.trials.values()]
    return environment.get_template("report.html").render(
        record=results.record,
        summary=summary,
        written=written,
        progress=report_text.progress(results),
        counts={state: results.count(state) for state in STATES},
        columns={table.name: report_text.columns(table, summary.comparable) for table in summary.tables},
        figures={
            # matplotlib has escaped what users wrote; everything else in it is its own.
            table: [(drawing.title, Markup(inline_svg(drawing, f"{table}-{drawing.measure}"))) for drawing in drawn]
            for table, drawn in drawings.items()
        },
        trials=trials,
        trial_columns=list(trials[0][1]) if trials else [],
        many_trials=len(trials) > _MANY_TRIALS,
        cost=report_text.cost(results),
        method=report_text.METHOD,
    )
