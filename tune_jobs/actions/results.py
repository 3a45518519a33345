"""What storage holds of an experiment: what `resnet-dist results`, `grid status` and `tune_jobs.read_results` read."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from os import fspath
from typing import TYPE_CHECKING, Any

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import Place, open_storage
from resnet_dist.errors import UserError
from resnet_dist.nearest_name import suggestion
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import experiment_key
from tune_jobs.grid.experiment import load_experiment
from tune_jobs.grid.experiment_file import Experiment
from tune_jobs.results.html_table import html_table
from tune_jobs.results.tidy_table import Column, Kind, ResultTable, Rows, Value
from tune_jobs.results.trials import ExperimentResults, read_experiment, tally

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

TYPES: dict[Kind, str] = {"text": "string", "integer": "int64", "number": "float64", "boolean": "bool"}
"""Of a column, by its kind: Arrow's name of it."""


@dataclass(frozen=True, repr=False)
class Results(ExperimentResults):
    """An experiment as storage had it when this was read."""

    @classmethod
    def of(cls, read: ExperimentResults) -> "Results":
        """The same, with its tables."""
        return cls(read.uri, read.record, read.trials, read.unlisted)

    def to_arrow(self, rows: Rows = "trials") -> "pyarrow.Table":
        """One tidy table: a row a trial, or `"epochs"`: a row an epoch; every setting that varies a column."""
        table = ResultTable(self.record, rows)
        return arrow_table(table.columns, table.rows(iter(self.trials.values())))

    def to_pandas(self, rows: Rows = "trials") -> "pandas.DataFrame":
        """The same as a pandas frame. Raises a `UserError` if pandas is not installed."""
        _require("pandas")
        return self.to_arrow(rows).to_pandas()

    def to_polars(self, rows: Rows = "trials") -> "polars.DataFrame":
        """The same as a Polars frame. Raises a `UserError` if Polars is not installed."""
        _require("polars")
        import polars

        found = polars.from_arrow(self.to_arrow(rows))
        assert isinstance(found, polars.DataFrame)
        return found

    def rows(self, rows: Rows = "trials") -> Iterator[list[Value]]:
        """The rows of the tidy table, in the order of the trials."""
        return ResultTable(self.record, rows).rows(iter(self.trials.values()))

    def to_dict(self) -> dict[str, Any]:
        """The state of each trial, as `grid status --json` prints it."""
        return {
            "experiment": self.name,
            "storage": self.uri,
            "trials": [
                {
                    "trial": trial.trial_id,
                    "name": trial.name,
                    "state": trial.state,
                    "epochs_done": trial.epochs_done,
                    "epochs": trial.epochs,
                    "top1_error": trial.result.get("top1_error"),
                    "reason": trial.reason,
                }
                for trial in self.trials.values()
            ],
        }

    def __repr__(self) -> str:
        return f"<results of {self.name}: {counted(len(self.trials), 'trial')}: {tally(self.trials.values())}>"

    def _repr_html_(self) -> str:
        rows = []
        for trial in self.trials.values():
            error = "" if trial.newest_error is None else f"{100 * trial.newest_error:.2f}"
            epochs = f"{trial.epochs_done} of {trial.epochs}"
            rows.append((trial.name, trial.state, epochs, error, trial.trial_id))
        return html_table(("trial", "state", "epochs", "test error, %", "id"), rows, str(self.record["title"]))


def read_results(experiment: Experiment | Place, storage: Place) -> Results:
    """What storage holds of an experiment, also while it runs, and of single runs: `train` is their experiment.

    experiment: its name, the path of its TOML file, or an `Experiment`.
    storage: a directory or `s3://bucket/prefix`.

    Raises a `UserError` that names those that are there unless it is one of them.
    """
    opened = open_storage(storage)
    return Results.of(read_experiment(opened, stored_name(experiment, opened)))


def stored_name(experiment: Experiment | Place, storage: BrowsableStorage) -> str:
    """The name under which an experiment is stored, as `asked_name` says.

    Raises a `UserError` that names those that are there unless it is one of them.
    """
    name = asked_name(experiment)
    if storage.get(experiment_key(name)) is not None:
        return name
    held = others(name, storage)
    start = (
        f"; start one with: resnet-dist grid run EXPERIMENT --storage {shlex.quote(storage.uri)}"
        if held == "none"
        else ""
    )
    raise UserError(f"{name}: no such experiment in {storage.uri}, which holds {held}{start}")


def asked_name(experiment: Experiment | Place) -> str:
    """An experiment's own name, or what the TOML file at a path says."""
    what = asked(experiment)
    if isinstance(what, Experiment):
        return what.name
    return load_experiment(what).name if what.endswith(".toml") else what


def asked(experiment: Experiment | Place) -> Experiment | str:
    """An experiment, or the name or path of one. Raises a `UserError` if this is neither."""
    if isinstance(experiment, Experiment):
        return experiment
    try:
        return fspath(experiment)
    except TypeError:
        raise UserError(
            f"experiment: a value of type {type(experiment).__name__} is not allowed; give a name, the path of a TOML "
            "file, or an Experiment, such as Experiment.from_dict makes"
        ) from None


def others(name: str, storage: BrowsableStorage) -> str:
    """The experiments that a storage holds, or `none`, with the one that may have been meant by `name`."""
    stored = tuple(folder for folder in storage.folders("") if storage.get(experiment_key(folder)) is not None)
    return f"{', '.join(stored)}{suggestion(name, stored)}" if stored else "none"


def arrow_schema(columns: tuple[Column, ...]) -> "pyarrow.Schema":
    """Names and types of columns."""
    import pyarrow as pa

    return pa.schema([(column.name, pa.type_for_alias(TYPES[column.kind])) for column in columns])


def arrow_table(columns: tuple[Column, ...], rows: Iterator[list[Value]]) -> "pyarrow.Table":
    """Rows as Arrow's table."""
    import pyarrow as pa

    schema = arrow_schema(columns)
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _require(package: str) -> None:
    try:
        import_module(package)
    except ImportError:
        raise UserError(f"{package} is not installed; install it with: pip install {package}") from None
