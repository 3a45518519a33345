"""Statistics of repeated trials: means with their intervals, differences with their tests, and the seeds they take.

Values are errors of the same row with different seeds, taken as normal. Every comparison is a t-test: a difference, its
standard error and degrees of freedom. scipy is imported inside the functions: a command that computes no statistics
does not pay for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""Significance level of every test. Of `differs`, after Holm's correction."""
POWER = 0.8
"""Probability of seeing a difference that is there, for `seeds_needed`."""
LEAST_SEEDS = 3
"""Seeds before anything is tested: two that happen to be equal, or nearly, say nothing of how much runs differ."""
SMALLEST_DIFFERENCE = 0.005
"""The smallest difference of two errors that matters: the document's "typically within 0.5 %"."""
LEAST_GROUPS = 10
"""Independent differences before anything is said of a whole study: of fewer, a recipe that is 0.2 % points off shows
too seldom for its absence to mean something (`benchmarks/verdicts.py`)."""
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
    """Lower end of the 95 % confidence interval of the mean (Student's t), at least 0; None with one value."""
    high: float | None
    """Its upper end; of errors at most 1."""


def summarise(values: Sequence[float], resolution: float = 0.0, largest: float = 1.0) -> Summary:
    """Mean, standard deviation and 95 % confidence interval of one or more errors, or of numbers up to `largest`.

    `resolution` is one image of the test set, as a fraction: errors are multiples of it, so equal ones are known no
    better, and a smaller standard deviation is taken for it.
    """
    assert values, "no values to summarise"
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None, None, None)
    sd = max(resolution, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))
    half = t_quantile(1 - LEVEL / 2, n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, max(0.0, mean - half), min(largest, mean + half))


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


@dataclass(frozen=True)
class Comparison:
    """A difference of two means, and how well it is known."""

    difference: float
    error: float
    """Its standard error, greater than 0."""
    degrees: float
    """Degrees of freedom of the standard error."""

    @property
    def p(self) -> float:
        """Two-sided p of no difference."""
        from scipy.special import stdtr

        return float(2 * stdtr(self.degrees, -abs(self.difference) / self.error))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the difference."""
        half = self.half_width
        return self.difference - half, self.difference + half

    @property
    def half_width(self) -> float:
        """Half the width of that interval."""
        return t_quantile(1 - LEVEL / 2, self.degrees) * self.error

    def equivalence_p(self, margin: float) -> float:
        """The larger p of two one-sided tests (Schuirmann 1987) that the difference lies beyond `margin`, either way.

        Below 0.05 exactly where the 90 % interval of the difference lies within the margin.
        """
        from scipy.special import stdtr

        return float(stdtr(self.degrees, (abs(self.difference) - margin) / self.error))


def to_single_run(sample: Summary, number: float) -> Comparison:
    """Our mean less one run's number, as if that run was drawn from the distribution behind `sample`.

    The error is sd sqrt(1 + 1/n): p < 0.05 is a number outside the 95 % prediction interval for one more run of ours.
    """
    assert sample.sd is not None, "one value does not show how much runs differ"
    return Comparison(sample.mean - number, sample.sd * math.sqrt(1 + 1 / sample.n), sample.n - 1)


def of_samples(first: Summary, second: Summary) -> Comparison:
    """Welch's comparison of two samples whose standard deviations may differ."""
    assert first.sd is not None and second.sd is not None, "one value does not show how much runs differ"
    a, b = first.sd**2 / first.n, second.sd**2 / second.n
    degrees = (a + b) ** 2 / (a**2 / (first.n - 1) + b**2 / (second.n - 1))
    return Comparison(first.mean - second.mean, math.sqrt(a + b), degrees)


def of_differences(differences: Sequence[float], resolution: float = 0.0) -> Comparison:
    """The mean of differences that are independent of each other, such as those by seed of rows in pairs."""
    sample = summarise(differences, resolution)
    assert sample.sd is not None, "one value does not show how much differences vary"
    return Comparison(sample.mean, sample.sd / math.sqrt(sample.n), sample.n - 1)


def of_groups(
    groups: Sequence[Sequence[float]], resolution: float = 0.0, least: int = LEAST_GROUPS
) -> Comparison | None:
    """The mean of differences that depend on each other within a group: each group counts once, with its mean.

    Groups need not vary alike: at a level of 5 % Student's t of normal values with one mean and any variances errs no
    more often than it says (Ibragimov and Müller 2010, J. Bus. Econ. Stat. 28, 453). None with fewer than `least`.
    """
    if len(groups) < least:
        return None
    return of_differences([math.fsum(group) / len(group) for group in groups], resolution)


def variance_ratio(part: Summary, whole: Summary) -> tuple[float, float, float]:
    """A sample's variance divided by another's, and its 95 % interval by Fisher's F, of normal values."""
    from scipy.special import fdtri

    assert part.sd is not None and whole.sd is not None, "one value has no variance"
    ratio = (part.sd / whole.sd) ** 2
    upper = float(fdtri(part.n - 1, whole.n - 1, 1 - LEVEL / 2))
    lower = float(fdtri(part.n - 1, whole.n - 1, LEVEL / 2))
    return ratio, ratio / upper, ratio / lower


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of the p-values of one family, in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def seeds_needed(
    sd: float, difference: float = SMALLEST_DIFFERENCE, power: float = POWER, tests: int = 1, paired: bool = False
) -> int | None:
    """Seeds a row with which a two-sided t-test tells two rows that differ by `difference` with this power.

    `sd` > 0 is the standard deviation of normal errors or, if `paired`, of their differences by seed. The level is that
    of the strictest of `tests` tests under Holm's correction. None if it takes more than 1000.
    """
    assert sd > 0 and difference > 0 and tests >= 1
    effect, level, samples = difference / sd, LEVEL / tests, 1 if paired else 2
    low, high = 1, _MOST_SEEDS  # power grows with n: the answer is in (low, high]
    if _power(high, effect, samples, level) < power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if _power(middle, effect, samples, level) < power:
            low = middle
        else:
            high = middle
    return max(high, LEAST_SEEDS)


def _power(n: int, effect: float, samples: int, level: float) -> float:
    """Probability that the t-test of one or two samples of `n` sees a difference of `effect` standard deviations.

    The noncentral t distribution, integrated over the spread that the samples show, because scipy.special's own gives
    up where differences are large.
    """
    import numpy as np
    from scipy.special import chdtri, ndtr

    degrees = samples * (n - 1)
    shift = effect / math.sqrt(samples / n)
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    thresholds = t_quantile(1 - level / 2, degrees) * np.sqrt(chdtri(degrees, quantiles) / degrees)
    return float(np.mean(ndtr(shift - thresholds) + ndtr(-shift - thresholds)))
