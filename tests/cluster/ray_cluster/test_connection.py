"""The cluster that a command uses, without one: places for workers, and what is refused before Ray is asked."""

import inspect
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ray._private import worker

from cluster.processes import Process, start_time
from cluster.ray_cluster import address as address_module
from cluster.ray_cluster import connection
from cluster.ray_cluster.address import cluster_address, reason, require_ray, unprinted
from cluster.ray_cluster.connection import Resources, connected, resources_of
from cluster.ray_cluster.local import LocalCluster
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
            "4 workers need 4 CPUs and the cluster has 2 CPUs; give run.workers 2 or fewer, or add",
        ),
        ([{"CPU": 0.0}], 1, False, "1 worker needs 1 CPU and the cluster has none; add nodes"),
        ([{"CPU": 8.0}], 1, True, "1 worker needs 1 GPU and the cluster has none; add nodes, or give run.device cpu"),
        (
            [{"CPU": 1.0, "GPU": 4.0}],
            4,
            True,
            "4 workers need 4 GPUs, each with a CPU of its node, and the cluster has 1 such; start Ray there with a "
            "higher --num-cpus, or give run.workers 1 or fewer, or add nodes, or give run.device cpu",
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


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "http://me:secret@head:8265",
            "http://head:8265 is the address of a job server, to which this command is",
        ),
        ("http://me:secret@[::1", r"\[::1 is the address of a job server, to which this command is"),
        ("grpc://head:1", "grpc://… is no address of a Ray cluster; give host:port"),
        ("ray://head:10001", "ray://… is an address of Ray Client, through which Ray Train and Tune do not work; give"),
    ],
)
def test_another_kind_of_address_is_refused_with_what_to_do(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["resnet-dist", "grid", "run", "a study", "--storage", "s3://b"])
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=said) as caught, connected():
        pass
    assert "secret" not in str(caught.value)
    if "job server" in said:
        assert "resnet-dist submit -- grid run 'a study' --storage s3://b;" in str(caught.value)


@pytest.mark.parametrize("given", ["http://127.0.0.1:8265", "http://127.0.0.1:8265/", "127.0.0.1:6000", "auto"])
def test_each_address_of_the_cluster_that_was_started_here_is_that_clusters(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alive = Process(os.getpid(), start_time(os.getpid()) or 0)
    started = LocalCluster("http://127.0.0.1:8265", "127.0.0.1:6000", str(tmp_path), (alive,))
    monkeypatch.setattr("cluster.ray_cluster.address.running_cluster", lambda: started)
    monkeypatch.setenv("RAY_ADDRESS", given)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert cluster_address() == "127.0.0.1:6000"


@pytest.mark.parametrize("given", ["", " ", "local", None])
def test_without_an_address_ray_is_this_processs_own(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", given)
    assert cluster_address() is None


def test_a_cluster_that_is_gone_is_one_line_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # bound, and nothing listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "0")  # of another program's users
        said = f"cannot connect to the Ray cluster at {address}: .*refused; check RAY_ADDRESS and that the cluster runs"
        with pytest.raises(UserError, match=said), connected():
            pass
    assert not capfd.readouterr().err
    assert os.environ["RAY_TRAIN_V2_ENABLED"] == "1"


def test_what_nodes_complain_of_stands_in_no_output_of_ours(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # to be put back
    connection._keep_errors_to_the_log()
    worker.print_to_stdstream({"lines": ["A worker died"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert not any(capfd.readouterr())
    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages), "Ray prints in another way now"


class Web(BaseHTTPRequestHandler):
    """What answers in another language than Ray's."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_port_of_something_else_is_one_line_within_seconds(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match="what answers there is not Ray; check RAY_ADDRESS"), connected():
            pass
        server.shutdown()
    assert not capfd.readouterr().err


def test_a_port_that_accepts_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_module, "ANSWER_SECONDS", 0.2)
    said = "what answers there is not Ray"
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match=said):
        require_ray(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("core", "said"),
    [
        ("RPC error: InvalidAuthToken: Authentication token is missing", "wants a token that is not the one at hand"),
        ("RPC error: Method not found! rpc_code: 12", "what answers there is another of Ray's servers"),
        ("", "Failed to connect; check RAY_ADDRESS"),
    ],
)
def test_what_rays_core_says_is_put_into_the_one_line(core: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    with unprinted() as written:
        os.write(2, core.encode())
        assert said in reason(ConnectionError("Failed to connect\nmore"), written())
    os.write(2, b"printed again")
    assert capfd.readouterr().err == "printed again"
