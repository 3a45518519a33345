"""How often the report's verdicts are right and wrong: made-up studies, judged by the report's own tests.

A study has 30 configurations. Runs, ours and the document's, are normal with a standard deviation of 0.2 % points, and
every configuration is off the document's by the same truth, as a recipe that is wrong somewhere makes it. A table has 7
rows that are off their baseline by the truth; in pairs, whose runs share their training, it has 3, and the differences
by seed have a standard deviation of 0.06 %.

    python -m benchmarks.verdicts                 # 5,000 studies for each line: minutes
    python -m benchmarks.verdicts --studies 100   # seconds
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tune_jobs.report.comparisons import tested
from tune_jobs.report.statistics import (
    LEAST_SEEDS,
    LEVEL,
    SMALLEST_DIFFERENCE,
    Comparison,
    of_differences,
    of_samples,
    row_verdict,
    run_verdict,
    summarise,
    to_single_run,
)

SEEDS = (2, 3, 5, 10)
TRUTHS = (0.0, 0.001, 0.003, 0.005)
KINDS = ("document", "study", "baseline", "pairs")
CONFIGURATIONS, ROWS, PAIRS = 30, 7, 3
TABLES = (4, 3, 3, 7, 8, 3)
"""Comparisons with a baseline in each of the study's tables."""
SPREAD, PAIRED_SPREAD = 0.002, 0.0006
_ERROR = 0.08
_IMAGE = 1e-4


def rates(kind: str, seeds: int, truth: float, studies: int, seed: int = 0) -> dict[str, float]:
    """Fractions of rows by verdict in so many studies; of kind `study`, of studies that differ. Empty without tests."""
    generator = np.random.default_rng([seed, KINDS.index(kind), seeds, round(1000 * truth)])
    if kind == "study":
        drawn = (_against_runs(seeds, truth, generator) for _ in range(studies))
        found = [of_differences([one.difference for one in study], _IMAGE).p < LEVEL for study in drawn]
        return {"differs": sum(found) / studies}
    draw: Callable[..., list[Comparison]] = {"document": _against_runs, "baseline": _table, "pairs": _paired}[kind]
    if seeds < LEAST_SEEDS:
        return {}
    verdict = run_verdict if kind == "document" else row_verdict
    counts: Counter[str] = Counter()
    for _ in range(studies):
        family = dict(enumerate(draw(seeds, truth, generator)))
        counts.update(test.verdict for test in tested(family, verdict, SMALLEST_DIFFERENCE).values())
    return {name: count / counts.total() for name, count in counts.items()}


def false_alarms(seeds: int, studies: int, seed: int = 0) -> float:
    """Fraction of studies with any row that differs from its baseline, in any table, though none does in truth."""
    generator = np.random.default_rng([seed, seeds])

    def alarm(rows: int) -> bool:
        family = dict(enumerate(_table(seeds, 0.0, generator, rows)))
        return any(test.verdict == "differs" for test in tested(family, row_verdict, SMALLEST_DIFFERENCE).values())

    return sum(any(alarm(rows) for rows in TABLES) for _ in range(studies)) / studies


def _runs(mean: float, count: int, spread: float, generator: np.random.Generator) -> list[float]:
    return [float(value) for value in np.round(generator.normal(mean, spread, count) / _IMAGE) * _IMAGE]


def _against_runs(seeds: int, truth: float, generator: np.random.Generator) -> list[Comparison]:
    numbers = _runs(_ERROR, CONFIGURATIONS, SPREAD, generator)
    return [
        to_single_run(summarise(_runs(_ERROR + truth, seeds, SPREAD, generator), _IMAGE), number) for number in numbers
    ]


def _table(seeds: int, truth: float, generator: np.random.Generator, rows: int = ROWS) -> list[Comparison]:
    base = summarise(_runs(_ERROR, seeds, SPREAD, generator), _IMAGE)
    ours = [summarise(_runs(_ERROR + truth, seeds, SPREAD, generator), _IMAGE) for _ in range(rows)]
    return [of_samples(sample, base) for sample in ours]


def _paired(seeds: int, truth: float, generator: np.random.Generator) -> list[Comparison]:
    return [of_differences(_runs(truth, seeds, PAIRED_SPREAD, generator), _IMAGE) for _ in range(PAIRS)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each number of seeds, truth and kind of test."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=5000, help="made-up studies for each line")
    studies = parser.parse_args(arguments).studies
    for seeds in SEEDS:
        for truth in TRUTHS:
            for kind in KINDS:
                found = sorted(rates(kind, seeds, truth, studies).items())
                said = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in found) or "no test"
                print(f"{seeds:2d} seeds, {100 * truth:.1f} % off, {kind}: {said}", flush=True)
        if seeds >= LEAST_SEEDS:
            print(f"{seeds:2d} seeds, any row of any table differs where none does: {false_alarms(seeds, studies):.1%}")


if __name__ == "__main__":
    main()
