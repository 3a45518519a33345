"""What whoever runs the cluster may apply beside an overlay: a queue and a quota in which the overlays have room."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest

from tests.k8s.rendering import ROOT, Document, documents, of_kind, pods, the
from tests.k8s.schemas import KUBERNETES, errors

Rendered = Callable[[str], list[Document]]
UNITS = {"Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "m": Fraction(1, 1000)}
QUEUE = documents((ROOT / "k8s" / "samples" / "queue.yaml").read_text())
(QUOTA,) = documents((ROOT / "k8s" / "samples" / "quota.yaml").read_text())


def _number(quantity: str) -> Fraction:
    unit = quantity.lstrip("0123456789")
    return Fraction(quantity.removesuffix(unit)) * (UNITS[unit] if unit else 1)


def _requests(overlay: list[Document]) -> tuple[Counter[str], Counter[str]]:
    """What all pods of an overlay ask for together, and what those of its RayJob do."""
    job = the(overlay, "RayJob", "grid")["spec"]["rayClusterSpec"]
    replicas = {f"RayJob/grid {group['groupName']}": group["replicas"] for group in job["workerGroupSpecs"]}
    every: Counter[str] = Counter()
    grids: Counter[str] = Counter()
    for pod in pods(overlay):
        number = replicas.get(pod.origin, 1)
        for total in (every, grids) if pod.origin.startswith("RayJob/grid") else (every,):
            total["pods"] += number
            for container in pod.containers:
                for name, quantity in container["resources"]["requests"].items():
                    total[name] += number * _number(quantity)
    return every, grids


def test_the_queue_has_room_for_the_grid_and_covers_all_that_it_asks_for(rendered: Rendered) -> None:
    overlay = rendered("kueue")
    _, asked = _requests(overlay)
    del asked["pods"]
    (group,) = the(QUEUE, "ClusterQueue", "resnet-dist")["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    quota = {resource["name"]: _number(resource["nominalQuota"]) for resource in flavor["resources"]}
    assert asked.keys() == quota.keys() == set(group["coveredResources"]), (
        "what Kueue does not count it does not let in"
    )
    assert all(asked[name] <= most for name, most in quota.items())
    assert flavor["name"] == of_kind(QUEUE, "ResourceFlavor")[0]["metadata"]["name"]


def test_the_queue_is_the_one_that_the_grid_waits_in(rendered: Rendered) -> None:
    overlay = rendered("kueue")
    (local,) = of_kind(QUEUE, "LocalQueue")
    job = the(overlay, "RayJob", "grid")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert "namespace" not in local["metadata"], "each team's is made by the same file"
    (queue,) = of_kind(QUEUE, "ClusterQueue")
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    namespace = of_kind(overlay, "Namespace")[0]["metadata"]["labels"]
    assert queue["spec"]["namespaceSelector"]["matchLabels"].items() <= namespace.items()


@pytest.mark.parametrize("name", ["local", "gpu"])
def test_the_quota_has_room_for_one_cluster_and_not_for_two(rendered: Rendered, name: str) -> None:
    assert errors(QUOTA, KUBERNETES[0]) == []
    every, grids = _requests(rendered(name))
    most = {key.removeprefix("requests."): _number(value) for key, value in QUOTA["spec"]["hard"].items()}
    assert all(every[resource] <= limit for resource, limit in most.items())
    if name == "gpu":
        assert every["nvidia.com/gpu"] + grids["nvidia.com/gpu"] > most["nvidia.com/gpu"]
