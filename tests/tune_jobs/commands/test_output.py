"""What commands print for scripts."""

import io
import json
import logging
import math

import pytest

from resnet_dist import logs
from resnet_dist.records.trial_record import encode, encode_metrics
from tune_jobs.commands.display import GridDisplay, RunDisplay
from tune_jobs.commands.output import JOB, print_json, program
from tune_jobs.commands.terminal import Terminal, make_console
from tune_jobs.grid.experiment import load_experiment, trials


def test_a_number_that_is_not_finite_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [1.5, -math.inf], "c": ({"d": math.inf}, 2, "nan", None, True)})
    expected = {"a": None, "b": [1.5, None], "c": [{"d": None}, 2, "nan", None, True]}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_record_is_written_with_a_number_that_json_has_not(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"test_loss": number})
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_metrics([{"train_loss": number}])


@pytest.mark.parametrize(
    ("called", "job", "shown"),
    [
        ("/somewhere/tune_jobs/__main__.py", "", "python -m tune_jobs"),
        ("/somewhere/tune_jobs/__main__.py", "{}", "resnet-dist"),
        ("bin/resnet-dist", "", "bin/resnet-dist"),
    ],
)
def test_what_to_run_next_is_said_as_its_reader_would_run_it(
    called: str, job: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.delenv(JOB, raising=False)
    if job:  # whose log is read at another machine
        monkeypatch.setenv(JOB, job)
    assert program() == shown


def test_a_launch_in_a_pipe_says_that_ray_starts(capsys: pytest.CaptureFixture[str]) -> None:
    trial = trials(load_experiment("demo"), 1)[0]
    with GridDisplay(make_console(), "demo") as display:
        display.launch([trial])
        display.launch([])  # nothing is to run: Ray does not start
    assert capsys.readouterr().out == "Starting Ray\n"


def test_a_warning_goes_above_a_bar_and_into_the_file_that_standard_error_is(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("resnet_dist.test_output")
    log.addHandler(handler := logs.StandardError())
    log.propagate = False
    for is_terminal in (True, False):
        screen, errors = io.StringIO(), io.StringIO()
        monkeypatch.setattr(errors, "isatty", lambda: is_terminal)  # noqa: B023
        monkeypatch.setattr("sys.stderr", errors)
        with RunDisplay(Terminal(file=screen, force_terminal=True, width=80), epochs=2):
            log.warning("the disk is slow")
        assert ("the disk is slow\n" in screen.getvalue(), errors.getvalue()) == (
            (True, "") if is_terminal else (False, "the disk is slow\n")
        )
    log.removeHandler(handler)
