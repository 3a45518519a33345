"""An experiment's finished trials, given to the tool in which somebody keeps all of theirs.

Each trial is given once: what is there already is left as it is, and a trial whose hand-over was interrupted is given
anew.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.storage.keys import BrowsableStorage
from resnet_dist.errors import UserError
from resnet_dist.plurals import counted
from resnet_dist.storage.interface import TrialKeys
from tune_jobs.actions.callbacks import Say
from tune_jobs.results.recorded_trial import RecordedTrial, find_trial
from tune_jobs.results.trials import read_experiment

NO_METRICS = ("epoch", "step")
"""Of a metrics line: where it stands."""


@dataclass(frozen=True)
class HandedOver:
    """What became of an experiment's trials."""

    where: str
    added: int
    there: int
    """Trials that had been handed over before."""
    unfinished: int
    """Trials that are not finished: another hand-over, later, adds them."""

    def line(self) -> str:
        """The same in words."""
        waiting = f"; {counted(self.unfinished, 'trial')} not finished yet" if self.unfinished else ""
        return f"{self.where}: {counted(self.added, 'trial')} added, {self.there} there already{waiting}"


@dataclass(frozen=True)
class Given:
    """What is told of a trial."""

    trial: RecordedTrial
    cells: str
    """The rows in which it stands, as `table: label`."""
    files: Path
    """A directory with its records and weights."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Its settings: `{"section.field": value}`."""
        return self.trial.config.to_flat_dict()

    @property
    def origin(self) -> dict[str, str]:
        """Where its numbers come from."""
        names = ("commit", "dirty", "data_fingerprint", "torch", "device")
        return {name: str(self.trial.provenance[name]) for name in names if self.trial.provenance.get(name) is not None}

    @property
    def epochs(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Of each epoch its number, seconds since the run began, and its metrics."""
        seconds = 0.0
        for line in self.trial.metrics:
            seconds += line.get("seconds") or 0.0
            numbers = {name: float(v) for name, v in line.items() if isinstance(v, int | float)}
            yield line["epoch"], seconds, {name: v for name, v in numbers.items() if name not in NO_METRICS}

    @property
    def started(self) -> float:
        """When the last attempt began, in seconds since 1970; 0 in records that do not tell."""
        began = self.trial.provenance.get("started")
        return datetime.fromisoformat(began).timestamp() if began else 0.0


def hand_over(
    storage: BrowsableStorage,
    name: str,
    where: str,
    there: Callable[[str], bool],
    give: Callable[[Given], None],
    say: Say,
) -> HandedOver:
    """Give each finished trial of an experiment, unless it is `there`, by its id; say which, for each takes a while."""
    results = read_experiment(storage, name, details=False)
    finished = [trial_id for trial_id, trial in results.trials.items() if trial.state == "finished"]
    added = 0
    for number, trial_id in enumerate(finished, 1):
        if not there(trial_id):
            say(f"[{number}/{len(finished)}] {results.trials[trial_id].name}")
            with _given(storage, name, trial_id, results.record) as given:
                give(given)
            added += 1
    return HandedOver(where, added, len(finished) - added, len(results.trials) - len(finished))


@contextmanager
def _given(storage: BrowsableStorage, name: str, trial_id: str, record: Any) -> Iterator[Given]:
    trial = find_trial(storage, f"{name}/{trial_id}")
    trial.require_sound_model()
    cells = [
        f"{table['name']}: {cell['label']}"
        for table in record["tables"]
        for cell in table["cells"]
        if trial_id in cell["trials"]
    ]
    prefix = TrialKeys(name, trial_id).prefix
    with tempfile.TemporaryDirectory(prefix="resnet-dist-hand-over-") as folder:
        for item in storage.list(prefix):
            file = item.key.removeprefix(prefix)
            if "/" in file:
                continue
            data = trial.model if file == "model.pt" else storage.get(item.key)
            if data is not None:
                (Path(folder) / file).write_bytes(data)
        yield Given(trial, "; ".join(cells), Path(folder))


def missing(package: str, extra: str) -> UserError:
    """What to say where the tool's own client is not installed."""
    return UserError(f"--to {extra}: needs {package}; install it with: pip install {package}")
