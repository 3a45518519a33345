"""How often the report's verdicts are right and wrong: made-up studies, judged by the report's own tests.

A study has 30 configurations. Runs, ours and the document's, are normal with a standard deviation of 0.2 % points, and
every configuration is off the document's by the same truth, as a recipe that is wrong somewhere makes it. A table has 7
rows that are off their baseline by the truth; in pairs, whose runs share their training, it has 3, and the differences
by seed have a standard deviation of 0.06 %. One table of each study is in pairs.

    python -m benchmarks.verdicts                 # 5,000 studies for each line: minutes
    python -m benchmarks.verdicts --studies 100   # seconds
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import exit_with
from tune_jobs.report.comparisons import Tested, tested
from tune_jobs.report.statistics import (
    LEAST_GROUPS,
    LEAST_SEEDS,
    LEVEL,
    SMALLEST_DIFFERENCE,
    Comparison,
    of_differences,
    of_groups,
    of_samples,
    summarise,
    to_single_run,
)
from tune_jobs.report.verdicts import row_verdict, run_verdict

Kind = Literal["document", "baseline", "pairs"]
KINDS: tuple[Kind, ...] = ("document", "baseline", "pairs")
"""What rows are compared with: a run of the document each, their baseline, their baseline seed by seed."""
ROWS: dict[Kind, int] = {"document": 30, "baseline": 7, "pairs": 3}
TABLES = (4, 3, 3, 7, 8)
"""Comparisons with a baseline in the study's tables; those of the sixth are in pairs."""
SEEDS = (2, 3, 5, 10)
TRUTHS = (0.0, 0.001, 0.003, 0.005)
LOOKS = range(LEAST_SEEDS, SEEDS[-1] + 1)
"""Seeds at which who looks after every seed looks."""
GROUPS = (5, 8, LEAST_GROUPS, 27)
"""Independent differences of a whole study. `study` has 27: of its 30 configurations four share their training."""
SPREAD, PAIRED_SPREAD = 0.002, 0.0006
_ERROR = 0.08
_IMAGE = 1e-4


def rates(kind: Kind, seeds: int, truth: float, studies: int, seed: int = 0) -> dict[str, float]:
    """Fractions of rows by verdict in so many studies; empty where nothing is tested."""
    if seeds < LEAST_SEEDS:
        return {}
    generator = np.random.default_rng([seed, KINDS.index(kind), seeds, round(1000 * truth)])
    runs = _runs(kind, seeds, truth, ROWS[kind], studies, generator)
    counts = Counter(test.verdict for study in runs for test in _tests(kind, study, seeds))
    return {name: count / counts.total() for name, count in counts.items()}


def whole_study(
    seeds: int, truth: float, studies: int, groups: int = GROUPS[-1], uneven: bool = False, seed: int = 0
) -> float:
    """Fraction of studies whose recipe is said to differ. A group is a configuration; the first is four, in pairs.

    `uneven`: every third group varies five times as much as the others.
    """
    generator = np.random.default_rng([seed, seeds, groups, round(1000 * truth), uneven])

    def noise(spread: float, rows: int, runs: int) -> NDArray[np.float64]:
        return generator.normal(0, spread / runs**0.5, (studies, rows))

    pairs = noise(SPREAD, 1, seeds) + noise(PAIRED_SPREAD / 2**0.5, 4, seeds) - noise(SPREAD, 4, 1)
    others = noise(SPREAD, groups - 1, seeds) - noise(SPREAD, groups - 1, 1)
    others[:, :: 3 if uneven else 1] *= 5 if uneven else 1
    found = [
        of_groups([four, *([one] for one in rest)], _IMAGE, least=1)
        for four, rest in zip((truth + pairs).tolist(), (truth + others).tolist(), strict=True)
    ]
    return sum(study is not None and study.p < LEVEL for study in found) / studies


def false_alarms(seeds: int, studies: int, seed: int = 0) -> float:
    """Fraction of studies with any row that differs from its baseline, in any table, though none does in truth."""
    generator = np.random.default_rng([seed, seeds])
    tables: list[tuple[Kind, int]] = [*(("baseline", rows) for rows in TABLES), ("pairs", ROWS["pairs"])]
    alarms = np.zeros(studies, bool)
    for kind, rows in tables:
        runs = _runs(kind, seeds, 0.0, rows, studies, generator)
        alarms |= [any(test.verdict == "differs" for test in _tests(kind, study, seeds)) for study in runs]
    return float(alarms.mean())


def looks(kind: Kind, studies: int, seed: int = 0) -> float:
    """Fraction of single comparisons without a difference in which some look of `LOOKS` finds one, at p < 0.05."""
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    runs = _runs(kind, LOOKS[-1], 0.0, 1, studies, generator)
    return sum(any(next(_compared(kind, study, seeds)).p < LEVEL for seeds in LOOKS) for study in runs) / studies


def _runs(
    kind: Kind, seeds: int, truth: float, rows: int, studies: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """What is compared with the first of each row, or with the first row.

    [studies, rows, 1 + seeds] for the document, else [studies, 1 + rows, seeds].
    """
    shape = (studies, rows, 1 + seeds) if kind == "document" else (studies, 1 + rows, seeds)
    spread = PAIRED_SPREAD / 2**0.5 if kind == "pairs" else SPREAD  # what pairs have in common is left out
    runs = generator.normal(_ERROR, spread, shape)
    ours = runs[:, :, 1:] if kind == "document" else runs[:, 1:]
    ours += truth
    return np.round(runs / _IMAGE) * _IMAGE


def _compared(kind: Kind, study: NDArray[np.float64], seeds: int) -> Iterator[Comparison]:
    """Each row of one study, with so many of its seeds."""
    if kind == "document":
        return (to_single_run(summarise(row[1 : 1 + seeds], _IMAGE), row[0]) for row in study.tolist())
    if kind == "pairs":
        return (of_differences(row[:seeds], _IMAGE) for row in (study[1:] - study[0]).tolist())
    base, *others = (summarise(row[:seeds], _IMAGE) for row in study.tolist())
    return (of_samples(other, base) for other in others)


def _tests(kind: Kind, study: NDArray[np.float64], seeds: int) -> Sequence[Tested]:
    verdict = run_verdict if kind == "document" else row_verdict
    return [*tested(dict(enumerate(_compared(kind, study, seeds))), verdict, SMALLEST_DIFFERENCE).values()]


def main(arguments: list[str]) -> int:
    """Print a line for each number of seeds, truth and kind of test."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=5000, help="made-up studies for each line")
    studies = parser.parse_args(arguments).studies
    for seeds in SEEDS:
        for truth in TRUTHS:
            off = f"{seeds:2d} seeds, {100 * truth:.1f} % off"
            for kind in KINDS:
                found = sorted(rates(kind, seeds, truth, studies).items())
                print(f"{off}, {kind}:", ", ".join(f"{name} {rate:.1%}" for name, rate in found) or "no test")
            study = f"differs {whole_study(seeds, truth, studies):.1%}" if seeds >= LEAST_SEEDS else "no test"
            print(f"{off}, whole study: {study}", flush=True)
        if seeds >= LEAST_SEEDS:
            print(f"{seeds:2d} seeds, any row of any table differs where none does: {false_alarms(seeds, studies):.1%}")
    for groups in GROUPS:
        for truth in (0.0, 0.002):
            even, uneven = (whole_study(5, truth, studies, groups, uneven) for uneven in (False, True))
            print(
                f"{groups} independent groups of 5 seeds, {100 * truth:.1f} % off: differs {even:.1%}, "
                f"where spreads differ {uneven:.1%}"
            )
    for kind in KINDS:
        print(f"looks after {LOOKS[0]} to {LOOKS[-1]} seeds, 0.0 % off, {kind}: p < 0.05 {looks(kind, studies):.1%}")
    return 0


if __name__ == "__main__":
    exit_with(main)
