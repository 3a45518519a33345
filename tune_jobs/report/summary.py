"""The report's content as data: each table of an experiment with its statistics, without any formatting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_jobs.report import mixed_trials
from tune_jobs.report.notices import comparable_with_references, experiment_notices, table_notes
from tune_jobs.report.statistics import (
    LEVEL,
    SMALLEST_DIFFERENCE,
    Summary,
    Verdict,
    holm,
    prediction_interval,
    single_draw_p,
    summarise,
    verdict,
    welch_p,
)
from tune_jobs.results.trials import ExperimentResults, TrialResults


@dataclass(frozen=True)
class ReportOptions:
    """What a reader may ask of a report."""

    smallest_difference: float = SMALLEST_DIFFERENCE
    """The smallest difference of two errors that matters, a fraction."""
    best_epoch: bool = False
    """Whether the best epoch's error stands beside the last one's."""
    preface: str = ""
    """What whoever publishes the report says first: one paragraph of plain text."""


@dataclass(frozen=True)
class CellSummary:
    """One row of a table."""

    label: str
    trials: tuple[TrialResults, ...]
    """The trials behind it, by seed."""
    ours: Summary | None
    """Final-epoch top-1 errors over the finished seeds; None while there are none."""
    reference: float | None
    paper: float | None
    difference: float | None
    """Our mean less the reference; None where the two cannot be compared."""
    paper_difference: float | None
    """The same for the paper's number."""
    prediction: tuple[float, float] | None
    """Where one more run falls with a probability of 95 %; None with less than two seeds."""
    reference_p: float | None
    """p of the reference as one draw, adjusted within the table."""
    verdict: Verdict | None
    baseline_difference: float | None
    """Our mean less that of the table's baseline cell."""
    baseline_p: float | None
    """Welch's p against the baseline, adjusted within the table."""
    best: Summary | None
    """The best epoch's errors over the finished seeds: chosen on the test set, hence too good."""

    @property
    def baseline_verdict(self) -> str | None:
        """What Welch's test says of this cell and the baseline."""
        if self.baseline_p is None:
            return None
        return "differs" if self.baseline_p < LEVEL else "not distinguishable"

    @property
    def failed(self) -> bool:
        """Whether any of the cell's trials failed, or has records that cannot be used."""
        return any(trial.state in ("failed", "corrupt") for trial in self.trials)

    @property
    def complete(self) -> bool:
        """Whether every trial of the cell has finished."""
        return all(trial.state == "finished" for trial in self.trials)

    @property
    def searched(self) -> bool:
        """Whether a scheduler ended any of the cell's trials early, which leaves a selection of them."""
        return any(trial.survivor or trial.state == "early-stopped" for trial in self.trials)

    @property
    def no_verdict(self) -> str:
        """Why there is no verdict on the reference; empty if there is one, or nothing to compare."""
        if self.reference is None or self.verdict is not None:
            return ""
        return "no result" if self.ours is None else "one seed" if self.ours.n == 1 else ""

    @property
    def finished(self) -> str:
        """How many of the cell's trials have finished: `3 of 5 finished`."""
        return f"{sum(trial.state == 'finished' for trial in self.trials)} of {len(self.trials)} finished"

    @property
    def unfinished(self) -> tuple[str, ...]:
        """What there is to say of the others: `seed 2 failed: ...`, `seed 3 at epoch 12 of 200`."""
        said = []
        if self.searched:
            said.append("kept out of the table: a searching scheduler chose among its trials")
        for trial in self.trials:
            if trial.state in ("failed", "corrupt"):
                said.append(f"seed {trial.seed} {trial.state}: {trial.reason}")
            elif trial.state in ("unfinished", "early-stopped"):
                stopped = "stopped early " if trial.state == "early-stopped" else ""
                said.append(f"seed {trial.seed} {stopped}at epoch {trial.epochs_done} of {trial.epochs}")
        return tuple(said)


@dataclass(frozen=True)
class TableSummary:
    """One table."""

    name: str
    title: str
    caption: str
    baseline: str
    cells: tuple[CellSummary, ...]
    warnings: tuple[str, ...]
    """What makes the rows less comparable than they look: mixed commits, precisions, data, workers or libraries."""
    common: str
    """What its finished trials share, in a line; empty while none has finished."""
    notes: tuple[str, ...]
    """How many seeds it would take, and why there is no verdict."""

    @property
    def description(self) -> str:
        """The caption, and the baseline where rows are tested against it."""
        tested = any(cell.baseline_p is not None for cell in self.cells)
        return f"{self.caption} Baseline: {self.baseline}.".strip() if tested else self.caption


@dataclass(frozen=True)
class ReportSummary:
    """Everything that a report says."""

    results: ExperimentResults
    notices: tuple[str, ...]
    """What must be said before any number: a shortened recipe, other data."""
    comparable: bool
    """Whether the numbers can be held against the references."""
    tables: tuple[TableSummary, ...]
    options: ReportOptions

    @property
    def early_stopped(self) -> tuple[TrialResults, ...]:
        """Trials that a searching scheduler ended: they are in no table."""
        return tuple(trial for trial in self.results.trials.values() if trial.state == "early-stopped")


def summarise_experiment(results: ExperimentResults, options: ReportOptions | None = None) -> ReportSummary:
    """Tables, statistics and warnings of an experiment, from what storage holds."""
    options = options or ReportOptions()
    comparable = comparable_with_references(results.record)
    tables = tuple(_table(table, results.trials, comparable, options) for table in results.record["tables"])
    return ReportSummary(results, tuple(experiment_notices(results)), comparable, tables, options)


def _table(
    table: Mapping[str, Any], trials: Mapping[str, TrialResults], comparable: bool, options: ReportOptions
) -> TableSummary:
    members = [tuple(trials[trial_id] for trial_id in cell["trials"]) for cell in table["cells"]]
    samples = [_sample(cell_trials, "top1_error") for cell_trials in members]
    labels = [str(cell["label"]) for cell in table["cells"]]
    baseline = labels.index(table["baseline"])
    references: list[float | None] = [cell["reference"] if comparable else None for cell in table["cells"]]
    reference_p = _adjusted(
        [
            single_draw_p(sample, reference) if sample and sample.n > 1 and reference is not None else None
            for sample, reference in zip(samples, references, strict=True)
        ]
    )
    papers: list[float | None] = [cell["paper"] if comparable else None for cell in table["cells"]]
    base = samples[baseline]
    baseline_p = _adjusted(
        [
            welch_p(sample, base) if index != baseline and sample and base and min(sample.n, base.n) > 1 else None
            for index, sample in enumerate(samples)
        ]
    )
    cells = []
    compared = zip(table["cells"], samples, references, papers, strict=True)
    for index, (cell, sample, reference, paper) in enumerate(compared):
        p = reference_p[index]
        cells.append(
            CellSummary(
                label=labels[index],
                trials=members[index],
                ours=sample,
                reference=cell["reference"],
                paper=cell["paper"],
                difference=sample.mean - reference if sample and reference is not None else None,
                paper_difference=sample.mean - paper if sample and paper is not None else None,
                prediction=prediction_interval(sample) if sample and sample.n > 1 else None,
                reference_p=p,
                verdict=(
                    verdict(sample, reference, p, options.smallest_difference)
                    if sample and reference is not None and p is not None
                    else None
                ),
                baseline_difference=sample.mean - base.mean if sample and base and index != baseline else None,
                baseline_p=baseline_p[index],
                best=_sample(members[index], "best_top1_error"),
            )
        )
    tests = sum(p is not None for p in baseline_p)
    rows = list(zip(labels, members, strict=True))
    referenced = any(cell.reference is not None for cell in cells)
    return TableSummary(
        name=str(table["name"]),
        title=str(table["title"]),
        caption=str(table["caption"]),
        baseline=labels[baseline],
        cells=tuple(cells),
        warnings=tuple(mixed_trials.warnings(rows)),
        common=mixed_trials.common(rows),
        notes=tuple(table_notes([s for s in samples if s], tests, referenced, comparable, options.smallest_difference)),
    )


def _sample(trials: Sequence[TrialResults], measure: str) -> Summary | None:
    """The finished trials' values; None without any, or if a scheduler has chosen which of the trials finish."""
    if any(trial.state == "early-stopped" for trial in trials):
        return None
    values = [trial.result.get(measure) for trial in trials if trial.counts]
    known = [float(value) for value in values if value is not None]
    return summarise(known) if known else None


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the tests that were made, in place."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]
