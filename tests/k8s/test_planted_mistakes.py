"""Each check of the manifests catches the mistake that it is there for: one is made, and the check must fail."""

from collections.abc import Callable
from typing import Any

import pytest

from resnet_dist.errors import UserError
from tests.k8s import test_references as references
from tests.k8s import test_security as security
from tests.k8s.rendering import Document, of_kind, the

Rendered = Callable[[str], list[Document]]
Check = Callable[..., None]
Plant = Callable[[list[Document]], Any]


def _cluster(documents: list[Document]) -> Document:
    spec: Document = the(documents, "RayJob", "grid")["spec"]["rayClusterSpec"]
    return spec


def _head(documents: list[Document]) -> Document:
    spec: Document = _cluster(documents)["headGroupSpec"]["template"]["spec"]
    return spec


def _worker(documents: list[Document]) -> Document:
    spec: Document = _cluster(documents)["workerGroupSpecs"][0]["template"]["spec"]
    return spec


def _board(documents: list[Document]) -> Document:
    spec: Document = the(documents, "Deployment", "tensorboard")["spec"]["template"]["spec"]
    return spec


def _policy(documents: list[Document], name: str) -> Document:
    spec: Document = the(documents, "NetworkPolicy", name)["spec"]
    return spec


def _container(pod: Document) -> Document:
    container: Document = pod["containers"][0]
    return container


def _server(documents: list[Document]) -> Document:
    container: Document = _board(documents)["containers"][1]
    return container


PLANTED: dict[str, tuple[Check, Plant]] = {
    "another namespace": (
        references.test_every_namespaced_document_is_in_the_one_namespace,
        lambda d: the(d, "Service", "tensorboard")["metadata"].update(namespace="default"),
    ),
    "a ConfigMap that is not there": (
        references.test_every_configmap_and_secret_exists,
        lambda d: _container(_worker(d))["envFrom"][0]["configMapRef"].update(name="setings"),
    ),
    "a Secret that is not there": (
        references.test_every_configmap_and_secret_exists,
        lambda d: _container(_worker(d))["envFrom"][1]["secretRef"].update(name="s3"),
    ),
    "a Secret among the manifests": (
        references.test_every_configmap_and_secret_exists,
        lambda d: d.append({"kind": "Secret", "metadata": {"name": "resnet-dist-s3"}}),
    ),
    "keys for the submitter": (
        references.test_what_reaches_storage_has_the_keys_and_nothing_else_has,
        lambda d: _container(the(d, "RayJob", "grid")["spec"]["submitterPodTemplate"]["spec"])["envFrom"].append(
            {"secretRef": {"name": "resnet-dist-s3"}}
        ),
    ),
    "an account that is not there": (
        references.test_every_service_account_exists_and_is_used,
        lambda d: _worker(d).update(serviceAccountName="default"),
    ),
    "a volume that is not there": (
        references.test_every_mounted_volume_exists_and_is_mounted,
        lambda d: _worker(d)["volumes"].pop(),
    ),
    "two volumes at one place": (
        references.test_every_mounted_volume_exists_and_is_mounted,
        lambda d: _container(_worker(d))["volumeMounts"][1].update(mountPath="/dev/shm"),
    ),
    "a probe of a port that is not there": (
        references.test_every_probe_asks_a_port_of_its_container,
        lambda d: _server(d)["livenessProbe"]["httpGet"].update(port="web"),
    ),
    "a probe in the operator's place": (
        references.test_the_operator_is_left_to_probe_ray,
        lambda d: _container(_head(d)).update(livenessProbe={"tcpSocket": {"port": "dashboard"}}),
    ),
    "a Service for no pod": (
        references.test_every_service_leads_to_a_port_of_one_kind_of_pod,
        lambda d: the(d, "Service", "tensorboard")["spec"]["selector"].update({"app.kubernetes.io/component": "board"}),
    ),
    "a Service for a port that is not there": (
        references.test_every_service_leads_to_a_port_of_one_kind_of_pod,
        lambda d: the(d, "Service", "tensorboard")["spec"]["ports"][0].update(targetPort="web"),
    ),
    "a Service for everyone": (
        references.test_every_service_leads_to_a_port_of_one_kind_of_pod,
        lambda d: the(d, "Service", "tensorboard")["spec"].update(type="LoadBalancer"),
    ),
    "a policy for no pod": (
        references.test_every_network_policy_is_about_pods_and_ports_that_exist,
        lambda d: _policy(d, "ray-to-ray")["podSelector"]["matchLabels"].update({"ray.io/is-ray-node": "true"}),
    ),
    "a policy that lets in no pod": (
        references.test_every_network_policy_is_about_pods_and_ports_that_exist,
        lambda d: _policy(d, "job-server")["ingress"][0]["from"][0]["podSelector"].update(matchLabels={"a": "b"}),
    ),
    "a policy for a port that is not there": (
        references.test_every_network_policy_is_about_pods_and_ports_that_exist,
        lambda d: _policy(d, "job-server")["ingress"][0]["ports"][0].update(port="http"),
    ),
    "a budget for no pod": (
        references.test_every_disruption_budget_guards_one_pod,
        lambda d: the(d, "PodDisruptionBudget", "grid-head")["spec"]["selector"]["matchLabels"].update(a="b"),
    ),
    "a head without a budget": (
        references.test_every_disruption_budget_guards_one_pod,
        lambda d: d.remove(the(d, "PodDisruptionBudget", "session-head")),
    ),
    "a broken head that keeps a node": (
        references.test_every_disruption_budget_guards_one_pod,
        lambda d: the(d, "PodDisruptionBudget", "grid-head")["spec"].pop("unhealthyPodEvictionPolicy"),
    ),
    "an option that the command does not have": (
        references.test_the_entrypoint_is_a_command_that_exists,
        lambda d: the(d, "RayJob", "grid")["spec"].update(
            entrypoint="python -m tune_jobs grid run study --storage $RESNET_DIST_STORAGE --repeats 5"
        ),
    ),
    "an experiment that is not there": (
        references.test_the_entrypoint_is_a_command_that_exists,
        lambda d: the(d, "RayJob", "grid")["spec"].update(
            entrypoint="python -m tune_jobs grid run studies --storage $RESNET_DIST_STORAGE"
        ),
    ),
    "an entrypoint that the shell takes apart": (
        references.test_the_entrypoint_is_a_command_that_exists,
        lambda d: the(d, "RayJob", "grid")["spec"].update(entrypoint="python -m tune_jobs grid run study; true"),
    ),
    "a TensorBoard at another port": (
        references.test_tensorboard_is_two_commands_that_exist,
        lambda d: _server(d)["args"].__setitem__(-1, "6007"),
    ),
    "a pod that may be root": (
        security.test_every_pod_has_every_setting,
        lambda d: _board(d)["securityContext"].update(runAsNonRoot=False),
    ),
    "a pod without seccomp": (
        security.test_every_pod_has_every_setting,
        lambda d: _head(d)["securityContext"].pop("seccompProfile"),
    ),
    "a pod with a token": (
        security.test_every_pod_has_every_setting,
        lambda d: _worker(d).update(automountServiceAccountToken=True),
    ),
    "a pod in the node's network": (
        security.test_every_pod_has_every_setting,
        lambda d: _worker(d).update(hostNetwork=True),
    ),
    "a volume of the node's": (
        security.test_every_pod_has_every_setting,
        lambda d: _worker(d)["volumes"].append({"name": "node", "hostPath": {"path": "/"}}),
    ),
    "a namespace that enforces less": (
        security.test_the_namespace_enforces_the_same,
        lambda d: of_kind(d, "Namespace")[0]["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
    ),
    "a role": (security.test_no_account_has_a_role, lambda d: d.append({"kind": "RoleBinding", "metadata": {}})),
    "a server of TensorBoard with the key": (
        security.test_what_serves_tensorboard_has_no_key_and_cannot_change_what_it_shows,
        lambda d: _server(d).update(envFrom=[{"secretRef": {"name": "resnet-dist-s3"}}]),
    ),
    "a server of TensorBoard that can write": (
        security.test_what_serves_tensorboard_has_no_key_and_cannot_change_what_it_shows,
        lambda d: _server(d)["volumeMounts"][0].pop("readOnly"),
    ),
    "a copy that nothing shows": (
        references.test_tensorboard_is_two_commands_that_exist,
        lambda d: _server(d)["args"].__setitem__(0, "/tmp"),
    ),
    "no limit": (
        security.test_every_container_says_what_it_takes,
        lambda d: _server(d)["resources"]["limits"].pop("memory"),
    ),
    "memory that may be taken away": (
        security.test_every_container_says_what_it_takes,
        lambda d: _container(_worker(d))["resources"]["limits"].update(memory="64Gi"),
    ),
    "a volume without a bound": (
        security.test_every_container_says_what_it_takes,
        lambda d: _worker(d)["volumes"][1]["emptyDir"].pop("sizeLimit"),
    ),
    "nowhere to write": (
        security.test_a_ray_pod_can_write_where_ray_and_we_do,
        lambda d: _container(_worker(d))["volumeMounts"].pop(),
    ),
    "no time for a checkpoint": (
        security.test_a_checkpoint_has_time_to_arrive,
        lambda d: _worker(d).update(terminationGracePeriodSeconds=30),
    ),
    "a policy that lets everyone in": (
        security.test_ray_is_reachable_from_ray_alone_and_its_job_server_from_the_submitter,
        lambda d: _policy(d, "job-server")["ingress"][0].pop("from"),
    ),
    "a policy that lets a neighbour in": (
        security.test_ray_is_reachable_from_ray_alone_and_its_job_server_from_the_submitter,
        lambda d: _policy(d, "ray-to-ray")["ingress"][0]["from"].append({"podSelector": {}}),
    ),
    "no policy": (
        security.test_ray_is_reachable_from_ray_alone_and_its_job_server_from_the_submitter,
        lambda d: d.remove(the(d, "NetworkPolicy", "default-deny")),
    ),
    "a policy that lets another namespace in": (
        security.test_the_operator_alone_comes_from_another_namespace,
        lambda d: _policy(d, "job-server")["ingress"][0]["from"][1].pop("podSelector"),
    ),
}

OF_ALL: dict[str, tuple[Check, Plant]] = {
    "an image of another version": (
        lambda rendered: references.test_images_agree_with_the_package_and_with_ray(rendered, "gpu"),
        lambda d: _container(_worker(d)).update(image="resnet-dist:0.1.0-ray2.59.0-cuda"),
    ),
    "an image for CPUs": (
        lambda rendered: references.test_images_agree_with_the_package_and_with_ray(rendered, "gpu"),
        lambda d: _container(_worker(d)).update(image=_container(_board(d))["image"]),
    ),
    "another Ray": (
        lambda rendered: references.test_images_agree_with_the_package_and_with_ray(rendered, "gpu"),
        lambda d: _cluster(d).update(rayVersion="2.59.0"),
    ),
    "a GPU group on any node": (
        references.test_a_gpu_overlay_insists_on_gpus,
        lambda d: _worker(d)["nodeSelector"].clear(),
    ),
    "a taint that is not tolerated": (
        references.test_a_gpu_overlay_insists_on_gpus,
        lambda d: _worker(d)["tolerations"].clear(),
    ),
    "a worker with a token of the API": (
        security.test_only_the_autoscaler_has_a_token,
        lambda d: (
            _worker(d)["volumes"].append({"name": "token", "projected": {"sources": []}}),
            _container(_worker(d))["volumeMounts"].append({"name": "token", "mountPath": "/token"}),
        ),
    ),
    "shared memory on disk": (
        security.test_the_object_store_fits_into_shared_memory,
        lambda d: _worker(d)["volumes"][0]["emptyDir"].pop("medium"),
    ),
    "shared memory that is too small": (
        security.test_the_object_store_fits_into_shared_memory,
        lambda d: _worker(d)["volumes"][0]["emptyDir"].update(sizeLimit="512Mi"),
    ),
}

# A check may also stumble: `the` finds no such document, the parser exits, the command line refuses.
FOUND = (AssertionError, KeyError, ValueError, UserError, SystemExit)


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_mistake_in_an_overlay_is_found(rendered: Rendered, mistake: str) -> None:
    check, plant = PLANTED[mistake]
    documents = rendered("gpu")
    check(documents)
    plant(documents)
    with pytest.raises(FOUND):
        check(documents)


@pytest.mark.parametrize("mistake", OF_ALL)
def test_a_mistake_in_one_of_the_overlays_is_found(rendered: Rendered, mistake: str) -> None:
    check, plant = OF_ALL[mistake]
    check(rendered)
    spoilt = rendered("gpu")
    plant(spoilt)
    with pytest.raises(FOUND):
        check(lambda name: spoilt if name == "gpu" else rendered(name))
