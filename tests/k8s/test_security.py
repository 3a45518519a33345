"""No pod of any overlay drops a security setting, and nothing can be reached that need not be."""

import re
from collections.abc import Callable

from tests.k8s.rendering import OVERLAYS, ROOT, Document, Pod, of_kind, pods, selects, the

Rendered = Callable[[str], list[Document]]

POD_SETTINGS = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SETTINGS = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
VOLUMES = {"emptyDir", "projected"}


def test_every_pod_has_every_setting(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        assert pod.spec["securityContext"] == POD_SETTINGS, pod.origin
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.spec.keys(), pod.origin
        assert pod.spec["automountServiceAccountToken"] is False, pod.origin
        for container in pod.containers:
            assert container["securityContext"] == CONTAINER_SETTINGS, f"{pod.origin} {container['name']}"
            assert not [port for port in container.get("ports", []) if "hostPort" in port]
        for volume in pod.spec.get("volumes", []):
            assert set(volume) - {"name"} <= VOLUMES, f"{pod.origin}: {volume}"


def test_the_namespace_enforces_the_same(overlay: list[Document]) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert re.fullmatch(r"v1\.\d+", labels["pod-security.kubernetes.io/enforce-version"])


def test_no_account_has_a_role(overlay: list[Document]) -> None:
    kinds = {document["kind"] for document in overlay}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
    for account in of_kind(overlay, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_only_the_autoscaler_has_a_token(rendered: Rendered) -> None:
    for name in OVERLAYS:
        holders = []
        for pod in pods(rendered(name)):
            projected = {v["name"] for v in pod.spec["volumes"] if "projected" in v}
            for container in pod.containers:
                holders += [container["name"] for m in container.get("volumeMounts", []) if m["name"] in projected]
        assert set(holders) == ({"autoscaler"} if name == "autoscale" else set())


def test_every_container_says_what_it_takes(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
            assert {"cpu", "memory"} <= requests.keys() and requests.keys() <= limits.keys(), pod.origin
            if pod.is_ray_node and container["name"] != "autoscaler":
                assert requests["memory"] == limits["memory"], "what is more than requested is killed first"
        for volume in pod.spec["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), f"{pod.origin}: {volume['name']}"


def test_what_serves_tensorboard_has_no_key_and_cannot_change_what_it_shows(overlay: list[Document]) -> None:
    mirror, server = the(overlay, "Deployment", "tensorboard")["spec"]["template"]["spec"]["containers"]
    assert not {"env", "envFrom"} & server.keys()
    (events,) = mirror["volumeMounts"]
    assert not events.get("readOnly")
    assert events | {"readOnly": True} in server["volumeMounts"]
    assert "ports" not in mirror


def test_a_ray_pod_can_write_where_ray_and_we_do(overlay: list[Document]) -> None:
    image = (ROOT / "Dockerfile").read_text()
    settings = the(overlay, "ConfigMap", "resnet-dist-settings")["data"]
    home = re.search(r"HOME=(\S+)", image)
    assert home and f"RESNET_DIST_CACHE={settings['RESNET_DIST_CACHE']}" in image
    for pod in pods(overlay):
        if not pod.is_ray_node:
            continue
        container = pod.spec["containers"][0]
        writable = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/tmp/ray", "/dev/shm", home.group(1), settings["RESNET_DIST_CACHE"]} <= writable.keys()
        assert settings["MPLCONFIGDIR"].startswith("/tmp/")
        # By this name the operator finds the volume that the autoscaler's logs go to.
        assert writable["/tmp/ray"] == "ray-logs"


UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def test_the_object_store_fits_into_shared_memory(rendered: Rendered) -> None:
    for name in OVERLAYS:
        job = the(rendered(name), "RayJob", "grid")["spec"]["rayClusterSpec"]
        for group in [job["headGroupSpec"], *job["workerGroupSpecs"]]:
            spec = group["template"]["spec"]
            (shared,) = (v["emptyDir"] for v in spec["volumes"] if v["name"] == "shared-mem")
            memory = _bytes(spec["containers"][0]["resources"]["limits"]["memory"])
            assert shared["medium"] == "Memory"
            # What lies there counts as the container's memory.
            assert int(group["rayStartParams"]["object-store-memory"]) < _bytes(shared["sizeLimit"]) <= memory // 4


def test_a_checkpoint_has_time_to_arrive(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        if pod.is_ray_node and pod.labels["ray.io/node-type"] == "worker":
            pause = pod.spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert 10 <= pause <= pod.spec["terminationGracePeriodSeconds"] - 60


def _reachable(overlay: list[Document], source: Pod | None, target: Pod) -> set[str]:
    """Ports of a pod that another pod may connect to by the network policies; `*` for all. None: from outside."""
    policies = [p for p in of_kind(overlay, "NetworkPolicy") if selects(p["spec"]["podSelector"], target.labels)]
    if not policies:
        return {"*"}
    open_ports: set[str] = set()
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        for rule in policy["spec"].get("ingress", []):
            ports = {port["port"] for port in rule["ports"]} if "ports" in rule else {"*"}
            if not rule.get("from"):  # anyone
                return open_ports | ports
            peers = [peer for peer in rule["from"] if "namespaceSelector" not in peer]
            if source and any(selects(peer["podSelector"], source.labels) for peer in peers):
                open_ports |= ports
    return open_ports


def test_ray_is_reachable_from_ray_alone_and_its_job_server_from_the_submitter(overlay: list[Document]) -> None:
    every = list(pods(overlay))
    for target in every:
        assert not _reachable(overlay, None, target), f"{target.origin} can be reached from anywhere"
        for source in every:
            allowed = _reachable(overlay, source, target)
            if target.is_ray_node:
                is_head = target.labels["ray.io/node-type"] == "head"
                expected = {"*"} if source.is_ray_node else set()
                if source.origin.endswith("submitter") and is_head:
                    expected = {"dashboard"}
                assert allowed == expected, f"{source.origin} → {target.origin}"
            elif target.origin == "Deployment/store":
                uses = source.is_ray_node or source.origin in ("Deployment/tensorboard", "Job/make-bucket")
                assert allowed == ({"s3"} if uses else set()), source.origin
            else:
                assert allowed == set(), f"{source.origin} → {target.origin}"


def test_the_operator_alone_comes_from_another_namespace(overlay: list[Document]) -> None:
    peers = [
        peer
        for policy in of_kind(overlay, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for peer in rule.get("from", [])
        if "namespaceSelector" in peer or "ipBlock" in peer
    ]
    assert peers == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}},
            "podSelector": {
                "matchExpressions": [
                    {"key": "app.kubernetes.io/component", "operator": "In", "values": ["kuberay-operator"]}
                ]
            },
        }
    ]
