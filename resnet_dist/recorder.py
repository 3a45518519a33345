"""What one trial writes to storage, and in which order. Only a run's first worker has a recorder."""

import json
from typing import Any

from resnet_dist import provenance, summaries
from resnet_dist.checkpoints import Checkpoints
from resnet_dist.configuration import TrainingConfig
from resnet_dist.storage import LAYOUT, Storage, TrialKeys
from resnet_dist.workers import Workers


class Recorder:
    """Writes a trial's records. The result comes last: with it the trial is finished."""

    def __init__(self, storage: Storage, experiment: str, name: str, config: TrainingConfig) -> None:
        self.storage = storage
        self.name = name
        self.config = config
        self.trial_id = config.trial_id()
        self.keys = TrialKeys(experiment, self.trial_id)
        self.checkpoints = Checkpoints(storage, self.keys.checkpoints, config.identity())
        self.provenance: dict[str, Any] = {}
        self.lines: dict[int, dict[str, Any]] = {}

    def result(self) -> dict[str, Any] | None:
        """The result record, if the trial is finished."""
        data = self.storage.get(self.keys.result)
        return json.loads(data) if data is not None else None

    def start(self, workers: Workers, data_fingerprint: str) -> None:
        """Write configuration and provenance, and take up the metrics lines of an earlier attempt."""
        earlier = json.loads(self.storage.get(self.keys.provenance) or b"{}")
        _, patch = provenance.running_source()
        self.provenance = {
            "layout": LAYOUT,
            "trial": self.trial_id,
            **provenance.describe(workers, data_fingerprint),
            "started": earlier.get("started", provenance.now()),
            "attempts": [*earlier.get("attempts", []), {"started": provenance.now(), "workers": workers.size}],
        }
        config = {"layout": LAYOUT, "trial": self.trial_id, "name": self.name, "config": self.config.to_dict()}
        self.storage.delete(self.keys.failure)
        self._put_json(self.keys.config, config)
        self._put_json(self.keys.provenance, self.provenance)
        if patch:
            self.storage.put(self.keys.source_patch, patch.encode())
        text = (self.storage.get(self.keys.metrics) or b"").decode()
        self.lines = {line["epoch"]: line for line in map(json.loads, text.splitlines())}

    def epoch(self, line: dict[str, Any], losses: list[float], rates: list[float]) -> None:
        """Write an epoch's TensorBoard segment and its line; each stands there once, in order."""
        every = self.config.run.summary_steps
        summaries.write_epoch(self.storage, self.keys, self.name, line, losses, rates, every)
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
        self._put_json(self.keys.result, result)
        self.checkpoints.delete_all()
        return result

    def fail(self, kind: str, reason: str) -> None:
        """Record that the trial ended without a result: `diverged`, or `error` for what another try may cure."""
        record_failure(self.storage, self.keys, kind, reason, len(self.provenance.get("attempts", [])))

    def _put_json(self, key: str, record: dict[str, Any]) -> None:
        self.storage.put(key, (json.dumps(record, indent=1) + "\n").encode())


def record_failure(storage: Storage, keys: TrialKeys, kind: str, reason: str, attempts: int) -> None:
    """Write `failure.json`."""
    record = {"layout": LAYOUT, "trial": keys.trial_id, "kind": kind, "reason": reason, "attempts": attempts}
    storage.put(keys.failure, (json.dumps(record, indent=1) + "\n").encode())
