"""What one trial writes to storage, and in which order. Only a run's first worker has a recorder."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from resnet_dist import custom_code as custom
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import StorageError
from resnet_dist.records import provenance
from resnet_dist.records.checkpoints import Checkpoints
from resnet_dist.records.source_code import running_source
from resnet_dist.storage.interface import LAYOUT, Storage, TrialKeys
from resnet_dist.summaries import epochs as summaries
from resnet_dist.summaries.epochs import Observation
from resnet_dist.summaries.event_files import EventFiles
from resnet_dist.workers import Workers

ATTEMPT = ("workers", "threads", "commit", "dirty", "patch_sha256", "torch", "host", "device")
"""What is kept of each attempt at a trial; the rest of `provenance.json` speaks of the last."""


class Recorder:
    """Writes a trial's records. The result comes last: with it the trial is finished."""

    def __init__(
        self, storage: Storage, experiment: str, name: str, config: TrainingConfig, scheduler: str = "fifo"
    ) -> None:
        self.storage = storage
        self.name = name
        self.config = config
        self.scheduler = scheduler
        self.trial_id = config.trial_id()
        self.keys = TrialKeys(experiment, self.trial_id)
        self.checkpoints = Checkpoints(storage, self.keys.checkpoints, config.identity())
        self.provenance: dict[str, Any] = {}
        self.machines: list[dict[str, str]] = []
        """Host and device of each worker, where whoever starts the run has asked them."""
        self.lines: dict[int, dict[str, Any]] = {}
        self.events: EventFiles | None = None

    def result(self) -> dict[str, Any] | None:
        """The result record, if the trial is finished. Raises a `StorageError` if it cannot be used."""
        record = self._read_json(self.keys.result)
        if record is not None and record.get("trial") != self.trial_id:
            raise self._corrupt(self.keys.result)
        return record

    def start(self, workers: Workers, data_fingerprint: str) -> None:
        """Write configuration and provenance, and take up the name and the metrics lines of an earlier attempt."""
        self.name = self._name_of_events()
        self.lines = self._earlier_lines()
        earlier = self._read_json(self.keys.provenance) or {}
        described = provenance.describe(workers, data_fingerprint)
        attempt = {name: described[name] for name in ATTEMPT}
        attempts = [*earlier.get("attempts", []), {"started": provenance.now(), **attempt}]
        self.provenance = {
            "layout": LAYOUT,
            "trial": self.trial_id,
            **described,
            "machines": self.machines or [{name: described[name] for name in ("host", "device")}],
            # Epochs of an earlier attempt count: what they ran with does not become clean by another commit.
            "dirty": any(one.get("dirty") for one in attempts),
            "started": earlier.get("started", provenance.now()),
            **self._code(),
            "attempts": attempts,
        }
        config = {"layout": LAYOUT, "trial": self.trial_id, "name": self.name, "config": self.config.to_dict()}
        self.storage.delete(self.keys.failure)
        self._put_json(self.keys.config, config)
        self._put_json(self.keys.provenance, self.provenance)
        self._put_patch(running_source().patch, described["patch_sha256"])
        self.events = EventFiles(self.storage, self.keys, self.name, self.config.run.epochs)
        if earlier:
            self.events.take_up(line["step"] for line in self.lines.values())

    def epoch(
        self,
        line: dict[str, Any],
        losses: list[float],
        rates: list[float],
        observations: Sequence[Observation] = (),
    ) -> None:
        """Write an epoch's TensorBoard events and its line; each stands there once, in order."""
        assert self.events, "start comes first"
        summaries.write_epoch(self.events, line, losses, rates, self.config.run.summary_steps, observations)
        self.lines[line["epoch"]] = line
        text = "".join(json.dumps(self.lines[epoch]) + "\n" for epoch in sorted(self.lines))
        self.storage.put(self.keys.metrics, text.encode())

    def finish(self, weights: bytes, summary: dict[str, Any]) -> dict[str, Any]:
        """Write final weights, provenance and, last, the result."""
        self.storage.put(self.keys.model, weights)
        self._put_json(self.keys.provenance, self.provenance | {"finished": provenance.now()})
        result = {"layout": LAYOUT, "trial": self.trial_id, "name": self.name, **summary}
        result["best_top1_error"] = min(line["top1_error"] for line in self.lines.values())
        result["attempts"] = len(self.provenance["attempts"])
        if self.scheduler != "fifo":
            result["scheduler"] = self.scheduler
        self._put_json(self.keys.result, result)
        self.checkpoints.delete_all()
        return result

    def fail(self, kind: str, reason: str) -> None:
        """Record that the trial ended without a result: `diverged`, or `error` for what another try may cure."""
        record_failure(self.storage, self.keys, kind, reason, len(self.provenance.get("attempts", [])))

    def _code(self) -> dict[str, Any]:
        """What provenance says of code of the user's own: names and text."""
        if not (names := custom.named(self.config)):
            return {}
        modules = custom.part(custom.installed(), names.values())
        return {"code": {"names": names, "fingerprint": custom.fingerprint(modules), "modules": dict(modules)}}

    def _put_patch(self, patch: bytes, digest: str | None) -> None:
        """Write the patch of this attempt; another one, of an earlier attempt, stays beside it under its hash."""
        older = self.storage.get(self.keys.source_patch)
        if older is not None and (older_digest := hashlib.sha256(older).hexdigest()) != digest:
            self.storage.put(f"{self.keys.prefix}source-{older_digest[:12]}.patch", older)
            self.storage.delete(self.keys.source_patch)
        if patch:
            self.storage.put(self.keys.source_patch, patch)

    def _name_of_events(self) -> str:
        """Name of the trial's curves in TensorBoard.

        A name comes from what varies in an experiment, so an edited experiment may give a trial another one, or give
        its old one to another trial. An attempt goes on under the name of the first, and a name whose curves are
        another trial's is not taken.
        """
        earlier = self._read_json(self.keys.config)
        if earlier is not None:
            return str(earlier.get("name", self.name))
        taken = self.storage.list(self.keys.event_file(self.name, ""))
        return f"{self.name}-{self.trial_id[:8]}" if taken else self.name

    def _earlier_lines(self) -> dict[int, dict[str, Any]]:
        text = self.storage.get(self.keys.metrics) or b""
        try:
            return {line["epoch"]: line for line in map(json.loads, text.splitlines())}
        except (ValueError, KeyError, TypeError):
            raise self._corrupt(self.keys.metrics) from None

    def _read_json(self, key: str) -> dict[str, Any] | None:
        data = self.storage.get(key)
        if data is None:
            return None
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError):
            raise self._corrupt(key) from None

    def _corrupt(self, key: str) -> StorageError:
        place = f"{self.storage.uri.rstrip('/')}/{self.keys.prefix}"
        return StorageError(
            f"{place}: {key.removeprefix(self.keys.prefix)} is corrupt; delete this folder and run the trial again"
        )

    def _put_json(self, key: str, record: dict[str, Any]) -> None:
        self.storage.put(key, (json.dumps(record, indent=1) + "\n").encode())


def record_failure(storage: Storage, keys: TrialKeys, kind: str, reason: str, attempts: int) -> None:
    """Write `failure.json`."""
    record = {"layout": LAYOUT, "trial": keys.trial_id, "kind": kind, "reason": reason, "attempts": attempts}
    if kind == "early-stopped":
        record["early_stopped"] = True
    storage.put(keys.failure, (json.dumps(record, indent=1) + "\n").encode())
