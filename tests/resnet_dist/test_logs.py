"""Log lines as JSON: each says of which experiment, trial and worker it speaks."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from resnet_dist import logs
from tune_jobs.command_line import main

LOGGER = logging.getLogger("resnet_dist.test")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What our loggers write, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    ours = logging.getLogger("resnet_dist")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield stream
    ours.removeHandler(handler)
    ours.setLevel(level)


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_line_names_experiment_trial_and_worker(written: io.StringIO) -> None:
    with logs.about("study", "abc", 1):
        LOGGER.warning("%d of %d\nlines", 1, 2)
    LOGGER.info("outside")
    inside, outside = lines(written)
    assert (inside["experiment"], inside["trial"], inside["worker"]) == ("study", "abc", 1)
    assert (inside["level"], inside["message"], inside["logger"]) == ("warning", "1 of 2\nlines", "resnet_dist.test")
    assert inside["time"].endswith("Z") and inside["time"][10] == "T"
    assert (outside["experiment"], outside["trial"], outside["worker"]) == (None, None, None)


def test_a_traceback_stays_on_its_line(written: io.StringIO) -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        LOGGER.exception("failed")
    (line,) = lines(written)
    assert line["traceback"].endswith("ValueError: wrong")


def test_fields_are_added_and_may_name_another_trial(written: io.StringIO) -> None:
    LOGGER.info("epoch", extra={"fields": {"trial": "xyz", "epoch": 3}})
    (line,) = lines(written)
    assert (line["trial"], line["epoch"]) == ("xyz", 3)


def test_a_format_that_does_not_exist_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.VARIABLE, "xml")
    assert main(["grid", "status", "demo", "--storage", "/nowhere"]) == 1
    assert capsys.readouterr().err == "error: RESNET_DIST_LOG_FORMAT='xml' is not allowed; it must be text or json\n"


def test_an_error_of_a_command_is_a_json_line_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tune_jobs", "grid", "status", "demo", "--storage", "s3://"],
        env=os.environ | {logs.VARIABLE: "json"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "error" and "bucket" in line["message"]
