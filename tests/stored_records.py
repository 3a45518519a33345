"""Holds storage to the package's schemas, strictly: what they do not describe is a fault."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from resnet_dist.storage.interface import Storage
from tune_jobs.results.schemas import RECORDS, record_schema

UNCHECKED = ("model.pt", "state.pt")


@cache
def strict_validator(name: str) -> Draft202012Validator:
    """A validator of a schema under which no object has a property that is not described."""
    referred = ("settings", "provenance", "metrics")
    registry: Registry[Any] = Registry().with_resources(
        (f"{name}.json", Resource.from_contents(closed(record_schema(name)))) for name in referred
    )
    return Draft202012Validator(closed(record_schema(name)), registry=registry)


def closed(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever it describes properties."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result["additionalProperties"] = False
    return result


def records(key: str, data: bytes) -> list[Any]:
    """The records in an object: one, or those of the lines."""
    return [json.loads(line) for line in data.splitlines()] if key.endswith(".jsonl") else [json.loads(data)]


def faults(key: str, data: bytes) -> Iterator[str]:
    """What is wrong with an object that has a schema."""
    for record in records(key, data):
        for error in strict_validator(RECORDS[key.rpartition("/")[2]]).iter_errors(record):
            yield f"{key}: {error.json_path}: {error.message}"


def faults_of_experiment(storage: Storage, experiment: str) -> list[str]:
    """What is wrong with the records of an experiment; anything else among them is named too."""
    found: list[str] = []
    for item in storage.list(f"{experiment}/"):
        folder, _, name = item.key.removeprefix(f"{experiment}/").rpartition("/")
        if name in RECORDS and folder.partition("/")[0] in ("", "trials"):
            data = storage.get(item.key)
            assert data is not None
            found += faults(item.key, data)
        elif folder.startswith("trials/") and name not in UNCHECKED and not name.endswith(".patch"):
            found.append(f"{item.key}: is no record of the layout")
    return found
