"""The report's content as data: each table of an experiment with its statistics, without any formatting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_jobs.results import ExperimentResults, TrialResults
from tune_jobs.statistics import (
    POWER,
    SMALLEST_DIFFERENCE,
    Summary,
    Verdict,
    holm,
    pooled_sd,
    seeds_needed,
    single_draw_p,
    summarise,
    verdict,
    welch_p,
)

# Deviations that leave a number comparable with the reference's: they are named, and no more.
COMPARABLE_SETTINGS = ("run.precision",)


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
    reference_p: float | None
    """p of the reference as one draw, adjusted within the table."""
    verdict: Verdict | None
    baseline_difference: float | None
    """Our mean less that of the table's baseline cell."""
    baseline_p: float | None
    """Welch's p against the baseline, adjusted within the table."""

    @property
    def finished(self) -> str:
        """How many of the cell's trials have finished: `3 of 5 finished`."""
        return f"{sum(trial.state == 'finished' for trial in self.trials)} of {len(self.trials)} finished"

    @property
    def unfinished(self) -> tuple[str, ...]:
        """What there is to say of the others: `seed 2 failed: ...`, `seed 3 at epoch 12 of 200`."""
        said = []
        for trial in self.trials:
            if trial.state in ("failed", "corrupt"):
                said.append(f"seed {trial.seed} {trial.state}: {trial.reason}")
            elif trial.state == "unfinished":
                said.append(f"seed {trial.seed} at epoch {trial.epochs_done} of {trial.epochs}")
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
    """What makes the rows less comparable than they look: mixed commits, precisions or data."""
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


def summarise_experiment(results: ExperimentResults) -> ReportSummary:
    """Tables, statistics and warnings of an experiment, from what storage holds."""
    deviations = results.record.get("deviations", [])
    comparable = all(deviation["setting"] in COMPARABLE_SETTINGS for deviation in deviations)
    tables = tuple(_table(table, results.trials, comparable) for table in results.record["tables"])
    referenced = any(cell.reference is not None or cell.paper is not None for table in tables for cell in table.cells)
    return ReportSummary(
        results, tuple(_notices(results, deviations, comparable or not referenced)), comparable, tables
    )


def _notices(results: ExperimentResults, deviations: Sequence[Mapping[str, Any]], comparable: bool) -> list[str]:
    notices = []
    changed = {deviation["setting"]: deviation for deviation in deviations}
    if epochs := changed.pop("run.epochs", None):
        changed.pop("schedule.milestones", None)
        kind = "Shortened" if max(epochs["actual"]) < min(epochs["recipe"]) else "Another length"
        notices.append(f"{kind}: {_words(epochs['actual'])} epochs instead of {_words(epochs['recipe'])}.")
    sources = {trial.config["data"]["source"] for trial in results.trials.values()}
    if source := changed.pop("data.source", None):
        notices.append(f"Other data: {_words(source['actual'])} instead of {_words(source['recipe'])}.")
    if any(
        source.startswith("folder:") and any(word in source.lower() for word in ("jpeg", "jpg")) for source in sources
    ):
        notices.append("The images are re-encoded as JPEG, which makes them harder than CIFAR-10 itself.")
    for setting, deviation in changed.items():
        notices.append(f"Changed: {setting} is {_words(deviation['actual'])} instead of {_words(deviation['recipe'])}.")
    if not comparable:
        notices.append(
            "The numbers are therefore not comparable with the document's and the paper's, "
            "which stand beside them for orientation only; no verdict is given."
        )
    return notices


def _words(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _table(table: Mapping[str, Any], trials: Mapping[str, TrialResults], comparable: bool) -> TableSummary:
    members = [tuple(trials[trial_id] for trial_id in cell["trials"]) for cell in table["cells"]]
    samples = [_sample(cell_trials) for cell_trials in members]
    labels = [str(cell["label"]) for cell in table["cells"]]
    baseline = labels.index(table["baseline"])
    references: list[float | None] = [cell["reference"] if comparable else None for cell in table["cells"]]
    reference_p = _adjusted(
        [
            single_draw_p(sample, reference) if sample and sample.n > 1 and reference is not None else None
            for sample, reference in zip(samples, references, strict=True)
        ]
    )
    base = samples[baseline]
    baseline_p = _adjusted(
        [
            welch_p(sample, base) if index != baseline and sample and base and min(sample.n, base.n) > 1 else None
            for index, sample in enumerate(samples)
        ]
    )
    cells = []
    for index, (cell, sample, reference) in enumerate(zip(table["cells"], samples, references, strict=True)):
        p = reference_p[index]
        cells.append(
            CellSummary(
                label=labels[index],
                trials=members[index],
                ours=sample,
                reference=cell["reference"],
                paper=cell["paper"],
                difference=sample.mean - reference if sample and reference is not None else None,
                reference_p=p,
                verdict=verdict(sample, reference, p) if sample and reference is not None and p is not None else None,
                baseline_difference=sample.mean - base.mean if sample and base and index != baseline else None,
                baseline_p=baseline_p[index],
            )
        )
    everyone = [trial for cell_trials in members for trial in cell_trials]
    return TableSummary(
        name=str(table["name"]),
        title=str(table["title"]),
        caption=str(table["caption"]),
        baseline=labels[baseline],
        cells=tuple(cells),
        warnings=tuple(_warnings(everyone)),
        notes=tuple(_notes(cells, comparable)),
    )


def _sample(trials: Sequence[TrialResults]) -> Summary | None:
    errors = [float(trial.result["top1_error"]) for trial in trials if trial.state == "finished"]
    return summarise(errors) if errors else None


def _adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the tests that were made, in place."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _warnings(trials: Sequence[TrialResults]) -> list[str]:
    done = {trial.trial_id: trial for trial in trials if trial.state == "finished"}.values()
    warnings = []
    for what, values in (
        ("commits", {_commit(trial) for trial in done}),
        ("precisions", {str(trial.config["run"]["precision"]) for trial in done}),
        ("data fingerprints", {str(trial.provenance.get("data_fingerprint") or "unknown") for trial in done}),
    ):
        if len(values) > 1:
            warnings.append(f"The rows mix {what}: {', '.join(sorted(values))}.")
    if dirty := sum(bool(trial.provenance.get("dirty")) for trial in done):
        warnings.append(f"{dirty} of {len(done)} finished trials ran with uncommitted changes (see source.patch).")
    return warnings


def _commit(trial: TrialResults) -> str:
    return str(trial.provenance.get("commit") or "unknown")[:12]


def _notes(cells: Sequence[CellSummary], comparable: bool) -> list[str]:
    notes = []
    samples = [cell.ours for cell in cells if cell.ours is not None]
    referenced = comparable and any(cell.reference is not None for cell in cells)
    if any(sample.n == 1 for sample in samples):
        lacking = "no interval and no verdict" if referenced else "no interval"
        notes.append(
            f"A row with one seed has {lacking}: one run does not show how much runs differ. Use --seeds 2 or more."
        )
    spread = pooled_sd(samples)
    if spread is not None:
        needed = seeds_needed(spread)
        seeds = f"{needed} seeds a row" if needed else "more than 1000 seeds a row"
        notes.append(
            f"To tell two rows {100 * SMALLEST_DIFFERENCE:g} % apart with {100 * POWER:g} % power takes {seeds} "
            f"(pooled standard deviation {100 * spread:.2f} %)."
        )
    return notes
