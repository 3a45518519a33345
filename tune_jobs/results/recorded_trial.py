"""One trial as storage has it, found by its id or the beginning of it."""

import json
from dataclasses import dataclass
from typing import Any

from cluster.storage.keys import BrowsableStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import StorageError, UserError
from resnet_dist.storage.interface import TrialKeys


@dataclass(frozen=True)
class RecordedTrial:
    """A trial's records, read once."""

    storage: BrowsableStorage
    experiment: str
    trial_id: str
    name: str
    config: TrainingConfig
    provenance: dict[str, Any]
    """`provenance.json`; empty if there is none."""
    patch: bytes | None
    metrics: tuple[dict[str, Any], ...]
    """Lines of `metrics.jsonl`, in order of epochs."""
    result: dict[str, Any] | None
    """`result.json`; None unless the trial is finished."""
    model: bytes | None
    """`model.pt`."""


def find_trial(storage: BrowsableStorage, wanted: str) -> RecordedTrial:
    """The trial of which `wanted` is `<experiment>/<trial-id>`, or the beginning of one trial's id alone.

    Raises a `UserError` that lists the candidates unless there is exactly one, and a `StorageError` if one of the
    trial's records cannot be understood.
    """
    experiment, _, start = wanted.rpartition("/")
    if not start.strip("."):
        raise UserError(f"TRIAL {wanted!r}: give EXPERIMENT/ID, or the beginning of an id")
    experiments = (experiment,) if experiment else storage.folders("")
    found = [
        (name, trial_id)
        for name in experiments
        if not name.startswith(".")
        for trial_id in storage.folders(f"{name}/trials/")
        if trial_id.startswith(start)
    ]
    exact = [pair for pair in found if pair[1] == start]
    found = exact or found
    if not found:
        raise UserError(
            f"{wanted}: no such trial in {storage.uri}; grid status lists the ids of an experiment's trials"
        )
    if len(found) > 1:
        shown = ", ".join("/".join(pair) for pair in found[:8]) + (", …" if len(found) > 8 else "")
        raise UserError(f"{wanted}: {len(found)} trials in {storage.uri} begin so; give one of {shown}")
    return _read(storage, *found[0])


def _read(storage: BrowsableStorage, experiment: str, trial_id: str) -> RecordedTrial:
    keys = TrialKeys(experiment, trial_id)

    def record(key: str) -> dict[str, Any] | None:
        data = storage.get(key)
        if data is None:
            return None
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError):
            raise StorageError(f"{storage.uri}/{key}: is corrupt") from None

    written = record(keys.config)
    if written is None or not isinstance(written.get("config"), dict):
        raise StorageError(f"{storage.uri}/{keys.config}: is missing or holds no configuration; it cannot be run again")
    try:
        metrics = tuple(dict(json.loads(line)) for line in (storage.get(keys.metrics) or b"").splitlines())
    except (ValueError, TypeError):
        raise StorageError(f"{storage.uri}/{keys.metrics}: is corrupt") from None
    return RecordedTrial(
        storage=storage,
        experiment=experiment,
        trial_id=trial_id,
        name=str(written.get("name", trial_id)),
        config=TrainingConfig.from_dict(written["config"]),
        provenance=record(keys.provenance) or {},
        patch=storage.get(keys.source_patch),
        metrics=metrics,
        result=record(keys.result),
        model=storage.get(keys.model),
    )
