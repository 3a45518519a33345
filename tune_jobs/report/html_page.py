"""The report as one HTML file that asks for nothing from anywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

from tune_jobs.report import cost as costs
from tune_jobs.report.columns import COST_TITLES, columns, cost_fields, percent, progress, trial_fields
from tune_jobs.report.inline_figures import hover_values, inline_svg
from tune_jobs.report.links import RecordLinks
from tune_jobs.report.method import method, rate_fields, rate_titles
from tune_jobs.report.rendering import Drawing
from tune_jobs.report.summary import ReportSummary
from tune_jobs.results.trials import STATES

MANY_TRIALS = 60
"""Trials beyond which their table is folded."""
MANY_ROWS = 30
"""Rows of a table beyond which its figures stand above it, and its rows can be filtered."""


def html_page(
    summary: ReportSummary,
    where: RecordLinks,
    overview: Drawing | None,
    drawings: Mapping[str, Sequence[Drawing]],
    written: str,
) -> str:
    """The page; `drawings` has the figures of each table by its name."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tune_jobs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = summary.results
    trials = [(trial, trial_fields(trial), where.records(trial)) for trial in results.trials.values()]
    spent = costs.experiment_cost(results)
    return environment.get_template("report.html").render(
        record=results.record,
        summary=summary,
        written=written,
        progress=progress(results),
        counts={state: results.count(state) for state in STATES},
        columns={table.name: columns(table, summary) for table in summary.tables},
        overview=_figure(overview) if overview else None,
        figures={table: [_figure(drawing) for drawing in drawn] for table, drawn in drawings.items()},
        where=where,
        trials=trials,
        trial_columns=list(trials[0][1]) if trials else [],
        many_trials=len(trials) > MANY_TRIALS,
        many_rows=MANY_ROWS,
        cost=spent,
        cost_titles=COST_TITLES,
        cost_fields=cost_fields,
        cost_meaning=costs.MEANING,
        cost_energy=costs.about_energy(spent.total) if spent else "",
        duration=lambda trial: costs.duration(costs.trial_seconds(trial)),
        percent=percent,
        method=method(summary),
        rate_titles=rate_titles(summary),
        rates=rate_fields(summary),
    )


def _figure(drawing: Drawing) -> dict[str, Any]:
    from markupsafe import Markup

    # matplotlib has escaped what users wrote; everything else in it is its own.
    svg = Markup(inline_svg(drawing))
    return {"name": drawing.name, "title": drawing.title, "svg": svg, "values": hover_values(drawing)}
