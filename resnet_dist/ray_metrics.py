"""What a trial is doing, as Ray metrics: every Ray node serves them for Prometheus, with `ray_` before the name.

Only a trial's first worker reports, and only where Ray runs. Ray forgets a gauge that has not been set for two of its
report intervals (20 s), so a thread sets them again and again; a step itself costs no more than noting the time. With
that, gauges of a trial disappear with it, and what Prometheus has to hold grows with the trials that run at a time.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.records.recorder import Recorder
from resnet_dist.storage.sending import SpooledStorage
from resnet_dist.threads import repeated

INTERVAL = 5.0
"""Seconds between two reports; Ray collects them every 10."""
LABELS = ("experiment", "trial", "name")
"""`name` is the trial's in TensorBoard and reports: one for each trial, so it makes no more series."""
REQUEST_LABELS = (*LABELS, "operation")
GAUGES = {
    "resnet_dist_images_per_second": "Images trained on per second, over all workers of the trial",
    "resnet_dist_step_seconds": "Seconds of one update of the weights",
    "resnet_dist_epoch": "Epochs finished",
    "resnet_dist_epochs": "Epochs that the trial has in all",
    "resnet_dist_test_error": "Top-1 error on the test set after the last epoch, as a fraction",
    "resnet_dist_retries": "Earlier attempts at the trial",
    "resnet_dist_spool_bytes": "Bytes of records that have not reached storage yet",
}
COUNTERS = {
    "resnet_dist_storage_requests": "Requests to the storage server",
    "resnet_dist_storage_retries": "Requests to the storage server that had to be sent again",
}
"""Ray appends `_total`. Counters stay until their node goes: nothing of them is lost with a trial's end."""


class TrialMetrics:
    """The metrics of one trial while it trains in this process."""

    def __init__(self, recorder: Recorder, storage: SpooledStorage, config: TrainingConfig) -> None:
        from ray.util.metrics import Counter, Gauge

        self._recorder = recorder
        self._storage = storage
        self._batch_size = config.data.batch_size
        self._gauges = {name: Gauge(name, text, LABELS) for name, text in GAUGES.items()}
        self._requests = Counter(
            "resnet_dist_storage_requests", COUNTERS["resnet_dist_storage_requests"], REQUEST_LABELS
        )
        self._retries = Counter("resnet_dist_storage_retries", COUNTERS["resnet_dist_storage_retries"], LABELS)
        self._counted: dict[str, int] = {}
        """Requests by what they do, and retries, that Ray has been told of."""
        self._values: dict[str, float] = {"resnet_dist_epochs": config.run.epochs}
        self._lock = threading.Lock()
        self._newest: tuple[int, float] | None = None
        """The newest step, and when it ended."""
        self._earlier: tuple[int, float] | None = None
        """The same of the step that the next rate is measured from; evaluations and checkpoints lie before it."""

    def on_step(self, step: int, loss: Any) -> None:
        """Take note of an update that has ended."""
        self._newest = (step, time.perf_counter())
        if self._earlier is None:
            self._earlier = self._newest

    def on_epoch(self, line: dict[str, Any]) -> None:
        """Take over an epoch's metrics line, and report it."""
        with self._lock:
            self._earlier = None
            self._set_rate(line["images_per_second"])
            self._values["resnet_dist_epoch"] = line["epoch"]
            if "top1_error" in line:
                self._values["resnet_dist_test_error"] = line["top1_error"]
        self.report()

    def report(self) -> None:
        """Hand the newest values to Ray."""
        with self._lock:
            earlier, newest = self._earlier, self._newest
            if earlier and newest and newest[0] > earlier[0]:
                self._earlier = newest
                self._set_rate(self._batch_size * (newest[0] - earlier[0]) / (newest[1] - earlier[1]))
            attempts = len(self._recorder.provenance.get("attempts", ()))
            if attempts:  # none before the trial's records are begun
                self._values["resnet_dist_retries"] = attempts - 1
            # The recorder may have found that the trial had another name before.
            labels = dict(
                zip(LABELS, (self._recorder.keys.experiment, self._recorder.trial_id, self._recorder.name), strict=True)
            )
            self._values["resnet_dist_spool_bytes"] = self._storage.counts.totals().waiting_bytes
            for name, value in self._values.items():
                self._gauges[name].set(value, labels)
            self._count(labels)

    def _count(self, labels: dict[str, str]) -> None:
        totals = self._storage.counts.totals()
        for operation, requests in totals.requests.items():
            if new := requests - self._counted.get(operation, 0):
                self._requests.inc(new, labels | {"operation": operation})
                self._counted[operation] = requests
        if new := totals.retries - self._counted.get("again", 0):
            self._retries.inc(new, labels)
            self._counted["again"] = totals.retries

    def _set_rate(self, images_per_second: float) -> None:
        if images_per_second == 0:  # rounded
            return
        self._values["resnet_dist_images_per_second"] = images_per_second
        self._values["resnet_dist_step_seconds"] = self._batch_size / images_per_second


@contextmanager
def reported(recorder: Recorder, storage: SpooledStorage, config: TrainingConfig) -> Iterator[TrialMetrics | None]:
    """Report a trial during the block, on its first worker, if Ray runs.

    Gives what is to be told of each epoch and each step; None where nothing is reported.
    """
    if not _ray_runs():
        yield None
        return
    metrics = TrialMetrics(recorder, storage, config)
    try:
        # Not at once: the recorder may find that the trial had another name before.
        with repeated(metrics.report, INTERVAL, "ray-metrics", "the trial's metrics cannot be given to Ray", INTERVAL):
            yield metrics
    finally:
        with suppress(Exception):  # the run does not depend on it
            metrics.report()


def _ray_runs() -> bool:
    """Whether this process belongs to a Ray cluster; asks without importing Ray, which takes seconds."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
