"""How to read a report: what was measured and tested, and how often each verdict is right and wrong."""

from tune_jobs.report.statistics import LEAST_SEEDS
from tune_jobs.report.summary import ReportOptions

RATE_TITLES = (
    *("Seeds", "Truly off, %", "Document: equivalent", "consistent", "differs"),
    *("Whole study: differs", "Baseline: equivalent", "differs", "In pairs: equivalent", "differs"),
)
# Per cent, from `python -m benchmarks.verdicts`, which says what the made-up studies are; a test holds these to it.
RATES: tuple[tuple[float | None, ...], ...] = (
    (2, 0.0, None, None, None, 4.8, None, None, None, None),
    (2, 0.1, None, None, None, 58, None, None, None, None),
    (2, 0.3, None, None, None, 100, None, None, None, None),
    (2, 0.5, None, None, None, 100, None, None, None, None),
    (3, 0.0, 22, 3.4, 0.1, 5.2, 54, 0.4, 99, 1.0),
    (3, 0.1, 21, 3.5, 0.2, 63, 49, 0.8, 84, 16),
    (3, 0.3, 13, 4.2, 0.4, 100, 21, 4.3, 6.0, 92),
    (3, 0.5, 4.6, 3.2, 0.9, 100, 3.4, 16, 0.0, 100),
    (5, 0.0, 31, 10, 0.2, 5.1, 94, 0.5, 98, 1.5),
    (5, 0.1, 29, 11, 0.2, 68, 87, 1.8, 35, 65),
    (5, 0.3, 16, 12, 0.9, 100, 37, 22, 0.0, 100),
    (5, 0.5, 4.6, 8.2, 2.9, 100, 2.9, 75, 0.0, 100),
    (10, 0.0, 43, 22, 0.2, 5.0, 99, 0.8, 98, 1.8),
    (10, 0.1, 40, 24, 0.3, 72, 95, 5.3, 0.4, 100),
    (10, 0.3, 20, 26, 2.0, 100, 24, 75, 0.0, 100),
    (10, 0.5, 4.8, 17, 9.4, 100, 0.1, 100, 0.0, 100),
)
FALSE_ALARMS = {3: 14, 5: 18, 10: 22}
"""Per cent of studies of six tables with a false `differs` against a baseline, by seeds."""


def method(options: ReportOptions) -> list[str]:
    """How the numbers came about, in a few sentences for readers of the tables."""
    margin = f"{100 * options.smallest_difference:g} % points"
    alarms = f"{FALSE_ALARMS[5]:g} %"
    said = [
        "The measure is the top-1 error on the test set after the last epoch, never the best epoch. Ours is the mean "
        "over seeds ± their standard deviation (n - 1), with Student's 95 % confidence interval of the mean. Seeds "
        "that diverged are outcomes: a row with any says how many, and nothing is concluded from the mean of the "
        f"others. Nothing is concluded from fewer than {LEAST_SEEDS} seeds either.",
        "The document's number is one run, which varies as ours do: our mean less it has the error sd √(1 + 1/n), "
        "n - 1 degrees of freedom. Verdicts: differs (p < 0.05, by Holm's method over all configurations of the "
        f"experiment, each counted once); equivalent (less than {margin} apart, by two one-sided tests at 0.05); "
        "consistent with the document's run (it may well be one more run of ours: p ≥ 0.05, not corrected, where one "
        f"more run is known to ± {margin}); undecided (anything else). None says that two recipes are the same.",
        "Rows are tested against their table's baseline by Welch's t or, where runs of equal seeds share their "
        "training, by the differences of such pairs; Holm's method is over the table. The interval is the 95 % one of "
        "the difference, not corrected. Each table asks one question: of studies with six such tables, of five seeds, "
        f"{alarms} have a row that differs from its baseline though none does in truth.",
        "The whole study is one more test: Student's t of the differences between ours and the document's, one for "
        "each configuration. It sees a small error of the recipe that no row shows.",
        "All of it is conditional on this test set, which is a sample, too: at an error of 8.29 % the same network on "
        "another 10,000 images would err by up to 0.54 % points more or less (95 %). Where trials have kept which "
        'images they get wrong, "other images" is the interval of the difference on other test sets of this size: it '
        "has the error of the images, too, for which the two rows are compared image by image. It is left out where it "
        "is no wider.",
        "Interim: read before the planned seeds are there. Who looks after each seed from the third to the tenth and "
        "stops at p < 0.05 finds a difference that is not there in 14 of 100 comparisons, not 5.",
        "How often the verdicts are right and wrong, in made-up studies: 30 configurations that are all off by the "
        "same truth, runs with a standard deviation of 0.2 % points, differences in pairs with 0.06 %, a margin of "
        "0.5 % points. Equivalent and consistent are wrong in rows that are 0.5 % off, and differs in rows that are "
        "0 % off. In per cent of rows, or of studies:",
    ]
    if options.best_epoch:
        said.insert(
            1,
            "The best epoch is optimistic: it is chosen by the error on the test set itself, which is training on "
            "the test set. It is no measure of the network, and no test uses it.",
        )
    return said


def rate_fields() -> list[list[str]]:
    """The rows below `RATE_TITLES`; where nothing is tested, nothing."""
    return [["—" if rate is None else f"{rate:g}" for rate in row] for row in RATES]
