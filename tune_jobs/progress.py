"""What Ray Tune's driver hears of its trials, passed on to whoever watches a grid, and failures put on record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune

from cluster.storage import open_storage
from resnet_dist.errors import StorageError
from resnet_dist.recorder import record_failure
from resnet_dist.storage import TrialKeys
from tune_jobs.experiment import Trial


@dataclass(frozen=True)
class Observer:
    """Who is told, in the driver's process."""

    on_result: Callable[[Trial, dict[str, Any]], None]
    """Called with a trial and its newest metrics line."""
    on_failure: Callable[[Trial, str], None]
    """Called with a trial that failed for good, and the reason."""
    on_trouble: Callable[[Trial, str], None]
    """Called with the first trial whose records do not reach storage, with each that ends so, and the reason."""


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
        elif "epoch" in result:
            self.observer.on_result(ours, result)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Record a trial whose retries are used up."""
        ours = self._trial(trial)
        reason = _reason(trial)
        keys = TrialKeys(self.experiment, ours.trial_id)
        try:
            record_failure(open_storage(self.storage_uri), keys, "error", reason, trial.num_failures)
        except StorageError as error:  # the other trials go on; without the record, the next launch tries again
            self.observer.on_trouble(ours, str(error))
        self.observer.on_failure(ours, reason)

    def _trial(self, trial: Any) -> Trial:
        return self.trials[trial.config["trial_id"]]


def _reason(trial: Any) -> str:
    """The last line of a failed trial's error: what it was, without the traceback."""
    error = trial.get_error()
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[-1] if lines else type(cause).__name__)[:500]
