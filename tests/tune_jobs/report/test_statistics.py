"""Against scipy.stats, whose t-tests and intervals are written independently of scipy.special's calls here, and
against published worked examples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tune_jobs.report.statistics import (
    Summary,
    holm,
    pooled_sd,
    prediction_interval,
    seeds_needed,
    single_draw_p,
    smallest_visible,
    summarise,
    t_quantile,
    verdict,
    welch_p,
)

ERRORS = [0.0829, 0.0841, 0.0818, 0.0835, 0.0850]
samples = st.lists(st.floats(0.001, 0.9), min_size=2, max_size=12).filter(lambda v: np.std(v) > 1e-6)


@given(samples)
def test_interval_is_scipys(values: list[float]) -> None:
    summary = summarise(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert summary.low == pytest.approx(low, rel=1e-9, abs=1e-12)
    assert summary.high == pytest.approx(high, rel=1e-9, abs=1e-12)
    assert summary.sd == pytest.approx(np.std(values, ddof=1), rel=1e-9)


@given(samples, samples)
def test_welch_is_scipys(first: list[float], second: list[float]) -> None:
    expected = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert welch_p(summarise(first), summarise(second)) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(samples, st.floats(0, 1))
def test_single_draw_is_an_unpooled_comparison_with_a_sample_of_one(values: list[float], reference: float) -> None:
    # Student's two-sample test with one value on one side has the same t and n - 1 degrees of freedom.
    expected = stats.ttest_ind(values, [reference], equal_var=True).pvalue
    assert single_draw_p(summarise(values), reference) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_t_quantiles_are_those_of_the_printed_table() -> None:
    table = {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042}
    assert {df: round(t_quantile(0.975, df), 3) for df in table} == table


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


def test_seeds_needed_reach_the_power_and_one_less_does_not() -> None:
    rng = np.random.default_rng(0)
    needed = seeds_needed(sd=0.0025, difference=0.005)
    assert needed == 6

    def power(n: int) -> float:
        a, b = rng.normal(0, 0.0025, (20000, n)), rng.normal(0.005, 0.0025, (20000, n))
        return float(np.mean(stats.ttest_ind(a, b, axis=1).pvalue < 0.05))

    assert power(needed) >= 0.8 > power(needed - 1)


def test_seeds_needed_has_ends() -> None:
    assert seeds_needed(sd=0.0) == 2
    assert seeds_needed(sd=1e-6) == 2
    assert seeds_needed(sd=1.0) is None


def test_one_value_has_no_spread() -> None:
    assert summarise([0.08]) == Summary(1, 0.08, None, None, None)


def test_values_without_spread_differ_or_do_not() -> None:
    same, other = summarise([0.5, 0.5]), summarise([0.25, 0.25])
    assert (welch_p(same, same), welch_p(same, other)) == (1.0, 0.0)
    assert (single_draw_p(same, 0.5), single_draw_p(same, 0.4)) == (1.0, 0.0)


def test_pooled_sd_is_the_root_of_the_weighted_mean_variance() -> None:
    first, second = [0.1, 0.2, 0.3], [0.5, 0.52]
    expected = math.sqrt((2 * np.var(first, ddof=1) + np.var(second, ddof=1)) / 3)
    assert pooled_sd([summarise(first), summarise(second), summarise([0.9])]) == pytest.approx(expected)
    assert pooled_sd([summarise([0.9])]) is None


def test_verdicts() -> None:
    sample = summarise(ERRORS)
    assert verdict(sample, 0.0829, single_draw_p(sample, 0.0829)) == "reproduced"
    assert verdict(sample, 0.1093, single_draw_p(sample, 0.1093)) == "differs"
    wide = summarise([0.07, 0.08, 0.09])
    assert verdict(wide, 0.08, single_draw_p(wide, 0.08)) == "not distinguishable"
    # Within what runs vary by, yet further away than the difference that matters.
    assert verdict(summarise([0.078, 0.082, 0.08]), 0.0855, 0.2) == "not distinguishable"


def test_welch_is_the_worked_example_of_students_sleep_data() -> None:
    # Student (1908), as R's documentation of t.test works it: t = -1.8608, 17.776 degrees of freedom, p = 0.07939.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert round(welch_p(summarise(first), summarise(second)), 5) == 0.07939


def test_prediction_interval_is_the_worked_example() -> None:
    # Montgomery and Runger, Applied Statistics and Probability for Engineers, alloy adhesion: n = 22, mean 13.71,
    # s = 3.55 give a 95 % prediction interval of 6.16 to 21.26.
    low, high = prediction_interval(Summary(22, 13.71, 3.55, None, None))
    assert (round(low, 2), round(high, 2)) == (6.16, 21.26)


@given(samples, st.floats(0, 1))
def test_a_reference_outside_the_prediction_interval_is_one_with_p_below_005(
    values: list[float], reference: float
) -> None:
    sample = summarise(values)
    low, high = prediction_interval(sample)
    p = single_draw_p(sample, reference)
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (not low <= reference <= high)


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
    assert needed == 2 or power(needed - 1) < 0.8 + 1e-4


def test_no_number_of_seeds_tells_a_single_run_closer_than_its_own_spread() -> None:
    many = Summary(100_000, 0.08, 0.002, None, None)
    edge = smallest_visible(0.002)
    assert edge == pytest.approx(1.96 * 0.002, rel=1e-4)
    assert single_draw_p(many, 0.08 + 0.99 * edge) > 0.05 > single_draw_p(many, 0.08 + 1.01 * edge)
