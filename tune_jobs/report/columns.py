"""The columns of the report's tables, the same in Markdown, HTML and the terminal."""

from collections.abc import Callable
from dataclasses import dataclass

from resnet_dist.plurals import counted
from tune_jobs.report.comparisons import Tested
from tune_jobs.report.cost import Cost, duration, trial_seconds, workers
from tune_jobs.report.statistics import Comparison, Summary
from tune_jobs.report.summary import CellSummary, ReportSummary, TableSummary
from tune_jobs.results.trials import ExperimentResults, TrialResults, tally

NONE = "—"


@dataclass(frozen=True)
class Column:
    """One column of a result table."""

    title: str
    text: Callable[[CellSummary], str]
    key: Callable[[CellSummary], float | None] | None = None
    """What a numeric column sorts by; None: it is text."""
    note: Callable[[CellSummary], str] = lambda cell: ""
    """What stands small below the text, such as a p-value."""
    short: Callable[[CellSummary], str] = lambda cell: ""
    """What of the note is said where there is little room."""
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


def columns(table: TableSummary, summary: ReportSummary) -> list[Column]:
    """The columns that have something to say in this table, after the label and before the trials."""
    cells = table.cells
    referenced = any(cell.reference is not None for cell in cells)
    shown = [
        Column(
            "Top-1 error, %",
            lambda c: _mean_sd(c.ours),
            lambda c: c.ours.mean if c.ours else None,
            lambda c: c.diverged,
        ),
        Column("n", lambda c: str(c.ours.n if c.ours else 0), lambda c: c.ours.n if c.ours else 0, wide=True),
    ]
    if any(cell.ours and cell.ours.n > 1 for cell in cells):
        shown.append(Column("95 % interval", _interval, lambda c: c.ours.low if c.ours else None, _one_run, wide=True))
    if summary.options.best_epoch:
        shown.append(
            Column("Best epoch, % (optimistic)", lambda c: _mean_sd(c.best), lambda c: c.best.mean if c.best else None)
        )
    if referenced:
        shown.append(Column("Document, %", lambda c: percent(c.reference), lambda c: c.reference))
    if summary.comparable and referenced:
        shown += [
            Column("Difference", lambda c: percent(c.difference, sign=True), lambda c: c.difference, wide=True),
            Column("Verdict", lambda c: c.document.verdict if c.document else NONE, note=_verdict_note),
        ]
    if any(cell.paper is not None for cell in cells):
        shown.append(Column("Paper, %", lambda c: percent(c.paper), lambda c: c.paper, note=_paper_note))
    if table.has_differences:
        shown.append(
            Column(
                "Against baseline",
                lambda c: "baseline" if c.label == table.baseline else percent(c.baseline_difference, sign=True),
                lambda c: c.baseline_difference,
                note=_against_note,
                short=lambda c: c.against.verdict if c.against else "",
            )
        )
    return shown


def _against_note(cell: CellSummary) -> str:
    if cell.against is None:
        return ""
    here, other = _from_to(cell.against.comparison), ""
    if cell.against.elsewhere and (there := _from_to(cell.against.elsewhere)) != here:
        other = f"; other images {there}"
    paired = ", paired" if cell.against.paired else ""
    verdict = ", ".join([cell.against.verdict, *_verdict_notes(cell, cell.against)])
    return f"{here}{paired}{other}; {verdict}"


def _from_to(comparison: Comparison) -> str:
    low, high = comparison.interval
    return f"{percent(low, sign=True)} to {percent(high, sign=True)}"


def _verdict_notes(cell: CellSummary, tested: Tested) -> list[str]:
    """The p of the verdict, where a test reached it, and whether more seeds are to come."""
    return [note for note in (p_value(tested.verdict_p), "interim" if cell.interim else "") if note]


def _mean_sd(sample: Summary | None) -> str:
    if sample is None:
        return NONE
    return percent(sample.mean) + (f" ± {percent(sample.sd)}" if sample.sd is not None else "")


def _interval(cell: CellSummary) -> str:
    if cell.ours is None or cell.ours.low is None:
        return NONE
    return f"{percent(cell.ours.low)} to {percent(cell.ours.high)}"


def _one_run(cell: CellSummary) -> str:
    if cell.prediction is None or cell.reference is None:
        return ""
    return f"one run {percent(cell.prediction[0])} to {percent(cell.prediction[1])}"


def _verdict_note(cell: CellSummary) -> str:
    return ", ".join(_verdict_notes(cell, cell.document)) if cell.document else cell.no_verdict


def _paper_note(cell: CellSummary) -> str:
    return f"ours {percent(cell.paper_difference, sign=True)}" if cell.paper_difference is not None else ""


def progress(results: ExperimentResults) -> str:
    """How far the experiment is: `34 trials: 30 finished, 1 failed, 3 missing`."""
    seeds = int(results.record["seeds"])
    total = len(results.trials)
    return f"{counted(total, 'trial')}, {counted(seeds, 'seed')} a row: {tally(results.trials.values())}"


COST_TITLES = ("Trials", "Hours", "Worker-hours", "Images, millions", "Images/s", "Energy, kWh")


def cost_fields(cost: Cost) -> list[str]:
    """What the cost table shows of a group of trials, by `COST_TITLES`."""
    return [
        str(cost.trials),
        _amount(cost.hours),
        _amount(cost.worker_hours),
        _amount(cost.images / 1e6),
        NONE if cost.images_per_second is None else f"{cost.images_per_second:,.0f}",
        NONE if cost.kilowatt_hours is None else f"{cost.kilowatt_hours:.3g}",
    ]


def _amount(value: float) -> str:
    """Two decimals, or two digits of what has not as many."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}"


def trial_fields(trial: TrialResults) -> dict[str, str]:
    """What the report shows of one trial, by column."""
    provenance = trial.provenance
    seconds = trial_seconds(trial)
    return {
        "State": trial.state + (f": {trial.reason}" if trial.reason else ""),
        "Error, %": percent(trial.result.get("top1_error")),
        "Epochs": f"{trial.epochs_done} of {trial.epochs}",
        "Time": duration(seconds) if seconds else NONE,
        "Workers": str(workers(trial)) if provenance else NONE,
        "Processor": str(provenance.get("device") or NONE),
        "Precision": str(trial.config["run"]["precision"]),
        "Commit": str(provenance.get("commit") or NONE)[:12] + (" + patch" if provenance.get("dirty") else ""),
        "Data": str(provenance.get("data_fingerprint") or NONE)[:12],
        "Versions": f"torch {provenance['torch']}" if provenance.get("torch") else NONE,
    }
