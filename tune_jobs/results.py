"""Read an experiment's state from storage: what was asked, and how far each of its trials is."""

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from resnet_dist.errors import StorageError, UserError
from resnet_dist.storage import LAYOUT, Storage, TrialKeys, experiment_key

State = Literal["finished", "failed", "unfinished", "missing", "corrupt"]
STATES: tuple[State, ...] = ("finished", "failed", "unfinished", "missing", "corrupt")

_THREADS = 16  # requests under way at once; object stores answer in tens of milliseconds each


@dataclass(frozen=True)
class TrialResults:
    """What storage holds of one trial."""

    trial_id: str
    name: str
    config: Mapping[str, Any]
    """`TrainingConfig.to_dict()`, as the experiment asked for it."""
    state: State
    """`finished`: it has a result. `failed`: it has given up. `unfinished`: it has begun; whether it runs at this
    moment cannot be seen from storage. `missing`: nothing there. `corrupt`: a record cannot be understood."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """`result.json`; empty unless finished."""
    metrics: tuple[Mapping[str, Any], ...] = ()
    """Rows of `metrics.jsonl`, in order of epochs."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """`provenance.json`; empty if there is none."""
    reason: str = ""
    """Why a trial failed, or which record is corrupt and how."""
    diverged: bool = False
    """Whether a failed trial's loss became infinite: it would do so again."""

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return int(self.config["run"]["seed"])

    @property
    def epochs(self) -> int:
        """Epochs that the trial is to run."""
        return int(self.config["run"]["epochs"])

    @property
    def epochs_done(self) -> int:
        """Epochs that have been recorded."""
        return int(self.metrics[-1]["epoch"]) if self.metrics else int(self.result.get("epochs", 0))


@dataclass(frozen=True)
class ExperimentResults:
    """An experiment as storage has it."""

    uri: str
    record: Mapping[str, Any]
    """`experiment.json`."""
    trials: Mapping[str, TrialResults]
    """Every trial of the experiment by its id, in the experiment's order."""
    unlisted: tuple[str, ...] = ()
    """Ids of trials in storage that are not part of the experiment as it was last launched."""

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self.record["experiment"])

    def count(self, state: State) -> int:
        """How many trials are in this state."""
        return sum(trial.state == state for trial in self.trials.values())


class _CorruptRecordError(Exception):
    pass


def read_experiment(storage: Storage, name: str, metrics: bool = True) -> ExperimentResults:
    """Read `<name>/experiment.json` and what its trials have written.

    One listing, then only the records that exist; `metrics=False` leaves out the metrics of finished trials.
    Raises a `UserError` if there is no such experiment and a `StorageError` if its record cannot be used; a trial
    whose records cannot be used is `corrupt`.
    """
    data = storage.get(experiment_key(name))
    if data is None:
        raise UserError(
            f"{name}: no such experiment in {storage.uri}; start it with: "
            f"resnet-dist grid run {name} --storage {storage.uri}"
        )
    record = _experiment_record(data, f"{storage.uri}: {experiment_key(name)}")
    trials, unlisted = read_trials(storage, name, record["trials"], metrics)
    return ExperimentResults(storage.uri, record, trials, unlisted)


def refuse_other_layout(storage: Storage, name: str) -> None:
    """Raise a `StorageError` if experiment `name` was stored by a version with another storage layout.

    A record that cannot be read is no obstacle to a launch, which writes it anew.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):
        layout = json.loads(storage.get(experiment_key(name)) or b"")["layout"]
        if layout != LAYOUT:
            raise StorageError(f"{storage.uri}: {experiment_key(name)}: {_other_layout(layout)}")


def read_trials(
    storage: Storage, name: str, asked: Mapping[str, Mapping[str, Any]], metrics: bool = True
) -> tuple[dict[str, TrialResults], tuple[str, ...]]:
    """What storage holds of these trials of experiment `name`, and the ids of its other trials in storage.

    `asked` has the `name` and `config` of each by its id, as in `experiment.json`.
    """
    prefix = f"{name}/trials/"
    present: dict[str, set[str]] = {}
    for item in storage.list(prefix):
        trial_id, _, rest = item.key.removeprefix(prefix).partition("/")
        present.setdefault(trial_id, set()).add(rest)

    def read(item: tuple[str, Mapping[str, Any]]) -> TrialResults:
        trial_id, wanted = item
        return _read_trial(storage, TrialKeys(name, trial_id), wanted, present.get(trial_id, set()), metrics)

    with ThreadPoolExecutor(_THREADS) as pool:
        trials = {trial.trial_id: trial for trial in pool.map(read, asked.items())}
    return trials, tuple(sorted(present.keys() - trials.keys()))


def _experiment_record(data: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(data)
        layout = record["layout"]
        if layout == LAYOUT:
            for table in record["tables"]:
                for cell in table["cells"]:
                    assert all(trial_id in record["trials"] for trial_id in cell["trials"])
            for trial in record["trials"].values():
                assert trial["name"] and trial["config"]["run"]["epochs"] >= 1
            assert record["experiment"] and record["seeds"] >= 1
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise StorageError(f"{place}: is not a readable experiment record; launch the experiment again") from None
    if layout != LAYOUT:
        raise StorageError(f"{place}: {_other_layout(layout)}")
    return dict(record)


def _other_layout(layout: object) -> str:
    return f"has storage layout {layout!r}; this version reads layout {LAYOUT}"


def _read_trial(
    storage: Storage, keys: TrialKeys, asked: Mapping[str, Any], present: set[str], want_metrics: bool
) -> TrialResults:
    def read(key: str, parse: Callable[[bytes], Any]) -> Any:
        name = key.removeprefix(keys.prefix)
        data = storage.get(key) if name in present else None
        if data is None:
            return None
        try:
            return parse(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _CorruptRecordError(f"{name} is corrupt: {_one_line(error)}") from None

    trial = TrialResults(keys.trial_id, str(asked["name"]), asked["config"], "missing")
    try:
        provenance = read(keys.provenance, _object) or {}
        result = read(keys.result, lambda data: _result(data, keys.trial_id)) or {}
        rows = read(keys.metrics, _metrics) if want_metrics or not result else None
        failure = None if result else read(keys.failure, _object)
    except _CorruptRecordError as error:
        return replace(trial, state="corrupt", reason=str(error))
    trial = replace(trial, metrics=tuple(rows or ()), provenance=provenance, result=result)
    if result:
        return replace(trial, state="finished")
    if failure:
        reason = _one_line(failure.get("reason", "no reason recorded"))
        return replace(trial, state="failed", reason=reason, diverged=failure.get("kind") == "diverged")
    return replace(trial, state="unfinished") if present else trial


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _result(data: bytes, trial_id: str) -> dict[str, Any]:
    result = _object(data)
    if result["layout"] != LAYOUT:
        raise ValueError(f"storage layout {result['layout']!r}, this version reads {LAYOUT}")
    if result["trial"] != trial_id:
        raise ValueError(f"it belongs to trial {result['trial']}")
    if not 0 <= float(result["top1_error"]) <= 1:
        raise ValueError(f"top1_error {result['top1_error']!r} is not a fraction")
    return result


def _metrics(data: bytes) -> list[dict[str, Any]]:
    rows = [_object(line) for line in data.splitlines() if line.strip()]
    epochs = [int(row["epoch"]) for row in rows]
    if any(a >= b for a, b in itertools.pairwise(epochs)):
        raise ValueError("its epochs are not in order")
    for row in rows:
        for key in ("train_loss", "top1_error"):
            row[key] = float(row[key]) if row.get(key) is not None else math.nan
    return rows


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
