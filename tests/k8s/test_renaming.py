"""Overlays of one's own that change names, namespaces and images: what one document names, another still holds."""

from pathlib import Path

import pytest

from tests.k8s import test_kuberay_rules as rules
from tests.k8s import test_references as references
from tests.k8s import test_security as security
from tests.k8s.rendering import Document, of_kind, pods, render_on, selects, the
from tests.k8s.schemas import KUBERNETES, errors

IMAGES = {"resnet-dist": "a", "resnet-dist-cuda": "b"}


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
def test_a_name_that_changes_changes_everywhere(overlay: str, tmp_path: Path) -> None:
    documents = render_on(overlay, {"namePrefix": "team-", "nameSuffix": "-b"}, tmp_path / "own")
    assert [job["metadata"]["name"] for job in of_kind(documents, "RayJob")] == ["team-grid-b"]
    _is_whole(documents)


def test_the_session_is_renamed_with_its_budget(tmp_path: Path) -> None:
    change = {"nameSuffix": "-b", "components": ["k8s/components/session"]}
    documents = render_on("gpu", change, tmp_path / "own")
    (budget,) = (b for b in of_kind(documents, "PodDisruptionBudget") if "session" in b["metadata"]["name"])
    (head,) = (p for p in pods(documents) if p.labels.get("ray.io/node-type") == "head")
    assert head.origin.startswith("RayCluster/session-b") and selects(budget["spec"]["selector"], head.labels)


def test_a_session_beside_a_renamed_grid_leaves_it_as_it_is(tmp_path: Path) -> None:
    grid = render_on("gpu", {"nameSuffix": "-b"}, tmp_path / "grid")
    parts = {"resources": ["../grid"], "components": ["k8s/components/session"]}
    session = render_on("gpu", parts, tmp_path / "session")
    assert [d["kind"] for d in grid if d not in session] == ["RayJob"]
    assert sorted(d["kind"] for d in session if d not in grid) == ["PodDisruptionBudget", "RayCluster"]


@pytest.mark.parametrize("overlay", ["local", "gpu"])
def test_a_team_has_a_namespace_of_its_own(overlay: str, tmp_path: Path) -> None:
    documents = render_on(overlay, {"namespace": "team-b"}, tmp_path / "own")
    assert of_kind(documents, "Namespace")[0]["metadata"]["name"] == "team-b"
    references.test_every_namespaced_document_is_in_the_one_namespace(documents)
    security.test_the_namespace_enforces_the_same(documents)
    security.test_the_operator_alone_comes_from_another_namespace(documents)
    _is_whole(documents)


def test_the_store_is_asked_by_the_name_that_it_has(tmp_path: Path) -> None:
    documents = render_on("local", {"namePrefix": "team-", "nameSuffix": "-b"}, tmp_path / "own")
    assert the(documents, "ConfigMap", "team-resnet-dist-settings-b")["data"]["AWS_ENDPOINT_URL"] == (
        f"http://{the(documents, 'Service', 'team-store-b')['metadata']['name']}:5000"
    )


@pytest.mark.parametrize("overlay", ["local", "gpu"])
def test_two_installations_in_a_namespace_have_each_its_own_results(overlay: str, tmp_path: Path) -> None:
    both = [document for end in ("-a", "-b") for document in render_on(overlay, {"nameSuffix": end}, tmp_path / end)]
    for service in of_kind(both, "Service"):
        (pod,) = (pod for pod in pods(both) if selects({"matchLabels": service["spec"]["selector"]}, pod.labels))
        assert pod.origin == f"Deployment/{service['metadata']['name']}"


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


def test_each_image_is_replaced_by_its_name_and_pinned_by_its_digest(tmp_path: Path) -> None:
    ours = {name: f"registry.example.com/{name}@sha256:{digit * 64}" for name, digit in IMAGES.items()}
    change = {
        "images": [
            {"name": name, "newName": f"registry.example.com/{name}", "digest": f"sha256:{digit * 64}"}
            for name, digit in IMAGES.items()
        ]
    }
    for pod in pods(render_on("autoscale", change, tmp_path / "own")):
        for container in pod.containers:
            wanted = ours["resnet-dist-cuda" if pod.is_ray_node else "resnet-dist"]
            assert container["name"] == "autoscaler" or container["image"] == wanted, pod.origin


@pytest.mark.parametrize("overlay", ["local", "gpu"])
def test_a_label_in_every_selector_is_on_the_pods_and_asked_of_nobody_else(overlay: str, tmp_path: Path) -> None:
    labels = [{"pairs": {"team": "b"}, "includeSelectors": True}]
    change = {"labels": labels, "components": ["k8s/components/monitoring"]}
    documents = render_on(overlay, change, tmp_path / "own")
    for pod in pods(documents):
        assert pod.labels["team"] == "b", pod.origin
    outside = [
        peer["podSelector"]
        for policy in of_kind(documents, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
        if "namespaceSelector" in peer
    ]
    assert outside and not any("matchLabels" in selector for selector in outside)
    references.test_every_network_policy_is_about_pods_and_ports_that_exist(documents)
    references.test_every_disruption_budget_guards_one_pod(documents)


def test_settings_are_changed_by_merging_a_generated_configmap(tmp_path: Path) -> None:
    literals = ["RESNET_DIST_STORAGE=s3://mine/results"]
    change = {
        "namespace": "resnet-dist",
        "configMapGenerator": [{"name": "resnet-dist-settings", "behavior": "merge", "literals": literals}],
    }
    documents = render_on("gpu", change, tmp_path / "own")
    (settings,) = of_kind(documents, "ConfigMap")
    assert settings["data"]["RESNET_DIST_STORAGE"] == "s3://mine/results" and len(settings["data"]) > 5
    _is_whole(documents)


def test_one_number_is_the_number_of_workers(tmp_path: Path) -> None:
    path = "/spec/rayClusterSpec/workerGroupSpecs/0/replicas"
    patch = f"- {{op: replace, path: {path}, value: 16}}"
    change = {"patches": [{"target": {"kind": "RayJob", "name": "grid"}, "patch": patch}]}
    (group,) = the(render_on("kueue", change, tmp_path / "own"), "RayJob", "grid")["spec"]["rayClusterSpec"][
        "workerGroupSpecs"
    ]
    assert group["replicas"] == 16 and not {"minReplicas", "maxReplicas"} & group.keys()


def test_components_go_onto_a_second_grid_as_onto_the_first(tmp_path: Path) -> None:
    parts = {
        "resources": ["k8s/base/grid"],
        "components": [f"k8s/components/{name}" for name in ("gpu", "autoscale", "spot", "gpu-node-selector")],
        "nameSuffix": "-b",
    }
    second = render_on("gpu", parts, tmp_path / "own")
    groups = the(second, "RayJob", "grid-b")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["gpu", "gpu-spot"]
    rules.test_every_cluster_keeps_the_rules(second)
    assert [error for document in second for error in errors(document, KUBERNETES[0])] == []
