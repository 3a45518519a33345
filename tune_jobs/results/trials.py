"""Read an experiment's state from storage: what was asked, and how far each of its trials is."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cluster.storage.record_cache import RecordCache
from resnet_dist.cache_directory import cache_directory
from resnet_dist.storage.interface import LAYOUT, Storage, StoredObject, TrialKeys
from tune_jobs.results.experiment_record import read_record

State = Literal["finished", "early-stopped", "failed", "unfinished", "missing", "corrupt"]
STATES: tuple[State, ...] = ("finished", "early-stopped", "failed", "unfinished", "missing", "corrupt")

_THREADS = 16
"""Requests under way at once: object stores answer in tens of milliseconds each."""
_AT_A_TIME = 256
"""Trials read ahead of whoever takes them."""
_MANY_TRIALS = 500
"""Trials beyond which a listing takes so many pages that they are asked for side by side."""


@dataclass(frozen=True)
class TrialResults:
    """What storage holds of one trial."""

    trial_id: str
    name: str
    config: Mapping[str, Any]
    """`TrainingConfig.to_dict()`, as the experiment asked for it."""
    state: State
    """`finished`: it has a result. `early-stopped`: a searching scheduler ended it (`early_stopped` in `failure.json`);
    it has no result. `failed`: it has given up. `unfinished`: it has begun; whether it runs at this moment cannot be
    seen from storage. `missing`: nothing there. `corrupt`: a record cannot be understood."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """`result.json`; empty unless finished."""
    metrics: tuple[Mapping[str, Any], ...] = ()
    """Rows of `metrics.jsonl`, in order of epochs."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """`provenance.json`; empty if there is none."""
    reason: str = ""
    """Why a trial failed, or which record is corrupt and how."""
    failure: str = ""
    """Kind of failure of a failed trial, as in `failure.json`."""
    survivor: bool = False
    """Whether the trial belongs to a search that has not brought every trial to its end."""

    @property
    def counts(self) -> bool:
        """Whether the trial's error belongs into a table: it has finished, and was not chosen by its errors to."""
        return self.state == "finished" and not self.survivor

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

    @property
    def searching(self) -> bool:
        """Whether this is a search whose survivors were chosen by their errors, so that they make no table.

        Once every trial has run to its end nothing was chosen.
        """
        return any(trial.survivor for trial in self.trials.values())

    def count(self, state: State) -> int:
        """How many trials are in this state."""
        return sum(trial.state == state for trial in self.trials.values())


class _CorruptRecordError(Exception):
    pass


def read_experiment(storage: Storage, name: str, details: bool = True) -> ExperimentResults:
    """Read `<name>/experiment.json` and what its trials have written.

    One listing, then only the records that exist; `details=False` leaves out metrics and provenance of finished
    trials. Raises a `UserError` if there is no such experiment and a `StorageError` if its record cannot be used; a
    trial whose records cannot be used is `corrupt`.
    """
    record = read_record(storage, name)
    trials, unlisted = read_trials(storage, name, record["trials"], details)
    if "scheduler" in record and any(trial.state != "finished" for trial in trials.values()):
        trials = {trial_id: replace(trial, survivor=True) for trial_id, trial in trials.items()}
    return ExperimentResults(storage.uri, record, trials, unlisted)


def read_trials(
    storage: Storage, name: str, asked: Mapping[str, Mapping[str, Any]], details: bool = True
) -> tuple[dict[str, TrialResults], tuple[str, ...]]:
    """What storage holds of these trials of experiment `name`, and the ids of its other trials in storage.

    `asked` has the `name` and `config` of each by its id, as in `experiment.json`.
    """
    listed = _list_trials(storage, name, len(asked))
    trials = {trial.trial_id: trial for trial in _read_listed(storage, name, asked, listed, details)}
    return trials, tuple(sorted(listed.keys() - trials.keys()))


def iterate_trials(storage: Storage, name: str, asked: Mapping[str, Mapping[str, Any]]) -> Iterator[TrialResults]:
    """The same trials one after the other, in their order, so that not all of them are in memory."""
    yield from _read_listed(storage, name, asked, _list_trials(storage, name, len(asked)), details=True)


Listing = Mapping[str, Mapping[str, StoredObject]]
"""Of each trial, by its id, the objects there are, by their names below the trial's folder."""


def _list_trials(storage: Storage, name: str, expected: int) -> Listing:
    prefix = f"{name}/trials/"
    # Pages of a listing come one after the other; parts of it, by the ids' first digit, side by side.
    parts = [prefix + digit for digit in "0123456789abcdef"] if expected > _MANY_TRIALS else [prefix]
    listed: dict[str, dict[str, StoredObject]] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for item in itertools.chain.from_iterable(pool.map(storage.list, parts)):
            trial_id, _, rest = item.key.removeprefix(prefix).partition("/")
            listed.setdefault(trial_id, {})[rest] = item
    return listed


def _read_listed(
    storage: Storage, name: str, asked: Mapping[str, Mapping[str, Any]], listed: Listing, details: bool
) -> Iterator[TrialResults]:
    with RecordCache(storage, name, cache_directory()) as cache, ThreadPoolExecutor(_THREADS) as pool:

        def read(item: tuple[str, Mapping[str, Any]]) -> TrialResults:
            trial_id, wanted = item
            return _read_trial(cache, TrialKeys(name, trial_id), wanted, listed.get(trial_id, {}), details)

        remaining = iter(asked.items())
        while some := list(itertools.islice(remaining, _AT_A_TIME)):
            yield from pool.map(read, some)
        cache.keep_only({item.key for objects in listed.values() for item in objects.values()})


def _read_trial(
    cache: RecordCache, keys: TrialKeys, asked: Mapping[str, Any], present: Mapping[str, StoredObject], details: bool
) -> TrialResults:
    # The records of a finished trial do not change; those of others are read as they are now.
    finished = keys.result.removeprefix(keys.prefix) in present

    def read(key: str, parse: Callable[[bytes], Any]) -> Any:
        name = key.removeprefix(keys.prefix)
        if name not in present:
            return None
        data = cache.get(present[name]) if finished else cache.storage.get(key)
        if data is None:
            return None
        try:
            return parse(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _CorruptRecordError(f"{name} is corrupt: {_one_line(error)}") from None

    trial = TrialResults(keys.trial_id, str(asked["name"]), asked["config"], "missing")
    try:
        result = read(keys.result, lambda data: _result(data, keys.trial_id)) or {}
        provenance = read(keys.provenance, _object) if details or not result else None
        rows = read(keys.metrics, _metrics) if details or not result else None
        if result and details:
            _require_all_epochs(rows or (), result)
        failure = None if result else read(keys.failure, _object)
    except _CorruptRecordError as error:
        return replace(trial, state="corrupt", reason=str(error))
    trial = replace(trial, metrics=tuple(rows or ()), provenance=provenance or {}, result=result)
    if result:
        return replace(trial, state="finished")
    if failure:
        reason = _one_line(failure.get("reason", "no reason recorded"))
        kind = str(failure.get("kind", "error"))
        state: State = "early-stopped" if failure.get("early_stopped") else "failed"
        return replace(trial, state=state, reason=reason, failure=kind)
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
    # In one go: line by line it takes half as long again, and a large grid has a million of them.
    rows: list[dict[str, Any]] = json.loads(b"[" + b",".join(line for line in data.splitlines() if line.strip()) + b"]")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    epochs = [int(row["epoch"]) for row in rows]
    if any(a >= b for a, b in itertools.pairwise(epochs)):
        raise ValueError("its epochs are not in order")
    for row in rows:
        for key in ("train_loss", "top1_error"):
            row[key] = float(row[key]) if row.get(key) is not None else math.nan
    return rows


def _require_all_epochs(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    """A result is written after all lines. Fewer than it speaks of have been lost, or overwritten by older ones."""
    if len(rows) < result.get("epochs", 0):
        raise _CorruptRecordError(
            f"metrics.jsonl has {len(rows)} lines, and result.json speaks of {result['epochs']} epochs; delete the "
            "trial's folder and launch the experiment again"
        )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
