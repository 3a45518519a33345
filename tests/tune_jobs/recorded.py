"""Experiments with known results, written to storage in the documented forms, for tests of what reads them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.records.trial_record import describe_files, encode, encode_metrics
from resnet_dist.storage.interface import Storage, TrialKeys, experiment_key
from tune_jobs.grid.experiment import Trial, experiment_record, load_experiment, trials
from tune_jobs.grid.experiment_file import Experiment

TWO_ROWS = """
name = "two-rows"
title = "Two rows"
[recipe.data]
source = "cifar10"
[[table]]
name = "depths"
title = "Depths"
[[table.cell]]
label = "shallow"
reference = 0.10
paper = 0.09
[[table.cell]]
label = "deep"
set = { "network.depth" = 32 }
reference = 0.08
"""


def experiment_from(text: str, folder: Path, **settings: Any) -> Experiment:
    """An experiment from the text of a file."""
    path = folder / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return load_experiment(str(path), **settings)


def record_experiment(folder: Path, experiment: Experiment, seeds: int) -> tuple[BrowsableStorage, tuple[Trial, ...]]:
    """Storage that holds the experiment's record, and its trials."""
    storage = open_storage(str(folder / "storage"))
    record = experiment_record(experiment, seeds, {})
    storage.put(experiment_key(experiment.name), json.dumps(record).encode())
    return storage, trials(experiment, seeds)


def record_metrics(storage: Storage, experiment: str, trial: Trial, errors: Sequence[float]) -> None:
    """One line of metrics for each error, 391 steps an epoch."""
    storage.put(TrialKeys(experiment, trial.trial_id).metrics, encode_metrics(metrics_of(errors)))


def metrics_of(errors: Sequence[float]) -> list[dict[str, Any]]:
    """The lines that `record_metrics` writes."""
    return [
        {"epoch": epoch, "step": 391 * epoch, "learning_rate": 0.1, "train_loss": 2.0 / epoch, "test_loss": 1.0}
        | {"top1_error": error, "top5_error": error / 10, "seconds": 2.0, "images_per_second": 25000.0}
        for epoch, error in enumerate(errors, start=1)
    ]


def record_result(
    storage: Storage,
    experiment: str,
    trial: Trial,
    error: float,
    provenance: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    complete: bool = True,
) -> None:
    """A finished trial: configuration, metrics of two epochs, provenance, weights and a result.

    The result has all of it in it if it is `complete`, as those of earlier versions are not.
    """
    keys = TrialKeys(experiment, trial.trial_id)
    config = {"layout": 1, "trial": trial.trial_id, "name": trial.name, "config": trial.config.to_dict()}
    stated = {"commit": "1f" * 20, "dirty": False, "data_fingerprint": "ab" * 16, "workers": 1, "device": "cpu"}
    stated |= dict(provenance or {})
    files = {"config.json": encode(config), "provenance.json": encode(stated), "model.pt": b"weights"}
    files["metrics.jsonl"] = encode_metrics(metrics_of([0.5, error]))
    for name, data in files.items():
        storage.put(keys.prefix + name, data)
    record = {"layout": 1, "trial": trial.trial_id, "name": trial.name, "epochs": 2, "steps": 782}
    record |= {"top1_error": error, "top5_error": error / 10, "test_loss": 1.0, "train_loss": 1.0}
    record |= {"best_top1_error": error, "seconds": 4.0, "images_per_second": 25000.0, "workers": 1, "device": "cpu"}
    record |= {"parameters": 270000, "attempts": 1}
    if complete:
        record |= {"provenance": stated, "files": describe_files(files), "metrics": metrics_of([0.5, error])}
    storage.put(keys.result, encode(record | dict(result or {})))


def record_failure(storage: Storage, experiment: str, trial: Trial, reason: str, kind: str = "error") -> None:
    """A trial that has given up."""
    failure = {"layout": 1, "trial": trial.trial_id, "kind": kind, "reason": reason, "attempts": 1}
    storage.put(TrialKeys(experiment, trial.trial_id).failure, json.dumps(failure).encode())


def record_early_stop(storage: Storage, experiment: str, trial: Trial, errors: Sequence[float]) -> None:
    """A trial that a searching scheduler ended after as many epochs as there are errors; it has no result."""
    keys = TrialKeys(experiment, trial.trial_id)
    storage.delete(keys.result)
    record_metrics(storage, experiment, trial, errors)
    reason = f"below the others at epoch {len(errors)}"
    failure = {"layout": 1, "trial": trial.trial_id, "kind": "early-stopped", "reason": reason, "attempts": 1}
    storage.put(keys.failure, json.dumps(failure | {"early_stopped": True}).encode())
