"""One trial as storage has it, found by its id or the beginning of it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.storage.keys import BrowsableStorage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import StorageError, UserError
from resnet_dist.records import trial_record
from resnet_dist.storage.interface import TrialKeys

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedTrial:
    """A trial's records, read once."""

    storage: BrowsableStorage
    experiment: str
    trial_id: str
    name: str
    config: TrainingConfig
    provenance: dict[str, Any]
    """From `result.json` where it has it, else `provenance.json`; empty if there is none."""
    patch: bytes | None
    metrics: tuple[dict[str, Any], ...]
    """The line of each epoch, in order: those of `result.json` where it has them, else those of `metrics.jsonl`."""
    result: dict[str, Any] | None
    """`result.json`; None unless the trial is finished and did not diverge."""
    model: bytes | None
    """`model.pt`."""

    @property
    def place(self) -> str:
        """Where its records lie, for people."""
        return f"{self.storage.uri}/{TrialKeys(self.experiment, self.trial_id).prefix}"

    def require_sound_model(self) -> bytes:
        """`model.pt`; a `StorageError` if it is missing, or is not the file with which the result was written."""
        place = f"{self.place}model.pt"
        if self.model is None:
            raise StorageError(f"{place}: is missing")
        trial_record.require_the_results(self.result or {}, "model.pt", self.model, place)
        return self.model


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

    def record(key: str, parse: Callable[[bytes], Any] = trial_record.parse) -> Any:
        data = storage.get(key)
        try:
            return None if data is None else parse(data)
        except (ValueError, KeyError, TypeError):
            raise StorageError(f"{storage.uri}/{key}: is corrupt") from None

    written = record(keys.config)
    if written is None or not isinstance(written.get("config"), dict):
        raise StorageError(f"{storage.uri}/{keys.config}: is missing or holds no configuration; it cannot be run again")
    result = record(keys.result, lambda data: trial_record.parse_result(data, trial_id))
    if result and trial_record.is_complete(result):
        provenance, metrics = result["provenance"], result["metrics"]
        for name in ("metrics.jsonl", "provenance.json"):
            if not trial_record.is_the_results(result, name, storage.get(keys.prefix + name)):
                LOGGER.warning("%s/%s%s: is not the file of its result, which is used", storage.uri, keys.prefix, name)
    else:
        provenance, metrics = record(keys.provenance) or {}, record(keys.metrics, trial_record.parse_metrics) or []
    patch = storage.get(keys.source_patch)
    trial_record.require_the_results(result or {}, "source.patch", patch, f"{storage.uri}/{keys.source_patch}")
    return RecordedTrial(
        storage=storage,
        experiment=experiment,
        trial_id=trial_id,
        name=str(written.get("name", trial_id)),
        config=TrainingConfig.from_dict(written["config"]),
        provenance=provenance,
        patch=patch,
        metrics=tuple(metrics),
        result=None if result and trial_record.diverged(result) else result,
        model=storage.get(keys.model),
    )
