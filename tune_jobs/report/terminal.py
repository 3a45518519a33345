"""The report's tables in a terminal."""

from typing import TYPE_CHECKING

from tune_jobs.report.columns import columns, progress
from tune_jobs.report.summary import ReportSummary

if TYPE_CHECKING:
    from rich.console import Group


def terminal(summary: ReportSummary) -> "Group":
    """The tables for a terminal. Names are shown as they are: nothing in them is taken as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(notice, style="bold yellow") for notice in summary.notices]
    parts += [Text(summary.study, style="bold")] if summary.study else []
    for table in summary.tables:
        shown = [column for column in columns(table, summary) if not column.wide]
        grid = Table(title=Text(f"\n{table.title}", style="bold"), title_justify="left", box=SIMPLE_HEAD)
        grid.add_column("", overflow="fold")
        for column in shown:
            grid.add_column(column.title, justify="right" if column.key else "left", no_wrap=column.key is not None)
        grid.add_column("Finished", no_wrap=True)
        for cell in table.cells:
            grid.add_row(
                Text(cell.label),
                *(" ".join(filter(None, (column.text(cell), column.short(cell)))) for column in shown),
                cell.finished.removesuffix(" finished"),
            )
        parts.append(grid)
        parts += [Text(f"{cell.label}: {said}") for cell in table.cells for said in cell.unfinished]
        parts += [Text(f"Warning: {warning}", style="yellow") for warning in table.warnings]
        parts += [Text(note, style="dim") for note in table.notes]
    if summary.early_stopped:
        names = ", ".join(trial.name for trial in summary.early_stopped)
        parts.append(Text(f"Stopped early, in no table: {names}", style="yellow"))
    parts.append(Text(progress(summary.results)))
    return Group(*parts)
