"""A launch waits for workers that have not joined the cluster yet, says so once, and not longer than it has said."""

from typing import Any

import pytest

from cluster.ray_cluster import registration
from cluster.ray_cluster.connection import Resources, resources_of
from cluster.ray_cluster.registration import VARIABLE, awaited
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError

HEAD: dict[str, float] = {"CPU": 0.0}
WORKER = {"CPU": 2.0, "GPU": 1.0}


def _runs(*workers: int, device: str = "auto") -> list[TrainingConfig]:
    return [TrainingConfig().override({"run.workers": number, "run.device": device}) for number in workers]


def _has(*nodes: dict[str, float], is_ours: bool = False) -> Resources:
    return resources_of(nodes, {}, is_ours)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Resources]:
    """What the cluster has at each look after the first one; no time passes between them."""
    seen: list[Resources] = []
    monkeypatch.setattr(registration, "PAUSE", 0.0)
    monkeypatch.setattr(registration, "present_resources", lambda is_ours: seen.pop(0))
    return seen


def test_workers_that_join_late_are_waited_for_and_counted(looks: list[Resources]) -> None:
    said: list[str] = []
    looks += [_has(HEAD), _has(HEAD, WORKER), _has(HEAD, WORKER, WORKER)]
    found = awaited(_runs(2, 1, device="cuda"), _has(HEAD), said.append)
    assert (found.gpus, found.nodes, looks) == (2, 3, [])
    assert said == [
        "waiting up to 60 s for workers to join the cluster: "
        "run.workers: 1 worker needs 1 GPU and the cluster has none so far"
    ]


def test_what_is_there_is_not_waited_for(looks: list[Resources]) -> None:
    there = _has(HEAD, WORKER)
    assert awaited(_runs(1), there, pytest.fail) is there


def test_a_cluster_of_this_process_gets_no_more(looks: list[Resources]) -> None:
    with pytest.raises(UserError, match=r"give run.workers 2 or fewer, or add nodes$"):
        awaited(_runs(4, device="cpu"), _has(WORKER, is_ours=True), pytest.fail)


def test_the_wait_ends_when_it_was_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.1")
    monkeypatch.setattr(registration, "present_resources", lambda is_ours: _has(HEAD))
    said: list[str] = []
    with pytest.raises(UserError, match=rf"the cluster has none; .*joined within 0\.1 s \({VARIABLE}\)$"):
        awaited(_runs(1), _has(HEAD), said.append)
    assert len(said) == 1


def test_ctrl_c_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        awaited(_runs(1), _has(HEAD), lambda text: None)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "1e9"])
def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=VARIABLE):
        awaited(_runs(1), _has(HEAD), pytest.fail)
