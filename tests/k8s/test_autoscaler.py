"""What Ray is told by the manifests: options that it has, drivers off nodes that may vanish, spot nodes first."""

import json
import shlex
import subprocess
from pathlib import Path

from cluster.ray_cluster.connection import DRIVER_RESOURCE
from tests.k8s.rendering import Document, cluster_specs, render_on, the

CAPACITY = "karpenter.sh/capacity-type"


def test_spot_nodes_are_tried_first_and_drivers_stay_off_them(tmp_path: Path) -> None:
    parts = {"components": ["k8s/components/spot", "k8s/components/session"]}
    spec = the(render_on("autoscale", parts, tmp_path / "spot"), "RayCluster", "session")["spec"]
    head, (steady, spot) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert [group["template"]["spec"]["nodeSelector"].pop(CAPACITY) for group in (head, steady, spot)] == [
        "on-demand",
        "on-demand",
        "spot",
    ]
    assert spot["priority"] > steady.get("priority", 0)
    assert "resources" in head["rayStartParams"] and "resources" not in steady["rayStartParams"]
    for group in (steady, spot):
        for key in ("groupName", "replicas", "minReplicas", "maxReplicas", "priority"):
            group.pop(key, None)
    assert steady == spot, "the groups differ in nothing else"


def test_the_custom_resource_reads_the_same_for_shell_and_operator(overlay: list[Document]) -> None:
    for spec in cluster_specs(overlay):
        value = spec["headGroupSpec"]["rayStartParams"]["resources"]
        # The operator pastes it into a command line for bash, and parses what is between the quotes as JSON itself.
        shell = ["bash", "-c", f"printf %s --resources={value}"]
        said = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
        offered = json.loads(said.removeprefix("--resources="))
        assert offered == json.loads(value.strip("'\"` ")) and offered.keys() == {DRIVER_RESOURCE}
        # Some 300 MB for each driver, and 2 GB for Ray and the grid itself.
        memory = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        assert offered[DRIVER_RESOURCE] * 300 * 2**20 + 2 * 2**30 <= int(memory.removesuffix("Gi")) * 2**30


def test_ray_takes_every_start_option(overlay: list[Document]) -> None:
    from ray.scripts.scripts import start

    options = {option for parameter in start.params for option in parameter.opts}
    for spec in cluster_specs(overlay):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            for option, value in group["rayStartParams"].items():
                assert f"--{option}" in options
                assert len(shlex.split(value)) == 1, f"bash takes {value!r} for several words"
