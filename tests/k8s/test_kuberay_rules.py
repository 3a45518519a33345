"""The operator's own rules hold for every overlay, and each rule catches the mistake that it is there for."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.kuberay_rules import SUBMISSION_MODES, violations
from tests.k8s.rendering import Document, of_kind, the

Rendered = Callable[[str], list[Document]]


def test_every_overlay_keeps_the_rules(overlay: list[Document]) -> None:
    for document in of_kind(overlay, "RayJob") + of_kind(overlay, "RayCluster"):
        assert violations(document) == []


def test_every_overlay_runs_a_grid_and_shuts_its_cluster_down(overlay: list[Document]) -> None:
    spec = the(overlay, "RayJob", "grid")["spec"]
    assert spec["backoffLimit"] >= 0 and spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"]
    if spec["shutdownAfterJobFinishes"]:
        return
    ends = {
        tuple(rule["condition"].get(key) for key in ("jobStatus", "jobDeploymentStatus"))
        for rule in spec["deletionStrategy"]["deletionRules"]
        if rule["policy"] == "DeleteCluster"
    }
    assert ends == {("SUCCEEDED", None), ("FAILED", None), (None, "Failed")}, "some end leaves the cluster running"


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
    assert the(documents, "RayJob", "grid")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]


def _grid(change: Callable[[Document], Any], overlay: str = "gpu") -> tuple[str, Callable[[Document], Any]]:
    return overlay, change


def _cluster(change: Callable[[Document], Any], overlay: str = "gpu") -> tuple[str, Callable[[Document], Any]]:
    return overlay, lambda job: change(job["spec"]["rayClusterSpec"])


def _head(change: Callable[[Document], Any]) -> tuple[str, Callable[[Document], Any]]:
    return _cluster(lambda spec: change(spec["headGroupSpec"]))


def _worker(change: Callable[[Document], Any], overlay: str = "gpu") -> tuple[str, Callable[[Document], Any]]:
    return _cluster(lambda spec: change(spec["workerGroupSpecs"][0]), overlay)


def _rules(job: Document) -> list[Document]:
    rules: list[Document] = job["spec"]["deletionStrategy"]["deletionRules"]
    return rules


PLANTED: list[tuple[tuple[str, Callable[[Document], Any]], str]] = [
    (_grid(lambda j: j["spec"].update(submissionMode="K8SJobMode")), "submissionMode: 'K8SJobMode'"),
    (_grid(lambda j: j["spec"].pop("submissionMode")), "submissionMode: None"),
    (_grid(lambda j: j["spec"].update(submissionMode="SidecarMode")), "SidecarMode takes neither"),
    (_grid(lambda j: j["spec"].update(submissionMode="InteractiveMode")), "backoffLimit: not in InteractiveMode"),
    (_grid(lambda j: j["metadata"].update(name="g" * 48)), "name: 48 characters; the operator allows 47"),
    (_grid(lambda j: j["metadata"].update(name="1grid")), "DNS-1035"),
    (_grid(lambda j: j["spec"].update(ttlSecondsAfterFinished=60)), "ttlSecondsAfterFinished: needs"),
    (_grid(lambda j: j["spec"].update(suspend=True)), "suspend: needs shutdownAfterJobFinishes"),
    (_grid(lambda j: j["spec"].update(shutdownAfterJobFinishes=True)), "exclude shutdownAfterJobFinishes"),
    (_grid(lambda j: j["spec"].pop("deletionStrategy")), "the cluster would stay"),
    (_grid(lambda j: j["spec"].update(deletionStrategy={"onSuccess": {}})), "deletionStrategy: needs"),
    (_grid(lambda j: j["spec"]["deletionStrategy"].update(onFailure={})), "exclude onSuccess and onFailure"),
    (_grid(lambda j: _rules(j).append(_rules(j)[0])), "there twice"),
    (_grid(lambda j: _rules(j)[0]["condition"].update(ttlSeconds=9999)), "must go in this order"),
    (_grid(lambda j: _rules(j)[0]["condition"].update(ttlSeconds=-1)), "ttlSeconds must not be negative"),
    (_grid(lambda j: _rules(j)[0]["condition"].update(jobDeploymentStatus="Failed")), "either jobStatus or"),
    (_grid(lambda j: _rules(j)[0].update(condition={"ttlSeconds": 1})), "either jobStatus or"),
    (_grid(lambda j: _rules(j)[0].update(policy="DeleteWorkers"), "autoscale"), "no DeleteWorkers with an autoscaler"),
    (
        _grid(lambda j: j["spec"].update(clusterSelector={"ray.io/cluster": "session"})),
        "either this or clusterSelector",
    ),
    (_grid(lambda j: j["spec"].update(activeDeadlineSeconds=0)), "activeDeadlineSeconds: must be above 0"),
    (_grid(lambda j: j["spec"].update(runtimeEnvYAML="working_dir")), "runtimeEnvYAML"),
    (_grid(lambda j: j["spec"].update(shutdownAfterJobFinishes=False), "kueue"), "Kueue: needs"),
    (_grid(lambda j: j["spec"].update(suspend=False), "kueue"), "Kueue: suspend"),
    (_cluster(lambda c: c.update(enableInTreeAutoscaling=True), "kueue"), "Kueue: admits a fixed number"),
    (_cluster(lambda c: c.update(upgradeStrategy={"type": "Recreate"})), "upgradeStrategy"),
    (_cluster(lambda c: c.pop("authOptions")), "authOptions.mode: token"),
    (_cluster(lambda c: c["authOptions"].update(enableK8sTokenAuth=True)), "enableK8sTokenAuth"),
    (_cluster(lambda c: c.update(rayVersion="2.51.0")), "token authentication needs 2.52"),
    (_cluster(lambda c: c.update(rayVersion="nightly")), "token authentication needs 2.52"),
    (_cluster(lambda c: c.update(networkPolicy={"mode": "DenyAll"})), "networkPolicy: alpha"),
    (_cluster(lambda c: c.update(tlsOptions={"enabled": True})), "tlsOptions: alpha"),
    (_cluster(lambda c: c.update(historyServerOptions={})), "historyServerOptions: alpha"),
    (_cluster(lambda c: c.update(gcsFaultToleranceOptions={"backend": "rocksdb"})), "rocksdb is alpha"),
    (_cluster(lambda c: c["autoscalerOptions"].pop("version"), "autoscale"), "version: v2 must be written out"),
    (_cluster(lambda c: c["autoscalerOptions"].update(version="v1"), "autoscale"), "version: v2 must be written out"),
    (_cluster(lambda c: c.update(rayVersion="2.55.0"), "autoscale"), "priority: needs Ray 2.56"),
    (_cluster(lambda c: c.update(autoscalerOptions={"version": "v2"})), "without enableInTreeAutoscaling"),
    (_worker(lambda w: w["template"]["spec"].update(restartPolicy="Always"), "autoscale"), "restartPolicy"),
    (_worker(lambda w: w.update(priority=1)), "need the autoscaler"),
    (_worker(lambda w: w.update(maxReplicas=9)), "the number of workers is fixed"),
    (_worker(lambda w: w.pop("minReplicas")), "must all be there"),
    (_worker(lambda w: w.update(replicas=99)), "must all be there"),
    (_worker(lambda w: w["rayStartParams"].update({"num-cpus": 4})), "must be a string, not 4"),
    (_worker(lambda w: w["rayStartParams"].update(labels="a=b")), "labels belong"),
    (_worker(lambda w: w["template"]["spec"].update(containers=[])), "containers: there is none"),
    (_cluster(lambda c: c["workerGroupSpecs"].append(c["workerGroupSpecs"][0])), "groupName: there twice"),
    (_head(lambda h: h["rayStartParams"].pop("num-cpus")), "head CPUs"),
    (_head(lambda h: h["rayStartParams"].update({"num-cpus": "2"})), "head CPUs"),
    (_head(lambda h: h.update(resources={"CPU": "0"})), "head CPUs"),
    (_head(lambda h: h.update(resources={"memory": "1Gi"})), "either in rayStartParams or in the group's own"),
]


@pytest.mark.parametrize(("planted", "says"), PLANTED)
def test_a_planted_mistake_is_found(
    rendered: Rendered, planted: tuple[str, Callable[[Document], Any]], says: str
) -> None:
    overlay, change = planted
    job = the(rendered(overlay), "RayJob", "grid")
    change(job)
    assert any(says in message for message in violations(job)), violations(job)


def test_each_submission_mode_is_known() -> None:
    assert sorted(SUBMISSION_MODES) == ["HTTPMode", "InteractiveMode", "K8sJobMode", "SidecarMode"]


def test_the_name_of_a_cluster_may_have_53_characters(rendered: Rendered) -> None:
    session = the(rendered("gpu"), "RayCluster", "session")
    session["metadata"]["name"] = "s" * 53
    assert violations(session) == []
    session["metadata"]["name"] = "s" * 54
    assert violations(session) == ["name: 54 characters; the operator allows 53"]
