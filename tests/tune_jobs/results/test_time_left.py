"""A grid that is watched from storage: how fast it goes on, and when it will be at its end."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.storage.lease import Lease
from resnet_dist.storage.interface import TrialKeys
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_metrics, record_result
from tune_jobs.command_line import main
from tune_jobs.results.time_left import Watch, seconds_an_epoch
from tune_jobs.results.trials import TrialResults


def test_rate_and_time_left_are_of_what_has_ended_since_the_watch_began(tmp_path: Path) -> None:
    experiment = experiment_from(TWO_ROWS, tmp_path, epochs=10)
    storage, (first, second, *_) = record_experiment(tmp_path, experiment, seeds=1)
    now = 0.0
    watch = Watch(storage, "two-rows", lambda: now)
    look = watch.look()
    assert (look.epochs_done, look.epochs, look.epochs_an_hour, look.seconds_left) == (0, 20, None, None)
    record_metrics(storage, "two-rows", first, [0.5])
    watch = Watch(storage, "two-rows", lambda: now)
    # An epoch of 20 layers takes 2 s: 9 more of them, and 10 of 32 layers, one after the other.
    assert watch.look().seconds_left == pytest.approx(9 * 2 + 10 * 2 * 32 / 20)
    record_metrics(storage, "two-rows", first, [0.5] * 5)
    now = 40.0
    look = watch.look()
    assert look.epochs_an_hour == pytest.approx(4 * 3600 / 40)
    assert look.seconds_left == pytest.approx(10 * (5 + 10 * 32 / 20))
    assert not look.over
    record_result(storage, "two-rows", first, 0.1)
    record_result(storage, "two-rows", second, 0.1)
    assert watch.look().over


def test_the_rate_knows_nothing_of_the_time_before_the_first_trial_began(tmp_path: Path) -> None:
    storage, (first, *_) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path, epochs=10), seeds=1)
    now = 0.0
    watch = Watch(storage, "two-rows", lambda: now)
    watch.look()
    now = 500.0  # the launch was waited for, and Ray has started
    watch.look()
    storage.put(TrialKeys("two-rows", first.trial_id).config, b"{}")
    watch.look()
    record_metrics(storage, "two-rows", first, [0.5] * 4)
    now = 540.0
    look = watch.look()
    assert look.epochs_an_hour == pytest.approx(4 * 3600 / 40)
    assert look.seconds_left == pytest.approx(10 * (6 + 10 * 32 / 20))


def test_before_anything_is_known_of_the_pace_trials_that_run_share_what_is_left(tmp_path: Path) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path, epochs=10), seeds=1)
    for trial in trials:  # of 20 and 32 layers, 2 s an epoch each
        record_metrics(storage, "two-rows", trial, [0.5])
    a_layer = (2 / 20 + 2 / 32) / 2
    assert Watch(storage, "two-rows").look().seconds_left == pytest.approx(9 * (20 + 32) * a_layer / 2)


def test_an_epoch_takes_as_long_as_the_last_three_did() -> None:
    lines = tuple({"epoch": epoch, "seconds": float(seconds)} for epoch, seconds in enumerate((90, 20, 10, 15), 1))
    assert seconds_an_epoch(TrialResults("0" * 16, "trial", {}, "unfinished", metrics=lines)) == 15
    finished = TrialResults("0" * 16, "trial", {}, "finished", {"seconds": 135.0, "epochs": 4})
    assert seconds_an_epoch(finished) == 135 / 4
    assert seconds_an_epoch(TrialResults("0" * 16, "trial", {}, "missing")) is None


def test_what_is_finished_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, (first, *_) = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", first, 0.1)
    watch, read, get = Watch(storage, "two-rows"), list[str](), storage.get

    def reading(_: object, key: str) -> bytes | None:
        read.append(key)
        return get(key)

    monkeypatch.setattr(type(storage), "get", reading)
    assert watch.look().trials[first.trial_id].state == "finished"
    assert any("result.json" in key for key in read)
    read.clear()
    assert watch.look().trials[first.trial_id].state == "finished"
    assert read == ["two-rows/experiment.json"]


def test_a_grid_that_is_at_its_end_is_followed_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    for trial in trials:
        record_result(storage, "two-rows", trial, 0.1)
    assert main(["grid", "status", "two-rows", "--storage", storage.uri, "--follow"]) == 0
    line = capsys.readouterr().out
    assert re.match(
        r"2 trials: 2 finished; 4 of \d+ epochs; nothing is left to wait for \(\d\d:\d\d:\d\d UTC\)\n$", line
    )
    assert main(["grid", "report", "two-rows", "--storage", storage.uri, "--follow", "1"]) == 0
    page = (tmp_path / "storage/two-rows/report/report.html").read_text()
    assert "<time datetime=" in page and 'http-equiv="refresh"' not in page
    assert main(["grid", "status", "two-rows", "--storage", storage.uri, "--follow", "--json"]) == 1
    assert "--follow: is for people to watch" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_launch_that_has_not_said_yet_what_it_adds_is_waited_for(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    for trial in trials:
        record_result(storage, "two-rows", trial, 0.1)
    launch, slept = Lease(storage, "two-rows", 600), list[float]()
    launch.take(lambda _: None)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        launch.release()

    monkeypatch.setattr("tune_jobs.commands.follow.time.sleep", sleep)
    assert main(["grid", command, "two-rows", "--storage", storage.uri, "--follow", "7"]) == 0
    assert slept == [7]
    said = "a launch is at its start or its end" if command == "status" else "2 of 2 trials finished"
    assert said in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("command", ["status", "report"])
def test_an_experiment_of_which_there_is_nothing_yet_is_waited_for(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sleep(seconds: float) -> None:
        storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
        for trial in trials:
            record_result(storage, "two-rows", trial, 0.1)

    monkeypatch.setattr("tune_jobs.commands.follow.time.sleep", sleep)
    stored = str(tmp_path / "storage")
    assert main(["grid", command, "two-rows", "--storage", stored, "--follow", "7"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"two-rows: waiting for its launch; {stored} holds none"
    assert rest


@pytest.mark.parametrize("command", ["status", "report"])
def test_waiting_for_a_launch_ends_with_an_interrupt(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tune_jobs.commands.follow.time.sleep", interrupt)
    assert main(["grid", command, "two-rows", "--storage", str(tmp_path), "--follow", "7"]) == 0
    assert capsys.readouterr().err == ""


def test_a_launch_that_died_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, trials = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    for trial in trials:
        record_result(storage, "two-rows", trial, 0.1)
    launch = Lease(storage, "two-rows", 600)
    launch.holder = replace(launch.holder, process={**launch.holder.process, "started": "another"})
    launch.take(lambda _: None)
    monkeypatch.setattr("tune_jobs.commands.follow.time.sleep", lambda _: pytest.fail("it is waited for"))
    assert main(["grid", "status", "two-rows", "--storage", storage.uri, "--follow"]) == 0
