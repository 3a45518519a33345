"""Rules of the KubeRay operator 1.7 that no schema holds.

The operator checks most of them only when it meets the object (`ValidateRayJobSpec` and `ValidateRayClusterSpec` in its
source), so that `kubectl apply` succeeds and nothing runs. Others are defaults that are not to be left to it: they are
asked for in writing.
"""

import re
from collections.abc import Iterator

import yaml

from tests.k8s.rendering import Document

SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
ALPHA_FIELDS = ("networkPolicy", "tlsOptions", "historyServerOptions")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def violations(document: Document) -> list[str]:
    """The rules that a RayJob or a RayCluster breaks, a line each."""
    if document["kind"] == "RayJob":
        cluster = document["spec"].get("rayClusterSpec")
        broken = [*_name(document, 47), *_job(document["spec"]), *_deletion(document["spec"]), *_queued(document)]
        return broken + (list(_cluster(cluster)) if cluster else [])
    assert document["kind"] == "RayCluster"
    return [*_name(document, 53), *_cluster(document["spec"])]


def _name(document: Document, most: int) -> Iterator[str]:
    name = document["metadata"]["name"]
    if len(name) > most:
        yield f"name: {len(name)} characters; the operator allows {most}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"name: {name!r} is no DNS-1035 label"


def _job(spec: Document) -> Iterator[str]:
    mode = spec.get("submissionMode")
    if mode not in SUBMISSION_MODES:
        yield f"submissionMode: {mode!r} is none of {', '.join(SUBMISSION_MODES)}"
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig"} & spec.keys():
        yield "submissionMode: SidecarMode takes neither submitterPodTemplate nor submitterConfig"
    if mode in ("InteractiveMode",) and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit: not in InteractiveMode"
    if bool(spec.get("rayClusterSpec")) == bool(spec.get("clusterSelector")):
        yield "rayClusterSpec: either this or clusterSelector"
    if spec.get("clusterSelector") and (spec.get("backoffLimit", 0) > 0 or spec.get("suspend")):
        yield "clusterSelector: goes with neither backoffLimit nor suspend"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field}: must be above 0"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit: must not be negative"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML: must be a YAML mapping"
    cluster = spec.get("rayClusterSpec", {})
    if "upgradeStrategy" in cluster:
        yield "upgradeStrategy: not in a cluster that a RayJob makes"
    if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth: not for a RayJob"


def _deletion(spec: Document) -> Iterator[str]:
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) and not shuts_down:
        yield "ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished: must not be negative"
    if spec.get("suspend") and not shuts_down:
        yield "suspend: needs shutdownAfterJobFinishes"
    if "deletionStrategy" not in spec:
        if not shuts_down:
            yield "shutdownAfterJobFinishes: neither this nor deletion rules; the cluster would stay for ever"
        return
    strategy = spec["deletionStrategy"]
    rules = strategy.get("deletionRules", [])
    if rules and shuts_down:
        yield "deletionRules: exclude shutdownAfterJobFinishes"
    if rules and {"onSuccess", "onFailure"} & strategy.keys():
        yield "deletionRules: exclude onSuccess and onFailure"
    if not rules and not {"onSuccess", "onFailure"} <= strategy.keys():
        yield "deletionStrategy: needs deletionRules, or both onSuccess and onFailure"
    autoscaled = spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling")
    seconds: dict[str, dict[str, int]] = {}
    for rule in rules:
        condition, policy = rule["condition"], rule["policy"]
        if len({"jobStatus", "jobDeploymentStatus"} & condition.keys()) != 1:
            yield "deletionRules: a condition names either jobStatus or jobDeploymentStatus"
            continue
        when = condition.get("jobStatus") or f"deployment {condition['jobDeploymentStatus']}"
        if policy in seconds.setdefault(when, {}):
            yield f"deletionRules: {policy} is there twice for {when}"
        seconds[when][policy] = condition.get("ttlSeconds", 0)
        if condition.get("ttlSeconds", 0) < 0:
            yield "deletionRules: ttlSeconds must not be negative"
        if policy == "DeleteWorkers" and autoscaled:
            yield "deletionRules: no DeleteWorkers with an autoscaler"
        if policy in ("DeleteWorkers", "DeleteCluster") and spec.get("clusterSelector"):
            yield f"deletionRules: no {policy} with clusterSelector"
    for when, by_policy in seconds.items():
        in_order = [by_policy[policy] for policy in DELETION_ORDER if policy in by_policy]
        if in_order != sorted(in_order):
            yield f"deletionRules: for {when}, workers, cluster and self must go in this order"


def _queued(job: Document) -> Iterator[str]:
    if QUEUE_LABEL not in job["metadata"].get("labels", {}):
        return
    spec = job["spec"]
    if not spec.get("shutdownAfterJobFinishes"):
        yield "Kueue: needs shutdownAfterJobFinishes"
    if "suspend" in spec:
        yield "Kueue: suspend is left to it"
    if spec.get("clusterSelector"):
        yield "Kueue: takes no clusterSelector"
    if spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling"):
        yield "Kueue: admits a fixed number of workers, no autoscaler"


def _cluster(spec: Document) -> Iterator[str]:
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    yield from _alpha(spec)
    yield from _authentication(spec)
    yield from _autoscaling(spec)
    # Two places can set the head's CPUs, and the operator refuses both together.
    places = [head.get("rayStartParams", {}).get("num-cpus"), head.get("resources", {}).get("CPU")]
    if [place for place in places if place is not None] != ["0"]:
        yield f"head CPUs: must be '0' in one place; rayStartParams and resources say {places}"
    names = [group["groupName"] for group in workers]
    if len(set(names)) < len(names):
        yield "groupName: there twice"
    for name, group in [("head", head), *zip(names, workers, strict=True)]:
        yield from (f"{name}: {what}" for what in _group(group))
    for name, group in zip(names, workers, strict=True):
        if not 0 <= group.get("minReplicas", -1) <= group.get("replicas", -1) <= group.get("maxReplicas", -1):
            yield f"{name}: minReplicas, replicas and maxReplicas must all be there, in this order"


def _alpha(spec: Document) -> Iterator[str]:
    for field in ALPHA_FIELDS:
        if field in spec:
            yield f"{field}: alpha; an operator with default feature gates refuses it"
    if spec.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb":
        yield "gcsFaultToleranceOptions.backend: rocksdb is alpha; an operator with default feature gates refuses it"


def _authentication(spec: Document) -> Iterator[str]:
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: token must be written out"
    if _version(spec) < (2, 52):
        yield f"rayVersion: {spec.get('rayVersion')!r}; token authentication needs 2.52"


def _version(spec: Document) -> tuple[int, ...]:
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", spec.get("rayVersion", ""))
    return tuple(int(part) for part in found.groups()) if found else ()


def _autoscaling(spec: Document) -> Iterator[str]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    variables = {item["name"] for item in groups[0]["template"]["spec"]["containers"][0].get("env", [])}
    if not spec.get("enableInTreeAutoscaling"):
        for group in spec["workerGroupSpecs"]:
            if {"priority", "idleTimeoutSeconds"} & group.keys():
                yield f"{group['groupName']}: priority and idleTimeoutSeconds need the autoscaler"
            if group.get("minReplicas") != group.get("maxReplicas"):
                yield f"{group['groupName']}: without an autoscaler the number of workers is fixed"
        if "autoscalerOptions" in spec:
            yield "autoscalerOptions: without enableInTreeAutoscaling"
        return
    if spec.get("autoscalerOptions", {}).get("version") != "v2":
        yield "autoscalerOptions.version: v2 must be written out"
    if "RAY_enable_autoscaler_v2" in variables:
        yield "RAY_enable_autoscaler_v2: the operator sets it"
    if any(group["template"]["spec"].get("restartPolicy", "Never") != "Never" for group in groups):
        yield "restartPolicy: must be Never or left out with the autoscaler"
    if any(group.get("priority") for group in spec["workerGroupSpecs"]) and _version(spec) < (2, 56):
        yield "priority: needs Ray 2.56"


def _group(group: Document) -> Iterator[str]:
    start = group.get("rayStartParams", {})
    for name, value in start.items():
        if not isinstance(value, str):
            yield f"rayStartParams: {name} must be a string, not {value!r}"
    if "labels" in start:
        yield "rayStartParams: labels belong into the group's own field"
    if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & start.keys():
        yield "resources: either in rayStartParams or in the group's own field"
    if not group["template"]["spec"].get("containers"):
        yield "containers: there is none"
