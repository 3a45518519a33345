"""What a trial reports to Ray, with gauges that remember what they were told. (On a real Ray: test_watched_grid.)"""

import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_dist import ray_metrics
from resnet_dist.ray_metrics import COUNTERS, GAUGES, TrialMetrics, reported
from resnet_dist.storage.counts import StorageCounts
from resnet_dist.storage.interface import TrialKeys
from tests.small_runs import small_config

CONFIG = small_config(run__epochs=3)  # batches of 16
LINE = {"epoch": 1, "images_per_second": 160.0, "top1_error": 0.25}


class Remembered:
    """A gauge or a counter."""

    told: dict[str, list[tuple[float, dict[str, str]]]]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.keys
        self.told.setdefault(self.name.removeprefix("resnet_dist_"), []).append((value, tags))

    inc = set


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """What each gauge was told, by its name."""
    Remembered.told = {}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "ray.util.metrics", SimpleNamespace(Gauge=Remembered, Counter=Remembered))
    return Remembered.told


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that is read, to be set by the test."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(ray_metrics, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


@pytest.fixture
def recorder() -> Any:
    return SimpleNamespace(keys=TrialKeys("study", "abc"), trial_id="abc", name="20-layers", provenance={})


@pytest.fixture
def storage() -> Any:
    counts = StorageCounts()
    counts.waiting(2, 1000, "")
    return SimpleNamespace(counts=counts)


def last(told: dict[str, list[tuple[float, dict[str, str]]]], name: str) -> float:
    return told[name][-1][0]


def test_every_gauge_is_told_with_experiment_trial_and_name(told: Any, clock: Any, recorder: Any, storage: Any) -> None:
    metrics = TrialMetrics(recorder, storage, CONFIG)
    recorder.provenance["attempts"] = [{}, {}]
    metrics.on_epoch(LINE)
    assert {f"resnet_dist_{name}" for name in told} == set(GAUGES)
    values = {name: told[name][-1] for name in told}
    assert {value[0] for value in values.values()} == {160.0, 0.1, 1, 3, 0.25, 1000}
    assert values["retries"][0] == 1
    assert all(tags == {"experiment": "study", "trial": "abc", "name": "20-layers"} for _, tags in values.values())


def test_a_rate_is_measured_over_steps_alone(told: Any, clock: Any, recorder: Any, storage: Any) -> None:
    metrics = TrialMetrics(recorder, storage, CONFIG)
    for step, seconds in ((1, 10.0), (2, 10.5), (3, 11.0)):
        clock.seconds = seconds
        metrics.on_step(step, None)
    clock.seconds = 14.0  # nothing has ended since
    metrics.report()
    assert (last(told, "step_seconds"), last(told, "images_per_second")) == (0.5, 32.0)
    metrics.on_epoch(LINE)
    clock.seconds = 60.0  # an evaluation
    metrics.on_step(4, None)
    metrics.report()
    assert last(told, "step_seconds") == 0.1, "still the epoch's: one step gives no rate"
    clock.seconds = 60.25
    metrics.on_step(5, None)
    metrics.report()
    assert last(told, "step_seconds") == 0.25


def test_nothing_is_said_of_what_is_not_known_yet(told: Any, clock: Any, recorder: Any, storage: Any) -> None:
    TrialMetrics(recorder, storage, CONFIG).report()
    assert set(told) == {"epochs", "spool_bytes"}


def test_a_name_that_the_recorder_found_later_is_taken_over(told: Any, clock: Any, recorder: Any, storage: Any) -> None:
    metrics = TrialMetrics(recorder, storage, CONFIG)
    recorder.name = "older-name"
    metrics.report()
    assert told["epochs"][-1][1]["name"] == "older-name"


def test_values_are_told_again_until_the_trial_ends(
    told: Any, recorder: Any, storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_metrics, "INTERVAL", 0.001)
    with reported(recorder, storage, CONFIG) as metrics:
        assert metrics
        while len(told.get("epochs", ())) < 3:
            time.sleep(0.001)
    assert not [thread for thread in threading.enumerate() if thread.name == "ray-metrics"]


def test_requests_are_counted_once_each(told: Any, clock: Any, recorder: Any, storage: Any) -> None:
    metrics = TrialMetrics(recorder, storage, CONFIG)
    storage.counts.request("write")
    storage.counts.request("write")
    storage.counts.retry()
    storage.counts.request("read")
    metrics.report()
    metrics.report()
    storage.counts.request("write")
    metrics.report()
    assert [(value, tags["operation"]) for value, tags in told["storage_requests"]] == [
        (2, "write"),
        (1, "read"),
        (1, "write"),
    ]
    assert [value for value, _ in told["storage_retries"]] == [1]
    assert {f"resnet_dist_{name}" for name in told} - set(GAUGES) == set(COUNTERS)


def test_without_ray_nothing_is_reported_and_ray_is_not_imported(
    recorder: Any, storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with reported(recorder, storage, CONFIG) as metrics:
        assert metrics is None
    assert "ray" not in sys.modules


def test_a_ray_that_is_not_connected_gets_nothing(recorder: Any, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with reported(recorder, storage, CONFIG) as metrics:
        assert metrics is None
