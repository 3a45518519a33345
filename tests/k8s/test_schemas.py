"""What the overlays render is valid, strictly, for Kubernetes and for KubeRay; and the check catches what is not."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import ROOT, Document, documents, the
from tests.k8s.schemas import KUBERNETES, errors

Rendered = Callable[[str], list[Document]]


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_document_is_valid(overlay: list[Document], kubernetes: str) -> None:
    found = {f"{d['kind']}/{d['metadata']['name']}": errors(d, kubernetes) for d in overlay}
    assert len(found) == len(overlay), "two documents have the same kind and name"
    assert not {name: messages for name, messages in found.items() if messages}


def test_the_form_of_the_secret_is_valid() -> None:
    (secret,) = documents((ROOT / "k8s" / "secret.example.yaml").read_text())
    assert not errors(secret, KUBERNETES[0])


PLANTED: list[tuple[str, str, Callable[[Document], Any], str]] = [
    ("RayJob", "grid", lambda d: d["spec"].update(entryPoint="python"), "entryPoint"),
    (
        "RayJob",
        "grid",
        lambda d: d["spec"]["rayClusterSpec"]["headGroupSpec"].update(rayStartParam={}),
        "rayStartParam",
    ),
    ("RayJob", "grid", lambda d: d["spec"].update(backoffLimit="1"), "backoffLimit"),
    ("RayJob", "grid", lambda d: d["spec"]["deletionStrategy"].update(onSuccess={"policy": "DeleteSelf"}), "deletion"),
    ("RayCluster", "session", lambda d: _pod(d)["securityContext"].update(runAsNonroot=True), "runAsNonroot"),
    ("RayCluster", "session", lambda d: _pod(d)["volumes"].append({"name": "tmp", "emptyDir": {}}), "twice"),
    ("RayCluster", "session", lambda d: d["spec"]["headGroupSpec"]["rayStartParams"].update(a=0), "rayStartParams"),
    ("Deployment", "tensorboard", lambda d: d["spec"].update(replica=2), "replica"),
    ("NetworkPolicy", "job-server", lambda d: d["spec"].update(ingres=[]), "ingres"),
    ("ConfigMap", "resnet-dist-settings", lambda d: d["data"].update(A=1), "data.A"),
    ("Service", "tensorboard", lambda d: d.update(kind="Servise"), "no schema"),
    ("RayJob", "grid", lambda d: d["metadata"].update(lables={}), "lables"),
]


def _pod(cluster: Document) -> Document:
    spec: Document = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(("kind", "name", "plant", "says"), PLANTED, ids=[says for *_, says in PLANTED])
def test_a_planted_mistake_is_found(
    rendered: Rendered, kind: str, name: str, plant: Callable[[Document], Any], says: str
) -> None:
    document = the(rendered("gpu"), kind, name)
    assert not errors(document, KUBERNETES[0])
    plant(document)
    assert any(says in message for message in errors(document, KUBERNETES[0]))


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="given twice"):
        documents("a: 1\na: 2\n")
