"""What can be put on top of an overlay: monitoring, and a fence around the nodes' metadata service."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import ROOT, Document, of_kind, pods, render, selects, the
from tests.k8s.schemas import KUBERNETES, errors

On = Callable[[str, str], list[Document]]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "k8s" / "components" / "monitoring" / "dashboard.json").read_text())


@pytest.fixture
def on(tmp_path: Path) -> On:
    """Renders an overlay with a component on top of it, as an overlay of one's own would."""

    def rendered(component: str, overlay: str) -> list[Document]:
        folder = tmp_path / f"{component}-{overlay}"
        folder.mkdir()
        up = Path(*[".."] * len(folder.resolve().parts[1:]), *(ROOT / "k8s").resolve().parts[1:])
        parts = {"resources": [f"{up}/overlays/{overlay}"], "components": [f"{up}/components/{component}"]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(parts))
        return render(folder)

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
