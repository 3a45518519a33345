"""Statistics of repeated trials: intervals, Welch's t, Holm's correction, and one reference value as one draw.

Values are errors of the same cell with different seeds, taken as normal. scipy.special is imported inside the
functions: a command that computes no statistics does not pay for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["reproduced", "differs", "not distinguishable"]

LEVEL = 0.05
"""Significance level of every test, after Holm's correction within a table."""
POWER = 0.8
"""Probability of seeing a difference that is there, for `seeds_needed`."""
SMALLEST_DIFFERENCE = 0.005
"""The smallest difference of two errors that matters: the document's "typically within 0.5 %"."""
_MOST_SEEDS = 1000
_QUANTILES = 2000


@dataclass(frozen=True)
class Summary:
    """A sample in a few numbers."""

    n: int
    mean: float
    sd: float | None
    """Sample standard deviation (n - 1); None with one value."""
    low: float | None
    """Lower end of the 95 % confidence interval of the mean (Student's t); None with one value."""
    high: float | None
    """Its upper end."""


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and 95 % confidence interval of one or more values."""
    assert values, "no values to summarise"
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(1 - LEVEL / 2, n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def two_sided_p(t: float, degrees: float) -> float:
    """Probability that Student's t is at least as far from 0 as `t`."""
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(t)))


def welch_p(first: Summary, second: Summary) -> float:
    """Two-sided p of Welch's t-test for equal means of two samples with two values or more each.

    Two samples without any spread are equal (p = 1) or not (p = 0).
    """
    assert first.sd is not None and second.sd is not None, "Welch's test needs two values in each sample"
    a, b = first.sd**2 / first.n, second.sd**2 / second.n
    if a + b == 0:
        return float(first.mean == second.mean)
    degrees = (a + b) ** 2 / (a**2 / (first.n - 1) + b**2 / (second.n - 1))
    return two_sided_p((first.mean - second.mean) / math.sqrt(a + b), degrees)


def prediction_interval(sample: Summary) -> tuple[float, float]:
    """Where one more run of the same cell falls with a probability of 95 %: mean ± t sd sqrt(1 + 1/n)."""
    assert sample.sd is not None, "a prediction needs two values or more"
    half = t_quantile(1 - LEVEL / 2, sample.n - 1) * sample.sd * math.sqrt(1 + 1 / sample.n)
    return sample.mean - half, sample.mean + half


def single_draw_p(sample: Summary, reference: float) -> float:
    """Two-sided p that `reference`, one run's number, was drawn from the distribution behind `sample`.

    t = (mean - reference) / (sd sqrt(1 + 1/n)) with n - 1 degrees of freedom: p < 0.05 is a reference outside the
    95 % prediction interval for one more run.
    """
    assert sample.sd is not None, "a reference needs two values or more to be tested"
    if sample.sd == 0:
        return float(sample.mean == reference)
    return two_sided_p((sample.mean - reference) / (sample.sd * math.sqrt(1 + 1 / sample.n)), sample.n - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of the p-values of one family, in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def verdict(sample: Summary, reference: float, adjusted_p: float, margin: float = SMALLEST_DIFFERENCE) -> Verdict:
    """What the sample says about a single reference value.

    `differs`: the reference is no plausible draw (adjusted p < 0.05). `reproduced`: it is one, our mean lies within
    the margin of it, and our mean is itself known to within the margin (half-width of its 95 % interval).
    `not distinguishable`: anything else; more seeds are needed to say.
    """
    assert sample.high is not None, "a verdict needs two values or more"
    if adjusted_p < LEVEL:
        return "differs"
    if abs(sample.mean - reference) <= margin and sample.high - sample.mean <= margin:
        return "reproduced"
    return "not distinguishable"


def pooled_sd(samples: Sequence[Summary]) -> float | None:
    """Standard deviation over samples whose means may differ; None if none has two values."""
    degrees = sum(sample.n - 1 for sample in samples)
    if not degrees:
        return None
    return math.sqrt(sum((s.n - 1) * s.sd**2 for s in samples if s.sd is not None) / degrees)


def seeds_needed(
    sd: float, difference: float = SMALLEST_DIFFERENCE, power: float = POWER, tests: int = 1
) -> int | None:
    """Seeds a cell with which a two-sided t-test tells two cells that differ by `difference` with this power.

    For normal errors of standard deviation `sd`. The level is that of the strictest of `tests` tests under Holm's
    correction. None if it takes more than 1000.
    """
    assert sd >= 0 and difference > 0 and tests >= 1
    if sd == 0:
        return 2
    level = LEVEL / tests
    low, high = 1, _MOST_SEEDS  # power grows with n: the answer is in (low, high]
    if _power(high, sd, difference, level) < power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _power(middle, sd, difference, level) < power:
            low = middle
        else:
            high = middle
    return high


def smallest_visible(sd: float) -> float:
    """The smallest difference from one run's number that any number of seeds can show: the run itself varies by sd.

    It is the half-width of the 95 % prediction interval as n grows, for a single test.
    """
    from scipy.special import ndtri

    return float(ndtri(1 - LEVEL / 2)) * sd


def _power(n: int, sd: float, difference: float, level: float) -> float:
    """Probability that the t-test of two samples of `n` sees the difference, averaged over their estimated spread.

    The noncentral t distribution, integrated here because scipy.special's own gives up where differences are large.
    """
    import numpy as np
    from scipy.special import chdtri, ndtr

    degrees = 2 * (n - 1)
    shift = difference / (sd * math.sqrt(2 / n))
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    thresholds = t_quantile(1 - level / 2, degrees) * np.sqrt(chdtri(degrees, quantiles) / degrees)
    return float(np.mean(ndtr(shift - thresholds) + ndtr(-shift - thresholds)))
