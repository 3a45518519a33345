"""Which comparisons a report makes of an experiment's runs, and what it concludes from them."""

from pathlib import Path

import pytest
from scipy import stats

from resnet_dist.storage.interface import TrialKeys
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_result
from tests.tune_jobs.report_reading import NOW, rows_of, text_of
from tune_jobs.report import comparisons
from tune_jobs.report.notices import study_sentence
from tune_jobs.report.statistics import Comparison
from tune_jobs.report.summary import ReportOptions, ReportSummary, summarise_experiment
from tune_jobs.report.write import write_report
from tune_jobs.results.trials import read_experiment

pytestmark = pytest.mark.usefixtures("without_figures")


def test_one_row_of_large_errors_does_not_speak_for_the_others(tmp_path: Path) -> None:
    extra = '[[table.cell]]\nlabel = "{}"\nset = {{ "network.depth" = {} }}\n'
    text = TWO_ROWS + extra.format("deeper", 44) + extra.format("deepest", 56)
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=3)
    errors = [0.101, 0.099, 0.1, 0.0605, 0.0595, 0.06, 0.059, 0.06, 0.061, 0.1, 0.3, 0.5]
    for trial, error in zip(trials, errors, strict=True):
        record_result(storage, "two-rows", trial, error)
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    assert table.notes == (
        "Seeing a difference of 0.5 % points from the baseline with 80 % power takes 3 seeds a row in the median "
        "comparison and more than 1000 for deepest (level 0.05/3, the strictest of Holm's correction).",
    )
    wide = table.cells[-1]
    assert wide.prediction == (0.0, 1.0)  # clipped: an error is a fraction
    assert wide.ours is not None and wide.ours.low == 0.0


def test_the_p_beside_a_verdict_is_that_of_its_own_test(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    for trial, error in zip(trials, [0.101, 0.099, 0.1, 0.079, 0.077, 0.078], strict=True):
        record_result(storage, "two-rows", trial, error)
    report = write_report(storage, "two-rows", NOW)
    _, shallow, deep, *_ = rows_of(text_of(storage, "report.md"))
    # 0.00 and -0.20 from the document, each with an error of 0.1155 and 2 degrees of freedom: one-sided, t is 4.33 and
    # 2.60 to the margin of 0.5; two-sided, 0.00 and 1.73 to no difference.
    assert (shallow[6], deep[6]) == ("equivalent (p = 0.025)", "consistent")
    assert deep[8].endswith("; differs, p < 0.001)")
    equivalent, consistent = (cell["document"] for cell in report.to_dict()["tables"][0]["cells"])
    assert [round(equivalent[key], 4) for key in ("p", "equivalence_p")] == [1.0, 0.0247]
    assert [round(consistent[key], 4) for key in ("p", "equivalence_p")] == [0.4508, 0.0608]  # 0.2254 by Holm's method


def test_rows_in_pairs_are_compared_by_the_seeds_that_both_have(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('title = "Depths"', 'title = "Depths"\npaired = true')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=5)
    shallow, deep = [0.101, 0.096, 0.103, 0.099], [0.02, 0.083, 0.077, 0.086, 0.078]
    for trial, error in zip(trials[1:], [*shallow, *deep], strict=True):  # the first row lacks seed 0
        record_result(storage, "two-rows", trial, error)
    tested = summarise_experiment(read_experiment(storage, "two-rows")).tables[0].cells[1].against
    expected = stats.ttest_rel(deep[1:], shallow)
    assert tested is not None and tested.paired
    assert tested.comparison.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert tested.comparison.degrees == 3 and tested.comparison.p == pytest.approx(expected.pvalue)
    for trial in (trials[1], trials[-1], trials[-2]):  # three and three runs are left, of which two seeds are in both
        storage.delete(TrialKeys("two-rows", trial.trial_id).result)
    row = summarise_experiment(read_experiment(storage, "two-rows")).tables[0].cells[1]
    assert row.ours is not None and row.ours.n == 3 and row.against is None


def test_a_configuration_of_several_tables_is_tested_once(tmp_path: Path) -> None:
    second = TWO_ROWS[TWO_ROWS.index("[[table]]") :].replace('name = "depths"', 'name = "again"')
    text = TWO_ROWS + second + '[[table.cell]]\nlabel = "deeper"\nset = { "network.depth" = 44 }\nreference = 0.06\n'
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=3)
    for trial, error in zip(trials, [0.101, 0.099, 0.1, 0.0605, 0.0595, 0.06, 0.061, 0.0605, 0.06], strict=True):
        record_result(storage, "two-rows", trial, error)
    summary = summarise_experiment(read_experiment(storage, "two-rows"))
    first, again = summary.tables
    assert [cell.document for cell in first.cells] == [cell.document for cell in again.cells[:2]]
    assert (len(summary.tests.document), len(summary.tests.baseline), summary.tests.configurations) == (3, 3, 3)
    assert summary.study == ""  # of so few


def many_rows(singles: int) -> str:
    """Rows of 20, 26, … layers; the first again in a table with another schedule, and in one of four rows in pairs."""

    def cell(label: str, reference: float, settings: str = "") -> str:
        return f'[[table.cell]]\nlabel = "{label}"\nreference = {reference}\nset = {{ {settings} }}\n'

    text = 'name = "many"\ntitle = "Many"\n[recipe.data]\nsource = "cifar10"\n'
    text += '[[table]]\nname = "depths"\ntitle = "Depths"\n'
    for row in range(singles):
        text += cell(f"{20 + 6 * row} layers", 0.1 + row / 1000, f'"network.depth" = {20 + 6 * row}')
    text += '[[table]]\nname = "schedules"\ntitle = "Schedules"\n'
    text += cell("drops at 80 and 120", 0.1) + cell("at 80 and 160", 0.1, '"schedule.milestones" = [80, 160]')
    text += '[[table]]\nname = "momenta"\ntitle = "Momenta"\npaired = true\n'
    for row, momentum in enumerate((0.9, 0.5, 0.01)):
        settings = f'"network.width" = 8, "batch_norm.momentum" = {momentum}'
        text += cell(f"momentum {momentum}", 0.15 + row / 1000, settings)
    return text


def test_the_whole_study_counts_each_run_once_and_wants_ten_differences(tmp_path: Path) -> None:
    def summarised(singles: int) -> ReportSummary:
        folder = tmp_path / str(singles)
        folder.mkdir()
        storage, trials = record_experiment(folder, experiment_from(many_rows(singles), folder), seeds=3)
        for index, trial in enumerate(trials):
            row = index // 3  # the singles, the first one's other schedule, the three in pairs
            off = 0.001 * row if row < singles else [0.008, 0.001, 0.002, 0.006][row - singles]
            number = 0.1 + row / 1000 if row < singles else [0.1, 0.15, 0.151, 0.152][row - singles]
            record_result(storage, "many", trial, number + off + (0.001, 0.0, -0.001)[index % 3])
        write_report(storage, "many", NOW)
        for path in ("report.md", "report.html") if singles == 9 else ():
            said = text_of(storage, path, "many")
            assert said.index("The whole study, 13 configurations") < said.index("Depths")
        return summarise_experiment(read_experiment(storage, "many"))

    summary = summarised(9)
    # The mean of 0.0 and 0.8, which share a run of the document; 0.1 to 0.8; the mean of 0.1, 0.2 and 0.6.
    apart = [0.004, *(0.001 * row for row in range(1, 9)), 0.003]
    expected = stats.ttest_1samp(apart, 0)
    found = summary.tests.study
    assert found is not None and summary.tests.configurations == 13
    assert (found.difference, found.p) == pytest.approx((sum(apart) / 10, expected.pvalue))
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert summary.study == (
        "The whole study, 13 configurations: ours less the document's is +0.43 % points on average (95 % interval "
        "+0.27 to +0.59; p < 0.001 of no difference, by 10 independent differences). The recipe as a whole differs "
        "from the document's."
    )
    wider = summarise_experiment(summary.results, ReportOptions(smallest_difference=0.01))
    assert wider.study.endswith("differs from the document's, by less than 1 % points.")
    fewer = summarised(8)
    assert fewer.tests.configurations == 12 and fewer.study == ""


def test_a_tested_comparison_says_of_what_its_p_is() -> None:
    comparison = Comparison(0.001, 0.0005, 8)
    assert str(comparisons.Tested(comparison, 0.08, 0.0002, "equivalent")) == (
        "equivalent: +0.10 % points (95 % interval -0.02 to +0.22), p = 0.0002 of two one-sided tests"
    )
    assert str(comparisons.Tested(comparison, 0.04, 0.0002, "differs")).endswith("p = 0.04 of no difference")


@pytest.mark.parametrize(
    ("difference", "error", "told"),
    [
        (0.004, 0.001, "The recipe as a whole differs from the document's."),
        (0.002, 0.0005, "The recipe as a whole differs from the document's, by less than 0.5 % points."),
        (0.001, 0.001, "No difference of the recipe shows, and one of 0.5 % points is ruled out."),
        (0.001, 0.003, "No difference of the recipe shows, and one of 0.5 % points is not ruled out."),
    ],
)
def test_the_whole_study_says_what_follows(difference: float, error: float, told: str) -> None:
    tests = comparisons.Comparisons({}, {}, {}, Comparison(difference, error, 26))
    assert study_sentence(tests, 0.005).endswith(f"by 27 independent differences). {told}")


def test_rows_that_hold_a_source_of_noise_fixed_have_shares_of_the_variance(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('"network.depth" = 32', '"run.seed_order" = 0, "run.seed_augmentation" = 0')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=3)
    for trial, error in zip(trials, [0.08, 0.10, 0.12, 0.09, 0.10, 0.11], strict=True):
        record_result(storage, "two-rows", trial, error)
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    # F(0.975; 2, 2) is 39.
    assert "Variance as a share of that of shallow, with its 95 % interval: deep 25% (1% to 975%)." in table.notes


def test_rows_that_share_their_training_are_compared_in_pairs(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('title = "Depths"', 'title = "Depths"\npaired = true')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=3)
    # The rows' means are 0.1 % apart, and so are the runs of each seed but for one image; the seeds are 2 % apart.
    for trial, error in zip(trials, [0.08, 0.10, 0.12, 0.0810, 0.1011, 0.1209], strict=True):
        record_result(storage, "two-rows", trial, error)
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    tested = table.cells[1].against
    assert tested is not None and tested.paired and tested.verdict == "differs"
    assert tested.comparison.difference == pytest.approx(0.001) and tested.comparison.degrees == 2
    assert "in pairs" in table.description


def test_the_baseline_of_a_table_may_be_any_of_its_rows(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('title = "Depths"', 'title = "Depths"\nbaseline = "deep"')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=3)
    for trial, error in zip(trials, [0.101, 0.099, 0.1, 0.0605, 0.0595, 0.06], strict=True):
        record_result(storage, "two-rows", trial, error)
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    shallow, deep = table.cells
    assert shallow.against is not None
    assert (shallow.baseline_difference, shallow.against.comparison.difference) == pytest.approx((0.04, 0.04))
    assert (deep.baseline_difference, deep.against) == (None, None)


@pytest.mark.parametrize("paired", [False, True])
def test_seeds_needed_are_found_from_the_runs_that_were_compared(paired: bool, tmp_path: Path) -> None:
    text = TWO_ROWS.replace('title = "Depths"', f'title = "Depths"\npaired = {str(paired).lower()}')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=8)
    baseline = [0.10, 0.11, 0.12, 0.13]  # seeds 0 to 3
    other = [0.104, 0.11, 0.116, 0.124, 0.096, 0.1, 0.112]  # seeds 1 to 7
    for trial, error in zip([*trials[:4], *trials[9:]], baseline + other, strict=True):
        record_result(storage, "two-rows", trial, error)
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    if paired:  # differences by seed of -0.6, -1.0 and -1.4; their standard deviation is 0.4
        needed = next(n for n in range(3, 99) if t_test_power(0.005 / 0.004 * n**0.5, n - 1) >= 0.8)
    else:  # Welch's error, of four runs and seven
        error = (stats.sem(baseline) ** 2 + stats.sem(other) ** 2) ** 0.5
        sd = error / (1 / 4 + 1 / 7) ** 0.5
        needed = next(n for n in range(3, 999) if t_test_power(0.005 / sd * (n / 2) ** 0.5, 2 * (n - 1)) >= 0.8)
    assert f"takes {needed} seeds a row (level 0.05)" in table.notes[-1]


def t_test_power(shift: float, degrees: int) -> float:
    threshold = stats.t.ppf(0.975, degrees)
    return float(stats.nct.sf(threshold, degrees, shift))  # the other tail is below 1e-6 here
