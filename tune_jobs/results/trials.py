"""Read an experiment's state from storage: what was asked, and how far each of its trials is."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from resnet_dist.records import trial_record
from resnet_dist.storage.interface import Storage, StoredObject, TrialKeys
from tune_jobs.results.experiment_record import read_record

State = Literal["finished", "early-stopped", "failed", "unfinished", "missing", "corrupt"]
STATES: tuple[State, ...] = ("finished", "early-stopped", "failed", "unfinished", "missing", "corrupt")

_THREADS = 16
"""Requests under way at once: object stores answer in tens of milliseconds each."""
_AT_A_TIME = 256
"""Trials read ahead of whoever takes them."""
_MANY_TRIALS = 500
"""Trials beyond which a listing takes so many pages that they are asked for side by side."""


class HasState(Protocol):
    """A trial, as storage has it or as it is planned."""

    @property
    def state(self) -> str:
        """One of `STATES`."""
        ...


@dataclass(frozen=True)
class TrialResults:
    """What storage holds of one trial."""

    trial_id: str
    name: str
    config: Mapping[str, Any]
    """`TrainingConfig.to_dict()`, as the experiment asked for it."""
    state: State
    """`finished`: it has a result. `early-stopped`: a searching scheduler ended it (`early_stopped` in `failure.json`);
    it has no result. `failed`: it has given up, or has a result of an earlier version in which it diverged.
    `unfinished`: it has begun; whether it runs at this moment cannot be seen from storage. `missing`: nothing there.
    `corrupt`: a record cannot be understood."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of `result.json`; empty unless finished."""
    metrics: tuple[Mapping[str, Any], ...] = ()
    """The line of each epoch, in order: those of `result.json` where it has them, else those of `metrics.jsonl`."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """From `result.json` where it has it, else `provenance.json`; empty if there is none."""
    reason: str = ""
    """Why a trial failed, which record is corrupt and how, or which file of a finished trial is not its result's."""
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
    def last(self) -> Mapping[str, Any]:
        """The newest numbers: its result, or the line of its last epoch; empty while there is none."""
        return self.result or (self.metrics[-1] if self.metrics else {})

    @property
    def newest_error(self) -> float | None:
        """The newest top-1 test error, as a fraction: the result's, or that of the last epoch that was evaluated."""
        lines = [self.result] if self.result else reversed(self.metrics)
        return next((line["top1_error"] for line in lines if math.isfinite(line.get("top1_error", math.nan))), None)

    @property
    def epochs_done(self) -> int:
        """Epochs that have been recorded."""
        return int(self.metrics[-1]["epoch"]) if self.metrics else int(self.result.get("epochs", 0))


def tally(trials: Iterable[HasState]) -> str:
    """How many trials are in each state: `34 finished, 1 failed`."""
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


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


_TRIAL_ID = re.compile("[0-9a-f]{16}")
"""What else lies beside the trials, as .DS_Store does, is nobody's trial."""


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
    return trials, tuple(sorted(name for name in listed.keys() - trials.keys() if _TRIAL_ID.fullmatch(name)))


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
    with ThreadPoolExecutor(_THREADS) as pool:

        def read(item: tuple[str, Mapping[str, Any]]) -> TrialResults:
            trial_id, wanted = item
            return _read_trial(storage, TrialKeys(name, trial_id), wanted, listed.get(trial_id, {}), details)

        remaining = iter(asked.items())
        while some := list(itertools.islice(remaining, _AT_A_TIME)):
            yield from pool.map(read, some)


def _read_trial(
    storage: Storage, keys: TrialKeys, asked: Mapping[str, Any], present: Mapping[str, StoredObject], details: bool
) -> TrialResults:
    def read(key: str, parse: Callable[[bytes], Any]) -> Any:
        name = key.removeprefix(keys.prefix)
        if name not in present or (data := storage.get(key)) is None:
            return None
        try:
            return parse(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _CorruptRecordError(f"{name} is corrupt: {_one_line(error)}") from None

    trial = TrialResults(keys.trial_id, str(asked["name"]), asked["config"], "missing")
    provenance: dict[str, Any] | None = None
    rows: Sequence[dict[str, Any]] | None = None
    try:
        result = read(keys.result, lambda data: trial_record.parse_result(data, keys.trial_id)) or {}
        diverged = trial_record.diverged(result)
        wanted = details or diverged or not result
        if wanted and trial_record.is_complete(result):
            provenance, rows = result["provenance"], result["metrics"]
        elif wanted:
            provenance, rows = read(keys.provenance, trial_record.parse), read(keys.metrics, trial_record.parse_metrics)
            _require_all_epochs(rows or (), result)
        failure = None if result else read(keys.failure, trial_record.parse)
        trial = replace(trial, metrics=_with_numbers(rows or ()), provenance=provenance or {})
    except _CorruptRecordError as error:
        return replace(trial, state="corrupt", reason=str(error))
    if diverged:
        return replace(trial, state="failed", reason=trial_record.DIVERGED, failure="diverged")
    if result:
        others = trial_record.files_of_other_size(result, {name: item.size for name, item in present.items()})
        said = ", ".join(
            f"{name} is {'not the file of its result' if name in present else 'missing'}" for name in others
        )
        return replace(trial, state="finished", result=trial_record.summary(result), reason=said)
    if failure:
        reason = _one_line(failure.get("reason", "no reason recorded"))
        kind = str(failure.get("kind", "error"))
        state: State = "early-stopped" if failure.get("early_stopped") else "failed"
        return replace(trial, state=state, reason=reason, failure=kind)
    return replace(trial, state="unfinished") if present else trial


def _with_numbers(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The lines, with NaN for a loss or error that is not there. Raises a `_CorruptRecordError`."""
    try:
        for row in rows:
            for key in ("train_loss", "top1_error"):
                row[key] = float(row[key]) if row.get(key) is not None else math.nan
    except (ValueError, TypeError) as error:
        raise _CorruptRecordError(f"metrics.jsonl is corrupt: {_one_line(error)}") from None
    return tuple(rows)


def _require_all_epochs(rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    """A result is written after all lines. Fewer than it speaks of have been lost, or overwritten by older ones."""
    if len(rows) < result.get("epochs", 0):
        raise _CorruptRecordError(
            f"metrics.jsonl has {len(rows)} lines, and result.json speaks of {result['epochs']} epochs; delete the "
            "trial's folder and launch the experiment again"
        )


def _one_line(text: object) -> str:
    """A reason on one line, in UTF-8, which a path that it names may not be."""
    return " ".join(str(text).split()).encode(errors="backslashreplace").decode()
