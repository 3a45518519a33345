"""Ray's own autoscaler reads the manifests as they are meant: what each group offers, and how many pods it may have.

The function that it does so with is private to Ray; a new version of Ray may move it.
"""

import json
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

from cluster.ray_cluster import DRIVER_RESOURCE
from tests.k8s.rendering import OVERLAYS, Document, the

Rendered = Callable[[str], list[Document]]
CAPACITY = "karpenter.sh/capacity-type"


def _groups(cluster: Document) -> dict[str, Any]:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    groups: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return groups


def test_ray_reads_the_groups_of_the_autoscaled_cluster(rendered: Rendered) -> None:
    groups = _groups(the(rendered("autoscale"), "RayCluster", "session"))
    assert {name: (group["min_workers"], group["max_workers"]) for name, group in groups.items()} == {
        "headgroup": (0, 0),
        "gpu": (1, 4),
        "gpu-spot": (0, 16),
    }
    assert groups["headgroup"]["resources"]["CPU"] == 0
    assert "GPU" not in groups["headgroup"]["resources"]
    for name in ("gpu", "gpu-spot"):
        assert groups[name]["resources"]["CPU"] == 4 and groups[name]["resources"]["GPU"] == 1
    assert groups["gpu-spot"]["priority"] > groups["gpu"].get("priority", 0), "spot nodes are to be tried first"


def test_drivers_of_trials_stay_off_nodes_that_may_vanish(rendered: Rendered) -> None:
    session = the(rendered("autoscale"), "RayCluster", "session")
    offers = {name for name, group in _groups(session).items() if DRIVER_RESOURCE in group["resources"]}
    assert offers == {"headgroup"}
    spec = session["spec"]
    places = {group["groupName"]: group["template"]["spec"]["nodeSelector"] for group in spec["workerGroupSpecs"]}
    assert spec["headGroupSpec"]["template"]["spec"]["nodeSelector"] == {CAPACITY: "on-demand"}
    assert places["gpu"][CAPACITY] == "on-demand" and places["gpu-spot"][CAPACITY] == "spot"


def test_the_two_groups_differ_in_nothing_else(rendered: Rendered) -> None:
    first, second = the(rendered("autoscale"), "RayCluster", "session")["spec"]["workerGroupSpecs"]
    for group in (first, second):
        for key in ("groupName", "replicas", "minReplicas", "maxReplicas", "priority"):
            group.pop(key, None)
        group["template"]["spec"]["nodeSelector"].pop(CAPACITY)
    assert first == second


def test_the_custom_resource_reads_the_same_for_shell_operator_and_autoscaler(rendered: Rendered) -> None:
    for name in OVERLAYS:
        job = the(rendered(name), "RayJob", "grid")
        start = job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
        # The operator pastes it into a command line for bash, and parses what is between the quotes as JSON itself.
        shell = ["bash", "-c", f"printf %s --resources={start['resources']}"]
        said = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
        (drivers,) = json.loads(said.removeprefix("--resources=")).values()
        cluster = {"metadata": job["metadata"], "spec": job["spec"]["rayClusterSpec"]}
        assert json.loads(start["resources"].strip("'\"` ")) == {DRIVER_RESOURCE: drivers}
        assert _groups(cluster)["headgroup"]["resources"][DRIVER_RESOURCE] == drivers
        # Some 300 MB for each driver, and 2 GB for Ray and the grid itself.
        memory = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]
        assert drivers * 300 * 2**20 + 2 * 2**30 <= int(memory["limits"]["memory"].removesuffix("Gi")) * 2**30


def test_ray_takes_every_start_option(rendered: Rendered) -> None:
    from ray.scripts.scripts import start

    options = {option for parameter in start.params for option in parameter.opts}
    for name in OVERLAYS:
        spec = the(rendered(name), "RayJob", "grid")["spec"]["rayClusterSpec"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            for option, value in group["rayStartParams"].items():
                assert f"--{option}" in options
                assert len(shlex.split(value)) == 1, f"bash takes {value!r} for several words"
