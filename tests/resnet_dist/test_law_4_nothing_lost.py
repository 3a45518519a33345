"""Law 4: nothing reported is lost, and nothing unfinished looks finished.

A run is stopped between any two of its writes: what storage holds at each such moment is named rightly, is counted
only if it is finished, and is gone on from to the same numbers. So it is where storage has fallen behind and writes
wait on disk, on the host that has them and on one that has not.
"""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.local import LocalStorage
from resnet_dist.records.recorder import Recorder, record_failure
from resnet_dist.storage.interface import Storage, TrialKeys, experiment_key
from resnet_dist.storage.sending import SpooledStorage, flush
from resnet_dist.storage.spool import Spool, spooled_trials
from resnet_dist.summaries import event_files
from resnet_dist.training.loop import train
from resnet_dist.workers import alone
from tests.killed_runs import Outcome, outcome, points
from tests.small_runs import small_config, small_dataset
from tests.unreliable_storage import UnreliableStorage
from tune_jobs.command_line import main
from tune_jobs.report.summary import summarise_experiment
from tune_jobs.results.trials import read_experiment

# Steps 4 and 3 of two epochs; checkpoints after steps 2, 4, 6 and 7, each of two objects and the last two kept.
CONFIG = small_config(run__precision="float32", run__checkpoint_steps=2, run__summary_steps=2)
DATASET = small_dataset(train=56, test=10)
EXPERIMENT, NAME = "law-4", "seed-0"
KEYS = TrialKeys(EXPERIMENT, CONFIG.trial_id())
RECORD: dict[str, Any] = {
    "layout": 1,
    "experiment": EXPERIMENT,
    "title": "",
    "seeds": 1,
    "overrides": {},
    "deviations": [],
    "tables": [
        {
            "name": "runs",
            "title": "Runs",
            "caption": "",
            "baseline": "run",
            "cells": [{"label": "run", "reference": None, "paper": None, "trials": [KEYS.trial_id]}],
        }
    ],
    "trials": {KEYS.trial_id: {"name": NAME, "config": CONFIG.to_dict()}},
}


class Watched(LocalStorage):
    """A directory that is copied before each change."""

    def __init__(self, root: Path, copies: Path) -> None:
        super().__init__(root)
        self.copies = copies
        self.changes: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        self._copy(f"put {key}")
        super().put(key, data)

    def grow(self, key: str, data: bytes) -> None:
        self._copy(f"grow {key}")
        super().grow(key, data)

    def delete(self, key: str) -> None:
        self._copy(f"delete {key}")
        super().delete(key)

    def _copy(self, change: str) -> None:
        shutil.copytree(self.root, self.copies / str(len(self.changes)))
        self.changes.append(change)


@dataclass(frozen=True)
class Moments:
    """What storage held before each change of one whole run, and at its end."""

    changes: list[str]
    """What was to be written next."""
    states: list[Path]
    final: Outcome

    def first(self, change: str) -> int:
        """The first moment before a change."""
        return self.changes.index(change)


def run(storage: Storage) -> None:
    """Train to the end, from the newest checkpoint on."""
    recorder, steps = Recorder(storage, EXPERIMENT, NAME, CONFIG), list[int]()
    newest = max(recorder.checkpoints.complete(), default=0)
    train(CONFIG, DATASET, alone("cpu"), recorder, on_step=lambda step, _: steps.append(step))
    assert steps[:1] in ([newest + 1], []), "the run has begun anew"


def go_on(storage: Storage) -> Outcome:
    run(storage)
    return outcome(storage, CONFIG, EXPERIMENT)


@pytest.fixture(scope="module", autouse=True)
def one_event_file() -> Iterator[None]:
    """Both epochs' events are in one file, so that the second adds to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_files, "FILES", 1)
        yield


@pytest.fixture(scope="module")
def moments() -> Iterator[Moments]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        LocalStorage(root / "live").put(experiment_key(EXPERIMENT), json.dumps(RECORD).encode())
        watched = Watched(root / "live", root / "copies")
        final = go_on(watched)
        states = [root / "copies" / str(number) for number in range(len(watched.changes))]
        yield Moments([*watched.changes, "end"], [*states, root / "live"], final)


def test_every_kind_of_write_is_among_the_moments(moments: Moments) -> None:
    step = f"put {KEYS.checkpoints}{4:010d}/"
    tb = f"grow {KEYS.event_file(NAME, '000002.resnet_dist')}"
    order = [f"put {KEYS.config}", f"put {KEYS.provenance}", tb, f"put {KEYS.metrics}", f"{step}state.pt"]
    order += [f"{step}manifest.json", f"delete {KEYS.checkpoints}{2:010d}/manifest.json", f"put {KEYS.model}"]
    order += [f"put {KEYS.result}", f"delete {KEYS.checkpoints}{7:010d}/manifest.json"]
    positions = [moments.first(change) for change in order]
    assert positions == sorted(positions)
    assert len(moments.changes) >= 27


def test_each_moment_is_named_rightly_and_only_the_finished_counts(
    moments: Moments, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, finished = moments.first(f"put {KEYS.provenance}"), moments.first(f"put {KEYS.result}") + 1
    for number, (change, state) in enumerate(zip(moments.changes, moments.states, strict=True)):
        expected = "missing" if number < begun else "unfinished" if number < finished else "finished"
        results = read_experiment(LocalStorage(state), EXPERIMENT)
        trial = results.trials[KEYS.trial_id]
        assert (trial.state, trial.reason) == (expected, ""), f"before {change}"
        assert (state / KEYS.result).exists() == (trial.state == "finished")
        ((cell,),) = (table.cells for table in summarise_experiment(results).tables)
        assert (cell.ours is not None) == (expected == "finished"), f"before {change}"
        assert cell.finished == ("1 of 1 finished" if expected == "finished" else "0 of 1 finished")

        assert main(["grid", "status", EXPERIMENT, "--storage", str(state), "--json"]) == 0
        (said,) = json.loads(capsys.readouterr().out)["trials"]
        assert (said["state"], said["epochs_done"]) == (expected, trial.epochs_done), f"before {change}"
        assert (said["top1_error"] is not None) == (expected == "finished")


def test_each_moment_holds_a_beginning_of_the_metrics_and_events(moments: Moments) -> None:
    for change, state in zip(moments.changes, moments.states, strict=True):
        metrics = LocalStorage(state).get(KEYS.metrics) or b""
        rows = [json.loads(line) for line in metrics.splitlines()]
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1)), f"before {change}"
        assert set(points(LocalStorage(state), EXPERIMENT)) <= set(moments.final.events), f"before {change}"


def test_each_moment_is_gone_on_from_to_the_same_numbers(moments: Moments, tmp_path: Path) -> None:
    for number, (change, state) in enumerate(zip(moments.changes, moments.states, strict=True)):
        copy = tmp_path / str(number)
        shutil.copytree(state, copy)
        assert go_on(LocalStorage(copy)).same_bits(moments.final), f"before {change}"
        left = {file.name for file in copy.rglob("*") if file.is_file()}
        if number <= moments.first(f"put {KEYS.result}"):
            assert not left & {"state.pt", "manifest.json"}, f"before {change}"


def test_checkpoints_left_after_the_result_are_harmless(moments: Moments, tmp_path: Path) -> None:
    state = moments.states[moments.first(f"put {KEYS.result}") + 1]
    assert list(state.rglob("state.pt")), "nothing was left"
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in state.rglob("*") if file.is_file()}
    assert go_on(LocalStorage(state)).same_bits(moments.final)
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in state.rglob("*") if file.is_file()}
    assert after == before


def test_the_first_start_and_every_attempt_stay_on_record(moments: Moments, tmp_path: Path) -> None:
    state = moments.states[moments.first(f"put {KEYS.model}")]
    shutil.copytree(state, tmp_path / "copy")
    storage = LocalStorage(tmp_path / "copy")
    provenance = json.loads(storage.get(KEYS.provenance) or b"")
    provenance["started"] = "2026-01-01T00:00:00+00:00"
    provenance["attempts"][0] |= {"commit": "0" * 40, "dirty": True}
    storage.put(KEYS.provenance, json.dumps(provenance).encode())
    go_on(storage)
    after = json.loads(storage.get(KEYS.provenance) or b"")
    assert after["started"] == provenance["started"]
    assert after["attempts"][0] == provenance["attempts"][0]
    assert len(after["attempts"]) == 2 and {"commit", "host", "workers"} <= after["attempts"][1].keys()
    assert after["dirty"], "epochs that ran with uncommitted changes are in the result"
    assert json.loads(storage.get(KEYS.result) or b"")["attempts"] == 2


def test_a_failure_is_on_record_until_the_next_attempt_begins(moments: Moments, tmp_path: Path) -> None:
    shutil.copytree(moments.states[moments.first(f"put {KEYS.model}")], tmp_path / "copy")
    storage = LocalStorage(tmp_path / "copy")
    record_failure(storage, KEYS, "error", "the node was lost", 1)
    assert read_experiment(storage, EXPERIMENT).trials[KEYS.trial_id].state == "failed"
    assert go_on(storage).same_bits(moments.final)
    assert read_experiment(storage, EXPERIMENT).trials[KEYS.trial_id].state == "finished"
    assert storage.get(KEYS.failure) is None


@dataclass(frozen=True)
class Behind:
    """A moment at which storage hangs, and writes wait in the spool."""

    storage: Path
    spool: Path
    waiting: list[str]
    next: str
    """The write that was about to join them."""


class Elsewhere(UnreliableStorage):
    """Remote storage that is the same one wherever a test has copied it to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.place = "elsewhere"


def go_on_spooled(root: Path, spool: Path) -> Outcome:
    """What the next launch on the host with this spool makes of a state; nothing waits afterwards."""
    storage = Elsewhere(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_DIST_SPOOL", str(spool))
        with SpooledStorage(storage, EXPERIMENT, KEYS.trial_id) as spooled:
            run(spooled)
        spooled.require_complete("it ran")
        assert not list(spooled_trials())
    return outcome(storage, CONFIG, EXPERIMENT)


def fall_behind(root: Path, writes: int) -> list[Behind]:
    """A run whose storage hangs after so many writes: its states before each further one."""
    storage = Elsewhere(root / "live")
    storage.root.mkdir(parents=True)  # to be copied before there is anything in it
    hangs = threading.Event()

    def hang(change: str) -> None:
        if len(storage.done) >= writes:
            storage.gate.clear()
            hangs.set()

    storage.before = hang
    states: list[Behind] = []
    append = Spool.append

    def append_watched(spool: Spool, kind: Any, key: str, data: bytes = b"") -> None:
        if hangs.is_set():
            number = len(states)
            for name, path in (("storage", storage.root), ("spool", root / "spool")):
                shutil.copytree(path, root / f"{name} {number}")
            waiting = [f"{write.kind} {write.key}" for write in spool.writes]
            states.append(Behind(root / f"storage {number}", root / f"spool {number}", waiting, f"{kind} {key}"))
        append(spool, kind, key, data)

    def write_and_wait(spooled: SpooledStorage, kind: Any, key: str, data: bytes) -> None:
        write(spooled, kind, key, data)
        while spooled.counts.totals().waiting_writes and not hangs.is_set():
            time.sleep(0.001)

    write = SpooledStorage._write
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_DIST_SPOOL", str(root / "spool"))
        patch.setattr(Spool, "append", append_watched)
        patch.setattr(SpooledStorage, "_write", write_and_wait)
        with SpooledStorage(storage, EXPERIMENT, KEYS.trial_id) as spooled:
            train(CONFIG, DATASET, alone("cpu"), Recorder(spooled, EXPERIMENT, NAME, CONFIG))
            storage.broken = True
            storage.gate.set()
    assert not (storage.root / KEYS.result).exists(), "the run was to be behind to its end"
    return states


@pytest.fixture(scope="module")
def behind() -> Iterator[list[Behind]]:
    """States of runs whose storage hangs from the first write, the first epoch, and the last checkpoint on."""
    with tempfile.TemporaryDirectory() as directory:
        yield [state for writes in (0, 7, 17) for state in fall_behind(Path(directory) / str(writes), writes)]


def test_where_storage_has_fallen_behind_a_run_goes_on_from_each_moment_on_its_host(
    behind: list[Behind], moments: Moments, tmp_path: Path
) -> None:
    assert any(f"put {KEYS.result}" in state.waiting for state in behind)
    for number, state in list(enumerate(behind))[::2]:
        shutil.copytree(state.storage, tmp_path / f"storage {number}")
        shutil.copytree(state.spool, tmp_path / f"spool {number}")
        found = go_on_spooled(tmp_path / f"storage {number}", tmp_path / f"spool {number}")
        assert found.same_bits(moments.final), f"{state.waiting} waited before {state.next}"


def test_what_waits_does_not_count_and_never_touches_what_another_host_has_finished(
    behind: list[Behind], moments: Moments, tmp_path: Path
) -> None:
    for number, state in list(enumerate(behind))[::6]:
        storage = Elsewhere(state.storage)
        storage.put(experiment_key(EXPERIMENT), json.dumps(RECORD).encode())
        assert read_experiment(storage, EXPERIMENT).trials[KEYS.trial_id].state in ("missing", "unfinished")
        assert go_on_spooled(state.storage, tmp_path / f"other {number}").same_bits(moments.final)
        before = {item.key: item.version for item in storage.list("")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RESNET_DIST_SPOOL", str(state.spool))
            made, _ = flush(storage, EXPERIMENT, KEYS.trial_id)
        assert (made, before) == (0, {item.key: item.version for item in storage.list("")}), state.waiting
