"""The report as text: the columns of its tables, Markdown, CSV and the terminal."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune_jobs.results import STATES, ExperimentResults, TrialResults
from tune_jobs.statistics import SMALLEST_DIFFERENCE
from tune_jobs.summary import CellSummary, ReportSummary, TableSummary

if TYPE_CHECKING:
    from rich.console import Group

NONE = "—"
SLOWEST = 5

METHOD = (
    "The measure is the top-1 error on the test set after the last epoch, never the best epoch. Ours is the mean over "
    "seeds ± their standard deviation (n - 1), with Student's 95 % confidence interval of the mean.",
    "The document's number is one run, so it is treated as one draw: t = (mean - number) / (sd √(1 + 1/n)), n - 1 "
    "degrees of freedom. Rows are tested against the table's baseline by Welch's t. Both families of p-values are "
    "corrected within the table by Holm's method.",
    f"Verdicts: differs (p < 0.05); reproduced (p ≥ 0.05, our mean within {100 * SMALLEST_DIFFERENCE:g} % of the "
    f"number, and itself known to ±{100 * SMALLEST_DIFFERENCE:g} %); not distinguishable (anything else).",
)


@dataclass(frozen=True)
class Column:
    """One column of a result table."""

    title: str
    text: Callable[[CellSummary], str]
    key: Callable[[CellSummary], float | None] | None = None
    """What a numeric column sorts by; None: it is text."""
    note: Callable[[CellSummary], str] = lambda cell: ""
    """What stands small below the text, such as a p-value."""
    wide: bool = False
    """Left out where there is little room."""

    def full(self, cell: CellSummary) -> str:
        """The text and its note on one line."""
        note = self.note(cell)
        return f"{self.text(cell)} ({note})" if note else self.text(cell)


def percent(value: float | None, sign: bool = False) -> str:
    """A fraction as per cent with two decimals, without the unit."""
    if value is None:
        return NONE
    return f"{100 * value:{'+' if sign else ''}.2f}".replace("-", "\N{MINUS SIGN}")


def p_value(p: float | None) -> str:
    """A p-value as it is quoted; empty if there is none."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def columns(table: TableSummary, comparable: bool) -> list[Column]:
    """The columns that have something to say in this table, after the label and before the trials."""
    cells = table.cells
    shown = [
        Column("Top-1 error, %", _ours, lambda c: c.ours.mean if c.ours else None),
        Column("n", lambda c: str(c.ours.n if c.ours else 0), lambda c: c.ours.n if c.ours else 0, wide=True),
    ]
    if any(cell.ours and cell.ours.n > 1 for cell in cells):
        shown.append(Column("95 % interval", _interval, lambda c: c.ours.low if c.ours else None, wide=True))
    if any(cell.reference is not None for cell in cells):
        shown.append(Column("Document, %", lambda c: percent(c.reference), lambda c: c.reference))
    if any(cell.paper is not None for cell in cells):
        shown.append(Column("Paper, %", lambda c: percent(c.paper), lambda c: c.paper))
    if comparable and any(cell.reference is not None for cell in cells):
        shown.append(
            Column("Difference", lambda c: percent(c.difference, sign=True), lambda c: c.difference, wide=True)
        )
        shown.append(Column("Verdict", lambda c: c.verdict or NONE, note=lambda c: p_value(c.reference_p)))
    if any(cell.baseline_p is not None for cell in cells):
        shown.append(
            Column(
                "Against baseline",
                lambda c: percent(c.baseline_difference, sign=True) if c.baseline_p is not None else NONE,
                lambda c: c.baseline_difference,
                note=lambda c: p_value(c.baseline_p),
                wide=True,
            )
        )
    return shown


def _ours(cell: CellSummary) -> str:
    if cell.ours is None:
        return NONE
    return percent(cell.ours.mean) + (f" ± {percent(cell.ours.sd)}" if cell.ours.sd is not None else "")


def _interval(cell: CellSummary) -> str:
    if cell.ours is None or cell.ours.low is None:
        return NONE
    return f"{percent(cell.ours.low)} to {percent(cell.ours.high)}"


def progress(results: ExperimentResults) -> str:
    """How far the experiment is: `34 trials: 30 finished, 1 failed, 3 missing`."""
    counts = [f"{count} {state}" for state in STATES if (count := results.count(state))]
    seeds = int(results.record["seeds"])
    return f"{len(results.trials)} trials, {seeds} seed{'s' if seeds > 1 else ''} a row: {', '.join(counts)}"


def cost(results: ExperimentResults) -> list[str]:
    """What the finished trials took, and the slowest of them."""
    done = [trial for trial in results.trials.values() if trial.state == "finished"]
    if not done:
        return []
    seconds = [float(trial.result.get("seconds") or 0) for trial in done]
    images = sum(
        float(trial.result.get("seconds") or 0) * float(trial.result.get("images_per_second") or 0) for trial in done
    )
    lines = [f"{len(done)} finished trials trained for {duration(sum(seconds))} in all, on {images:,.0f} images."]
    slowest = sorted(done, key=lambda trial: -float(trial.result.get("seconds") or 0))[:SLOWEST]
    if len(done) > 1:
        listed = ", ".join(f"{trial.name} ({duration(float(trial.result.get('seconds') or 0))})" for trial in slowest)
        lines.append(f"Slowest: {listed}.")
    return lines


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def trial_fields(trial: TrialResults) -> dict[str, str]:
    """What the report shows of one trial, by column."""
    provenance, result = trial.provenance, trial.result
    commit = str(provenance.get("commit") or NONE)[:12]
    return {
        "State": trial.state + (f": {trial.reason}" if trial.reason else ""),
        "Error, %": percent(result.get("top1_error")),
        "Epochs": f"{trial.epochs_done} of {trial.epochs}",
        "Time": duration(float(result["seconds"])) if result.get("seconds") is not None else NONE,
        "Workers": str(result.get("workers") or provenance.get("workers") or NONE),
        "Device": str(result.get("device") or provenance.get("device") or NONE),
        "Precision": str(trial.config["run"]["precision"]),
        "Commit": commit + (" + patch" if provenance.get("dirty") else ""),
        "Data": str(provenance.get("data_fingerprint") or NONE)[:12],
    }


def markdown(summary: ReportSummary, figures: Mapping[str, Sequence[str]], written: str) -> str:
    """The report as Markdown; `figures` gives the paths of each table's figures relative to it."""
    record = summary.results.record
    lines = [f"# {_md(record['title'])}", ""]
    if summary.notices:
        lines += [
            *(f"> **{_md(notice)}**\n>" for notice in summary.notices[:-1]),
            f"> **{_md(summary.notices[-1])}**",
            "",
        ]
    if record.get("description"):
        lines += [_md(record["description"]), ""]
    lines += [f"{progress(summary.results)}. Written {written}.", ""]
    for table in summary.tables:
        shown = columns(table, summary.comparable)
        lines += [f"## {_md(table.title)}", ""]
        lines += [_md(table.description), ""]
        lines += [f"**Warning: {_md(warning)}**\n" for warning in table.warnings]
        lines.append("| " + " | ".join(["", *(column.title for column in shown), "Trials", "State"]) + " |")
        lines.append("|" + "|".join(["---", *("---:" if c.key else "---" for c in shown), "---", "---"]) + "|")
        for cell in table.cells:
            links = " ".join(f"[{trial.trial_id[:8]}](#trial-{trial.trial_id})" for trial in cell.trials)
            parts = [_md(cell.label), *(column.full(cell) for column in shown), links, _state(cell)]
            lines.append("| " + " | ".join(parts) + " |")
        lines += ["", *(f"{_md(note)}\n" for note in table.notes)]
        lines += [f"![{_md(table.title)}]({path})" for path in figures.get(table.name, ())]
        lines.append("")
    if spent := cost(summary.results):
        lines += ["## Cost", "", *(f"{_md(line)}\n" for line in spent)]
    lines += ["## Trials", "", *_markdown_trials(summary.results), "", "## How to read this", ""]
    lines += [f"{line}\n" for line in METHOD]
    return "\n".join(lines)


def _state(cell: CellSummary) -> str:
    return "; ".join(map(_md, (cell.finished, *cell.unfinished)))


def _markdown_trials(results: ExperimentResults) -> list[str]:
    lines: list[str] = []
    for trial in results.trials.values():
        fields = trial_fields(trial)
        if not lines:
            lines = ["| " + " | ".join(["Trial", "Name", *fields]) + " |", "|---" * (len(fields) + 2) + "|"]
        anchor = f'<a id="trial-{trial.trial_id}"></a>[{trial.trial_id}](../trials/{trial.trial_id}/)'
        lines.append("| " + " | ".join([anchor, _md(trial.name), *map(_md, fields.values())]) + " |")
    return lines


def _md(text: object) -> str:
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", " ".join(str(text).split()))


_TRIAL_FIELDS = ("table", "cell", "seed", "trial", "name", "state", "reason", "epochs_done", "epochs")
_RESULT_FIELDS = (
    *("top1_error", "top5_error", "test_loss", "train_loss", "best_top1_error"),
    *("seconds", "images_per_second", "workers", "device", "parameters", "attempts"),
)
_CELL_FIELDS = ("precision", "reference", "paper", "commit", "dirty", "data_source", "data_fingerprint")


def csv_text(summary: ReportSummary) -> str:
    """A line for every trial of every cell; errors are fractions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_TRIAL_FIELDS, *_RESULT_FIELDS, *_CELL_FIELDS])
    for table in summary.tables:
        for cell in table.cells:
            for trial in cell.trials:
                provenance = trial.provenance
                writer.writerow(
                    [table.name, cell.label, trial.seed, trial.trial_id, trial.name, trial.state, trial.reason]
                    + [trial.epochs_done, trial.epochs]
                    + [trial.result.get(key) for key in _RESULT_FIELDS]
                    + [trial.config["run"]["precision"], cell.reference, cell.paper]
                    + [provenance.get("commit"), provenance.get("dirty"), trial.config["data"]["source"]]
                    + [provenance.get("data_fingerprint")]
                )
    return out.getvalue()


def terminal(summary: ReportSummary) -> "Group":
    """The tables for a terminal. Names are shown as they are: nothing in them is taken as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(notice, style="bold yellow") for notice in summary.notices]
    for table in summary.tables:
        shown = [column for column in columns(table, summary.comparable) if not column.wide]
        grid = Table(title=Text(f"\n{table.title}", style="bold"), title_justify="left", box=SIMPLE_HEAD)
        grid.add_column("", overflow="fold")
        for column in shown:
            grid.add_column(column.title, justify="right" if column.key else "left", no_wrap=column.key is not None)
        grid.add_column("Finished", no_wrap=True)
        for cell in table.cells:
            grid.add_row(
                Text(cell.label), *(column.text(cell) for column in shown), cell.finished.removesuffix(" finished")
            )
        parts.append(grid)
        parts += [Text(f"{cell.label}: {said}") for cell in table.cells for said in cell.unfinished]
        parts += [Text(f"Warning: {warning}", style="yellow") for warning in table.warnings]
        parts += [Text(note, style="dim") for note in table.notes]
    parts.append(Text(progress(summary.results)))
    return Group(*parts)
