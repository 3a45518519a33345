"""What an experiment's file says now and its last launch did not: reports and states are those of the launch."""

from collections.abc import Iterator, Mapping
from typing import Any

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import ConfigurationError
from tune_jobs.grid.experiment import load_experiment
from tune_jobs.grid.experiment_file import Cell, Experiment, Table

_FINGERPRINTS = ("data.fingerprint", "code.fingerprint")
"""Settings that a launch fills in."""


def edits(path: str, record: Mapping[str, Any]) -> list[str]:
    """What differs, a phrase each; empty if a launch now would ask for what the last one asked for."""
    overrides = {name: value for name, value in record["overrides"].items() if name not in _FINGERPRINTS}
    epochs = record["asked_epochs"] if "asked_epochs" in record else record["epochs"]
    return list(_edits(load_experiment(path, overrides, epochs), record))


def _edits(experiment: Experiment, record: Mapping[str, Any]) -> Iterator[str]:
    for name in ("title", "description"):
        if getattr(experiment, name) != record[name]:
            yield f"another {name}"
    before = {table["name"]: table for table in record["tables"]}
    now = {table.name: table for table in experiment.tables}
    yield from (f"table {name!r} is new" for name in now if name not in before)
    yield from (f"table {name!r} is gone" for name in before if name not in now)
    for name in (name for name in now if name in before):
        for said in _table_edits(now[name], before[name], record):
            yield f"table {name!r}: {said}"


def _table_edits(now: Table, before: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    for name in ("title", "caption"):
        if getattr(now, name) != before[name]:
            yield f"another {name}"
    if (now.baseline or now.cells[0].label) != before["baseline"]:
        yield "another baseline"
    cells, earlier = {cell.label: cell for cell in now.cells}, {cell["label"]: cell for cell in before["cells"]}
    yield from (f"row {label!r} is new" for label in cells if label not in earlier)
    yield from (f"row {label!r} is gone" for label in earlier if label not in cells)
    for label in (label for label in cells if label in earlier):
        if changed := list(_cell_edits(cells[label], earlier[label], record)):
            yield f"row {label!r} has another {', '.join(changed)}"


def _cell_edits(now: Cell, before: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    for name in ("reference", "paper"):
        if getattr(now, name) != before[name]:
            yield name
    try:
        then = TrainingConfig.from_dict(record["trials"][before["trials"][0]]["config"]).to_flat_dict()
    except ConfigurationError:  # of another version
        return
    for name, value in now.config.to_flat_dict().items():
        if name not in (*_FINGERPRINTS, "run.seed") and _shown(name, value) != _shown(name, then[name]):
            yield name


def _shown(name: str, value: Any) -> Any:
    # A relative path means another place wherever the command is given.
    return str(value).rpartition("/")[2] if name == "data.source" else value
