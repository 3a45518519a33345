"""Rules of the KubeRay operator 1.7 that no schema holds, and that these manifests came near to breaking.

The operator checks them only when it meets the object (`ValidateRayJobSpec`, `ValidateRayClusterSpec` in its source):
`kubectl apply` succeeds and nothing runs. Defaults that are not to be left to it are asked for in writing.
"""

import importlib.util
import re

import pytest

from tests.k8s.operator_rules import ENDS, End, seconds_until_the_cluster_is_gone
from tests.k8s.rendering import Document, cluster_specs, of_kind, pods, the

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def test_names_are_short_enough_for_what_is_made_from_them(overlay: list[Document]) -> None:
    for kind, most in (("RayJob", 47), ("RayCluster", 53)):
        for document in of_kind(overlay, kind):
            assert re.fullmatch(rf"[a-z][-a-z0-9]{{0,{most - 2}}}[a-z0-9]", document["metadata"]["name"])


def test_every_grid_is_submitted_by_a_pod_and_its_cluster_ends(overlay: list[Document]) -> None:
    job = the(overlay, "RayJob", "grid")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["submissionMode"] == "K8sJobMode", "no other takes a template for the submitter"
    assert spec["backoffLimit"] >= 0 and spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    assert not {"clusterSelector", "suspend"} & spec.keys()
    assert "upgradeStrategy" not in cluster
    if QUEUE_LABEL in job["metadata"].get("labels", {}):
        assert spec["shutdownAfterJobFinishes"] and not cluster.get("enableInTreeAutoscaling"), "Kueue asks for both"
    assert spec["shutdownAfterJobFinishes"] and "deletionStrategy" not in spec, "the operator takes one of them"


@pytest.mark.parametrize("end", ENDS, ids=lambda end: f"{end.job_status}-{end.reason or end.deployment_status}")
def test_however_a_job_ends_its_gpus_are_free_in_minutes(overlay: list[Document], end: End) -> None:
    for job in of_kind(overlay, "RayJob"):
        seconds = seconds_until_the_cluster_is_gone(job["spec"], end)
        assert seconds is not None and 30 <= seconds <= 300


def test_a_node_that_is_lost_gives_its_pods_up_before_the_operator_gives_up_the_job(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        if not pod.is_ray_node:
            continue
        seconds = {
            rule["key"]: rule["tolerationSeconds"]
            for rule in pod.spec["tolerations"]
            if rule["effect"] == "NoExecute" and rule["operator"] == "Exists"
        }
        assert seconds.keys() == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}, pod.origin
        # The node counts as lost after 50 s; the operator waits for 300 s unless it is told otherwise.
        assert all(30 <= after <= 60 for after in seconds.values())


def test_the_logs_of_every_ray_pod_are_in_storage_before_it_goes(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        if not pod.is_ray_node:
            continue
        (keeper,) = pod.spec["initContainers"]
        assert keeper["restartPolicy"] == "Always", "beside Ray, and ended after it"
        module, (directory, storage) = keeper["command"][-1], keeper["args"]
        assert importlib.util.find_spec(module) and storage == "$(RESNET_DIST_STORAGE)"
        # Where Ray writes them; its containers share the volume.
        assert {"name": "ray-logs", "mountPath": directory, "readOnly": True} in keeper["volumeMounts"]
        assert {"name": "ray-logs", "mountPath": directory} in pod.spec["containers"][0]["volumeMounts"]
        assert keeper["image"] == pod.spec["containers"][0]["image"], "no node loads a second one"
        assert pod.spec["terminationGracePeriodSeconds"] >= 120


def test_every_cluster_keeps_the_rules(overlay: list[Document]) -> None:
    for spec in cluster_specs(overlay):
        assert spec["authOptions"] == {"mode": "token"}
        version = tuple(map(int, spec["rayVersion"].split(".")))
        assert version >= (2, 52), "of token authentication"
        assert not {"networkPolicy", "tlsOptions", "historyServerOptions"} & spec.keys(), "alpha"
        head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
        assert head["rayStartParams"]["num-cpus"] == "0" == head["rayStartParams"]["num-gpus"]
        names = [group["groupName"] for group in workers]
        assert len(set(names)) == len(names)
        for group in (head, *workers):
            assert "labels" not in group["rayStartParams"] and "resources" not in group
        autoscaled = spec.get("enableInTreeAutoscaling", False)
        assert spec.get("autoscalerOptions", {}).get("version") == ("v2" if autoscaled else None)
        for group in workers:
            if autoscaled:
                assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            else:
                assert not {"minReplicas", "maxReplicas"} & group.keys(), "they would overrule another number"
            assert group["template"]["spec"].get("restartPolicy", "Never") == "Never" or not autoscaled
            assert "priority" not in group or (autoscaled and version >= (2, 56))
