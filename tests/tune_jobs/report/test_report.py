"""What a report says."""

import json
import re
from pathlib import Path

import pytest

from resnet_dist.storage.interface import TrialKeys, experiment_key
from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_early_stop,
    record_experiment,
    record_failure,
    record_metrics,
    record_result,
)
from tests.tune_jobs.report_reading import NOW, Finished, rows_of, shown, text_of
from tune_jobs.report.cost import experiment_cost
from tune_jobs.report.summary import ReportOptions, summarise_experiment
from tune_jobs.report.write import write_report
from tune_jobs.results.trials import read_experiment

pytestmark = pytest.mark.usefixtures("without_figures")


def test_table_holds_ours_the_references_and_verdicts(finished: Finished) -> None:
    storage, trials = finished()
    report = write_report(storage, "two-rows", NOW)
    header, shallow, deep, *_ = rows_of(text_of(storage, "report.md"))
    assert header[1:9] == [
        *("Top-1 error, %", "n", "95 % interval", "Document, %", "Difference", "Verdict", "Paper, %"),
        "Against baseline",
    ]
    # Student's t for 2 degrees of freedom is 4.303, so the half-width is 4.303 * 0.1 / sqrt(3) = 0.25, and that of the
    # prediction interval 4.303 * 0.1 * sqrt(4 / 3) = 0.50.
    assert shallow[:8] == [
        "shallow",
        "10.00 ± 0.10",
        "3",
        "9.75 to 10.25 (one run 9.50 to 10.50)",
        "10.00",
        "+0.00",
        "equivalent (p = 0.025)",  # two one-sided tests: t = 0.5 / (0.1 * sqrt(4 / 3)) = 4.33
        "9.00 (ours +1.00)",
    ]
    assert deep[:6] == ["deep", "6.00 ± 0.05", "3", "5.88 to 6.12 (one run 5.75 to 6.25)", "8.00", "−2.00"]
    assert deep[6].startswith("differs (p = 0.00")
    # Welch's interval: 2.94 degrees of freedom, t 3.22, an error of 0.0645.
    assert deep[8] == "−4.00 (−4.21 to −3.79; differs, p < 0.001)"
    assert f"[0](#trial-{trials[0].trial_id})" in shallow[9]
    assert report.summary.comparable
    assert report.to_dict()["tables"][0]["cells"][0]["document"]["verdict"] == "equivalent"
    assert "10.00 ± 0.10" in shown(report)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_give_no_verdict_and_say_why(seeds: int, finished: Finished) -> None:
    storage, _ = finished(seeds=seeds)
    report = write_report(storage, "two-rows", NOW)
    header, shallow, _, *_ = rows_of(text_of(storage, "report.md"))
    assert dict(zip(header, shallow, strict=True))["Verdict"] == "— (fewer than 3 seeds)"
    assert ("95 % interval" in header) == (seeds > 1)
    assert ("Against baseline" in header) == (seeds > 1)
    assert report.summary.tests.baseline == report.summary.tests.document == {}
    for text in (text_of(storage, "report.md"), text_of(storage, "report.html"), " ".join(shown(report).split())):
        assert "A row with fewer than 3 finished seeds has no test and no verdict" in text
        assert "Run 3 seeds or more." in text


def test_a_running_grid_shows_how_far_it_is(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    record_result(storage, "two-rows", trials[0], 0.1)
    record_failure(storage, "two-rows", trials[1], "training diverged at step 7")
    record_metrics(storage, "two-rows", trials[2], [0.5] * 12)
    report = write_report(storage, "two-rows", NOW)
    text = text_of(storage, "report.md")
    assert (
        "4 trials, 2 seeds a row: 1 finished, 1 failed, 1 unfinished, 1 missing. Written 2026-03-01 12:30 UTC." in text
    )
    assert "1 of 2 finished; seed 1 failed: training diverged at step 7" in text
    assert "0 of 2 finished; seed 0 at epoch 12 of 200" in text
    assert "seed 1 failed: training diverged at step 7" in shown(report)
    counts = {state: count for state, count in report.to_dict()["trials"].items() if count}
    assert counts == {"finished": 1, "failed": 1, "unfinished": 1, "missing": 1}
    assert report.summary.notices == ("Not finished: 2 of 4 trials have no result yet; numbers will change.",)


def test_trials_of_an_earlier_versions_schedule_are_reported_and_named(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('"network.depth" = 32', '"network.depth" = 32, "schedule.milestones" = [80, 160]')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=2)
    for trial, error in zip(trials, [0.10, 0.11, 0.07, 0.08], strict=True):
        record_result(storage, "two-rows", trial, error)
    summary = write_report(storage, "two-rows", NOW).summary
    (notice,) = summary.notices
    assert notice.startswith("The learning rate drops at epochs 80, 160 in 1 row with a number of the document.")
    assert summary.comparable and summary.tables[0].cells[1].difference is not None


@pytest.mark.parametrize("complete", [True, False])
def test_an_earlier_versions_result_that_diverged_counts_in_no_mean(tmp_path: Path, complete: bool) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    for trial, error in zip(trials, [0.10, 0.11, 0.9, 0.10, 0.11, 0.12], strict=True):
        lost = {"test_loss": None} if error == 0.9 else {}
        record_result(storage, "two-rows", trial, error, result=lost, complete=complete)
    report = write_report(storage, "two-rows", NOW)
    _, shallow, *_ = rows_of(text_of(storage, "report.md"))
    assert shallow[:3] == ["shallow", "10.50 ± 0.71 (1 of 3 diverged)", "2"]  # the mean of 10 and 11
    reason = "seed 2 failed: a loss of its last epoch is not finite; a lower"
    assert f"2 of 3 finished; {reason}" in text_of(storage, "report.md")
    found = read_experiment(storage, "two-rows", details=False).trials[trials[2].trial_id]
    assert (found.state, found.failure, found.result, found.epochs_done) == ("failed", "diverged", {}, 2)
    assert report.to_dict()["trials"]["failed"] == 1


def test_an_experiment_without_any_result_has_a_report(tmp_path: Path) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    report = write_report(storage, "two-rows", NOW)
    assert [Path(uri).name for uri in report.uris] == ["results.csv", "tables.csv", "report.md", "report.html"]
    assert "2 missing" in text_of(storage, "report.html")


def test_shortened_and_other_data_are_said_first_and_leave_no_verdict(finished: Finished) -> None:
    overrides = {"data.source": "folder:/d/cifar10-jpeg.tar.xz", "data.fingerprint": "ab"}
    storage, _ = finished(epochs=20, overrides=overrides)
    report = write_report(storage, "two-rows", NOW)
    assert [notice.partition(":")[0] for notice in report.summary.notices[:2]] == ["Shortened", "Other data"]
    for text in (text_of(storage, "report.md"), text_of(storage, "report.html"), " ".join(shown(report).split())):
        text = text.replace("&#39;", "'")
        for said in ("20 epochs instead of 200", "JPEG, which makes them harder than CIFAR-10", "not comparable"):
            assert said in text
            assert text.index(said) < text.index("Depths")
    header = rows_of(text_of(storage, "report.md"))[0]
    assert "Document, %" in header
    assert not {"Verdict", "Difference"} & set(header)
    assert {cell["document"] for cell in report.to_dict()["tables"][0]["cells"]} == {None}


def test_a_folder_is_not_of_jpeg_files_because_it_lies_in_one_of_that_name(finished: Finished) -> None:
    storage, _ = finished(overrides={"data.source": "folder:/home/jpg/cifar10", "data.fingerprint": "ab"})
    assert not any("JPEG" in notice for notice in summarise_experiment(read_experiment(storage, "two-rows")).notices)


def test_a_part_of_the_images_is_said_to_be_one_and_leaves_no_verdict(finished: Finished) -> None:
    storage, _ = finished(overrides={"data.train_limit": 512})
    summary = summarise_experiment(read_experiment(storage, "two-rows"))
    assert summary.notices[0] == "Changed: data.train_limit is 512 instead of all."
    assert not summary.comparable


def test_another_precision_is_said_and_stays_comparable(finished: Finished) -> None:
    storage, _ = finished(overrides={"run.precision": "bfloat16"})
    summary = summarise_experiment(read_experiment(storage, "two-rows"))
    assert summary.notices == ("Changed: run.precision is bfloat16 instead of float32.",)
    assert summary.comparable


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (
            {"commit": "2e" * 20},
            "The rows mix commits: 1f1f1f1f1f1f (5 trials); 2e2e2e2e2e2e (1 trial: shallow, seed 1).",
        ),
        (
            {"data_fingerprint": "cd"},
            f"The rows mix data fingerprints: {'ab' * 8} (5 trials); cd (1 trial: shallow, seed 1).",
        ),
        ({"torch": "2.6.0"}, "The rows mix torch versions: none (5 trials); 2.6.0 (1 trial: shallow, seed 1)."),
        ({"device": "EPYC"}, "The rows mix processors: cpu (5 trials); EPYC (1 trial: shallow, seed 1)."),
        (
            {"attempts": [{"commit": "1f" * 20}, {"commit": "2e" * 20}]},
            "The rows mix commits: 1f1f1f1f1f1f (5 trials); 1f1f1f1f1f1f and 2e2e2e2e2e2e (1 trial: shallow, seed 1).",
        ),
        (
            {"attempts": [{"device": "cpu"}, {"device": "EPYC"}]},
            "The rows mix processors: cpu (5 trials); cpu and EPYC (1 trial: shallow, seed 1).",
        ),
        (
            {"attempts": [{"torch": "2.6.0"}, {}]},
            "The rows mix torch versions: none (5 trials); 2.6.0 and none (1 trial: shallow, seed 1).",
        ),
        (
            {"dirty": True},
            "1 of 6 finished trials ran with uncommitted changes (see source.patch): shallow, seed 1.",
        ),
        (
            {"patch_left_out": ["secrets.env: credentials"]},
            "The patch of 1 trial is not complete (see provenance.json): shallow, seed 1.",
        ),
    ],
)
def test_mixed_provenance_is_flagged(change: dict[str, object], warning: str, finished: Finished) -> None:
    storage, trials = finished()
    record_result(storage, "two-rows", trials[1], 0.1, change)
    assert summarise_experiment(read_experiment(storage, "two-rows")).tables[0].warnings == (warning,)


def test_worker_counts_change_no_result_and_are_no_mixture(finished: Finished) -> None:
    storage, trials = finished()
    record_result(storage, "two-rows", trials[1], 0.1, {"workers": 2})
    (table,) = summarise_experiment(read_experiment(storage, "two-rows")).tables
    assert table.warnings == () and ", 1 or 2 workers a trial" in table.common


def test_mixed_precisions_are_flagged(finished: Finished) -> None:
    text = TWO_ROWS.replace('"network.depth" = 32', '"network.depth" = 32, "run.precision" = "float64"')
    storage, _ = finished(text=text)
    write_report(storage, "two-rows", NOW)
    for path in ("report.md", "report.html"):
        assert (
            "Warning: The rows mix precisions: float32 (3 trials); float64 (3 trials: deep, seed 0 / deep"
            in text_of(storage, path)
        )


def test_summary_survives_json(finished: Finished) -> None:
    storage, _ = finished()
    plain = write_report(storage, "two-rows", NOW).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_the_smallest_difference_that_matters_can_be_chosen(finished: Finished) -> None:
    storage, _ = finished()
    results = read_experiment(storage, "two-rows")

    def said(points: float) -> tuple[str, str]:
        (table,) = summarise_experiment(results, ReportOptions(smallest_difference=points / 100)).tables
        assert table.cells[0].document is not None
        return table.cells[0].document.verdict, table.notes[0]

    # Spreads of 0.10 % and 0.05 % make 0.08 % for a run of either.
    assert said(0.5) == (
        "equivalent",
        "Seeing a difference of 0.5 % points from the baseline with 80 % power takes 3 seeds a row (level 0.05).",
    )
    verdict, note = said(0.1)
    assert verdict == "undecided"  # one more run is known to 0.5 %, not to 0.1 %
    assert "takes 11 seeds a row" in note


def test_seeds_that_diverged_are_outcomes(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=5)
    for trial, error in zip(trials, [0.101, 0.099, 0.1, 0.0, 0.0, 0.06, 0.061, 0.059, 0.06, 0.06], strict=True):
        if error:
            record_result(storage, "two-rows", trial, error)
        else:
            record_failure(storage, "two-rows", trial, "the training loss is nan in epoch 3", kind="diverged")
    report = write_report(storage, "two-rows", NOW)
    _, shallow, deep, *_ = rows_of(text_of(storage, "report.md"))
    assert shallow[1:3] == ["10.00 ± 0.10 (2 of 5 diverged)", "3"]
    assert shallow[6] == "— (2 of 5 diverged)"
    assert deep[6].startswith("differs")  # its own seeds all came to an end
    assert report.summary.tests.baseline == {}
    assert not any(cell.interim for cell in report.summary.tables[0].cells)
    assert report.summary.notices == (
        "Diverged: shallow: 2 of 5 seeds. The means of these rows leave these seeds out, which flatters the rows: no "
        "test and no verdict uses them.",
    )
    assert report.summary.tables[0].notes == ()  # more seeds are no remedy
    for path in ("report.md", "report.html"):
        assert "interim" not in text_of(storage, path).split("How to read this")[0]  # nothing more can come


def test_tests_before_the_planned_seeds_are_interim(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('title = "Two rows"', 'title = "Two rows"\nseeds = 5')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=3)
    for trial, error in zip(trials, [0.101, 0.099, 0.1, 0.0605, 0.0595, 0.06], strict=True):
        record_result(storage, "two-rows", trial, error)
    report = write_report(storage, "two-rows", NOW)
    assert report.summary.notices[0].startswith("Interim: 5 seeds a row are planned, and not all have ended.")
    _, shallow, *_ = rows_of(text_of(storage, "report.md"))
    assert shallow[6] == "equivalent (p = 0.025, interim)"


def test_a_row_of_too_few_seeds_has_no_verdict_so_far_while_more_can_come(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=3)
    for trial, error in zip(trials, [0.101, 0.099], strict=False):
        record_result(storage, "two-rows", trial, error)
    report = write_report(storage, "two-rows", NOW)
    _, shallow, *_ = rows_of(text_of(storage, "report.md"))
    assert shallow[6] == "— (fewer than 3 seeds so far)"
    (note,) = report.summary.tables[0].notes
    assert note.endswith("so few runs do not show how much runs differ.")  # three were launched


def test_seeds_that_were_added_are_said(finished: Finished) -> None:
    storage, _ = finished()
    record = json.loads(storage.get(experiment_key("two-rows")) or b"")
    storage.put(experiment_key("two-rows"), json.dumps(record | {"earlier_plans": [2]}).encode())
    (notice,) = summarise_experiment(read_experiment(storage, "two-rows")).notices
    assert notice.startswith("Seeds were added: 2 a row had been planned before 3.")


def test_trials_that_a_scheduler_stopped_are_in_no_table_and_listed_apart(finished: Finished) -> None:
    storage, trials = finished()
    record_early_stop(storage, "two-rows", trials[1], [0.6, 0.55])
    report = write_report(storage, "two-rows", NOW)
    shallow, deep = report.summary.tables[0].cells
    assert (shallow.ours, shallow.document) == (None, None)
    assert deep.ours is not None
    text = text_of(storage, "report.md")
    apart = text[text.index("## Stopped early by a searching scheduler") : text.index("## Cost")]
    assert rows_of(apart)[1] == [
        f"[{trials[1].trial_id}](#trial-{trials[1].trial_id})",
        *(trials[1].name.replace("_", r"\_"), "2 of 200", "55.00", "below the others at epoch 2"),
    ]
    assert "seed 1 stopped early at epoch 2 of 200" in shown(report)
    assert report.summary.notices[0].startswith("A search, not a table: a scheduler stopped 1 of 6 trials early.")
    assert 'id="early-stopped"' in text_of(storage, "report.html")


def test_cost_counts_what_was_trained_also_by_trials_that_failed(finished: Finished) -> None:
    storage, trials = finished()
    storage.delete(TrialKeys("two-rows", trials[5].trial_id).result)
    record_failure(storage, "two-rows", trials[5], "out of memory")
    results = read_experiment(storage, "two-rows")
    cost = experiment_cost(results)
    assert cost is not None
    assert cost.total.trials == 6
    assert cost.total.hours * 3600 == pytest.approx(24.0)  # two epochs of two seconds each
    assert cost.total.images == 6 * 782 * 128
    assert cost.total.kilowatt_hours is None
    assert [trial.trial_id for trial in cost.failures] == [trials[5].trial_id]
    write_report(storage, "two-rows", NOW)
    for path in ("report.md", "report.html"):
        assert "Energy: not recorded by every trial." in text_of(storage, path)
    assert "| All trials | 6 | 0.0067 | 0.0067 | 0.60 |" in text_of(storage, "report.md"), "24 s are not 0.00 hours"


def test_hours_of_a_trial_count_once_for_each_of_its_workers_and_the_slowest_is_named_first(
    finished: Finished,
) -> None:
    storage, trials = finished()
    record_result(storage, "two-rows", trials[4], 0.1, {"workers": 4}, {"workers": 4, "seconds": 3600.0})
    cost = experiment_cost(read_experiment(storage, "two-rows"))
    assert cost is not None
    assert cost.total.hours == pytest.approx(1 + 5 * 4 / 3600)
    assert cost.total.worker_hours == pytest.approx(4 + 5 * 4 / 3600)
    assert cost.slowest[0].trial_id == trials[4].trial_id


def test_images_of_a_permutation_are_those_of_the_epochs_recorded(tmp_path: Path) -> None:
    text = TWO_ROWS.replace('source = "cifar10"', 'source = "cifar10"\nsampling = "permutation"')
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=1)
    record_metrics(storage, "two-rows", trials[0], [0.5, 0.4, 0.3])
    cost = experiment_cost(read_experiment(storage, "two-rows"))
    assert cost is not None
    assert cost.total.images == 3 * 50_000  # 2 s an epoch at 25,000 images a second


def test_a_report_without_numbers_of_the_document_does_not_explain_them(finished: Finished, tmp_path: Path) -> None:
    with_them, _ = finished()
    write_report(with_them, "two-rows", NOW)
    text = "\n".join(line for line in TWO_ROWS.splitlines() if not line.startswith(("reference", "paper")))
    without, _ = record_experiment(tmp_path / "other", experiment_from(text, tmp_path), seeds=2)
    write_report(without, "two-rows", NOW)
    for path in ("report.md", "report.html"):
        assert "whole study" in text_of(with_them, path) and "The document" in text_of(with_them, path)
        explained = text_of(without, path).rpartition("How to read this")[2].partition("<script>")[0]
        assert "Baseline: equivalent" in explained
        assert not re.search("[Dd]ocument|[Ww]hole study|consistent", explained)


def test_energy_is_given_where_every_trial_has_recorded_it(finished: Finished) -> None:
    storage, trials = finished()
    for trial in trials:
        record_result(storage, "two-rows", trial, 0.1, result={"energy_joules": 1.8e6})
    cost = experiment_cost(read_experiment(storage, "two-rows"))
    assert cost is not None
    assert cost.total.kilowatt_hours == pytest.approx(3.0)
    write_report(storage, "two-rows", NOW)
    for path in ("report.md", "report.html"):
        assert "by their own counters" in text_of(storage, path)
        assert "Energy: not recorded" not in text_of(storage, path)


def test_the_energy_of_trials_that_run_is_that_of_their_epochs(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", trials[0], 0.1, result={"energy_joules": 1.8e6})
    first = '{"epoch": 1, "step": 391, "seconds": 2.0, "energy_joules": 1.8e6}\n'
    for second, kilowatt_hours in ((first.replace("1,", "2,", 1), 1.5), ('{"epoch": 2, "seconds": 2.0}', None)):
        storage.put(TrialKeys("two-rows", trials[1].trial_id).metrics, (first + second).encode())
        cost = experiment_cost(read_experiment(storage, "two-rows"))
        assert cost is not None
        assert cost.total.kilowatt_hours == kilowatt_hours
