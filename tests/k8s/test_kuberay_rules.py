"""Rules of the KubeRay operator 1.7 that no schema holds, and that these manifests came near to breaking.

The operator checks them only when it meets the object (`ValidateRayJobSpec`, `ValidateRayClusterSpec` in its source):
`kubectl apply` succeeds and nothing runs. Defaults that are not to be left to it are asked for in writing.
"""

import re
from collections.abc import Callable

from tests.k8s.rendering import Document, cluster_specs, of_kind, the

Rendered = Callable[[str], list[Document]]
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
    if spec["shutdownAfterJobFinishes"]:
        assert "deletionStrategy" not in spec
        return
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["deletionStrategy"].keys() == {"deletionRules"}
    seconds: dict[str, dict[str, int]] = {}
    for rule in spec["deletionStrategy"]["deletionRules"]:
        condition = dict(rule["condition"])
        after = condition.pop("ttlSeconds")
        ((key, state),) = condition.items()
        policies = seconds.setdefault(f"{key} {state}", {})
        assert rule["policy"] not in policies and after >= 0
        policies[rule["policy"]] = after
    ends = {"jobStatus SUCCEEDED", "jobStatus FAILED", "jobDeploymentStatus Failed"}
    assert seconds.keys() == ends, "some end leaves the cluster running"
    for policies in seconds.values():
        order = [policies.get(p) for p in ("DeleteWorkers", "DeleteCluster", "DeleteSelf")]
        given = [after for after in order if after is not None]
        assert given == sorted(given) and policies.keys() >= {"DeleteCluster", "DeleteSelf"}
        assert "DeleteWorkers" not in policies or not cluster.get("enableInTreeAutoscaling")


def test_every_cluster_keeps_the_rules(overlay: list[Document]) -> None:
    for spec in cluster_specs(overlay):
        assert spec["authOptions"] == {"mode": "token"}
        version = tuple(map(int, spec["rayVersion"].split(".")))
        assert version >= (2, 52), "of token authentication"
        assert not {"networkPolicy", "tlsOptions", "historyServerOptions"} & spec.keys(), "alpha"
        head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        names = [group["groupName"] for group in workers]
        assert len(set(names)) == len(names)
        for group in (head, *workers):
            assert "labels" not in group["rayStartParams"] and "resources" not in group
        autoscaled = spec.get("enableInTreeAutoscaling", False)
        assert spec.get("autoscalerOptions", {}).get("version") == ("v2" if autoscaled else None)
        for group in workers:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert autoscaled or group["minReplicas"] == group["maxReplicas"], "the number of workers is fixed"
            assert group["template"]["spec"].get("restartPolicy", "Never") == "Never" or not autoscaled
            assert "priority" not in group or (autoscaled and version >= (2, 56))


def test_the_session_is_the_cluster_of_the_grid_but_suspended(rendered: Rendered) -> None:
    for name in ("local", "gpu", "autoscale"):
        session = the(rendered(name), "RayCluster", "session")["spec"]
        grid = the(rendered(name), "RayJob", "grid")["spec"]["rayClusterSpec"]
        assert session.pop("suspend") is True, "it would cost money as soon as it is applied"
        labels = session["headGroupSpec"]["template"]["metadata"]["labels"]
        assert labels.pop("app.kubernetes.io/instance") == "session"
        grid["headGroupSpec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance")
        assert session == grid


def test_the_queue_has_no_cluster_that_idles_on_its_quota(rendered: Rendered) -> None:
    documents = rendered("kueue")
    assert not of_kind(documents, "RayCluster")
    assert the(documents, "RayJob", "grid")["metadata"]["labels"][QUEUE_LABEL]
