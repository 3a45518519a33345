import csv
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from resnet_dist.storage import Storage
from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_experiment,
    record_failure,
    record_metrics,
    record_result,
)
from tune_jobs.experiment import Trial
from tune_jobs.report import Report, write_report
from tune_jobs.results import read_experiment
from tune_jobs.summary import summarise_experiment

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
ERRORS = [0.101, 0.099, 0.1, 0.0605, 0.0595, 0.06]
VOID = {"meta", "link", "br", "path", "use", "rect", "img"}


class Page(HTMLParser):
    """Elements, addresses and text of a page; fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def text_of(storage: Storage, path: str, experiment: str = "two-rows") -> str:
    data = storage.get(f"{experiment}/report/{path}")
    assert data is not None, path
    return data.decode()


def rows_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def shown(report: Report) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(report.terminal)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., tuple[Storage, tuple[Trial, ...]]]:
    """Records the two-row experiment with `ERRORS` and returns its storage and trials."""

    def make(seeds: int = 3, text: str = TWO_ROWS, **settings: object) -> tuple[Storage, tuple[Trial, ...]]:
        storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path, **settings), seeds)
        for trial in trials:
            row = trials.index(trial) // seeds
            record_result(storage, "two-rows", trial, ERRORS[3 * row + trial.config.run.seed])
        return storage, trials

    return make


Finished = Callable[..., tuple[Storage, tuple[Trial, ...]]]


def test_table_holds_ours_the_references_and_verdicts(finished: Finished) -> None:
    storage, trials = finished()
    report = write_report(storage, "two-rows", NOW)
    header, shallow, deep, *_ = rows_of(text_of(storage, "report.md"))
    assert header[1:9] == [
        *("Top-1 error, %", "n", "95 % interval", "Document, %", "Paper, %", "Difference", "Verdict"),
        "Against baseline",
    ]
    # Student's t for 2 degrees of freedom is 4.303, so the half-width is 4.303 * 0.1 / sqrt(3) = 0.25.
    assert shallow[:8] == [
        "shallow",
        "10.00 ± 0.10",
        "3",
        "9.75 to 10.25",
        "10.00",
        "9.00",
        "+0.00",
        "reproduced (p = 1.00)",
    ]
    assert deep[:7] == ["deep", "6.00 ± 0.05", "3", "5.88 to 6.12", "8.00", "—", "−2.00"]
    assert deep[7].startswith("differs (p = 0.00")
    assert deep[8].startswith("−4.00 (p < 0.001)")
    assert trials[0].trial_id[:8] in shallow[9]
    assert report.summary.comparable
    assert report.to_dict()["tables"][0]["cells"][0]["verdict"] == "reproduced"
    assert "10.00 ± 0.10" in shown(report)


def test_one_seed_gives_no_verdict_and_says_why(finished: Finished) -> None:
    storage, _ = finished(seeds=1)
    report = write_report(storage, "two-rows", NOW)
    header, shallow, _, *_ = rows_of(text_of(storage, "report.md"))
    assert dict(zip(header, shallow, strict=True))["Verdict"] == "—"
    for text in (text_of(storage, "report.md"), text_of(storage, "report.html"), " ".join(shown(report).split())):
        assert "A row with one seed has no interval and no verdict" in text


def test_a_running_grid_shows_how_far_it_is(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    record_result(storage, "two-rows", trials[0], 0.1)
    record_failure(storage, "two-rows", trials[1], "training diverged at step 7")
    record_metrics(storage, "two-rows", trials[2], [0.5] * 12)
    report = write_report(storage, "two-rows", NOW)
    markdown = text_of(storage, "report.md")
    assert (
        "4 trials, 2 seeds a row: 1 finished, 1 failed, 1 unfinished, 1 missing. Written 2026-03-01 12:30 UTC."
        in markdown
    )
    assert "1 of 2 finished; seed 1 failed: training diverged at step 7" in markdown
    assert "0 of 2 finished; seed 0 at epoch 12 of 200" in markdown
    assert "seed 1 failed: training diverged at step 7" in shown(report)
    assert report.to_dict()["trials"] == {"finished": 1, "failed": 1, "unfinished": 1, "missing": 1, "corrupt": 0}


def test_an_experiment_without_any_result_has_a_report(tmp_path: Path) -> None:
    storage, _ = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    report = write_report(storage, "two-rows", NOW)
    assert [Path(uri).name for uri in report.uris] == ["results.csv", "report.md", "report.html"]
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
    assert {cell["verdict"] for cell in report.to_dict()["tables"][0]["cells"]} == {None}


def test_another_precision_is_said_and_stays_comparable(finished: Finished) -> None:
    storage, _ = finished(overrides={"run.precision": "bfloat16"})
    summary = summarise_experiment(read_experiment(storage, "two-rows"))
    assert summary.notices == ("Changed: run.precision is bfloat16 instead of float32.",)
    assert summary.comparable


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"commit": "2e" * 20}, "The rows mix commits: 1f1f1f1f1f1f, 2e2e2e2e2e2e."),
        ({"data_fingerprint": "cd"}, f"The rows mix data fingerprints: {'ab' * 16}, cd."),
        ({"dirty": True}, "1 of 6 finished trials ran with uncommitted changes (see source.patch)."),
    ],
)
def test_mixed_provenance_is_flagged(change: dict[str, object], warning: str, finished: Finished) -> None:
    storage, trials = finished()
    record_result(storage, "two-rows", trials[1], 0.1, change)
    assert summarise_experiment(read_experiment(storage, "two-rows")).tables[0].warnings == (warning,)


def test_mixed_precisions_are_flagged(finished: Finished) -> None:
    text = TWO_ROWS.replace('"network.depth" = 32', '"network.depth" = 32, "run.precision" = "float64"')
    storage, _ = finished(text=text)
    write_report(storage, "two-rows", NOW)
    for path in ("report.md", "report.html"):
        assert "Warning: The rows mix precisions: float32, float64." in text_of(storage, path)


def test_page_is_one_file_that_asks_for_nothing(finished: Finished) -> None:
    storage, trials = finished()
    write_report(storage, "two-rows", NOW)
    page = Page(text_of(storage, "report.html"))
    assert page.tags.count("svg") == 2
    addresses = [*page.values("href"), *page.values("src"), *page.values("xlink:href")]
    assert all(address.startswith(("#", "../trials/", "data:")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import|<image", text_of(storage, "report.html"))
    identifiers = page.values("id")
    assert len(identifiers) == len(set(identifiers))
    assert {f"trial-{trial.trial_id}" for trial in trials} <= set(identifiers)
    targets = {address[1:] for address in addresses if address.startswith("#")}
    assert targets <= set(identifiers)


def test_names_from_users_are_escaped_everywhere(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> & $x_1$ | `_*"
    text = (
        TWO_ROWS.replace('"shallow"', f'"{hostile}"')
        .replace('"Depths"', '"</svg><b>|bold"')
        .replace('"deep"', '"_[red]"')
    )
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=1)
    record_result(storage, "two-rows", trials[0], 0.1)
    record_result(storage, "two-rows", trials[1], 0.2)
    report = write_report(storage, "two-rows", NOW)
    page = Page(text_of(storage, "report.html"))
    assert page.tags.count("script") == 1  # the page's own
    assert "b" not in page.tags
    markdown = text_of(storage, "report.md")
    assert {len(row) for row in rows_of(markdown)[:3]} == {len(rows_of(markdown)[0])}
    assert not re.search(r"(?<!\\)<(script|b)>", markdown)
    assert "_[red]" in shown(report)
    assert hostile in shown(report)
    svg = ElementTree.fromstring(text_of(storage, "figures/depths-test-error.svg"))
    drawn = {"".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {hostile, "_[red]"} <= drawn


def test_reports_of_the_same_results_have_the_same_bytes(finished: Finished) -> None:
    storage, _ = finished()

    def written() -> dict[str, bytes | None]:
        write_report(storage, "two-rows", NOW)
        return {item.key: storage.get(item.key) for item in storage.list("two-rows/report/")}

    first = written()
    assert len(first) == 7
    assert written() == first


def test_figures_mark_the_drops_of_the_learning_rate(tmp_path: Path) -> None:
    experiment = experiment_from(TWO_ROWS, tmp_path, epochs=5)
    storage, trials = record_experiment(tmp_path, experiment, seeds=1)
    for trial in trials:
        record_metrics(storage, "two-rows", trial, [0.5, 0.4, 0.3, 0.2, 0.1])
    write_report(storage, "two-rows", NOW)
    svg = text_of(storage, "figures/depths-train-loss.svg")
    assert experiment.tables[0].cells[0].config.schedule.milestones == (2, 4)
    assert svg.count("stroke-dasharray") == 2
    png = storage.get("two-rows/report/figures/depths-train-loss.png")
    assert png is not None
    assert png.startswith(b"\x89PNG")


def test_csv_has_a_line_for_every_trial_of_every_row(finished: Finished) -> None:
    storage, trials = finished()
    write_report(storage, "two-rows", NOW)
    lines = list(csv.DictReader(io.StringIO(text_of(storage, "results.csv"))))
    assert [line["trial"] for line in lines] == [trial.trial_id for trial in trials]
    assert [float(line["top1_error"]) for line in lines] == ERRORS
    assert {(line["state"], line["precision"], line["dirty"]) for line in lines} == {("finished", "float32", "False")}
    assert lines[0]["paper"] == "0.09"
    assert lines[3]["paper"] == ""


def test_summary_survives_json(finished: Finished) -> None:
    storage, _ = finished()
    plain = write_report(storage, "two-rows", NOW).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_many_rows_are_reported_with_the_best_drawn(tmp_path: Path) -> None:
    levels = ", ".join(f"{0.001 * i:.3f}" for i in range(1, 121))
    text = f'name = "two-rows"\n[[table]]\nname = "t"\n[table.grid]\n"solver.learning_rate" = [{levels}]\n'
    storage, trials = record_experiment(tmp_path, experiment_from(text, tmp_path), seeds=1)
    for index, trial in enumerate(trials):
        record_result(storage, "two-rows", trial, (index + 1) / 200)
    write_report(storage, "two-rows", NOW)
    page = text_of(storage, "report.html")
    Page(page)
    assert "range of all 120 rows" in page
    svg = text_of(storage, "figures/t-test-error.svg")
    assert [f"learning rate {0.001 * i:g}<" in svg for i in (1, 5, 6, 120)] == [True, True, False, False]
