"""The report as Markdown."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tune_jobs.report import cost as costs
from tune_jobs.report.columns import COST_TITLES, columns, cost_fields, percent, progress, trial_fields
from tune_jobs.report.links import RecordLinks
from tune_jobs.report.method import method, rate_fields, rate_titles
from tune_jobs.report.summary import CellSummary, ReportSummary, TableSummary
from tune_jobs.results.trials import TrialResults

Figures = Mapping[str, Sequence[tuple[str, str]]]
"""By table, alternative text and path of each of its figures."""


def markdown(
    summary: ReportSummary, where: RecordLinks, overview: Sequence[tuple[str, str]], figures: Figures, written: str
) -> str:
    """The report; paths of `overview`, the figures of all tables, and `figures` are relative to it."""
    results = summary.results
    record = results.record
    lines = [f"# {_md(record['title'])}", ""]
    lines += [_md(summary.options.preface), ""] if summary.options.preface else []
    lines += ["\n>\n".join(f"> **{_md(notice)}**" for notice in summary.notices), ""] if summary.notices else []
    lines += [_md(record["description"]), ""] if record.get("description") else []
    lines += [_md(summary.recipe), ""]
    lines += [f"**{_md(summary.study)}**", ""] if summary.study else []
    lines += [f"{progress(results)}. Written {written}.", ""]
    if overview:
        lines += ["## All tables at a glance", "", *_images(overview)]
    for table in summary.tables:
        lines += _table(table, summary, figures.get(table.name, ()))
    lines += _early_stopped(summary.early_stopped)
    if spent := costs.experiment_cost(results):
        lines += ["## Cost", "", *_cost(spent)]
    lines += ["## Test images", "", f"{summary.images.sentence}\n"] if summary.images else []
    lines += ["## Trials", "", *_trials(summary, where), "", "## How to read this", ""]
    lines += [f"{line}\n" for line in method(summary)]
    titles = rate_titles(summary)
    lines += [*_grid(titles, [True] * len(titles), rate_fields(summary)), ""]
    return "\n".join(lines)


def _table(table: TableSummary, summary: ReportSummary, figures: Sequence[tuple[str, str]]) -> Iterator[str]:
    shown = columns(table, summary)
    yield from (f"## {_md(table.title)}", "", _md(table.description), "")
    yield from (f"**Warning: {_md(warning)}**\n" for warning in table.warnings)
    heading = ["Row", *(column.title for column in shown), "Trials by seed", "State"]
    numeric = [False, *(column.key is not None for column in shown), False, False]
    rows = (
        [_md(cell.label), *(column.full(cell) for column in shown), _links(cell), _state(cell)] for cell in table.cells
    )
    yield from _grid(heading, numeric, rows)
    yield from ("", *(f"{_md(note)}\n" for note in table.notes))
    if table.settings:
        yield f"{_md(table.settings)}\n"
    if table.common:
        yield f"{_md(table.common)}\n"
    yield from _images(figures)


def _grid(heading: Sequence[str], numeric: Sequence[bool], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "|".join("---:" if is_number else "---" for is_number in numeric) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _images(figures: Sequence[tuple[str, str]]) -> Iterator[str]:
    for alternative, path in figures:
        yield f"![{_md(alternative)}]({path})\n"


def _links(cell: CellSummary) -> str:
    return " ".join(f"[{trial.seed}](#trial-{trial.trial_id})" for trial in cell.trials)


def _state(cell: CellSummary) -> str:
    return "; ".join(map(_md, (cell.finished, *cell.unfinished)))


def _early_stopped(trials: Sequence[TrialResults]) -> Iterator[str]:
    if not trials:
        return
    yield from ("## Stopped early by a searching scheduler", "", "These trials are in no table.", "")
    rows = (
        [
            *(
                f"[{trial.trial_id}](#trial-{trial.trial_id})",
                _md(trial.name),
                f"{trial.epochs_done} of {trial.epochs}",
            ),
            *(percent(trial.newest_error), _md(trial.reason)),
        ]
        for trial in trials
    )
    yield from _grid(["Trial", "Name", "Epochs", "Error when stopped, %", "Reason"], [False] * 5, rows)
    yield ""


def _cost(spent: costs.ExperimentCost) -> Iterator[str]:
    groups = (*spent.tables, spent.total) if len(spent.tables) > 1 else (spent.total,)
    rows = ([_md(group.label), *cost_fields(group)] for group in groups)
    yield from _grid(["", *COST_TITLES], [False, *(True for _ in COST_TITLES)], rows)
    yield from ("", f"{costs.MEANING}\n", f"{costs.about_energy(spent.total)}\n")
    if len(spent.slowest) > 1:
        listed = (
            f"[{_md(trial.name)}](#trial-{trial.trial_id}) ({costs.duration(costs.trial_seconds(trial))})"
            for trial in spent.slowest
        )
        yield f"Slowest: {', '.join(listed)}.\n"
    if spent.failures:
        yield "Failures:\n"
        for trial in spent.failures:
            yield f"- [{_md(trial.name)}](#trial-{trial.trial_id}), {trial.state}: {_md(trial.reason)}"
        yield ""


def _trials(summary: ReportSummary, where: RecordLinks) -> Iterator[str]:
    trials = list(summary.results.trials.values())
    if not trials:
        return
    fields = list(trial_fields(trials[0]))

    def row(trial: TrialResults) -> list[str]:
        anchor = f'<a id="trial-{trial.trial_id}"></a>'
        records = where.records(trial)
        if where.are_links:
            found = " ".join(f"[{record.title}]({record.address})" for record in records)
        else:
            found = f"`{where.folder(trial)}`" if records else ""
        return [f"{anchor}{trial.trial_id}", _md(trial.name), *map(_md, trial_fields(trial).values()), found]

    yield from _grid(["Trial", "Name", *fields, "Records"], [False] * (len(fields) + 3), map(row, trials))


def _md(text: object) -> str:
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", " ".join(str(text).split()))
