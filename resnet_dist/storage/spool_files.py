"""A write to storage as a file on local disk: a line of JSON that says what it is, then the content."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

Kind = Literal["put", "grow", "delete"]

PARTIAL = ".partial"
"""End of the name of a file that is not whole."""


def digest_of(data: bytes | None) -> str:
    """SHA-256 of an object's content; empty where there is no object."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def save(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f"{path.name}-{os.getpid()}{PARTIAL}")
    partial.write_bytes(data)
    partial.replace(path)


def save_write(path: Path, header: dict[str, Any], data: bytes) -> str:
    """Write one write's file; returns the digest of its content."""
    digest = hashlib.sha256(data).hexdigest()
    save(path, json.dumps({**header, "sha256": digest}).encode() + b"\n" + data)
    return digest


def load_write(path: Path) -> tuple[dict[str, Any], bytes]:
    """What `save_write` was given, with the digest as `sha256`. Raises a `ValueError` if the file is damaged."""
    header, _, data = path.read_bytes().partition(b"\n")
    said = json.loads(header)
    if not isinstance(said, dict) or said.get("sha256") != hashlib.sha256(data).hexdigest():
        raise ValueError(f"{path} is damaged")
    return said, data
