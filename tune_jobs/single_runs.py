"""Keeps `experiment.json` for runs started one by one with `resnet-dist train`, so that they can be reported."""

import json
from typing import Any

from resnet_dist.configuration import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.storage import LAYOUT, Storage, experiment_key
from tune_jobs.results import read_record


def record_single_run(storage: Storage, experiment: str, config: TrainingConfig, name: str) -> None:
    """Add a run to the experiment's record.

    Raises a `UserError` if the experiment is a grid's, and a `StorageError` if its record cannot be read.
    """
    record = _new_record(experiment)
    if storage.get(experiment_key(experiment)) is not None:
        record = read_record(storage, experiment)
        if not record.get("single_runs"):
            raise UserError(f"--name {experiment}: this storage holds a grid of that name; give the run another --name")
    trial_id = config.trial_id()
    if trial_id in record["trials"]:
        return
    record["trials"][trial_id] = {"name": name, "config": config.to_dict()}
    cell = {"label": f"{name}, seed {config.run.seed}", "reference": None, "paper": None, "trials": [trial_id]}
    table = record["tables"][0]
    table["cells"].append(cell)
    table["baseline"] = table["cells"][0]["label"]
    record["epochs"] = None
    storage.put(experiment_key(experiment), (json.dumps(record, indent=1) + "\n").encode())


def _new_record(experiment: str) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "experiment": experiment,
        "single_runs": True,
        "title": f"Runs of {experiment}",
        "description": "Runs started one by one with resnet-dist train.",
        "seeds": 1,
        "epochs": None,
        "overrides": {},
        "deviations": [],
        "tables": [{"name": "runs", "title": "Runs", "caption": "", "baseline": "", "cells": []}],
        "trials": {},
        "versions": {},
    }
