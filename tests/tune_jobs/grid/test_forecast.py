"""What `grid plan --on` says of a cluster that is not at hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from tests.tune_jobs.recorded import TWO_ROWS, experiment_from, record_experiment, record_metrics, record_result
from tune_jobs.actions.forecast import forecast_grid
from tune_jobs.command_line import main
from tune_jobs.grid import calibration
from tune_jobs.grid.calibration import Cost
from tune_jobs.grid.forecast import Cluster, Limit
from tune_jobs.grid.machines import constants, machine

GPU = json.loads((Path(__file__).parents[3] / "docs/results/gpu-h100/gpu.json").read_text())


def with_depth(depth: int, **settings: Any) -> TrainingConfig:
    return TrainingConfig().override({"network.depth": depth, "run.precision": "bfloat16"} | settings)


def test_what_is_reckoned_with_is_what_was_measured() -> None:
    known = machine("h100")
    for depth in (20, 32, 44, 56, 110):
        measured = GPU["milliseconds of a step"][f"{depth} layers"]["captured"]
        assert known.update(with_depth(depth)) == pytest.approx(measured, rel=0.005)
    float32 = GPU["milliseconds of a step"]["20 layers, float32"]["captured"]
    assert known.update(with_depth(20, **{"run.precision": "float32"})) == pytest.approx(float32, rel=0.005)
    for count, gain in known.side_by_side.items():
        assert gain == pytest.approx(GPU["side by side"][f"{count} side by side"]["gain"], rel=0.005)
    assert not known.notes
    # A fifth of an epoch's images are tested after it, so 200 epochs are reckoned as long as they took.
    share = 1 + known.evaluation_cost / 5
    assert known.update(with_depth(20)) / 1000 * 78_125 * share == pytest.approx(GPU["epoch"]["200 epochs"], rel=0.01)


def test_every_constant_has_its_source() -> None:
    for name, group in constants().items():
        for each in group if isinstance(group, list) else [group]:
            assert len(each["source"]) > 20, name


def test_a_depth_between_two_is_on_their_line_and_said_so() -> None:
    known = machine("H100")
    assert known.update(with_depth(26)) == pytest.approx((2.71 + 4.25) / 2)
    assert known.update(with_depth(164)) == pytest.approx(14.4 + (14.4 - 7.37))
    assert list(known.notes) == [
        "26 layers on the line through 20 and 32, which were measured",
        "164 layers on the line through 56 and 110, which were measured",
    ]
    in_float32 = known.update(with_depth(32, **{"run.precision": "float32"}))
    assert (
        in_float32 == pytest.approx(4.25 * 8.27 / 2.71)
        and "float32 measured at 20 layers alone" in list(known.notes)[2]
    )


def test_an_update_of_several_workers_on_gpus_is_no_shorter_than_an_eager_one() -> None:
    known = machine("H100")
    assert known.update(with_depth(20, **{"run.workers": 2})) == pytest.approx(2 * 12.2)


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("16xB200", "on: updates on 'B200' were never measured; known are H100, here"),
        ("H100", "on: 'H100' is not allowed; give a number and a machine, such as 16xH100 or 16xH100,spot"),
        ("0xH100", "on: 0 devices are not allowed; give from 1 to 1,000,000"),
        ("4xH100,spot=..", "on: spot=.. is no number; give preemptions of a machine an hour"),
    ],
)
def test_a_cluster_that_cannot_be_reckoned_is_refused_in_a_line(on: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        Cluster.parse(on)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network.width": 32}, "network.width 32 was not measured on H100"),
        ({"run.precision": "float64"}, "updates in float64 were not measured on H100; give run.precision bfloat16 or"),
        ({"run.workers": 8}, "4 devices hold no trial of 8 workers; give at least 8"),
    ],
)
def test_a_run_that_was_not_measured_is_refused_in_a_line(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^on: {said}"):
        forecast_grid("model-size", tmp_path, "4xH100", settings=settings)


def test_a_study_on_sixteen_gpus_is_told_in_a_hundred_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["grid", "plan", "study", "--seeds", "5", "--storage", str(tmp_path), "--precision", "bfloat16"]
    assert main([*command, "--on", "16xH100,spot=0.5", "--price", "2.1"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 100 for line in out.splitlines()), out
    assert not list(tmp_path.iterdir())
    assert main([*command, "--on", "16xH100,spot=0.5", "--price", "2.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["on"]
    # 70 trials of 20 layers, 5 each of 32, 44 and 56, 65 of 110; with the test images.
    milliseconds = 70 * 2.71 + 5 * (4.25 + 5.81 + 7.37) + 65 * 14.4
    alone = milliseconds * 78_125 / 3.6e6 * (1 + 0.19 / 5)
    assert told["steady"]["busy_hours"] == pytest.approx(alone, rel=0.01)
    assert alone / 16 < told["steady"]["hours"] < 1.1 * alone / 16
    assert told["steady"]["cost"] == pytest.approx(16 * 2.1 * told["steady"]["hours"])
    assert told["preempted"]["preemptions"] > 0 and told["preempted"]["hours"] > told["steady"]["hours"]
    assert told["packed"]["hours"] < told["steady"]["hours"] and told["packed"]["side_by_side"] == 8
    # Eight of them do 2.12 times as much in an hour, so each takes 8 / 2.12 times as long.
    packed = told["packed"]["busy_hours"] - told["packed"]["lost_hours"]
    assert packed == pytest.approx(alone * 8 / 2.12, rel=0.02)
    limits = [limit["devices"] for limit in told["limits"]]
    assert told["limits"][0]["name"] == "the longest trial" and limits == sorted(limits)
    assert limits[0] == pytest.approx(alone / (14.4 * 78_125 / 3.6e6 * (1 + 0.19 / 5)), rel=0.01)

    assert main([*command, "--on", "16xH100", "--side-by-side", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["on"]["packed"] is None


def test_here_is_this_machine_with_as_many_places_as_asked_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "measure", lambda config: Cost(0.3, 2**30, 2**20))
    storage, found = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=2)
    path = tmp_path / "experiment.toml"
    hours = 78_125 * 0.3 * (1 + 1 / 15) / 3600
    _, told = forecast_grid(path, storage.uri, "4xhere", seeds=2)
    assert told is not None and told.steady.seconds / 3600 == pytest.approx(hours, rel=0.01)
    assert told.packed is None and told.preempted is None and told.cost(told.steady) is None
    _, pairs = forecast_grid(path, storage.uri, "4xhere", seeds=2, settings={"run.workers": 2})
    share = constants()["workers"]["float32"] / 2
    assert pairs is not None and pairs.steady.seconds / 3600 == pytest.approx(2 * hours * share, rel=0.01)
    for trial in found:
        record_result(storage, "two-rows", trial, 0.1)
    assert forecast_grid(path, storage.uri, "4xhere", seeds=2)[1] is None


def test_a_launcher_is_busy_with_epochs_that_are_left_and_holds_what_is_in_storage(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "measure", lambda config: Cost(0.3, 2**30, 2**20))
    storage, found = record_experiment(tmp_path, experiment_from(TWO_ROWS, tmp_path), seeds=1)
    record_result(storage, "two-rows", found[0], 0.1)
    record_metrics(storage, "two-rows", found[1], [0.5] * 150)
    launcher, memory = constants()["launcher"], constants()["memory"]
    monkeypatch.setitem(launcher, "seconds_a_trial", 2.0)
    monkeypatch.setitem(launcher, "seconds_an_epoch", 0.1)

    def limits() -> dict[str, Limit]:
        _, told = forecast_grid(tmp_path / "experiment.toml", storage.uri, "4xhere", seeds=1)
        assert told is not None
        return {limit.name: limit for limit in told.limits}

    assert limits()["the launcher"].why.startswith("busy 7,000 ms with each trial, 2000 to start it"), "50 epochs"
    assert "the head's memory" not in limits()
    # The finished trial takes its part.
    monkeypatch.setitem(memory, "head", memory["launcher_base"] + 1.5 * memory["launcher_a_trial"])
    assert next(iter(limits())) == "the head's memory" and limits()["the head's memory"].devices == 0
