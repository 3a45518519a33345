"""`experiment.json`: how it is read, and how it is kept for runs started one by one with `resnet-dist train`."""

import contextlib
import shlex
from collections.abc import Iterator
from typing import Any

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import StorageError, UserError
from resnet_dist.records import trial_record
from resnet_dist.storage.interface import LAYOUT, Storage, TrialKeys, experiment_key


def read_record(storage: Storage, name: str) -> dict[str, Any]:
    """`<name>/experiment.json`, and in that of single runs every run that has begun.

    Raises a `UserError` if there is no such experiment and a `StorageError` if its record cannot be used.
    """
    data = storage.get(experiment_key(name))
    if data is None:
        raise UserError(
            f"{name}: no such experiment in {storage.uri}; start one with: "
            f"resnet-dist grid run EXPERIMENT --storage {shlex.quote(storage.uri)}"
        )
    record = _experiment_record(data, f"{storage.uri}: {experiment_key(name)}")
    if record.get("single_runs"):
        # Of two runs that begin at the same time, the record that is written last may not know the other's.
        for trial_id, run in _unlisted_runs(storage, name, record["trials"]):
            _add_run(record, trial_id, run["name"], run["config"])
    return record


def refuse_other_record(storage: Storage, name: str) -> None:
    """Raise a `UserError` if what is stored as experiment `name` is no grid of this version's storage layout.

    A record that cannot be read is no obstacle to a launch, which writes it anew.
    """
    record = _legible(storage, name)
    if (layout := record.get("layout", LAYOUT)) != LAYOUT:
        raise StorageError(f"{storage.uri}: {experiment_key(name)}: {_other_layout(layout)}")
    if record.get("single_runs"):
        raise UserError(
            f"{name}: {storage.uri} holds single runs of that name; give the experiment another name, or another "
            "storage"
        )


def with_earlier_plans(storage: Storage, record: dict[str, Any]) -> dict[str, Any]:
    """The record of a launch, with the other numbers of seeds that earlier launches had planned.

    Tests err more often than they say if seeds are added or taken away when results are known, so a report names them.
    """
    earlier = _legible(storage, record["experiment"])
    plans = {*earlier.get("earlier_plans", []), earlier.get("planned_seeds", record["planned_seeds"])}
    others = sorted(plans - {record["planned_seeds"]})
    return record | ({"earlier_plans": others} if others else {})


def _legible(storage: Storage, name: str) -> dict[str, Any]:
    """The record as it is stored, of whatever layout; empty if there is none or it cannot be read."""
    with contextlib.suppress(ValueError, TypeError):
        return trial_record.parse(storage.get(experiment_key(name)) or b"")
    return {}


def record_single_run(storage: Storage, experiment: str, config: TrainingConfig, name: str) -> None:
    """Add a run to the experiment's record.

    Raises a `UserError` if the experiment is a grid's, and a `StorageError` if its record cannot be read.
    """
    record = _new_record(experiment)
    if storage.get(experiment_key(experiment)) is not None:
        record = read_record(storage, experiment)
        if not record.get("single_runs"):
            raise UserError(f"{experiment}: this storage holds a grid of that name; give the run another name")
    _add_run(record, config.trial_id(), name, config.to_dict())
    storage.put(experiment_key(experiment), trial_record.encode(record))


def _add_run(record: dict[str, Any], trial_id: str, name: str, config: dict[str, Any]) -> None:
    """A row of its own for a run that the record does not have yet."""
    if trial_id in record["trials"]:
        return
    record["trials"][trial_id] = {"name": name, "config": config}
    cell = {"label": f"{name}, seed {config['run']['seed']}", "reference": None, "paper": None, "trials": [trial_id]}
    table = record["tables"][0]
    table["cells"].append(cell)
    table["baseline"] = table["cells"][0]["label"]
    record["epochs"] = None


def _unlisted_runs(storage: Storage, experiment: str, listed: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What `config.json` says of each trial in storage that is not listed, by its id."""
    prefix = f"{experiment}/trials/"
    for item in storage.list(prefix):
        trial_id = item.key.removeprefix(prefix).partition("/")[0]
        if trial_id not in listed and item.key == TrialKeys(experiment, trial_id).config:
            run = _run(storage.get(item.key) or b"")
            if run is not None:
                yield trial_id, run


def _run(config: bytes) -> dict[str, Any] | None:
    """Name and configuration of a run, from its `config.json`; None if that cannot be used."""
    try:
        told = trial_record.parse(config)
        run = told["config"]["run"]
        assert told["layout"] == LAYOUT and told["name"] and run["epochs"] >= 1 and run["seed"] >= 0
        return {"name": told["name"], "config": told["config"]}
    except (ValueError, KeyError, TypeError, AssertionError):
        return None


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


def _experiment_record(data: bytes, place: str) -> dict[str, Any]:
    try:
        record = trial_record.parse(data)
        layout = record["layout"]
        if layout == LAYOUT:
            for table in record["tables"]:
                for cell in table["cells"]:
                    assert all(trial_id in record["trials"] for trial_id in cell["trials"])
            for trial in record["trials"].values():
                assert trial["name"] and trial["config"]["run"]["epochs"] >= 1
            assert record["experiment"] and record["seeds"] >= 1
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise StorageError(
            f"{place}: is not a readable experiment record; delete it, and launch the experiment again"
        ) from None
    if layout != LAYOUT:
        raise StorageError(f"{place}: {_other_layout(layout)}")
    return dict(record)


def _other_layout(layout: object) -> str:
    return f"has storage layout {layout!r}; this version reads layout {LAYOUT}"
