"""An experiment is edited, extended, included between launches: what differs is said, what is there used or named."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.keys import BrowsableStorage
from cluster.storage.opening import open_storage
from resnet_dist.storage.interface import TrialKeys, experiment_key
from tests.tune_jobs.recorded import record_metrics, record_result
from tune_jobs.command_line import main
from tune_jobs.grid import pruning
from tune_jobs.grid.experiment import Trial, experiment_record
from tune_jobs.grid.plan import Plan, make_plan
from tune_jobs.grid.reuse import take_over

ROWS = """
[[table.cell]]
label = "low"
set = { "solver.learning_rate" = 0.01 }
reference = 0.2
[[table.cell]]
label = "high"
set = { "solver.learning_rate" = 0.1 }
"""
TABLE = '[[table]]\nname = "rates"\ntitle = "Rates"\n'
DEPTHS = '[[table]]\nname = "depths"\ntitle = "D"\n[[table.cell]]\nlabel = "deep"\nset = { "network.depth" = 32 }\n'
EPOCHS = "[recipe]\nrun = { epochs = 4 }\nschedule = { milestones = [] }\n"


@pytest.fixture
def storage(tmp_path: Path) -> BrowsableStorage:
    return open_storage(str(tmp_path / "storage"))


def file(folder: Path, *parts: str, name: str = "mine", head: str = "") -> str:
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\ntitle = "Mine"\n{head}{"".join(parts)}')
    return str(path)


def launch(
    path: str, storage: BrowsableStorage, seeds: int | None = None, epochs: int | None = None
) -> tuple[Plan, Sequence[Trial]]:
    """What a launch does to storage, its training replaced by results; its plan, and the trials that it trained."""
    planned = make_plan(path, storage, seeds, epochs, {})
    name = planned.experiment.name
    names = {item.trial.trial_id: item.trial.name for item in planned.trials}
    record = experiment_record(planned.experiment, planned.seeds, {}, names=names, asked_epochs=epochs)
    for trial_id, other in planned.elsewhere.items():
        take_over(storage, name, trial_id, other)
    storage.put(experiment_key(name), json.dumps(record).encode())
    started = planned.to_run()
    for trial in started:
        record_result(storage, name, trial, 0.1)
    return planned, started


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# The file that is named


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([EPOCHS, TABLE, ROWS], []),
        (
            [EPOCHS, TABLE, ROWS.replace('"low"', '"slow"')],
            ["another baseline", "row 'slow' is new", "row 'low' is gone"],
        ),
        ([EPOCHS, TABLE, ROWS.replace("0.01", "0.02")], ["row 'low' has another solver.learning_rate"]),
        ([EPOCHS, TABLE, ROWS.replace("0.2", "0.3")], ["row 'low' has another reference"]),
        ([EPOCHS, TABLE, 'caption = "New"\n', ROWS], ["another caption"]),
        ([EPOCHS, TABLE, 'baseline = "high"\n', ROWS], ["another baseline"]),
        (
            [EPOCHS.replace("4", "6"), TABLE, ROWS],
            ["row 'low' has another run.epochs", "row 'high' has another run.epochs"],
        ),
    ],
)
@pytest.mark.parametrize("epochs", [None, 2])
def test_status_and_report_say_in_what_a_file_is_no_longer_that_of_the_launch(
    parts: list[str],
    said: list[str],
    epochs: int | None,
    tmp_path: Path,
    storage: BrowsableStorage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = file(tmp_path, EPOCHS, TABLE, ROWS)
    launch(path, storage, epochs=epochs)
    file(tmp_path, *parts)
    expected = [f"table 'rates': {one}" for one in said if not (epochs and "epochs" in one)]
    assert asked(capsys, "grid", "status", path, "--storage", storage.uri)["edits"] == expected
    if expected and epochs is None:
        for action in ("status", "report"):
            assert main(["grid", action, path, "--storage", storage.uri]) == 0
            note = f"Note: {path} has changed since its last launch, of which this is ({expected[0]}"
            assert note in capsys.readouterr().out


def test_tables_that_come_and_go_are_said(
    tmp_path: Path, storage: BrowsableStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, TABLE, ROWS)
    launch(path, storage)
    file(tmp_path, DEPTHS)
    said = asked(capsys, "grid", "status", path, "--storage", storage.uri)["edits"]
    assert said == ["table 'depths' is new", "table 'rates' is gone"]


def test_a_stored_experiment_is_asked_for_by_name_without_its_file(
    tmp_path: Path, storage: BrowsableStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(file(tmp_path, TABLE, ROWS), storage)
    assert asked(capsys, "grid", "status", "mine", "--storage", storage.uri)["edits"] == []


# What a launch takes from the last one


def test_seeds_that_are_not_given_are_those_of_the_last_launch_if_it_had_more(
    tmp_path: Path, storage: BrowsableStorage
) -> None:
    path = file(tmp_path, TABLE, ROWS, head="seeds = 2\n")
    assert launch(path, storage)[0].seeds == 2
    assert launch(path, storage, seeds=3)[0].seeds == 3
    planned, started = launch(path, storage)
    assert planned.seeds == 3 and started == []
    assert planned.notes == ("3 seeds, as the last launch had; the experiment's own number is 2",)
    fewer, _ = launch(path, storage, seeds=1)
    assert fewer.seeds == 1 and "4 trials in storage are no part of this: 4 finished with other seeds" in fewer.notes[0]


def test_a_trial_keeps_its_name_whatever_is_added(tmp_path: Path, storage: BrowsableStorage) -> None:
    before, _ = launch(file(tmp_path, TABLE, ROWS), storage)
    names = {item.trial.trial_id: item.trial.name for item in before.trials}
    after, started = launch(file(tmp_path, TABLE, ROWS, DEPTHS), storage, seeds=2)
    now = {item.trial.trial_id: item.trial.name for item in after.trials}
    assert len(started) == 4 and len(set(now.values())) == 6
    assert {trial_id: now[trial_id] for trial_id in names} == names
    for name in names.values():
        assert name.replace("seed-0", "seed-1") in now.values(), "further seeds stand beside the first"


# What is there besides


def others(folder: Path, storage: BrowsableStorage) -> str:
    """An experiment that was launched in several forms; the last asks for one of them."""
    launch(file(folder, EPOCHS, TABLE, ROWS), storage, seeds=2)
    launch(file(folder, EPOCHS, TABLE, ROWS), storage, epochs=2)
    record_metrics(storage, "mine", launch(file(folder, EPOCHS, TABLE, ROWS, DEPTHS), storage)[1][0], [0.5])
    launch(file(folder, EPOCHS, TABLE, ROWS), storage, seeds=1)
    return file(folder, EPOCHS, TABLE, ROWS)


def test_what_is_no_part_of_an_experiment_is_listed_with_its_reason_and_removed_on_request(
    tmp_path: Path, storage: BrowsableStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    path = others(tmp_path, storage)
    (note,) = make_plan(path, storage, 1, None, {}).notes
    for said in ("2 finished with other seeds", "4 finished over other epochs", "2 finished of other settings"):
        assert said in note
    everything = {item.key for item in storage.list("mine/")}
    assert main(["grid", "prune", path, "--storage", storage.uri]) == 0
    assert "nothing was removed; --delete removes them" in capsys.readouterr().out
    assert {item.key for item in storage.list("mine/")} == everything
    kept = asked(capsys, "grid", "status", path, "--storage", storage.uri)["trials"]
    found = asked(capsys, "grid", "prune", path, "--storage", storage.uri, "--delete")
    assert len(found["trials"]) == 8 and found["removed"]
    left = {key.split("/")[2] for key in (item.key for item in storage.list("mine/trials/"))}
    assert left == {trial["trial"] for trial in kept}
    assert asked(capsys, "grid", "status", path, "--storage", storage.uri)["trials"] == kept
    assert asked(capsys, "grid", "prune", path, "--storage", storage.uri)["trials"] == []


def test_what_is_removed_stops_looking_finished_first_and_takes_no_curves_of_a_trial_that_stays(
    tmp_path: Path, storage: BrowsableStorage
) -> None:
    _, (stays, goes) = launch(file(tmp_path, TABLE, ROWS), storage)
    keys = TrialKeys("mine", goes.trial_id)
    curves = keys.event_file(goes.name, "1")
    storage.put(curves, b"events")
    for name, taken in ((stays.name, True), (goes.name, False)):  # an edited experiment may give a name to another
        kept = {stays.trial_id: {"name": name, "config": stays.config.to_dict()}}
        (other,) = pruning.describe(storage, "mine", [goes.trial_id], kept)
        assert other.keys[0] == keys.result and other.finished
        assert (curves in other.keys) is taken


def test_trials_of_an_earlier_text_of_ones_code_are_said_to_be_there(
    tmp_path: Path, storage: BrowsableStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "import torch\ndef sgd(weights, solver): return torch.optim.SGD(weights, solver.learning_rate)\n"
    (tmp_path / "own.py").write_text(text)
    rows = '[[table.cell]]\nlabel = "a"\nset = { "solver.kind" = "own:sgd", "solver.learning_rate" = 0.1 }\n'
    path = file(tmp_path, TABLE, rows)
    launch(path, storage, seeds=2)
    (tmp_path / "own.py").write_text(text + "# a remark\n")
    planned = make_plan(path, storage, None, None, {})
    assert {item.state for item in planned.trials} == {"missing"}
    assert "2 trials in storage are no part of this: 2 finished of an earlier text of your code" in planned.notes[-1]


# What another experiment of the storage has


def test_what_another_experiment_has_finished_is_taken_over_byte_for_byte(
    tmp_path: Path, storage: BrowsableStorage
) -> None:
    _, trained = launch(file(tmp_path, TABLE, ROWS), storage)
    for trial in trained:
        storage.put(TrialKeys("mine", trial.trial_id).event_file(trial.name, "1"), b"events")
    both = file(tmp_path, DEPTHS, name="both", head='include = ["mine.toml"]\n')
    failure = TrialKeys("both", trained[1].trial_id).failure
    storage.put(failure, b"{}")  # of an attempt there
    taken = TrialKeys("both", trained[1].trial_id).event_file(trained[1].name, "1")
    storage.put(taken, b"of another trial of that name")
    planned = make_plan(both, storage, None, None, {})
    assert planned.notes == ("2 trials finished in experiment mine of this storage: taken over, not trained again",)
    _, started = launch(both, storage)
    assert {trial.config.network.depth for trial in started} == {32}
    for trial in trained:
        there, here = TrialKeys("mine", trial.trial_id), TrialKeys("both", trial.trial_id)
        for item in storage.list(there.prefix):
            assert storage.get(here.prefix + item.key.removeprefix(there.prefix)) == storage.get(item.key)
    assert storage.get(f"both/tb/{trained[0].name}/events.out.tfevents.1") == b"events"
    assert storage.get(taken) == b"of another trial of that name"
    assert storage.get(failure) is None
    assert launch(both, storage)[1] == [] and make_plan(both, storage, None, None, {}).notes == ()


def test_the_result_is_the_last_that_is_taken_over(
    tmp_path: Path, storage: BrowsableStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (trial, *_) = launch(file(tmp_path, TABLE, ROWS), storage)
    written: list[str] = []
    monkeypatch.setattr(storage, "put", lambda key, data: written.append(key))
    take_over(storage, "both", trial.trial_id, "mine")
    names = [key.removeprefix(TrialKeys("both", trial.trial_id).prefix) for key in written]
    assert names[-1] == "result.json" and names.count("result.json") == 1 and "model.pt" in names


@pytest.mark.parametrize("spoilt", [{"scheduler": "asha"}, {"trial": "0" * 16}, {"test_loss": None}])
def test_results_that_are_none_are_not_taken_over(
    spoilt: dict[str, Any], tmp_path: Path, storage: BrowsableStorage
) -> None:
    _, (trial, *_) = launch(file(tmp_path, TABLE, ROWS), storage)
    key = TrialKeys("mine", trial.trial_id).result
    storage.put(key, json.dumps(json.loads(storage.get(key) or b"") | spoilt).encode())
    planned = make_plan(file(tmp_path, TABLE, ROWS, name="other"), storage, None, None, {})
    assert trial.trial_id not in planned.elsewhere and len(planned.elsewhere) == 1
