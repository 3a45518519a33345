"""The report's content as data: each table of an experiment with its statistics, without any formatting."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tune_jobs.report import mixed_trials
from tune_jobs.report.comparisons import Comparisons, Row, Tested, compare
from tune_jobs.report.images import Images, images_of
from tune_jobs.report.notices import (
    comparable_with_references,
    experiment_notices,
    planned_seeds,
    study_sentence,
    table_notes,
)
from tune_jobs.report.recipe import recipe, row_settings
from tune_jobs.report.statistics import LEAST_SEEDS, SMALLEST_DIFFERENCE, Summary, to_single_run
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
    renewed_after: float | None = None
    """Seconds after which the report will be written again, if anybody has said so."""


@dataclass(frozen=True)
class CellSummary:
    """One row of a table."""

    label: str
    row: Row
    base: Row
    """The table's baseline, which may be this row itself."""
    planned: int
    """Seeds that were planned before the first was run."""
    reference: float | None
    """The document's number."""
    paper: float | None
    """The paper's."""
    comparable: bool
    """Whether they were measured as ours are."""
    document: Tested | None
    """Our runs against the document's; None where they cannot be compared."""
    against: Tested | None
    """Our runs against those of the table's baseline."""

    @property
    def trials(self) -> tuple[TrialResults, ...]:
        """The trials behind it, by seed."""
        return self.row.trials

    @cached_property
    def ours(self) -> Summary | None:
        """Final-epoch top-1 errors over the finished seeds; None while there are none."""
        return self.row.sample()

    @property
    def best(self) -> Summary | None:
        """The best epoch's errors over the finished seeds: chosen on the test set, hence too good."""
        return self.row.sample("best_top1_error")

    @property
    def difference(self) -> float | None:
        """Our mean less the document's number; None where the two cannot be compared."""
        return self.ours.mean - self.reference if self.comparable and self.ours and self.reference is not None else None

    @property
    def paper_difference(self) -> float | None:
        """The same for the paper's number."""
        return self.ours.mean - self.paper if self.comparable and self.ours and self.paper is not None else None

    @property
    def baseline_difference(self) -> float | None:
        """Our mean less that of the table's baseline, tested or not; None for the baseline itself."""
        base = self.base.sample()
        return self.ours.mean - base.mean if self.row is not self.base and self.ours and base else None

    @property
    def prediction(self) -> tuple[float, float] | None:
        """Where one more run falls with a probability of 95 %; None with less than two seeds."""
        if self.ours is None or self.ours.n == 1:
            return None
        low, high = to_single_run(self.ours, 0.0).interval
        return max(0.0, low), min(1.0, high)

    @property
    def diverged(self) -> str:
        """`2 of 5 diverged`; empty if no run has."""
        return f"{self.row.diverged} of {len(self.trials)} diverged" if self.row.diverged else ""

    @property
    def interim(self) -> bool:
        """Whether runs that were planned have not come to an end yet."""
        return sum(trial.state == "finished" for trial in self.trials) + self.row.diverged < self.planned

    @property
    def failed(self) -> bool:
        """Whether any of the cell's trials failed, or has records that cannot be used."""
        return any(trial.state in ("failed", "corrupt") for trial in self.trials)

    @property
    def searched(self) -> bool:
        """Whether a scheduler ended any of the cell's trials early, which leaves a selection of them."""
        return any(trial.survivor or trial.state == "early-stopped" for trial in self.trials)

    @property
    def no_verdict(self) -> str:
        """Why there is no verdict on the reference; empty if there is one, or nothing to compare."""
        if self.reference is None or self.document is not None:
            return ""
        if self.ours is None:
            return "no result"
        so_far = " so far" if self.interim else ""
        return self.diverged or (f"fewer than {LEAST_SEEDS} seeds{so_far}" if self.ours.n < LEAST_SEEDS else "")

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
    """What makes the rows less comparable than they look: mixed commits, precisions, data or libraries."""
    settings: str
    """In what each row differs from what all trials share."""
    common: str
    """What its finished trials share, in a line; empty while none has finished."""
    notes: tuple[str, ...]
    """How many seeds it would take, and why there is no verdict."""

    @property
    def description(self) -> str:
        """The caption, and the baseline where rows stand against it."""
        if not self.has_differences:
            return self.caption
        paired = any(cell.against and cell.against.paired for cell in self.cells)
        pairs = " Runs of equal seeds are compared in pairs." if paired else ""
        return f"{self.caption} Baseline: {self.baseline}.{pairs}".strip()

    @property
    def has_differences(self) -> bool:
        """Whether rows stand against their baseline: there are several, and more than one seed of any."""
        return len(self.cells) > 1 and any(cell.ours is not None and cell.ours.n > 1 for cell in self.cells)


@dataclass(frozen=True)
class ReportSummary:
    """Everything that a report says."""

    results: ExperimentResults
    notices: tuple[str, ...]
    """What must be said before any number: a shortened recipe, other data."""
    recipe: str
    """What all trials were trained on, and how."""
    comparable: bool
    """Whether the numbers can be held against the references."""
    study: str
    """What all configurations together say of the recipe; empty if too few can be compared."""
    tests: Comparisons
    images: Images | None
    """Which test images the networks get wrong; None where trials have not kept them."""
    tables: tuple[TableSummary, ...]
    options: ReportOptions

    @property
    def has_references(self) -> bool:
        """Whether the document has a number for any row."""
        return any(cell.reference is not None for table in self.tables for cell in table.cells)

    @property
    def early_stopped(self) -> tuple[TrialResults, ...]:
        """Trials that a searching scheduler ended: they are in no table."""
        return tuple(trial for trial in self.results.trials.values() if trial.state == "early-stopped")


def summarise_experiment(results: ExperimentResults, options: ReportOptions | None = None) -> ReportSummary:
    """Tables, statistics and warnings of an experiment, from what storage holds."""
    options = options or ReportOptions()
    comparable = comparable_with_references(results.record)
    tests = compare(results.record, results.trials, comparable, options.smallest_difference)
    tables = tuple(_table(table, results.record, tests, comparable, options) for table in results.record["tables"])
    notices = tuple(experiment_notices(results, tests))
    study = study_sentence(tests, options.smallest_difference)
    images = images_of(list(results.trials.values()))
    return ReportSummary(results, notices, recipe(results), comparable, study, tests, images, tables, options)


def _table(
    table: Mapping[str, Any],
    record: Mapping[str, Any],
    tests: Comparisons,
    comparable: bool,
    options: ReportOptions,
) -> TableSummary:
    rows = {str(cell["label"]): tests.rows[table["name"], cell["label"]] for cell in table["cells"]}
    members = [(label, row.trials) for label, row in rows.items()]
    return TableSummary(
        name=str(table["name"]),
        title=str(table["title"]),
        caption=str(table["caption"]),
        baseline=str(table["baseline"]),
        settings=row_settings(table, record),
        cells=tuple(
            CellSummary(
                label=label,
                row=row,
                base=rows[str(table["baseline"])],
                planned=planned_seeds(record),
                reference=cell["reference"],
                paper=cell["paper"],
                comparable=comparable,
                document=tests.with_document(table, cell),
                against=tests.baseline.get((table["name"], label)),
            )
            for (label, row), cell in zip(rows.items(), table["cells"], strict=True)
        ),
        warnings=tuple(mixed_trials.warnings(members)),
        common=mixed_trials.common(members),
        notes=tuple(table_notes(table, record, tests, options.smallest_difference)),
    )
