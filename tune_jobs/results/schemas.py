"""JSON schemas of the records in storage: files of the package, for whoever reads the bucket with tools of their own.

`settings.json` follows from the configuration's dataclasses; `python -m tune_jobs.results.schemas` writes it anew when
a setting has been added. The others are written by hand.
"""

import json
import types
import typing
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from resnet_dist.configuration.sections import field_docs, field_types
from resnet_dist.configuration.training import TrainingConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
RECORDS: dict[str, str] = {
    "experiment.json": "experiment",
    "config.json": "config",
    "provenance.json": "provenance",
    "metrics.jsonl": "metrics",
    "result.json": "result",
    "failure.json": "failure",
    "manifest.json": "checkpoint",
}
"""Schema of each record, by the last part of its key; for `metrics.jsonl` it is that of a line."""


@cache
def record_schema(name: str) -> dict[str, Any]:
    """A schema of the package: one of `RECORDS`, or `settings`, to which others refer."""
    return dict(json.loads((resources.files("tune_jobs") / "schemas" / f"{name}.json").read_text("utf-8")))


def settings_schema() -> dict[str, Any]:
    """The schema of a configuration, from its dataclasses.

    No setting is required: a record has the settings of the version that wrote it, and the others had no effect then.
    """
    sections = {}
    for section, kind in field_types(TrainingConfig).items():
        docs = field_docs(kind)
        properties = {
            name: {"description": docs[name], **_value_schema(hint)} for name, hint in field_types(kind).items()
        }
        sections[section] = {
            "description": (kind.__doc__ or "").strip(),
            "type": "object",
            "properties": properties,
        }
    return {
        "$schema": DIALECT,
        "$id": "settings.json",
        "title": "Settings of a run",
        "description": "The configuration that stands in config.json and, for each trial, in experiment.json.",
        "type": "object",
        "properties": sections,
        "required": [section for section in sections if section != "code"],  # older records have none
    }


def _value_schema(hint: Any) -> dict[str, Any]:
    if get_origin(hint) in (types.UnionType, typing.Union):
        return {"anyOf": [_value_schema(option) for option in get_args(hint)]}
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _value_schema(get_args(hint)[0])}
    names = {int: "integer", float: "number", bool: "boolean", str: "string", types.NoneType: "null"}
    return {"type": names[hint]}


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    (Path(__file__).parents[1] / "schemas" / "settings.json").write_text(schema_text(settings_schema()))
