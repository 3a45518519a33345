"""The files of a report: the page, Markdown, CSV, and their links."""

import csv
import io
import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.tune_jobs.recorded import (
    TWO_ROWS,
    experiment_from,
    record_experiment,
    record_failure,
    record_result,
)
from tests.tune_jobs.report_reading import ERRORS, NOW, Finished, Page, rows_of, shown, text_of
from tune_jobs.command_line import main
from tune_jobs.report.html_page import html_page
from tune_jobs.report.links import RecordLinks
from tune_jobs.report.markdown import markdown
from tune_jobs.report.summary import ReportOptions, summarise_experiment
from tune_jobs.report.write import write_report
from tune_jobs.results.trials import read_experiment


def test_page_is_one_file_that_asks_for_nothing(finished: Finished) -> None:
    storage, trials = finished()
    write_report(storage, "two-rows", NOW)
    page = Page(text_of(storage, "report.html"))
    assert page.values("role").count("img") == 2  # two figures; the strips beside the differences are decoration
    assert page.tags.count("svg") == 2 + page.values("class").count("strip")
    # The margin is from 45 to 75. One run of shallow is 9.50 to 10.50, the document's 10.00: the interval of the test.
    assert "M45.1 6H74.9" in page.values("d")
    assert page.tags.count("table") == page.tags.count("caption") == 4
    assert set(page.values("scope")) == {"row", "col"}
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
    assert page.tags.count("script") == 3  # the page's own, and the values of two figures
    assert "b" not in page.tags
    text = text_of(storage, "report.md")
    assert {len(row) for row in rows_of(text)[:3]} == {len(rows_of(text)[0])}
    assert not re.search(r"(?<!\\)<(script|b)>", text)
    assert "_[red]" in shown(report)
    assert hostile in shown(report)
    svg = ElementTree.fromstring(text_of(storage, "figures/depths-test-error.svg"))
    drawn = {"".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {hostile, "_[red]"} <= drawn


@pytest.mark.usefixtures("without_figures")
def test_csv_has_a_line_for_every_trial_of_every_row(finished: Finished) -> None:
    storage, trials = finished()
    write_report(storage, "two-rows", NOW)
    lines = list(csv.DictReader(io.StringIO(text_of(storage, "results.csv"))))
    assert [line["trial"] for line in lines] == [trial.trial_id for trial in trials]
    assert [float(line["top1_error"]) for line in lines] == ERRORS
    assert {(line["state"], line["precision"], line["dirty"]) for line in lines} == {("finished", "float32", "False")}
    assert lines[0]["paper"] == "0.09"
    assert lines[3]["paper"] == ""


@pytest.mark.usefixtures("without_figures")
def test_a_path_that_is_not_utf_8_is_told_in_every_file(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_failure(storage, "two-rows", trials[0], os.fsdecode(b"no images in /data/\xff"))
    write_report(storage, "two-rows", NOW)
    (line, _) = csv.DictReader(io.StringIO(text_of(storage, "results.csv")))
    assert line["reason"] == "no images in /data/\\udcff"
    assert all("no images in /data/" in text_of(storage, file) for file in ("report.md", "report.html"))


@pytest.mark.usefixtures("without_figures")
def test_formulas_in_names_reach_no_spreadsheet(finished: Finished) -> None:
    storage, _ = finished(
        text=TWO_ROWS.replace('"shallow"', "'=HYPERLINK(\"http://evil\")'").replace('"deep"', '"-1+2"')
    )
    write_report(storage, "two-rows", NOW)
    for path in ("results.csv", "tables.csv"):
        lines = list(csv.DictReader(io.StringIO(text_of(storage, path))))
        assert {line["cell"] for line in lines} == {'\'=HYPERLINK("http://evil")', "'-1+2"}
    assert float(lines[1]["difference"]) == pytest.approx(-0.02)  # a negative number stays a number


@pytest.mark.usefixtures("without_figures")
def test_the_best_epoch_appears_only_if_asked_for_and_says_what_it_is(finished: Finished) -> None:
    storage, trials = finished()
    record_result(storage, "two-rows", trials[0], ERRORS[0], result={"best_top1_error": 0.091})
    write_report(storage, "two-rows", NOW)
    assert "optimistic" not in text_of(storage, "report.html").lower()
    assert "best" not in text_of(storage, "results.csv") + text_of(storage, "tables.csv")
    report = write_report(storage, "two-rows", NOW, ReportOptions(best_epoch=True))
    assert rows_of(text_of(storage, "report.md"))[0][4] == "Best epoch, % (optimistic)"
    assert "It is no measure of the network" in text_of(storage, "report.html")
    lines = csv.DictReader(io.StringIO(text_of(storage, "results.csv")))
    assert [float(line["best_top1_error_optimistic"]) for line in lines] == [0.091, *ERRORS[1:]]
    mean = (0.091 + 0.099 + 0.1) / 3
    assert report.to_dict()["tables"][0]["cells"][0]["best_epoch_optimistic"]["mean"] == pytest.approx(mean)
    assert rows_of(text_of(storage, "report.md"))[1][4].startswith(f"{100 * mean:.2f} ± ")
    (line, _) = csv.DictReader(io.StringIO(text_of(storage, "tables.csv")))
    assert float(line["best_mean_optimistic"]) == pytest.approx(mean)


@pytest.mark.usefixtures("without_figures")
def test_a_preface_is_the_first_paragraph(finished: Finished) -> None:
    storage, _ = finished()
    write_report(storage, "two-rows", NOW, ReportOptions(preface="Two seeds <show> little."))
    assert text_of(storage, "report.md").splitlines()[2] == r"Two seeds \<show\> little."
    assert "</h1>\n<p>Two seeds &lt;show&gt; little.</p>" in text_of(storage, "report.html")


@pytest.mark.usefixtures("without_figures")
def test_records_are_linked_where_results_are_files_and_named_where_they_are_in_a_bucket(finished: Finished) -> None:
    storage, trials = finished()
    results = read_experiment(storage, "two-rows")
    trial = results.trials[trials[0].trial_id]
    write_report(storage, "two-rows", NOW)
    records = [record.address for record in RecordLinks(storage.uri, "two-rows").records(trial)]
    page = text_of(storage, "report.html")
    report_folder = Path(storage.uri) / "two-rows" / "report"
    for address in records:
        assert f'href="{address}"' in page
        assert (report_folder / address).resolve().is_file()
    summary, in_bucket = summarise_experiment(results), RecordLinks("s3://bucket/here", "two-rows")
    prefix = f"s3://bucket/here/two-rows/trials/{trial.trial_id}/"
    assert f"`{prefix}`" in markdown(summary, in_bucket, [], {}, "now")
    html = html_page(summary, in_bucket, None, {"depths": []}, "now")
    assert "Records lie under s3://bucket/here/two-rows/trials/" in html
    assert "../trials/" not in html


@pytest.mark.usefixtures("without_figures")
def test_a_report_can_be_written_elsewhere_and_then_names_its_records(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, trials = finished()
    elsewhere = tmp_path / "published"
    command = ["grid", "report", "two-rows", "--storage", storage.uri, "--into", str(elsewhere), "--json"]
    assert main([*command, "--smallest-difference", "0.1", "--best-epoch"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["smallest_difference"] == pytest.approx(0.001)
    assert told["tables"][0]["cells"][0]["document"]["verdict"] == "undecided"
    assert told["tables"][0]["cells"][0]["best_epoch_optimistic"]["n"] == 3
    assert {path.name for path in elsewhere.iterdir()} == {"report.md", "report.html", "results.csv", "tables.csv"}
    assert not storage.list("two-rows/report/")
    for name in ("report.md", "report.html"):
        text = (elsewhere / name).read_text(encoding="utf-8")
        assert storage.uri not in text
        assert "](../" not in text
        assert 'href="../' not in text
    assert f"`two-rows/trials/{trials[0].trial_id}/`" in (elsewhere / "report.md").read_text(encoding="utf-8")
