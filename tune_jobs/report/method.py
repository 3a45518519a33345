"""How to read a report: what was measured and tested, and how often each verdict is right and wrong."""

from collections.abc import Sequence

from tune_jobs.report.statistics import LEAST_GROUPS, LEAST_SEEDS
from tune_jobs.report.summary import ReportSummary

RATE_TITLES = (
    *("Seeds", "Truly off, %", "Document: equivalent", "consistent", "differs"),
    *("Whole study: differs", "Baseline: equivalent", "differs", "In pairs: equivalent", "differs"),
)
# Per cent, from `python -m benchmarks.verdicts`, which says what the made-up studies are; a test holds these to it.
RATES: tuple[tuple[float | None, ...], ...] = (
    (2, 0.0, None, None, None, None, None, None, None, None),
    (2, 0.1, None, None, None, None, None, None, None, None),
    (2, 0.3, None, None, None, None, None, None, None, None),
    (2, 0.5, None, None, None, None, None, None, None, None),
    (3, 0.0, 22, 3.4, 0.1, 4.3, 55, 0.4, 99, 1.0),
    (3, 0.1, 21, 3.5, 0.1, 60, 49, 0.7, 82, 18),
    (3, 0.3, 13, 4.2, 0.4, 100, 20, 4.0, 8.8, 89),
    (3, 0.5, 4.6, 3.0, 0.9, 100, 3.3, 15, 0.0, 100),
    (5, 0.0, 31, 10, 0.2, 5.4, 94, 0.6, 98, 1.7),
    (5, 0.1, 29, 11, 0.2, 63, 87, 1.7, 35, 65),
    (5, 0.3, 16, 12, 0.9, 100, 37, 23, 0.0, 100),
    (5, 0.5, 4.6, 8.3, 2.9, 100, 2.7, 75, 0.0, 100),
    (10, 0.0, 43, 23, 0.2, 5.2, 99, 0.7, 98, 1.7),
    (10, 0.1, 40, 24, 0.3, 68, 95, 5.0, 0.5, 99),
    (10, 0.3, 20, 26, 2.1, 100, 24, 75, 0.0, 100),
    (10, 0.5, 4.9, 17, 9.4, 100, 0.1, 100, 0.0, 100),
)
FALSE_ALARMS = {3: 15, 5: 20, 10: 22}
"""Per cent of studies of six tables with a false `differs` against a baseline, by seeds."""
LOOKS = {"document": 12, "baseline": 14, "pairs": 17}
"""Per cent of comparisons in which who looks after each seed from the third to the tenth finds a false difference."""
WHOLE_STUDY = {(5, False): 40, (10, False): 76, (27, False): 100, (27, True): 37}
"""Per cent of studies whose recipe is found to be 0.2 % points off, by independent differences of five seeds each, and
whether every third varies five times as much as the others."""

_APART = "less than {margin} apart, by two one-sided tests at 0.05, not corrected"
_DOCUMENT = (
    "The document's number is one run, which varies as ours do: our mean less it has the error sd √(1 + 1/n), n - 1 "
    "degrees of freedom. Verdicts: differs (p < 0.05 of no difference, by Holm's method over all configurations of the "
    f"experiment, each counted once); equivalent ({_APART}); consistent with the document's run (it may well be one "
    "more run of ours: p ≥ 0.05, not corrected, where one more run is known to ± {margin}); undecided (anything else). "
    "The p beside differs and equivalent is that of their own test; the other two are reached by none and have no p. "
    "No verdict says that two recipes are the same."
)
_NO_DOCUMENT = (
    f"Verdicts: differs (p < 0.05 of no difference, by Holm's method); equivalent ({_APART}); undecided (anything "
    "else). The p beside differs and equivalent is that of their own test; undecided is reached by none and has no p. "
    "No verdict says that two rows are the same."
)
_OF_THE_DOCUMENT = range(2, 6)
"""Columns of the rates that are of comparisons with the document."""


def method(summary: ReportSummary) -> list[str]:
    """How the numbers came about, in a few sentences for readers of the tables."""
    options, documented = summary.options, summary.has_references
    margin = f"{100 * options.smallest_difference:g} % points"
    with_document = f" and {LOOKS['document']:g} of 100 with the document" if documented else ""
    of_studies = ", or of studies" if documented else ""
    found = {study: f"{rate:g} %" for study, rate in WHOLE_STUDY.items()}
    said = [
        "The measure is the top-1 error on the test set after the last epoch, never the best epoch. Ours is the mean "
        "over seeds ± their standard deviation (n - 1), one test image at least, with Student's 95 % confidence "
        'interval of the mean; "one run" is the 95 % prediction interval for one more. Seeds that diverged are '
        "outcomes: a row with any says how many, and nothing is concluded from the mean of the others, nor from "
        f"fewer than {LEAST_SEEDS} seeds.",
        (_DOCUMENT if documented else _NO_DOCUMENT).format(margin=margin),
        "Rows are tested against their table's baseline by Welch's t or, where runs of equal seeds share their "
        "training, by the differences of such pairs; Holm's method is over the table. The interval is the 95 % one of "
        "the difference, not corrected. Each table asks one question: of made-up studies with six such tables, of five "
        f"seeds, {FALSE_ALARMS[5]:g} % have a row that differs from its baseline though none does in truth.",
        "The whole study is one more test: Student's t of the differences between ours and the document's. It sees a "
        "small error of the recipe that no row shows. Differences that share a run of the document, or the training of "
        "rows in pairs, count once, with their mean. Of fewer than "
        f"{LEAST_GROUPS} independent differences nothing is said: of made-up studies of five seeds, whose recipe is "
        f"0.2 % points off, {found[27, False]} find it with 27, {found[LEAST_GROUPS, False]} with {LEAST_GROUPS} and "
        f"{found[5, False]} with 5. Where some configurations vary more than others, the test errs in no more than "
        f"5 %, and finds less: {found[27, True]} with 27, if every third varies five times as much as the others."
        if documented
        else "",
        "All of it is conditional on this test set, which is a sample, too: at an error of 8.29 % the same network on "
        "another 10,000 images would err by up to 0.54 % points more or less (95 %). Where trials have kept which "
        'images they get wrong, "other images" is the interval of the difference on other test sets of this size: it '
        "has the error of the images, too, for which the two rows are compared image by image. It is left out where it "
        "is no wider.",
        "Interim: read before the planned seeds have ended. Whoever looks at a comparison after each seed from the "
        "third to the tenth, and stops at p < 0.05, finds a difference that is not there in "
        f"{LOOKS['baseline']:g} of 100 comparisons with a baseline"
        f"{with_document}, not 5.",
        "How often the verdicts are right and wrong, in made-up studies: 30 configurations, of which four are rows in "
        "pairs, all off by the same truth; runs with a standard deviation of 0.2 % points, differences in pairs with "
        f"0.06 %; a margin of 0.5 % points. Equivalent {'and consistent are' if documented else 'is'} wrong in rows "
        f"that are 0.5 % off, and differs in rows that are 0 % off. In per cent of rows{of_studies}:",
    ]
    said = [line for line in said if line]
    if options.best_epoch:
        said.insert(
            1,
            "The best epoch is optimistic: it is chosen by the error on the test set itself, which is training on "
            "the test set. It is no measure of the network, and no test uses it.",
        )
    return said


def rate_titles(summary: ReportSummary) -> list[str]:
    """The heading of the rates: without the document where no row has its number."""
    return _shown(RATE_TITLES, summary)


def rate_fields(summary: ReportSummary) -> list[list[str]]:
    """The rows below it; where nothing is tested, nothing."""
    return [_shown(["—" if rate is None else f"{rate:g}" for rate in row], summary) for row in RATES]


def _shown(fields: Sequence[str], summary: ReportSummary) -> list[str]:
    return [text for at, text in enumerate(fields) if summary.has_references or at not in _OF_THE_DOCUMENT]
