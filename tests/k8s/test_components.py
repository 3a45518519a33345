"""What can be put on top of an overlay: monitoring, spot nodes, a cluster to submit to, and more."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from resnet_dist.ray_metrics import COUNTERS, GAUGES
from tests.k8s.rendering import ROOT, Document, cluster_specs, of_kind, pods, render_on, selects, the
from tests.k8s.schemas import KUBERNETES, errors

On = Callable[[str, str], list[Document]]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "k8s" / "components" / "monitoring" / "dashboard.json").read_text())


@pytest.fixture
def on(tmp_path: Path) -> On:
    """Renders an overlay with a component on top of it, as an overlay of one's own would."""

    def rendered(component: str, overlay: str) -> list[Document]:
        components = [f"k8s/components/{name}" for name in component.split("+")]
        return render_on(overlay, {"components": components}, tmp_path / f"{component}-{overlay}")

    return rendered


@pytest.mark.parametrize("component", ["monitoring", "no-node-metadata"])
@pytest.mark.parametrize("overlay", ["local", "autoscale"])
def test_a_component_adds_valid_documents_and_changes_none(
    on: On, rendered: Callable[[str], list[Document]], component: str, overlay: str
) -> None:
    before, after = rendered(overlay), on(component, overlay)
    added = [document for document in after if document not in before]
    assert added and [document for document in before if document not in after] == []
    assert [error for document in added for error in errors(document, KUBERNETES[0])] == []
    assert {document["metadata"]["namespace"] for document in added} == {"resnet-dist"}


def test_prometheus_scrapes_every_ray_pod_and_reaches_nothing_else(on: On) -> None:
    documents = on("monitoring", "autoscale")
    monitor = the(documents, "PodMonitor", "ray")["spec"]
    policy = the(documents, "NetworkPolicy", "metrics")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for pod in pods(documents):
        assert selects(monitor["selector"], pod.labels) == selects(policy["podSelector"], pod.labels) == pod.is_ray_node
        if pod.is_ray_node:
            assert endpoint["port"] in {port["name"] for port in pod.spec["containers"][0]["ports"]}
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert rule["ports"] == [{"port": endpoint["port"], "protocol": "TCP"}]
    assert peer.keys() == {"namespaceSelector", "podSelector"}, "of one namespace, and there of one kind of pod"


def test_the_dashboard_arrives_where_grafana_looks_for_it(on: On) -> None:
    config = the(on("monitoring", "gpu"), "ConfigMap", "resnet-dist-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["resnet-dist.json"]) == DASHBOARD


def test_the_dashboard_uses_variables_and_labels_that_there_are() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    monitor = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "pod-monitor.yaml").read_text())
    relabelled = {rule["targetLabel"] for rule in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]}
    labels = {"experiment", "trial", "name", "operation", "pod", "GpuIndex"} | relabelled
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables, panel["title"]
            matched = re.findall(r"(\w+)=~", target["expr"]) + re.findall(r"by \((\w+)\)", target["expr"])
            assert set(matched) | set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]


def test_every_alert_is_about_what_is_exported(on: On) -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    (group,) = the(on("monitoring", "gpu"), "PrometheusRule", "resnet-dist")["spec"]["groups"]
    exported = {f"ray_{name}" for name in [*GAUGES, *METRICS_GAUGES]} | {f"ray_{name}_total" for name in COUNTERS}
    labels = {"experiment", "trial", "name", "pod", "ray_io_cluster", "GpuIndex"}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) > 3
    for rule in group["rules"]:
        metrics = set(re.findall(r"ray_\w+(?=[\[{ )<>])", rule["expr"])) - labels
        assert metrics and metrics <= exported, rule["alert"]
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        said = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert said <= kept <= labels, f"{rule['alert']}: a label that the expression does not keep is empty"


def test_pods_reach_all_but_the_metadata_service(on: On) -> None:
    policies = [
        p for p in of_kind(on("no-node-metadata", "gpu"), "NetworkPolicy") if "Egress" in p["spec"]["policyTypes"]
    ]
    (policy,) = policies
    assert policy["spec"]["podSelector"] == {}
    peers, names = policy["spec"]["egress"]
    shut_out = [address for peer in peers["to"] for address in peer.get("ipBlock", {}).get("except", [])]
    assert {"169.254.0.0/16", "fd00:ec2::254/128"} <= set(shut_out)
    assert {peer["ipBlock"]["cidr"] for peer in peers["to"] if "ipBlock" in peer} == {"0.0.0.0/0", "::/0"}
    assert names == {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}


@pytest.mark.parametrize("overlay", ["local", "gpu", "autoscale"])
def test_the_session_is_the_cluster_of_the_grid_and_applied_by_itself(
    on: On, rendered: Callable[[str], list[Document]], overlay: str
) -> None:
    before, after = rendered(overlay), on("session", overlay)
    assert not of_kind(before, "RayCluster"), "to apply the grid again would do something to the session"
    assert not of_kind(after, "RayJob"), "to apply the session would start the grid"
    # What both have, both have alike.
    added = {(d["kind"], d["metadata"]["name"]) for d in after if d not in before}
    assert added == {("RayCluster", "session"), ("PodDisruptionBudget", "session-head")}
    session = the(after, "RayCluster", "session")["spec"]
    grid = the(before, "RayJob", "grid")["spec"]["rayClusterSpec"]
    for spec, name in ((session, "session"), (grid, "grid")):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert group["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance") == name
    assert session == grid and "suspend" not in session


def test_the_queue_overlay_waits_in_a_queue(rendered: Callable[[str], list[Document]]) -> None:
    assert the(rendered("kueue"), "RayJob", "grid")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "resnet-dist"


def test_a_session_waits_in_the_queue_of_the_grid(on: On) -> None:
    session = the(on("session", "kueue"), "RayCluster", "session")
    assert session["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "resnet-dist"


@pytest.mark.parametrize("overlay", ["gpu", "autoscale", "kueue"])
def test_no_label_that_only_some_clusters_have_keeps_pods_waiting(
    on: On, rendered: Callable[[str], list[Document]], overlay: str
) -> None:
    for pod in pods(rendered(overlay)):
        assert not {"nodeSelector", "affinity"} & pod.spec.keys(), pod.origin
    chosen = on("gpu-node-selector+session", overlay)
    assert [error for document in chosen for error in errors(document, KUBERNETES[0])] == []
    groups = [group for spec in cluster_specs(chosen) for group in spec["workerGroupSpecs"]]
    assert groups
    for group in groups:
        node = group["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (term,) = node["nodeSelectorTerms"]
        assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.present", "operator": "In", "values": ["true"]}]
    assert [d for d in chosen if d["kind"] == "PodTemplate"] == []


def test_every_pod_pulls_with_the_secret_of_the_registry(on: On) -> None:
    accounts = {d["metadata"]["name"]: d for d in of_kind(on("image-pull-secret", "local"), "ServiceAccount")}
    for pod in pods(on("image-pull-secret", "gpu")):
        account = accounts[pod.spec["serviceAccountName"]]
        assert account["imagePullSecrets"] == [{"name": "resnet-dist-registry"}]
        assert "imagePullSecrets" not in pod.spec, "it would stand in place of the account's"
