"""What is known of two rows, or of a row and a run's number, in a word: differs, equivalent, consistent, undecided."""

from typing import Literal

from tune_jobs.report.statistics import LEVEL, Comparison

RunVerdict = Literal["differs", "equivalent", "consistent", "undecided"]
RowVerdict = Literal["differs", "equivalent", "undecided"]


def row_verdict(comparison: Comparison, adjusted_p: float, margin: float) -> RowVerdict:
    """What is known of two rows.

    `differs`: adjusted p < 0.05. `equivalent`: less than the margin apart, by two one-sided tests at 0.05.
    `undecided`: neither; more seeds are needed to say.
    """
    if adjusted_p < LEVEL:
        return "differs"
    return "equivalent" if comparison.equivalence_p(margin) < LEVEL else "undecided"


def run_verdict(comparison: Comparison, adjusted_p: float, margin: float) -> RunVerdict:
    """What is known of a row and one run's number: as of two rows, with one more answer between.

    `consistent`: the number may well be one more run of the row (p >= 0.05, not adjusted), and the row is known well
    enough for that to mean something: its prediction interval is no wider than the margin on either side.
    """
    verdict = row_verdict(comparison, adjusted_p, margin)
    if verdict == "undecided" and comparison.p >= LEVEL and comparison.half_width <= margin:
        return "consistent"
    return verdict
