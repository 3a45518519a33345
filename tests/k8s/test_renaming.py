"""Overlays of one's own that change names, namespaces and images: what one document names, another still holds."""

from pathlib import Path

import pytest

from tests.k8s import test_kuberay_rules as rules
from tests.k8s import test_references as references
from tests.k8s import test_security as security
from tests.k8s.rendering import Document, of_kind, pods, render_on, selects, the
from tests.k8s.schemas import KUBERNETES, errors


def _is_whole(documents: list[Document]) -> None:
    references.test_every_service_account_exists_and_is_used(documents)
    references.test_every_network_policy_is_about_pods_and_ports_that_exist(documents)
    references.test_every_disruption_budget_guards_one_pod(documents)
    security.test_every_pod_has_every_setting(documents)
    rules.test_every_cluster_keeps_the_rules(documents)
    settings = {d["metadata"]["name"] for d in of_kind(documents, "ConfigMap")}
    for pod in pods(documents):
        for container in pod.containers:
            for source in container.get("envFrom", []):
                assert source.get("configMapRef", {"name": next(iter(settings))})["name"] in settings, pod.origin
    assert [error for document in documents for error in errors(document, KUBERNETES[0])] == []


@pytest.mark.parametrize("overlay", ["local", "gpu", "autoscale", "kueue"])
@pytest.mark.parametrize("change", [{"nameSuffix": "-b"}, {"namePrefix": "team-"}])
def test_a_name_that_changes_changes_everywhere(overlay: str, change: Document, tmp_path: Path) -> None:
    documents = render_on(overlay, change, tmp_path / "own")
    name = f"{change.get('namePrefix', '')}grid{change.get('nameSuffix', '')}"
    assert [job["metadata"]["name"] for job in of_kind(documents, "RayJob")] == [name]
    _is_whole(documents)


def test_the_session_is_renamed_with_its_budget(tmp_path: Path) -> None:
    change = {"nameSuffix": "-b", "components": ["k8s/components/session"]}
    documents = render_on("gpu", change, tmp_path / "own")
    (budget,) = (b for b in of_kind(documents, "PodDisruptionBudget") if "session" in b["metadata"]["name"])
    (head,) = (p for p in pods(documents) if p.labels.get("ray.io/node-type") == "head")
    assert head.origin.startswith("RayCluster/session-b") and selects(budget["spec"]["selector"], head.labels)


@pytest.mark.parametrize("overlay", ["local", "gpu"])
def test_a_team_has_a_namespace_of_its_own(overlay: str, tmp_path: Path) -> None:
    documents = render_on(overlay, {"namespace": "team-b"}, tmp_path / "own")
    assert of_kind(documents, "Namespace")[0]["metadata"]["name"] == "team-b"
    references.test_every_namespaced_document_is_in_the_one_namespace(documents)
    security.test_the_namespace_enforces_the_same(documents)
    security.test_the_operator_alone_comes_from_another_namespace(documents)
    _is_whole(documents)


def test_a_second_grid_shares_what_is_there_and_has_a_head_of_its_own(tmp_path: Path) -> None:
    first = render_on("gpu", {}, tmp_path / "first")
    parts = {"resources": ["k8s/base/grid"], "components": ["k8s/components/gpu"], "nameSuffix": "-b"}
    second = render_on("gpu", parts, tmp_path / "second")
    assert {(d["kind"], d["metadata"]["name"]) for d in second} == {
        ("RayJob", "grid-b"),
        ("PodDisruptionBudget", "grid-head-b"),
    }
    job, other = the(first, "RayJob", "grid"), the(second, "RayJob", "grid-b")
    _is_whole(first + second)  # accounts, settings and policies are the first one's
    for spec in (job["spec"]["rayClusterSpec"], other["spec"]["rayClusterSpec"]):
        spec["headGroupSpec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance")
        for group in spec["workerGroupSpecs"]:
            group["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance")
    assert job["spec"] == other["spec"]


def test_keys_from_a_secret_that_the_overlay_makes_reach_every_pod_that_has_some(tmp_path: Path) -> None:
    change = {
        "namespace": "resnet-dist",
        "secretGenerator": [{"name": "resnet-dist-s3", "literals": ["AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"]}],
    }
    documents = render_on("gpu", change, tmp_path / "own")
    (made,) = of_kind(documents, "Secret")
    assert made["metadata"]["name"] != "resnet-dist-s3", "the name tells one content from another"
    for pod in pods(documents):
        for container in pod.containers:
            for source in container.get("envFrom", []):
                assert source.get("secretRef", made["metadata"])["name"] == made["metadata"]["name"], pod.origin


def test_images_of_ones_own_reach_every_container_of_ours(tmp_path: Path) -> None:
    change = {"images": [{"name": "resnet-dist", "newName": "registry.example.com/team/resnet"}]}
    for pod in pods(render_on("autoscale", change, tmp_path / "own")):
        for container in pod.containers:
            assert container["name"] == "autoscaler" or container["image"].startswith(
                "registry.example.com/team/resnet:"
            ), f"{pod.origin} {container['name']}"
