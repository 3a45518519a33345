"""The tests of a whole experiment: each configuration against the document's number, and against its table's baseline.

A configuration that stands in several tables is tested once against the document, and Holm's correction of these tests
is over all tables: no row has two verdicts. Tests against a baseline are corrected within their table, which asks one
question. The test of the whole study counts each run of the document once, and so all rows that share their training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from tune_jobs.report.images import on_other_images, wrong_images
from tune_jobs.report.statistics import (
    LEAST_SEEDS,
    Comparison,
    Summary,
    holm,
    of_differences,
    of_groups,
    of_samples,
    summarise,
    to_single_run,
)
from tune_jobs.report.verdicts import RowVerdict, RunVerdict, row_verdict, run_verdict
from tune_jobs.results.trials import TrialResults

K = TypeVar("K")
TEST_IMAGES = 10_000
"""Of CIFAR-10 and CIFAR-100; taken for those of a folder, too, where no record says how many there were."""


@dataclass(frozen=True)
class Tested:
    """One comparison with what its test says."""

    comparison: Comparison
    p: float
    """Of no difference, adjusted by Holm's method."""
    equivalence_p: float
    """Of a difference of the margin or more, not adjusted."""
    verdict: RunVerdict | RowVerdict
    paired: bool = False
    """Whether runs of equal seeds were subtracted from each other."""
    elsewhere: Comparison | None = None
    """The same with the error of a test set that is itself a sample; None where trials have not kept their errors."""

    @property
    def verdict_p(self) -> float | None:
        """The p below 0.05 by which the verdict was reached; None for verdicts that no test reached."""
        return {"differs": self.p, "equivalent": self.equivalence_p}.get(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values. Differences are fractions."""
        return {
            "difference": self.comparison.difference,
            "interval": list(self.comparison.interval),
            "p": self.p,
            "equivalence_p": self.equivalence_p,
            "verdict": self.verdict,
            "paired": self.paired,
            "interval_other_images": list(self.elsewhere.interval) if self.elsewhere else None,
        }

    def __str__(self) -> str:
        points, low, high = (f"{100 * value:+.2f}" for value in (self.comparison.difference, *self.comparison.interval))
        equivalent = self.verdict == "equivalent"
        p = f"{self.equivalence_p:.2g} of two one-sided tests" if equivalent else f"{self.p:.2g} of no difference"
        return f"{self.verdict}: {points} % points (95 % interval {low} to {high}), p = {p}"


@dataclass(frozen=True)
class Row:
    """The runs of one configuration, by seed."""

    trials: tuple[TrialResults, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows of different tables one."""
        return tuple(trial.trial_id for trial in self.trials)

    @property
    def diverged(self) -> int:
        """How many runs have diverged: an outcome, which no other launch changes."""
        return sum(trial.failure == "diverged" for trial in self.trials)

    @property
    def resolution(self) -> float:
        """One image of the test set, as a fraction."""
        told = [trial.provenance["images"]["test"] for trial in self.trials if "images" in trial.provenance]
        return 1 / int(told[0] if told else self.trials[0].config["data"].get("test_limit") or TEST_IMAGES)

    def by_seed(self, measure: str = "top1_error") -> dict[int, float]:
        """The finished runs' values; empty if a scheduler has chosen which of them finish."""
        if any(trial.state == "early-stopped" for trial in self.trials):
            return {}
        found = {trial.seed: trial.result.get(measure) for trial in self.trials if trial.counts}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def sample(self, measure: str = "top1_error") -> Summary | None:
        """Those values in a few numbers; None without any."""
        values = list(self.by_seed(measure).values())
        return summarise(values, self.resolution) if values else None

    @property
    def testable(self) -> Summary | None:
        """The sample if anything may be concluded from it: enough runs, and none that diverged."""
        sample = self.sample()
        return sample if sample and sample.n >= LEAST_SEEDS and not self.diverged else None


@dataclass(frozen=True)
class Pair:
    """A row and its table's baseline."""

    row: Row
    baseline: Row
    paired: bool
    """Whether runs of equal seeds share their training."""

    @cached_property
    def comparison(self) -> Comparison | None:
        """The row less the baseline; None where one of them cannot be tested."""
        ours, base = self.row.testable, self.baseline.testable
        if not ours or not base:
            return None
        if not self.paired:
            return of_samples(ours, base)
        first, second = self.row.by_seed(), self.baseline.by_seed()
        differences = [first[seed] - second[seed] for seed in first if seed in second]
        return of_differences(differences, self.row.resolution) if len(differences) >= LEAST_SEEDS else None

    @property
    def elsewhere(self) -> Comparison | None:
        """The comparison as it would be on another test set of this size; None where that is not known."""
        comparison = self.comparison
        seeds = self.row.by_seed().keys() & self.baseline.by_seed().keys() if self.paired else None
        first, second = (
            wrong_images(trial for trial in row.trials if trial.counts and (seeds is None or trial.seed in seeds))
            for row in (self.row, self.baseline)
        )
        if comparison is None or first is None or second is None or first.shape[1] != second.shape[1]:
            return None
        return on_other_images(comparison, first, second, self.paired)


@dataclass(frozen=True)
class Comparisons:
    """All tests of an experiment."""

    rows: Mapping[tuple[str, str], Row]
    """By table and label."""
    document: Mapping[tuple[Any, ...], Tested]
    """By a row's key and its number."""
    baseline: Mapping[tuple[str, str], Tested]
    """By table and label."""
    study: Comparison | None
    """Mean of (ours − document) over all that is independent of each other; None with fewer than ten such groups."""

    @property
    def configurations(self) -> int:
        """How many have runs of ours and a number of the document."""
        return len(self.document)

    def with_document(self, table: Mapping[str, Any], cell: Mapping[str, Any]) -> Tested | None:
        """A cell against the document's number."""
        return self.document.get((self.rows[table["name"], cell["label"]].key, cell["reference"]))


def compare(
    record: Mapping[str, Any], trials: Mapping[str, TrialResults], comparable: bool, margin: float
) -> Comparisons:
    """Every test that an experiment's trials allow; none with the document unless they are `comparable`."""
    cells = [(table, cell) for table in record["tables"] for cell in table["cells"]]
    rows = {
        (table["name"], cell["label"]): Row(tuple(trials[trial_id] for trial_id in cell["trials"]))
        for table, cell in cells
    }
    documents: dict[tuple[Any, ...], Comparison] = {}
    for table, cell in cells:
        row, number = rows[table["name"], cell["label"]], cell["reference"]
        if comparable and number is not None and (sample := row.testable):
            documents[row.key, number] = to_single_run(sample, number)
    baselines: dict[tuple[str, str], Tested] = {}
    for table in record["tables"]:
        name, baseline, paired = table["name"], table["baseline"], bool(table.get("paired", False))
        others = [cell["label"] for cell in table["cells"] if cell["label"] != baseline]
        pairs = {(name, label): Pair(rows[name, label], rows[name, baseline], paired) for label in others}
        family = {key: comparison for key, pair in pairs.items() if (comparison := pair.comparison)}
        found = tested(family, row_verdict, margin, paired)
        baselines |= {key: replace(test, elsewhere=pairs[key].elsewhere) for key, test in found.items()}
    study = of_groups(_independent(cells, rows, documents), 1 / TEST_IMAGES)
    return Comparisons(rows, tested(documents, run_verdict, margin), baselines, study)


def _independent(
    cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    rows: Mapping[tuple[str, str], Row],
    documents: Mapping[tuple[Any, ...], Comparison],
) -> list[list[float]]:
    """The differences of `documents`, in one group those that share a run of ours or of the document.

    One number of the document is one run of it. Rows of a table in pairs share their training.
    """
    groups: list[set[Any]] = []  # comparisons, and what they share
    for table, cell in cells:
        row, number = rows[table["name"], cell["label"]], cell["reference"]
        if (row.key, number) in documents:
            group = {(row.key, number), row.key, number, *([table["name"]] if table.get("paired") else [])}
            linked = [other for other in groups if other & group]
            groups = [other for other in groups if not other & group] + [group.union(*linked)]
    return [[documents[key].difference for key in group if key in documents] for group in groups]


def tested(
    comparisons: Mapping[K, Comparison],
    verdict: Callable[[Comparison, float, float], RunVerdict | RowVerdict],
    margin: float,
    paired: bool = False,
) -> dict[K, Tested]:
    """The tests of one family."""
    adjusted = holm([comparison.p for comparison in comparisons.values()])
    return {
        key: Tested(comparison, p, comparison.equivalence_p(margin), verdict(comparison, p, margin), paired)
        for (key, comparison), p in zip(comparisons.items(), adjusted, strict=True)
    }
