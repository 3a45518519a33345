"""Checkpoints in storage: complete or absent.

A checkpoint is a state object and a manifest, `checkpoints/<step>/state.pt` and `checkpoints/<step>/manifest.json`.
The manifest holds the state's size and SHA-256 and is written last; without it the checkpoint does not exist. Older
ones are deleted only after the new one is complete.
"""

import hashlib
import io
import json
import logging
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from resnet_dist.errors import CheckpointError
from resnet_dist.file_kinds import ZIP_ERRORS
from resnet_dist.storage.interface import Storage

LOGGER = logging.getLogger(__name__)

KEEP = 2
"""Complete checkpoints kept: the newest, and the one before it in case the newest turns out to be damaged."""


def encode(state: dict[str, Any]) -> bytes:
    """A state of tensors and plain values as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class DamagedError(ValueError):
    """Bytes that are not the ones that were written."""


class NotAStateError(ValueError):
    """Something that torch has written, and no dictionary; the message says what it is."""


def decode(data: bytes) -> dict[str, Any]:
    """The state, on the CPU. No code in it is run: `weights_only`.

    Raises a `DamagedError` where a checksum tells that bytes have changed, a `NotAStateError`, and errors of many other
    kinds if it is no state.
    """
    _require_checksums(data)
    with warnings.catch_warnings(action="ignore"):  # of what was written by something else, which is refused below
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise NotAStateError(f"it is of type {type(state).__name__}, and no dictionary")
    return state


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from."""

    data: bytes
    """The state, as `decode` reads it."""
    metrics: list[dict[str, Any]]
    """Lines of metrics.jsonl up to it; empty in checkpoints of earlier versions, which have none."""


def _require_checksums(data: bytes) -> None:
    """Hold what torch has written, a ZIP archive, to the CRC-32 of its parts, of which torch reads none."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    try:
        damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()
    except ZIP_ERRORS as error:
        raise DamagedError(str(error)) from None
    if damaged is not None:
        raise DamagedError(f"bad CRC-32 of {damaged}")


class Checkpoints:
    """The checkpoints of one trial, below `prefix` (which ends in `/`)."""

    def __init__(self, storage: Storage, prefix: str, identity: dict[str, Any]) -> None:
        self.storage = storage
        self.prefix = prefix
        self.identity = identity
        self._keys: set[str] | None = None  # of what is there; a run asks storage once, and then knows

    def write(self, step: int, data: bytes, metrics: Sequence[dict[str, Any]] = ()) -> None:
        """Write the checkpoint of a step, with the metrics lines up to it; then delete all but the newest `KEEP`."""
        name = f"{self.prefix}{step:010d}/"
        manifest = {
            "step": step,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "identity": self.identity,
            "metrics": list(metrics),
        }
        self.storage.put(name + "state.pt", data)
        self.storage.put(name + "manifest.json", json.dumps(manifest, indent=1).encode())
        self._known().update({name + "state.pt", name + "manifest.json"})
        complete = self._steps()
        # What lies ahead of the run was damaged and passed over: it must not take the place of a sound one.
        kept = [found for found in complete if found <= step][:KEEP]
        for old in complete:
            if old not in kept:
                self._delete(old)

    def complete(self) -> list[int]:
        """Steps that have a complete checkpoint in storage, newest first."""
        self._keys = None
        return self._steps()

    def _known(self) -> set[str]:
        if self._keys is None:
            self._keys = {item.key for item in self.storage.list(self.prefix)}
        return self._keys

    def _steps(self) -> list[int]:
        names = [key.removeprefix(self.prefix).split("/") for key in self._known()]
        return sorted(
            (int(step) for step, *rest in names if rest == ["manifest.json"] and step.isdecimal()), reverse=True
        )

    def latest(self) -> Checkpoint | None:
        """The newest sound checkpoint. Damaged ones are named in the log and passed over."""
        for step in self.complete():
            name = f"{self.prefix}{step:010d}/"
            try:
                identity, found = self._read(name)
            except DamagedError as damage:
                LOGGER.warning("%s is damaged (%s) and passed over", name, damage)
                continue
            if differing := differences(identity, self.identity):
                raise CheckpointError(f"{name} belongs to another configuration: {', '.join(differing)} differ")
            return found
        return None

    def _read(self, name: str) -> tuple[dict[str, Any], Checkpoint]:
        """Identity and content of a checkpoint, checked."""
        manifest_bytes, data = self.storage.get(name + "manifest.json"), self.storage.get(name + "state.pt")
        try:
            manifest = json.loads(manifest_bytes or b"")
            identity, digest = dict(manifest["identity"]), manifest["sha256"]
            metrics = [dict(line) for line in manifest.get("metrics", ())]
        except (ValueError, KeyError, TypeError):
            raise DamagedError("its manifest cannot be read") from None
        if data is None:
            raise DamagedError("its state is missing")
        if hashlib.sha256(data).hexdigest() != digest:
            raise DamagedError("its state is not the one that was written")
        try:
            decode(data)
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError):
            raise DamagedError("its state holds something other than tensors and plain values") from None
        return identity, Checkpoint(data, metrics)

    def delete_all(self) -> None:
        """Remove every checkpoint, manifests first."""
        for step in self._steps():
            self._delete(step)
        for key in sorted(self._known()):  # states whose manifest was never written
            self._remove(key)

    def _delete(self, step: int) -> None:
        self._remove(f"{self.prefix}{step:010d}/manifest.json")
        self._remove(f"{self.prefix}{step:010d}/state.pt")

    def _remove(self, key: str) -> None:
        self.storage.delete(key)
        self._known().discard(key)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two nested configurations differ."""
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names
