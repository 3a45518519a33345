"""How many trials of several workers run at a time follows from the cluster, and changes with it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tune_jobs.grid.concurrency import FollowsCluster, groups_that_fit


@pytest.mark.parametrize(
    ("nodes", "workers", "use_gpu", "fit"),
    [
        ([{"CPU": 8.0}], 2, False, 4),
        ([{"CPU": 7.0}], 2, False, 3),
        ([{"CPU": 3.0}, {"CPU": 3.0}], 2, False, 3),
        ([{"CPU": 64.0, "GPU": 4.0}], 2, True, 2),
        ([{"CPU": 64.0}], 2, True, 0),
        ([], 1, False, 0),
        # A worker on a GPU takes a CPU of the same node.
        ([{"CPU": 2.0, "GPU": 4.0}], 2, True, 1),
        ([{"CPU": 64.0}, {"CPU": 2.0, "GPU": 4.0}, {"GPU": 8.0}], 2, True, 1),
        # Drivers go where the cluster wants them, and no more of them than there are places.
        ([{"trial_driver": 3.0}, {"CPU": 64.0}], 2, False, 3),
        ([{"trial_driver": 3.0, "CPU": 4.0}], 2, False, 2),
    ],
)
def test_groups_that_fit(nodes: list[dict[str, float]], workers: int, use_gpu: bool, fit: int) -> None:
    assert groups_that_fit(nodes, workers, use_gpu) == fit


GONE = {"Alive": False, "Resources": {"CPU": 64.0}}
"""A node that has left the cluster, as Ray goes on listing it."""


@pytest.fixture
def cluster_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], None]:
    monkeypatch.setattr("tune_jobs.grid.concurrency.REFRESH_SECONDS", 0.0)

    def set_resources(resources: dict[str, float]) -> None:
        monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": resources}, GONE])

    return set_resources


def test_trials_are_handed_out_as_nodes_come_and_held_back_as_they_go(cluster_of: Any) -> None:
    from ray.tune.experiment import Experiment

    cluster_of({"CPU": 2.0})
    trials: Any = FollowsCluster(workers=2, use_gpu=False)
    trials.add_configurations(
        [Experiment("grid", lambda config: None, config={"number": {"grid_search": [*range(9)]}})]
    )
    started = [trials.next_trial(), trials.next_trial()]  # one that fits, and one that waits
    assert trials.next_trial() is None
    cluster_of({"CPU": 6.0})
    started += [trials.next_trial(), trials.next_trial()]
    assert trials.next_trial() is None
    assert [trial.config["number"] for trial in started] == [0, 1, 2, 3]
    cluster_of({"CPU": 2.0})
    for trial in started[:2]:
        trials.on_trial_complete(trial.trial_id)
        assert trials.next_trial() is None
    trials.on_trial_complete(started[2].trial_id)
    assert trials.next_trial().config["number"] == 4


def test_where_nobody_adds_nodes_none_waits(cluster_of: Any) -> None:
    cluster_of({"CPU": 4.0})
    assert FollowsCluster(workers=2, use_gpu=False, waiting=0).max_concurrent == 2
    cluster_of({"CPU": 1.0})
    assert FollowsCluster(workers=2, use_gpu=False, waiting=0).max_concurrent == 1
    cluster_of({"CPU": 4.0, "GPU": 2.0})
    assert FollowsCluster(workers=1, use_gpu=True, waiting=0, side_by_side=8).max_concurrent == 16


def test_the_cluster_is_not_asked_at_every_turn_of_tunes_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def nodes() -> list[dict[str, Any]]:
        asked.append(1)
        return [{"Alive": True, "Resources": {"CPU": 4.0}}]

    monkeypatch.setattr("ray.nodes", nodes)
    trials = FollowsCluster(workers=2, use_gpu=False)
    assert {trials.max_concurrent for _ in range(100)} == {3}
    assert len(asked) == 1


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setattr("tune_jobs.grid.concurrency.REFRESH_SECONDS", 0.0)
    cluster = Cluster()
    for attempts_left in (2, 1, 0):
        try:
            cluster.add_node(num_cpus=2, include_dashboard=False)
            break
        except Exception:  # on a busy machine Ray's half a minute is not enough
            if not attempts_left:
                raise
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_on_a_real_cluster_a_node_makes_room_and_takes_it_away(ray_cluster: Any) -> None:
    trials = FollowsCluster(workers=2, use_gpu=False)

    def wait_for(limit: int) -> None:
        while trials.max_concurrent != limit:
            time.sleep(0.1)

    wait_for(2)
    node = ray_cluster.add_node(num_cpus=4)
    wait_for(4)
    ray_cluster.remove_node(node)
    wait_for(2)
