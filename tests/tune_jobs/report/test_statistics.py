"""Against scipy.stats, whose t-tests and intervals are written independently of scipy.special's calls here, and
against published worked examples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tune_jobs.report.statistics import (
    Comparison,
    Summary,
    holm,
    of_differences,
    of_samples,
    seeds_needed,
    summarise,
    t_quantile,
    to_single_run,
    variance_ratio,
)
from tune_jobs.report.verdicts import row_verdict, run_verdict

ERRORS = [0.0829, 0.0841, 0.0818, 0.0835, 0.0850]
samples = st.lists(st.floats(0.001, 0.9), min_size=2, max_size=12).filter(lambda v: np.std(v) > 1e-6)


@given(samples)
def test_interval_is_scipys(values: list[float]) -> None:
    summary = summarise(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert summary.low == pytest.approx(max(low, 0), rel=1e-9, abs=1e-12)  # no error is below 0 or above 1
    assert summary.high == pytest.approx(min(high, 1), rel=1e-9, abs=1e-12)
    assert summary.sd == pytest.approx(np.std(values, ddof=1), rel=1e-9)


@given(samples, samples)
def test_welch_is_scipys(first: list[float], second: list[float]) -> None:
    expected = stats.ttest_ind(first, second, equal_var=False)
    found = of_samples(summarise(first), summarise(second))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()), rel=1e-6, abs=1e-9)


@given(samples, st.floats(0, 1))
def test_single_draw_is_an_unpooled_comparison_with_a_sample_of_one(values: list[float], reference: float) -> None:
    # Student's two-sample test with one value on one side has the same t and n - 1 degrees of freedom.
    expected = stats.ttest_ind(values, [reference], equal_var=True).pvalue
    assert to_single_run(summarise(values), reference).p == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(samples)
def test_paired_differences_are_scipys_test_of_one_sample(differences: list[float]) -> None:
    expected = stats.ttest_1samp(differences, 0)
    found = of_differences(differences)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()), rel=1e-6, abs=1e-9)


@given(samples, samples, st.floats(0.001, 0.1))
def test_equivalence_is_two_one_sided_tests_of_scipy(first: list[float], second: list[float], margin: float) -> None:
    above = stats.ttest_ind([v + margin for v in first], second, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind([v - margin for v in first], second, equal_var=False, alternative="less").pvalue
    found = of_samples(summarise(first), summarise(second)).equivalence_p(margin)
    assert found == pytest.approx(max(above, below), rel=1e-6, abs=1e-12)


def test_t_quantiles_are_those_of_the_printed_table() -> None:
    table = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042}
    assert {df: round(t_quantile(0.975, df), 3) for df in table} == table


def test_the_interval_of_a_ratio_of_variances_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(1000):
        part, whole = (summarise(list(rng.normal(0.5, sd, n))) for sd, n in ((0.01, 5), (0.02, 10)))
        _, low, high = variance_ratio(part, whole)
        hits.append(low <= 0.25 <= high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.025)
    # Printed tables: F(0.975; 9, 9) = 4.03.
    ratio, low, high = variance_ratio(Summary(10, 0.5, 0.01, None, None), Summary(10, 0.5, 0.01, None, None))
    assert (ratio, round(1 / low, 2), round(high, 2)) == (1.0, 4.03, 4.03)


def test_holm_is_the_worked_example() -> None:
    # Wikipedia, "Holm-Bonferroni method": four hypotheses at 0.05, of which the first and the fourth are rejected.
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [p < 0.05 for p in adjusted] == [True, False, False, True]


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "needed"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_needed_are_cohens(effect: float, needed: int) -> None:
    # Two-sided t-test, alpha 0.05, power 0.8: Cohen (1988), table 2.4.1, as G*Power computes them without rounding.
    assert seeds_needed(sd=1.0, difference=effect) == needed


@pytest.mark.parametrize(("effect", "needed"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_needed_are_those_of_g_power(effect: float, needed: int) -> None:
    # "Means: difference between two dependent means (matched pairs)", two tails, alpha 0.05, power 0.8.
    assert seeds_needed(sd=1.0, difference=effect, paired=True) == needed


def test_seeds_needed_reach_the_power_and_one_less_does_not() -> None:
    rng = np.random.default_rng(0)
    needed = seeds_needed(sd=0.0025, difference=0.005)
    assert needed == 6

    def power(n: int) -> float:
        a, b = rng.normal(0, 0.0025, (20000, n)), rng.normal(0.005, 0.0025, (20000, n))
        return float(np.mean(stats.ttest_ind(a, b, axis=1).pvalue < 0.05))

    assert power(needed) >= 0.8 > power(needed - 1)


def test_seeds_needed_has_ends() -> None:
    assert seeds_needed(sd=1e-6) == 3  # fewer are not tested
    assert seeds_needed(sd=1.0) is None


def test_one_value_has_no_spread() -> None:
    assert summarise([0.08]) == Summary(1, 0.08, None, None, None)


def test_equal_errors_are_known_to_one_test_image_and_no_better() -> None:
    sample = summarise([0.0863] * 3, resolution=1e-4)
    assert sample.sd == 1e-4
    assert to_single_run(sample, 0.0864).p > 0.05  # one image away
    assert of_differences([0.0, 0.0, 0.0], resolution=1e-4).p == 1.0


def test_a_row_and_one_runs_number() -> None:
    def verdict(values: list[float], number: float) -> str:
        comparison = to_single_run(summarise(values), number)
        return run_verdict(comparison, comparison.p, 0.005)

    assert verdict(ERRORS, 0.1093) == "differs"
    assert verdict(ERRORS, 0.0829) == "equivalent"
    assert verdict(ERRORS, 0.0805) == "consistent"  # 0.30 % away, where one more run falls within 0.37 %
    assert verdict([0.0830, 0.0831, 0.0829, 0.0830, 0.0832], 0.0831) == "equivalent"
    assert verdict([0.07, 0.08, 0.09], 0.08) == "undecided"  # known to 5 %
    comparison = to_single_run(summarise(ERRORS), 0.0829 + 0.006)
    assert comparison.p < 0.05
    assert run_verdict(comparison, 0.2, 0.005) == "undecided"  # its own p speaks against it, if not after correction


def test_two_rows() -> None:
    assert row_verdict(Comparison(0.001, 0.0002, 8), 0.01, 0.005) == "differs"
    assert row_verdict(Comparison(0.001, 0.0002, 8), 0.20, 0.005) == "equivalent"
    assert row_verdict(Comparison(0.001, 0.003, 8), 0.70, 0.005) == "undecided"


def test_welch_is_the_worked_example_of_students_sleep_data() -> None:
    # Student (1908), as R's documentation of t.test works it: t = -1.8608, 17.776 degrees of freedom, p = 0.07939.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert round(of_samples(summarise(first), summarise(second)).p, 5) == 0.07939


def test_prediction_interval_is_the_worked_example() -> None:
    # Montgomery and Runger, Applied Statistics and Probability for Engineers, alloy adhesion: n = 22, mean 13.71,
    # s = 3.55 give a 95 % prediction interval of 6.16 to 21.26.
    low, high = to_single_run(Summary(22, 13.71, 3.55, None, None), 0.0).interval
    assert (round(low, 2), round(high, 2)) == (6.16, 21.26)


def test_seeds_needed_are_those_of_the_worked_example_of_rs_power_t_test() -> None:
    # power.t.test(power = .90, delta = 1) gives n = 22.02 for sd = 1 and the level 0.05.
    assert seeds_needed(sd=1.0, difference=1.0, power=0.9) == 23


@pytest.mark.parametrize("tests", [1, 4, 20])
@pytest.mark.parametrize("sd", [0.001, 0.0025, 0.01])
def test_seeds_needed_at_holms_strictest_level_are_those_of_scipys_noncentral_t(sd: float, tests: int) -> None:
    def power(n: int) -> float:
        degrees, shift = 2 * (n - 1), 0.005 / (sd * math.sqrt(2 / n))
        threshold = stats.t.ppf(1 - 0.05 / tests / 2, degrees)
        return float(stats.nct.sf(threshold, degrees, shift))  # the other tail is below 1e-9 here, where scipy has nan

    needed = seeds_needed(sd, 0.005, tests=tests)
    assert needed is not None
    assert power(needed) >= 0.8 - 1e-4
    assert needed == 3 or power(needed - 1) < 0.8 + 1e-4
