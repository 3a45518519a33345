"""What one manifest names, another holds: Secrets, ConfigMaps, accounts, volumes, ports, labels, images, commands."""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.k8s.rendering import OVERLAYS, ROOT, Document, Pod, cluster_specs, documents, of_kind, pods, selects, the
from tune_jobs.command_line import make_parser
from tune_jobs.commands.options import normalise
from tune_jobs.grid.experiment import load_experiment

Rendered = Callable[[str], list[Document]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def test_every_namespaced_document_is_in_the_one_namespace(overlay: list[Document]) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    name = namespace["metadata"]["name"]
    assert {d["metadata"].get("namespace") for d in overlay if d["kind"] != "Namespace"} == {name}


def test_every_configmap_and_secret_exists(overlay: list[Document]) -> None:
    (form,) = documents((ROOT / "k8s" / "secret.example.yaml").read_text())
    assert form["metadata"]["namespace"] == of_kind(overlay, "Namespace")[0]["metadata"]["name"]
    # The cluster itself puts kube-root-ca.crt into every namespace.
    config_maps = {"kube-root-ca.crt"} | {d["metadata"]["name"] for d in of_kind(overlay, "ConfigMap")}
    assert not of_kind(overlay, "Secret"), "no secret is part of the manifests"
    for pod in pods(overlay):
        for kind, name in _sources(pod):
            assert name in (config_maps if kind == "ConfigMap" else {form["metadata"]["name"]}), f"{pod.origin}: {name}"


def _sources(pod: Pod) -> Iterator[tuple[str, str]]:
    """(kind, name) of each ConfigMap and Secret that a pod reads."""
    for container in pod.containers:
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield kind, source[key]["name"]
        assert not [item for item in container.get("env", []) if "valueFrom" in item], "variables come from envFrom"
    for volume in pod.spec.get("volumes", []):
        assert not {"secret", "configMap"} & volume.keys(), "settings come by environment"
        for source in volume.get("projected", {}).get("sources", []):
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"]


def test_what_reaches_storage_has_the_keys_and_nothing_else_has(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        has_keys = any(kind == "Secret" for kind, _ in _sources(pod))
        assert has_keys == (pod.is_ray_node or pod.origin in ("Deployment/tensorboard", "Job/make-bucket")), pod.origin


def test_every_service_account_exists_and_is_used(overlay: list[Document]) -> None:
    accounts = {d["metadata"]["name"] for d in of_kind(overlay, "ServiceAccount")}
    assert {pod.spec["serviceAccountName"] for pod in pods(overlay)} == accounts


def test_every_mounted_volume_exists_and_is_mounted(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.spec.get("volumes", [])}, pod.origin
        for container in pod.containers:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(set(paths)) == len(paths), f"{pod.origin}: two volumes at one place"


def test_every_probe_asks_a_port_of_its_container(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        for container in pod.containers:
            ports = {port["name"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                for handler in ("httpGet", "tcpSocket"):
                    assert handler not in probe or probe[handler]["port"] in ports, f"{pod.origin} {kind}"


def test_the_operator_is_left_to_probe_ray(overlay: list[Document]) -> None:
    for pod in pods(overlay):
        if pod.is_ray_node:
            assert not {"livenessProbe", "readinessProbe"} & pod.spec["containers"][0].keys()


def test_every_service_leads_to_a_port_of_one_kind_of_pod(overlay: list[Document]) -> None:
    for service in of_kind(overlay, "Service"):
        (pod,) = (p for p in pods(overlay) if selects({"matchLabels": service["spec"]["selector"]}, p.labels))
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in _port_names(pod)
        assert service["spec"]["type"] == "ClusterIP"


def _port_names(pod: Pod) -> set[str]:
    return {port["name"] for container in pod.containers for port in container.get("ports", [])}


def test_every_network_policy_is_about_pods_and_ports_that_exist(overlay: list[Document]) -> None:
    every = list(pods(overlay))
    for policy in of_kind(overlay, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        chosen = [pod for pod in every if selects(spec["podSelector"], pod.labels)]
        assert chosen, f"{name} selects no pod"
        for rule in spec.get("ingress", []):
            for peer in rule["from"]:
                outside = "namespaceSelector" in peer
                assert outside or any(selects(peer["podSelector"], pod.labels) for pod in every), f"{name}: {peer}"
            for port in rule.get("ports", []):
                assert all(port["port"] in _port_names(pod) for pod in chosen), f"{name}: {port}"


def test_every_disruption_budget_guards_one_pod(overlay: list[Document]) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    guarded = []
    for budget in budgets:
        assert budget["spec"]["minAvailable"] == 1, "a RayCluster has no scale, so only a number is possible"
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", "or a broken head keeps a node for ever"
        (pod,) = (p for p in pods(overlay) if selects(budget["spec"]["selector"], p.labels))
        guarded.append(pod.origin)
    assert sorted(guarded) == sorted(p.origin for p in pods(overlay) if p.labels.get("ray.io/node-type") == "head")


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_agree_with_the_package_and_with_ray(rendered: Rendered, name: str) -> None:
    tag = f"{PROJECT['version']}-ray{PINS['ray']}"
    for pod in pods(rendered(name)):
        for container in pod.containers:
            if container["name"] == "autoscaler":
                continue  # takes the head's
            if container["image"].startswith("motoserver/"):
                assert container["image"] == f"motoserver/moto:{PINS['moto']}"
                continue
            runs_on_gpus = name != "local" and pod.is_ray_node  # what only submits has no use for CUDA
            wanted = f"resnet-dist-cuda:{tag}-cuda" if runs_on_gpus else f"resnet-dist:{tag}-cpu"
            assert container["image"] == wanted, pod.origin
    assert {spec["rayVersion"] for spec in cluster_specs(rendered(name))} == {PINS["ray"]}


def _settings(overlay: list[Document]) -> dict[str, str]:
    data: dict[str, str] = the(overlay, "ConfigMap", "resnet-dist-settings")["data"]
    return data


def test_the_entrypoint_is_a_command_that_exists(overlay: list[Document]) -> None:
    settings = _settings(overlay)
    entrypoint = the(overlay, "RayJob", "grid")["spec"]["entrypoint"]
    # The submitter's shell expands it unquoted, inside a command that it is pasted into.
    assert not re.search(r"[;&|<>`\"'(){}*?~#]", entrypoint), "a shell would take this apart"
    text = re.sub(r"\$(\w+)", lambda name: settings[name.group(1)], entrypoint)
    assert not re.search(r"[\s\"'$]", settings["RESNET_DIST_STORAGE"])
    words = shlex.split(text)
    assert words[:3] == ["python", "-m", "tune_jobs"]
    args = make_parser().parse_args(normalise(words[3:]))
    assert (args.command, args.action, args.storage) == ("grid", "run", settings["RESNET_DIST_STORAGE"])
    assert load_experiment(args.experiment).tables


def test_tensorboard_is_two_commands_that_exist(overlay: list[Document]) -> None:
    settings = _settings(overlay)
    containers = the(overlay, "Deployment", "tensorboard")["spec"]["template"]["spec"]["containers"]
    parsed = []
    for container in containers:
        words = [re.sub(r"\$\((\w+)\)", lambda name: settings[name.group(1)], word) for word in container["args"]]
        assert container["command"] == ["python", "-m", "tune_jobs", "tensorboard"]
        parsed.append(make_parser().parse_args(["tensorboard", *words]))
    mirror, server = parsed
    assert mirror.storage == settings["RESNET_DIST_STORAGE"]
    assert (server.storage, server.mirror_to, server.host) == (mirror.mirror_to, None, "0.0.0.0")
    for container in containers:
        assert mirror.mirror_to in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert [container.get("ports") for container in containers] == [
        None,
        [{"name": "http", "containerPort": server.port}],
    ]


def test_a_gpu_overlay_insists_on_gpus(rendered: Rendered) -> None:
    for name in ("gpu", "autoscale", "kueue"):
        job = the(rendered(name), "RayJob", "grid")["spec"]
        assert "--device cuda" in job["entrypoint"]
        for group in job["rayClusterSpec"]["workerGroupSpecs"]:
            spec = group["template"]["spec"]
            assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
            taints = [rule for rule in spec["tolerations"] if rule["effect"] == "NoSchedule"]
            # That of most clouds, and AKS's.
            assert taints == [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
            ]


def test_no_manifest_holds_a_key() -> None:
    for file in (ROOT / "k8s").rglob("*.yaml"):
        values: list[Any] = re.findall(r"(?:ACCESS_KEY\w*|TOKEN|PASSWORD):\s*(\S+)", file.read_text())
        assert not [value for value in values if value != '""'], file
