"""The test set as a sample, and the images that networks get wrong."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from resnet_dist.records.trial_record import encode_mask
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_result
from tests.tune_jobs.report_reading import NOW, text_of
from tune_jobs.report.comparisons import Row
from tune_jobs.report.images import on_other_images
from tune_jobs.report.statistics import Comparison, of_differences, of_samples, summarise
from tune_jobs.report.write import write_report
from tune_jobs.results.trials import TrialResults

IMAGES = 2000


def drawn(chances: np.ndarray, runs: int, generator: np.random.Generator) -> np.ndarray:
    """What runs get wrong, bool [runs, images], each image by its own chance."""
    return generator.random((runs, len(chances))) < chances


def test_intervals_over_other_images_hold_the_difference_of_the_population_as_often_as_they_say() -> None:
    """Two rows err equally over all images there are; each test set is another draw of images, and their hardness."""
    generator = np.random.default_rng(0)
    covered, covered_here = [], []
    for _ in range(400):
        easy = generator.random(IMAGES) < 0.9
        chances = [np.where(easy, 0.01, generator.beta(1, 1, IMAGES)) for _ in range(2)]  # each row has its own
        first, second = (drawn(chance, 5, generator) for chance in chances)
        here = of_samples(summarise(list(first.mean(1))), summarise(list(second.mean(1))))
        low, high = on_other_images(here, first, second, paired=False).interval
        covered.append(low <= 0 <= high)
        covered_here.append(here.interval[0] <= 0 <= here.interval[1])
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)
    assert np.mean(covered_here) < 0.85  # the seeds' error alone says too much of other images


def test_rows_that_err_on_the_same_images_lose_nothing_by_another_test_set() -> None:
    wrong = np.random.default_rng(1).random((3, IMAGES)) < 0.1
    here = of_differences([0.001, 0.0, -0.001])
    assert on_other_images(here, wrong, wrong, paired=True) == here


def test_no_interval_over_other_images_is_narrower_than_the_one_of_this_test_set() -> None:
    # Rows that differ in so few images that these add a hundredth to the variance, and degrees of freedom with it.
    here = of_differences([0.004, 0.0, -0.004])
    wrong = np.zeros((3, IMAGES), bool)
    other = wrong.copy()
    other[:, :1] = True
    added = here.error**2 + 1 / IMAGES**2
    assert added > here.error**2 and stats.t.ppf(0.975, 2 * (added / here.error**2) ** 2) < stats.t.ppf(0.975, 2)
    assert on_other_images(here, other, wrong, paired=True) == here


@pytest.mark.parametrize(("paired", "added"), [(True, 0.0625), (False, 0.03125)])
def test_images_add_how_much_the_difference_varies_over_them_less_the_runs_own_noise(
    paired: bool, added: float
) -> None:
    """Of four images the rows differ in the first: a variance of 1/4, divided by 4.

    The runs of both rows err alike on the second, by their seeds. In pairs that is no noise; else it is one of 1/4 for
    each row, a mean of 1/8 over the images, which is taken from the 1/4.
    """
    first = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], bool)
    second = np.array([[0, 0, 0, 0], [0, 1, 0, 0]], bool)
    found = on_other_images(Comparison(0.25, 0.1, 3), first, second, paired)
    assert found.error == pytest.approx((0.1**2 + added) ** 0.5)
    assert found.degrees == pytest.approx(3 * (1 + added / 0.1**2) ** 2)


def test_a_report_says_which_images_all_networks_get_wrong(tmp_path: Path, without_figures: None) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    for index, trial in enumerate(trials):
        wrong = np.zeros(100, bool)
        wrong[[7, 40 + index, 50 + index % 2]] = True
        wrong[60:70] = index >= 3
        result = {"test_images": 100, "wrong_images": encode_mask(wrong)}
        record_result(storage, "two-rows", trial, 0.03 + 0.01 * (index // 3), result=result)
    report = write_report(storage, "two-rows", NOW)
    for path in ("report.md", "report.html"):
        assert (
            "Of 100 test images, 1 is taken for another class by all 6 networks (positions 7), and 81 by none"
            in text_of(storage, path)
        )
        assert "; other images " in text_of(storage, path)
    lines = text_of(storage, "images.csv").splitlines()
    assert (len(lines), lines[0], lines[8], lines[51]) == (101, "image,trials_wrong,trials", "7,6,6", "50,3,6")
    tested = report.summary.tables[0].cells[1].against
    assert tested is not None and tested.elsewhere is not None
    assert tested.elsewhere.error > tested.comparison.error


def test_trials_on_different_data_have_no_images_in_common(tmp_path: Path, without_figures: None) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    for trial, data in zip(trials, ("ab" * 8, "cd" * 8), strict=True):
        result = {"test_images": 8, "wrong_images": "gA=="}
        record_result(storage, "two-rows", trial, 0.1, {"data_fingerprint": data}, result)
    assert write_report(storage, "two-rows", NOW).summary.images is None


def test_rows_in_pairs_of_unequal_seeds_are_held_against_other_images_by_the_seeds_that_both_have(
    tmp_path: Path, without_figures: None
) -> None:
    text = TWO_ROWS.replace('title = "Depths"', 'title = "Depths"\npaired = true')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=4)
    wrong = np.random.default_rng(3).random((8, 100)) < 0.1
    for trial, mask in [*zip(trials, wrong, strict=True)][1:]:  # the first row lacks seed 0
        result = {"test_images": 100, "wrong_images": encode_mask(mask)}
        record_result(storage, "two-rows", trial, mask.mean(), result=result)
    tested = write_report(storage, "two-rows", NOW).summary.tables[0].cells[1].against
    assert tested is not None and tested.paired
    assert tested.elsewhere == on_other_images(tested.comparison, wrong[5:], wrong[1:4], paired=True)


@pytest.mark.parametrize("kept", ["none", "of another test set", "damaged"])
def test_trials_that_have_not_kept_their_images_are_reported_without(
    kept: str, tmp_path: Path, without_figures: None
) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    for trial in trials:
        record_result(storage, "two-rows", trial, 0.1, result={"test_images": 8, "wrong_images": "gA=="})
    other = {
        "none": {},
        "of another test set": {"test_images": 4, "wrong_images": "gA=="},
        "damaged": {"test_images": 8, "wrong_images": "?"},
    }[kept]
    record_result(storage, "two-rows", trials[0], 0.1, result=other)
    report = write_report(storage, "two-rows", NOW)
    tested = report.summary.tables[0].cells[1].against
    assert report.summary.images is None and tested is not None and tested.elsewhere is None


@pytest.mark.parametrize(("limit", "images", "expected"), [(0, 200, 200), (0, None, 10_000), (50, None, 50)])
def test_nothing_is_resolved_below_one_image_of_the_trials_test_set(
    limit: int, images: int | None, expected: int
) -> None:
    provenance = {"images": {"test": images}} if images else {}
    config = {"data": {"test_limit": limit}}
    trial = TrialResults("0" * 16, "trial", config, "finished", {}, provenance=provenance)
    assert Row((trial,)).resolution == 1 / expected
