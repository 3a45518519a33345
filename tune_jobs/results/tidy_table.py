"""An experiment as one tidy table: a row a trial or a row an epoch, every setting that varies a column."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.records.trial_record import PARTS
from tune_jobs.results.schemas import record_schema
from tune_jobs.results.trials import TrialResults

Rows = Literal["trials", "epochs"]
Kind = Literal["text", "integer", "number", "boolean"]
Value = str | int | float | bool | None

RESULT_COLUMNS = tuple(
    name
    for name in record_schema("result")["properties"]
    if name not in ("layout", "trial", "name", "wrong_images", "sha256", *PARTS)
)
METRICS_COLUMNS = tuple(record_schema("metrics")["properties"])
ORIGIN_COLUMNS = ("commit", "dirty", "data_fingerprint", "python", "torch", "host", "started", "finished")
"""Columns from provenance.json."""


@dataclass(frozen=True)
class Column:
    """A column: one type in every format."""

    name: str
    kind: Kind
    value: Callable[[TrialResults, Mapping[str, Any]], Any]
    """From a trial and, where a row is an epoch, its line of metrics.jsonl."""

    def cell(self, trial: TrialResults, line: Mapping[str, Any]) -> Value:
        """The value of a row, as the column's type; None where there is none."""
        value = self.value(trial, line)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return None
        if self.kind == "text":
            return ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if self.kind == "boolean":
            return bool(value)
        return int(value) if self.kind == "integer" else float(value)


class ResultTable:
    """Columns of an experiment's table, from its record."""

    def __init__(self, record: Mapping[str, Any], rows: Rows) -> None:
        self.rows_are = rows
        self.columns = (
            Column("trial", "text", lambda trial, _: trial.trial_id),
            Column("name", "text", lambda trial, _: trial.name),
            Column("cells", "text", _cells_of(record)),
            Column("state", "text", lambda trial, _: trial.state),
            Column("seed", "integer", lambda trial, _: trial.seed),
            *(_setting(name, record["trials"]) for name in varying_settings(record["trials"])),
            *(_trial_columns() if rows == "trials" else _epoch_columns()),
        )
        assert len({column.name for column in self.columns}) == len(self.columns), "two columns have one name"

    def rows(self, trials: Iterator[TrialResults]) -> Iterator[list[Value]]:
        """The rows, in the order of the trials; where a row is an epoch, trials without any have none."""
        for trial in trials:
            for line in trial.metrics if self.rows_are == "epochs" else ({},):
                yield [column.cell(trial, line) for column in self.columns]


def _trial_columns() -> list[Column]:
    return [
        Column("epochs_done", "integer", lambda trial, _: trial.epochs_done),
        *(Column(name, _kind("result", name), _from_result(name)) for name in RESULT_COLUMNS),
        *(Column(name, _kind("provenance", name), _from_provenance(name)) for name in ORIGIN_COLUMNS),
        Column("reason", "text", lambda trial, _: trial.reason or None),
    ]


def _epoch_columns() -> list[Column]:
    return [Column(name, _kind("metrics", name), _from_line(name)) for name in METRICS_COLUMNS]


def _from_result(name: str) -> Callable[[TrialResults, Mapping[str, Any]], Any]:
    return lambda trial, _: trial.result.get(name)


def _from_provenance(name: str) -> Callable[[TrialResults, Mapping[str, Any]], Any]:
    return lambda trial, _: trial.provenance.get(name)


def _from_line(name: str) -> Callable[[TrialResults, Mapping[str, Any]], Any]:
    return lambda _, line: line.get(name)


def _cells_of(record: Mapping[str, Any]) -> Callable[[TrialResults, Mapping[str, Any]], Any]:
    """The cells in which a trial stands, as `table: label`."""
    cells: dict[str, list[str]] = {}
    for table in record["tables"]:
        for cell in table["cells"]:
            for trial_id in cell["trials"]:
                cells.setdefault(trial_id, []).append(f"{table['name']}: {cell['label']}")
    return lambda trial, _: "; ".join(cells.get(trial.trial_id, ())) or None


def _kind(schema: str, name: str) -> Kind:
    """A column's type, from the schema of the record that it comes from."""
    described = record_schema(schema)["properties"][name]
    types = described.get("type", "string")
    types = {types} if isinstance(types, str) else set(types)
    (one,) = types - {"null"}
    kinds: dict[str, Kind] = {"integer": "integer", "number": "number", "boolean": "boolean"}
    return kinds.get(one, "text")


def varying_settings(trials: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names, as `section.field`, of the settings in which an experiment's trials differ, apart from the seed.

    A setting that a record of an earlier version lacks had no effect then, as its default has none.
    """
    values: dict[str, Counter[str]] = {}
    for trial in trials.values():
        for section, settings in trial["config"].items():
            for name, value in settings.items():
                values.setdefault(f"{section}.{name}", Counter())[json.dumps(value)] += 1
    defaults = TrainingConfig().to_flat_dict()
    for name, found in values.items():
        if found.total() < len(trials):
            found[json.dumps(defaults.get(name))] += 1
    return [name for name, found in values.items() if len(found) > 1 and name != "run.seed"]


def _setting(name: str, trials: Mapping[str, Mapping[str, Any]]) -> Column:
    section, _, field = name.partition(".")
    types = {type(trial["config"].get(section, {}).get(field)) for trial in trials.values()} - {type(None)}
    kind: Kind = "text"
    if types == {bool}:
        kind = "boolean"
    elif types == {int}:
        kind = "integer"
    elif types <= {int, float}:
        kind = "number"
    return Column(name, kind, lambda trial, _: trial.config.get(section, {}).get(field))
