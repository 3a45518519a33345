"""The cluster that a command uses, without one: places for workers, and what is refused before Ray is asked."""

import socket

import pytest

from cluster.ray_cluster.connection import Resources, connected, resources_of
from resnet_dist.errors import UserError


def test_a_worker_on_a_gpu_takes_a_cpu_of_the_same_node() -> None:
    mixed = resources_of([{"CPU": 16.0}, {"CPU": 2.0, "GPU": 4.0}, {"GPU": 8.0}, {"CPU": 0.5, "GPU": 1.0}], {}, False)
    assert (mixed.cpus, mixed.gpus, mixed.gpu_workers, mixed.nodes) == (18, 13, 2, 4)


def test_what_an_autoscaler_may_add_counts() -> None:
    growing = resources_of([{"CPU": 0.0, "trial_driver": 8.0}], {"CPU": 64.0, "GPU": 16.0}, False)
    assert (growing.cpus, growing.gpus, growing.gpu_workers, growing.driver_slots) == (64, 16, 16, 8)
    assert growing.uses_gpu("auto"), "for nodes that are to come"


@pytest.mark.parametrize(
    ("device", "gpus", "uses"),
    [("auto", 2, True), ("auto", 0, False), ("cpu", 2, False), ("cuda", 0, True), ("cuda", 2, True)],
)
def test_gpus_are_used_where_there_are_any_or_if_they_are_asked_for(device: str, gpus: int, uses: bool) -> None:
    assert Resources(cpus=8, gpus=gpus, nodes=1).uses_gpu(device) == uses


@pytest.mark.parametrize(
    ("nodes", "workers", "use_gpu", "says"),
    [
        (
            [{"CPU": 2.0}],
            4,
            False,
            "4 workers need 4 CPUs and the cluster has 2 CPUs; give --workers 2 or fewer, or add",
        ),
        ([{"CPU": 0.0}], 1, False, "1 worker needs 1 CPU and the cluster has none; add nodes"),
        ([{"CPU": 8.0}], 1, True, "1 worker needs 1 GPU and the cluster has none; add nodes, or give --device cpu"),
        (
            [{"CPU": 1.0, "GPU": 4.0}],
            4,
            True,
            "4 workers need 4 GPUs, each with a CPU of its node, and the cluster has 1 such; start Ray there with a "
            "higher --num-cpus, or give --workers 1 or fewer, or add nodes, or give --device cpu",
        ),
        ([{"CPU": 8.0}, {"GPU": 1.0}], 1, True, "and the cluster has 0 such; start Ray there with a higher --num-cpus"),
    ],
)
def test_too_few_places_are_one_line_with_a_remedy(
    nodes: list[dict[str, float]], workers: int, use_gpu: bool, says: str
) -> None:
    with pytest.raises(UserError) as caught:
        resources_of(nodes, {}, is_ours=False).require_workers(workers, use_gpu)
    assert says in str(caught.value)


def test_as_many_workers_as_places_fit() -> None:
    resources = resources_of([{"CPU": 4.0, "GPU": 2.0}], {}, is_ours=False)
    resources.require_workers(4, use_gpu=False)
    resources.require_workers(2, use_gpu=True)


def test_the_address_of_a_job_server_is_refused_where_ray_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # as `cluster up` prints it for `ray job`
    said = "is the address of a job server; give this command to it with `resnet-dist submit"
    with pytest.raises(UserError, match=said), connected():
        pass


def test_a_cluster_that_is_gone_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and nothing listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        said = f"cannot connect to the Ray cluster at {address}: .*refused; check RAY_ADDRESS and that the cluster runs"
        with pytest.raises(UserError, match=said), connected():
            pass
