"""Strict JSON schemas of what the manifests hold: a field that is not in them is an error, a kind without one too."""

import functools
import importlib.resources
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from tests.k8s.rendering import ROOT, Document

KUBERNETES = ("1.32", "1.37")
"""Oldest and newest Kubernetes that the manifests are checked for."""


def kuberay_schemas() -> Path:
    """The folder of KubeRay's schemas; skips the test where there is none."""
    chosen = os.environ.get("KUBERAY_SCHEMAS")
    folder = Path(chosen) if chosen else ROOT.parent / "shared" / "k8s-schemas"
    if not chosen and not folder.is_dir():
        pytest.skip(reason="no schemas of KubeRay; set KUBERAY_SCHEMAS to the folder with rayjob-ray.io-v1.json")
    return folder


def errors(document: Document, kubernetes: str) -> list[str]:
    """What is wrong with a document, a line each: `path: what`."""
    api_version, kind = str(document.get("apiVersion")), str(document.get("kind"))
    found: list[str] = []
    if api_version == "ray.io/v1":
        validator = _kuberay(kuberay_schemas() / f"{kind.lower()}-ray.io-v1.json")
        found += _messages(validator, document)
        # KubeRay's schema leaves metadata to Kubernetes; any core kind brings the schema of that.
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document.get("metadata")}
    elif kind in ("PodMonitor", "PrometheusRule"):  # no registry at hand ships the Prometheus operator's schema
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document.get("metadata")}
    core = _core(document["kind"], document["apiVersion"], kubernetes)
    if core is None:
        return [*found, f"no schema for {api_version} {kind}"]
    return found + _messages(core, document)


def _messages(validator: Any, document: Document) -> list[str]:
    return [
        f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:200]}"
        for error in validator.iter_errors(document)
    ]


@functools.cache
def _definitions(kubernetes: str) -> Any:
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    text = (folder / f"v{kubernetes}.0-local-strict" / "_definitions.json").read_text()
    return Resource.from_contents(json.loads(text))


@functools.cache
def _core(kind: str, api_version: str, kubernetes: str) -> Any:
    """Validator of a kind that Kubernetes itself has; None if it has no such kind."""
    group, _, version = api_version.rpartition("/")
    name = f"{kind.lower()}-{group.split('.')[0]}-{version}" if group else f"{kind.lower()}-{version}"
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    file = folder / f"v{kubernetes}.0-local-strict" / f"{name}.json"
    if not file.is_file():
        return None
    schema = json.loads(file.read_text())
    registry: Any = Resource.from_contents(schema) @ Registry()
    registry = _definitions(kubernetes) @ registry
    return jsonschema.Draft202012Validator(schema, registry=registry)


def _unique(validator: Any, keys: list[str], items: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """`x-uniqueKeys`: no two items of a list that the API server takes for a map have the same keys."""
    seen: set[tuple[Any, ...]] = set()
    for item in items if isinstance(items, list) else []:
        key = tuple(item.get(name) for name in keys)
        if key in seen:
            yield jsonschema.ValidationError(f"{key} is there twice")
        seen.add(key)


@functools.cache
def _kuberay(file: Path) -> Any:
    strict = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"x-uniqueKeys": _unique})  # type: ignore[no-untyped-call]
    return strict(json.loads(file.read_text()))
