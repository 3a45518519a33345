"""Law 3: a grid is idempotent. A launch runs what is missing, goes on with what is half done, and nothing else.

Which trials a launch starts, by what storage holds; `tests/integration/test_law_3_killed_grid.py` launches real ones.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.errors import StorageError
from resnet_dist.storage.interface import Storage, TrialKeys, experiment_key
from tests.tune_jobs.recorded import record_metrics, record_result
from tune_jobs.grid.experiment import Trial, experiment_record, load_experiment, trials
from tune_jobs.grid.plan import Plan, make_plan

NAME = "law-3"
CELLS: dict[str, dict[str, Any]] = {
    "base": {},
    "deep": {"network.depth": 14},
    "after": {"network.batch_norm_position": "after"},
}


def experiment_file(folder: Path, cells: dict[str, dict[str, Any]], recipe: str = "") -> str:
    def toml(settings: dict[str, Any]) -> str:
        return ", ".join(f'"{name}" = {json.dumps(value)}' for name, value in settings.items())

    text = f'name = "{NAME}"\ntitle = "Law 3"\n[recipe]\nnetwork = {{ depth = 8, width = 4 }}\n{recipe}\n'
    text += '[[table]]\nname = "cells"\ntitle = "Cells"\n'
    for label, settings in cells.items():
        text += f'[[table.cell]]\nlabel = "{label}"\nset = {{ {toml(settings)} }}\n'
    path = folder / "experiment.toml"
    path.write_text(text)
    return str(path)


def plan(path: str, storage: BrowsableStorage, seeds: int = 1) -> Plan:
    return make_plan(path, storage, seeds, None, {})


def launch(path: str, storage: BrowsableStorage, seeds: int = 1) -> list[Trial]:
    """What a launch does to storage, its training replaced by a result; the trials that it started."""
    planned = plan(path, storage, seeds)
    record = experiment_record(planned.experiment, planned.seeds, planned.overrides)
    storage.put(experiment_key(NAME), json.dumps(record).encode())
    started = planned.to_run()
    for trial in started:
        record_result(storage, NAME, trial, 0.1)
    return started


def ids(trials: Iterable[Trial]) -> set[str]:
    return {trial.trial_id for trial in trials}


@pytest.fixture
def storage(tmp_path: Path) -> BrowsableStorage:
    return open_storage(str(tmp_path / "storage"))


def fail(kind: str) -> Callable[[Storage, Trial], None]:
    def write(storage: Storage, trial: Trial) -> None:
        record = {"layout": 1, "trial": trial.trial_id, "kind": kind, "reason": "a reason", "attempts": 1}
        storage.put(TrialKeys(NAME, trial.trial_id).failure, json.dumps(record).encode())

    return write


def put(part: str, data: bytes) -> Callable[[Storage, Trial], None]:
    return lambda storage, trial: storage.put(TrialKeys(NAME, trial.trial_id).prefix + part, data)


# What storage may hold of a trial, how that is called, and whether a launch starts it, without and with --retry-failed.
STATES: dict[str, tuple[Callable[[Storage, Trial], None], str, bool, bool]] = {
    "nothing": (lambda storage, trial: None, "missing", True, True),
    "its configuration": (put("config.json", b"{}"), "unfinished", True, True),
    "a checkpoint": (put("checkpoints/0000000002/state.pt", b"x"), "unfinished", True, True),
    "metrics": (lambda s, trial: record_metrics(s, NAME, trial, [0.5]), "unfinished", True, True),
    "weights without a result": (put("model.pt", b"x"), "unfinished", True, True),
    "an error": (fail("error"), "failed", True, True),
    "divergence": (fail("diverged"), "failed", False, True),
    "half a result": (put("result.json", b'{"layout": 1'), "corrupt", True, True),
    "a result": (lambda s, trial: record_result(s, NAME, trial, 0.1), "finished", False, False),
}


def test_a_launch_starts_each_trial_by_its_own_state_alone(tmp_path: Path) -> None:
    path = experiment_file(tmp_path, {"base": {}, "deep": CELLS["deep"]})
    for number, names in enumerate(itertools.product(STATES, repeat=2)):
        storage = open_storage(str(tmp_path / str(number)))
        both = trials(load_experiment(path), 1)
        for trial, name in zip(both, names, strict=True):
            STATES[name][0](storage, trial)
        planned = plan(path, storage)
        assert [item.state for item in planned.trials] == [STATES[name][1] for name in names], names
        for retry_failed in (False, True):
            expected = {
                trial.trial_id
                for trial, name in zip(both, names, strict=True)
                if STATES[name][3 if retry_failed else 2]
            }
            started = planned.to_run(retry_failed)
            assert ids(started) == expected and len(started) == len(expected), names


def test_a_second_launch_starts_nothing(tmp_path: Path, storage: BrowsableStorage) -> None:
    path = experiment_file(tmp_path, CELLS)
    assert len(launch(path, storage, seeds=2)) == 6
    assert launch(path, storage, seeds=2) == []


def test_cells_in_another_order_and_under_other_labels_start_nothing(tmp_path: Path, storage: BrowsableStorage) -> None:
    launch(experiment_file(tmp_path, CELLS), storage)
    renamed = {f"the {label}": settings for label, settings in reversed(CELLS.items())}
    assert launch(experiment_file(tmp_path, renamed), storage) == []


@pytest.mark.parametrize("changed", CELLS)
@pytest.mark.parametrize("setting", [("solver.learning_rate", 0.05), ("network.shortcut", "B"), ("run.epochs", 3)])
def test_changing_one_cell_runs_that_cell_alone(
    changed: str, setting: tuple[str, Any], tmp_path: Path, storage: BrowsableStorage
) -> None:
    launch(experiment_file(tmp_path, CELLS), storage, seeds=2)
    cells = CELLS | {changed: CELLS[changed] | {setting[0]: setting[1]}}
    started = launch(experiment_file(tmp_path, cells), storage, seeds=2)
    section, _, field = setting[0].partition(".")
    assert len(started) == 2
    for trial in started:
        assert getattr(getattr(trial.config, section), field) == setting[1]
        assert trial.config.network.depth == (14 if changed == "deep" else 8)
        assert trial.config.network.batch_norm_position == ("after" if changed == "after" else "before")


def test_changing_a_cell_back_starts_nothing(tmp_path: Path, storage: BrowsableStorage) -> None:
    launch(experiment_file(tmp_path, CELLS), storage)
    assert len(launch(experiment_file(tmp_path, CELLS | {"deep": {"network.depth": 20}}), storage)) == 1
    path = experiment_file(tmp_path, CELLS)
    assert [item.state for item in plan(path, storage).trials] == ["finished"] * 3
    assert launch(path, storage) == []


def test_more_seeds_run_the_new_ones_and_fewer_none(tmp_path: Path, storage: BrowsableStorage) -> None:
    path = experiment_file(tmp_path, CELLS)
    launch(path, storage, seeds=1)
    assert {trial.config.run.seed for trial in launch(path, storage, seeds=3)} == {1, 2}
    assert launch(path, storage, seeds=1) == []
    assert launch(path, storage, seeds=3) == []


def test_what_cannot_change_the_numbers_starts_nothing(tmp_path: Path, storage: BrowsableStorage) -> None:
    launch(experiment_file(tmp_path, CELLS), storage)
    recipe = "run = { workers = 2, checkpoint_steps = 5, summary_steps = 1 }"
    assert launch(experiment_file(tmp_path, CELLS, recipe), storage) == []


def test_a_damaged_experiment_record_is_written_anew_by_the_next_launch(
    tmp_path: Path, storage: BrowsableStorage
) -> None:
    path = experiment_file(tmp_path, CELLS)
    launch(path, storage)
    storage.put(experiment_key(NAME), b"{")
    assert launch(path, storage) == []


def test_an_experiment_of_another_layout_is_left_alone(tmp_path: Path, storage: BrowsableStorage) -> None:
    storage.put(experiment_key(NAME), b'{"layout": 9}')
    with pytest.raises(StorageError, match="has storage layout 9; this version reads layout 1"):
        plan(experiment_file(tmp_path, CELLS), storage)
