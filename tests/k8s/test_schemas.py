"""What the overlays render is valid, strictly, for Kubernetes and for KubeRay."""

import pytest

from tests.k8s.rendering import ROOT, Document, documents
from tests.k8s.schemas import KUBERNETES, errors


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_every_document_is_valid(overlay: list[Document], kubernetes: str) -> None:
    found = {f"{d['kind']}/{d['metadata']['name']}": errors(d, kubernetes) for d in overlay}
    assert len(found) == len(overlay), "two documents have the same kind and name"
    assert not {name: messages for name, messages in found.items() if messages}


def test_the_form_of_the_secret_is_valid() -> None:
    (secret,) = documents((ROOT / "k8s" / "secret.example.yaml").read_text())
    assert not errors(secret, KUBERNETES[0])


def test_a_field_that_there_is_not_is_an_error() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": []}}
    assert any("port" in message for message in errors(service, KUBERNETES[0]))
