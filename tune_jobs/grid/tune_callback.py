"""What Ray Tune's driver hears of its trials, passed on to whoever watches a grid, and failures put on record."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError
from resnet_dist.records.trial_record import error_text
from resnet_dist.storage.interface import TrialKeys
from tune_jobs.grid.experiment import Trial
from tune_jobs.grid.failures import failure_of
from tune_jobs.grid.observer import Observer


class Progress(tune.Callback):
    """Passes results on to an observer, and records trials that failed for good."""

    def __init__(self, trials: Mapping[str, Trial], experiment: str, storage_uri: str, observer: Observer) -> None:
        self.trials = trials
        self.experiment = experiment
        self.storage_uri = storage_uri
        self.observer = observer
        self.troubled = False

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into storage. Nothing of this one is needed there: our own records are.
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Tell the observer that a trial starts."""
        self.observer.on_start(self._trial(trial))

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[Any, Any], **_: Any) -> None:
        """Tell the observer of an epoch, or of a run that diverged (which is on record already)."""
        ours = self._trial(trial)
        if "waiting" in result:
            self.observer.on_trouble(ours, result["waiting"])
        elif "storage_trouble" in result and not self.troubled:
            self.troubled = True
            self.observer.on_trouble(ours, result["storage_trouble"])
        if "diverged" in result:
            self.observer.on_failure(ours, result["diverged"])
        elif "failed" in result:
            self._record(ours, "error", result["failed"], trial.num_failures + 1)
            self.observer.on_failure(ours, result["failed"])
        elif "epoch" in result:
            self.observer.on_result(ours, result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Record a trial that asha stopped: it has ended, and neither finished nor diverged."""
        last = trial.last_result or {}
        if "epoch" not in last:
            return
        ours = self._trial(trial)
        reason = (
            f"stopped by asha after epoch {last['epoch']} of {ours.config.run.epochs}, "
            f"at a test error of {error_text(last)}"
        )
        self._record(ours, "early-stopped", reason, trial.num_failures + 1)
        self.observer.on_stop(ours, reason)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Record a trial whose retries are used up."""
        ours = self._trial(trial)
        kind, reason = failure_of(trial.get_error(), trial.num_failures)
        self._record(ours, kind, reason, trial.num_failures)
        self.observer.on_failure(ours, reason)

    def _record(self, trial: Trial, kind: str, reason: str, attempts: int) -> None:
        from resnet_dist.records.recorder import record_failure  # loads torch, which a launch can do without

        keys = TrialKeys(self.experiment, trial.trial_id)
        try:
            record_failure(open_storage(self.storage_uri), keys, kind, reason, attempts)
        except StorageError as error:  # the other trials go on; without the record, the next launch tries again
            self.observer.on_trouble(trial, str(error))

    def _trial(self, trial: Any) -> Trial:
        return self.trials[trial.config["trial_id"]]
