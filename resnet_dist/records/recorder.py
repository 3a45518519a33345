"""What one trial writes to storage, and in which order. Only a run's first worker has a recorder."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from resnet_dist import custom_code
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import StorageError
from resnet_dist.records import provenance, trial_record
from resnet_dist.records.checkpoints import Checkpoints
from resnet_dist.records.git_state import running_source
from resnet_dist.storage.interface import LAYOUT, Storage, TrialKeys
from resnet_dist.summaries.curves import Observation, write_epoch
from resnet_dist.summaries.event_files import EventFiles
from resnet_dist.workers import Workers

T = TypeVar("T")

ATTEMPT = ("workers", "threads", "commit", "dirty", "patch_sha256", "torch", "host", "device")
"""What is kept of each attempt at a trial; the rest of `provenance.json` speaks of the last."""


class Recorder:
    """Writes a trial's records. The result comes last: with it the trial is finished."""

    def __init__(
        self,
        storage: Storage,
        experiment: str,
        name: str,
        config: TrainingConfig,
        scheduler: str = "fifo",
        code: custom_code.Modules | None = None,
    ) -> None:
        """`code` has the modules of the user's own that the configuration names, if it names any."""
        self.storage = storage
        self.name = name
        self.config = config
        self.scheduler = scheduler
        self.code = code or {}
        self.trial_id = config.trial_id()
        self.keys = TrialKeys(experiment, self.trial_id)
        self.checkpoints = Checkpoints(storage, self.keys.checkpoints, config.identity())
        self.provenance: dict[str, Any] = {}
        self.machines: list[dict[str, str]] = []
        """Host and device of each worker, where whoever starts the run has asked them."""
        self.images: dict[str, int] = {}
        """How many there are to train on, held out and to test on, and of how many classes, likewise."""
        self.lines: dict[int, dict[str, Any]] = {}
        self.events: EventFiles | None = None
        self._written: dict[str, bytes] = {}  # newest content of each file on which the result will rely, by key

    def result(self) -> dict[str, Any] | None:
        """The numbers of the result, if the trial is finished and has not diverged. A `StorageError` if unusable."""
        found = self._read(self.keys.result, lambda data: trial_record.parse_result(data, self.trial_id))
        return None if found is None or trial_record.diverged(found) else trial_record.summary(found)

    def start(self, workers: Workers, data_fingerprint: str) -> bytes | None:
        """Begin an attempt: write configuration and provenance, and go on under the name of an earlier one.

        Returns the newest checkpoint, if there is one; its metrics lines are taken up with it.
        """
        self.name = self._name_of_events()
        checkpoint = self.checkpoints.latest()
        lines = self._read(self.keys.metrics, trial_record.parse_metrics) or []
        lines += checkpoint.metrics if checkpoint else []  # an older metrics.jsonl may have reached storage late
        self.lines = {line["epoch"]: line for line in lines}
        earlier = self._read(self.keys.provenance, trial_record.parse) or {}
        described = provenance.describe(workers, data_fingerprint)
        attempt = {name: described[name] for name in (*ATTEMPT, "side_by_side") if name in described}
        attempts = [*earlier.get("attempts", []), {"started": provenance.now(), **attempt}]
        self.provenance = {
            "layout": LAYOUT,
            "trial": self.trial_id,
            **described,
            "machines": self.machines or [{name: described[name] for name in ("host", "device")}],
            **({"images": self.images} if self.images else {}),
            # Epochs of an earlier attempt count: what they ran with does not become clean by another commit.
            "dirty": any(one.get("dirty") for one in attempts),
            "started": earlier.get("started", provenance.now()),
            **self._code(),
            "attempts": attempts,
        }
        config = {"layout": LAYOUT, "trial": self.trial_id, "name": self.name, "config": self.config.to_dict()}
        self.storage.delete(self.keys.failure)
        self._put(self.keys.config, trial_record.encode(config))
        self._put(self.keys.provenance, trial_record.encode(self.provenance))
        self._put_patch(running_source().patch, described["patch_sha256"])
        self.events = EventFiles(self.storage, self.keys, self.name, self.config.run.epochs)
        if earlier:
            self.events.take_up(line["step"] for line in self.lines.values())
        return checkpoint.data if checkpoint else None

    def epoch(
        self,
        line: dict[str, Any],
        losses: list[float],
        rates: list[float],
        observations: Sequence[Observation] = (),
    ) -> None:
        """Write an epoch's TensorBoard events and its line; each stands there once, in order."""
        assert self.events, "start comes first"
        write_epoch(self.events, line, losses, rates, self.config.run.summary_steps, observations)
        self.lines[line["epoch"]] = line
        self._put(self.keys.metrics, trial_record.encode_metrics(self._ordered_lines()))

    def checkpoint(self, step: int, state: bytes) -> None:
        """Write the checkpoint of a step, with the lines of the epochs before it."""
        self.checkpoints.write(step, state, [line for line in self._ordered_lines() if line["step"] <= step])

    def finish(self, weights: bytes, summary: dict[str, Any]) -> dict[str, Any]:
        """Write final weights, provenance and, last, the result, whose numbers are returned."""
        self._put(self.keys.model, weights)
        self.provenance["finished"] = provenance.now()
        self._put(self.keys.provenance, trial_record.encode(self.provenance))
        lines = self._ordered_lines()
        if self.keys.metrics not in self._written:  # no epoch was left to run
            self._put(self.keys.metrics, trial_record.encode_metrics(lines))
        result = {"layout": LAYOUT, "trial": self.trial_id, "name": self.name, **summary}
        result["best_top1_error"] = min(line["top1_error"] for line in lines if "top1_error" in line)
        result["attempts"] = len(self.provenance["attempts"])
        totals = self.storage.counts.totals()
        result["storage_requests"] = sum(totals.requests.values()) + totals.waiting_writes
        result["storage_bytes"] = totals.sent + totals.waiting_bytes
        if self.scheduler != "fifo":
            result["scheduler"] = self.scheduler
        named = {key.removeprefix(self.keys.prefix): data for key, data in self._written.items()}
        files = trial_record.describe_files(named)
        parts = {"provenance": self.provenance, "files": files, "metrics": lines}
        self.storage.put(self.keys.result, trial_record.encode_result(result | parts))
        self.checkpoints.delete_all()
        return result

    def fail(self, kind: str, reason: str) -> None:
        """Record that the trial ended without a result: `diverged`, or `error` for what another try may cure."""
        record_failure(self.storage, self.keys, kind, reason, len(self.provenance.get("attempts", [])))

    def _code(self) -> dict[str, Any]:
        """What provenance says of code of the user's own: names and text."""
        if not (names := custom_code.named(self.config)):
            return {}
        modules = custom_code.part(self.code, names.values())
        return {
            "code": {
                "names": names,
                "fingerprint": custom_code.fingerprint(modules),
                "modules": dict(modules),
                "packages": custom_code.packages(modules),
            }
        }

    def _put_patch(self, patch: bytes, digest: str | None) -> None:
        """Write the patch of this attempt; another one, of an earlier attempt, stays beside it under its hash."""
        older = self.storage.get(self.keys.source_patch)
        if older is not None and (older_digest := hashlib.sha256(older).hexdigest()) != digest:
            self.storage.put(f"{self.keys.prefix}source-{older_digest[:12]}.patch", older)
            self.storage.delete(self.keys.source_patch)
        if patch:
            self._put(self.keys.source_patch, patch)

    def _name_of_events(self) -> str:
        """Name of the trial's curves in TensorBoard.

        A name comes from what varies in an experiment, so an edited experiment may give a trial another one, or give
        its old one to another trial. An attempt goes on under the name of the first, and a name whose curves are
        another trial's is not taken.
        """
        earlier = self._read(self.keys.config, trial_record.parse)
        if earlier is not None:
            return str(earlier.get("name", self.name))
        taken = self.storage.list(self.keys.event_file(self.name, ""))
        return f"{self.name}-{self.trial_id[:8]}" if taken else self.name

    def _ordered_lines(self) -> list[dict[str, Any]]:
        return [self.lines[epoch] for epoch in sorted(self.lines)]

    def _read(self, key: str, parse: Callable[[bytes], T]) -> T | None:
        data = self.storage.get(key)
        try:
            return None if data is None else parse(data)
        except (ValueError, KeyError, TypeError):
            raise self._corrupt(key) from None

    def _corrupt(self, key: str) -> StorageError:
        place = f"{self.storage.uri.rstrip('/')}/{self.keys.prefix}"
        return StorageError(
            f"{place}: {key.removeprefix(self.keys.prefix)} is corrupt; delete this folder and run the trial again"
        )

    def _put(self, key: str, data: bytes) -> None:
        """Write a file whose digest the result will have."""
        self._written[key] = data
        self.storage.put(key, data)


def record_failure(storage: Storage, keys: TrialKeys, kind: str, reason: str, attempts: int) -> None:
    """Write `failure.json`."""
    record = {"layout": LAYOUT, "trial": keys.trial_id, "kind": kind, "reason": reason, "attempts": attempts}
    if kind == "early-stopped":
        record["early_stopped"] = True
    storage.put(keys.failure, trial_record.encode(record))
