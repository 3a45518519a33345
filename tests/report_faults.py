"""Deliberate faults in what a report says, and the tests that are to notice each."""

from tests.fault import Fault, fault

VERDICTS = "tests/benchmarks/test_verdicts.py"
STATISTICS = "tests/tune_jobs/report/test_statistics.py"
REPORT = "tests/tune_jobs/report/test_report.py"
COMPARISONS = "tests/tune_jobs/report/test_comparisons.py"
REPORT_FILES = "tests/tune_jobs/report/test_report_files.py"
IMAGES = "tests/tune_jobs/report/test_images.py"

REPORT_FAULTS: tuple[Fault, ...] = (
    fault(
        "reference-without-spread",
        "the document's single run is taken for its mean: its own spread is left out of the test",
        "tune_jobs/report/statistics.py",
        "math.sqrt(1 + 1 / sample.n), sample.n - 1)",
        "math.sqrt(1 / sample.n), sample.n - 1)",
        STATISTICS,
    ),
    fault(
        "no-correction",
        "p-values are not corrected for the number of tests in a table",
        "tune_jobs/report/statistics.py",
        "min(1.0, (len(p_values) - rank) * p_values[index])",
        "p_values[index]",
        STATISTICS,
    ),
    fault(
        "equivalence-at-ten-per-cent",
        "rows that are as far apart as the margin are called equivalent twice as often as the page says",
        "tune_jobs/report/verdicts.py",
        'return "equivalent" if comparison.equivalence_p(margin) < LEVEL else "undecided"',
        'return "equivalent" if comparison.equivalence_p(margin) < 2 * LEVEL else "undecided"',
        VERDICTS,
    ),
    fault(
        "consistent-after-correction",
        "a number that one more run would hardly be is called consistent where the correction forgives it",
        "tune_jobs/report/verdicts.py",
        'verdict == "undecided" and comparison.p >= LEVEL and',
        'verdict == "undecided" and adjusted_p >= LEVEL and',
        VERDICTS,
    ),
    fault(
        "shared-training-counts-often",
        "rows that share their training are so many independent differences of the whole study",
        "tune_jobs/report/comparisons.py",
        'row.key, number, *([table["name"]] if table.get("paired") else [])}',
        "row.key, number}",
        COMPARISONS,
    ),
    fault(
        "survivors-are-tested",
        "rows with seeds that diverged have a verdict on those that did not",
        "tune_jobs/report/comparisons.py",
        "sample.n >= LEAST_SEEDS and not self.diverged",
        "sample.n >= LEAST_SEEDS",
        REPORT,
    ),
    fault(
        "searched-rows-in-tables",
        "rows among whose trials a scheduler chose have a number",
        "tune_jobs/report/comparisons.py",
        'if any(trial.state == "early-stopped" for trial in self.trials):\n            return {}',
        "if False:\n            return {}",
        REPORT,
    ),
    fault(
        "commits-of-the-last-attempt",
        "a trial that went on under another commit is said to be of the last one alone",
        "tune_jobs/report/mixed_trials.py",
        'provenance.get("attempts") or [{}]',
        "[{}]",
        REPORT,
    ),
    fault(
        "processors-of-the-last-attempt",
        "a trial that went on on another processor is said to be of the last one alone",
        "tune_jobs/report/mixed_trials.py",
        '"processors": of_attempts("device")',
        '"processors": (_word(provenance.get("device")),)',
        REPORT,
    ),
    fault(
        "hours-of-one-worker",
        "worker-hours count a trial once, however many workers it had",
        "tune_jobs/report/cost.py",
        "trial_seconds(trial) * workers(trial) for",
        "trial_seconds(trial) for",
        REPORT,
    ),
    fault(
        "noise-of-pairs-by-rows",
        "of rows in pairs the noise of the runs is that of one row, and not of the differences",
        "tune_jobs/report/images.py",
        "(a - b).var(0, ddof=1) / len(a) if paired",
        "a.var(0, ddof=1) / len(a) if paired",
        IMAGES,
    ),
    fault(
        "pairs-by-all-seeds",
        "rows in pairs of unequal seeds are held against other images by all seeds of each",
        "tune_jobs/report/comparisons.py",
        "if trial.counts and (seeds is None or trial.seed in seeds))",
        "if trial.counts)",
        IMAGES,
    ),
    fault(
        "baseline-is-the-first-row",
        "differences from the baseline are those from a table's first row",
        "tune_jobs/report/summary.py",
        'base=rows[str(table["baseline"])],',
        "base=next(iter(rows.values())),",
        COMPARISONS,
    ),
    fault(
        "formulas-in-spreadsheets",
        "names that begin like formulas reach spreadsheets as they are",
        "tune_jobs/report/csv_files.py",
        "value.startswith(_FORMULA)",
        "False",
        REPORT_FILES,
    ),
    fault(
        "pairs-in-their-order",
        "rows in pairs of unequal seeds are subtracted by their order, and not by seed",
        "tune_jobs/report/comparisons.py",
        "[first[seed] - second[seed] for seed in first if seed in second]",
        "[ours - base for ours, base in zip(first.values(), second.values(), strict=False)]",
        COMPARISONS,
    ),
    fault(
        "last-epoch-as-the-best",
        "the column of the best epoch has the errors of the last one",
        "tune_jobs/report/columns.py",
        "lambda c: _mean_sd(c.best), lambda",
        "lambda c: _mean_sd(c.ours), lambda",
        REPORT_FILES,
    ),
)
