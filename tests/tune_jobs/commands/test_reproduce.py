"""`resnet-dist reproduce`: how to get a trial again, and whether it was got."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.opening import open_storage
from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.data.dataset import dataset_fingerprint
from resnet_dist.launch import Job, run_in_process
from resnet_dist.records import checkpoints
from resnet_dist.records.git_state import SourceState
from resnet_dist.records.provenance import describe
from resnet_dist.records.trial_record import parse_result, summary
from resnet_dist.workers import alone
from tests.image_trees import image_tree, write_directory
from tests.small_runs import small_config
from tune_jobs.command_line import main
from tune_jobs.commands.options import read_config
from tune_jobs.results import bitwise_comparison
from tune_jobs.results.recorded_trial import find_trial


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage with one finished trial, of images of this module's own."""
    folder = tmp_path_factory.mktemp("trained")
    write_directory(folder / "images", image_tree())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_DIST_CACHE", str(folder / "cache"))
        for module in ("resnet_dist.records.provenance", "resnet_dist.records.recorder"):
            patch.setattr(
                f"{module}.running_source", lambda: SourceState("1f" * 20, True, "git", b"the patch\n", ("x",))
            )
        settings = {"run__precision": "float32", "run__device": "cpu", "data__batch_size": 4}
        config = small_config(data__source=f"folder:{folder / 'images'}", **settings)
        config = config.with_fingerprint(dataset_fingerprint(config.data))
        run_in_process(Job(config, "small", "the trial", lambda: open_storage(str(folder / "storage"))))
    return folder


@pytest.fixture
def storage(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that storage, to be damaged."""
    monkeypatch.setenv("RESNET_DIST_CACHE", str(trained / "cache"))
    shutil.copytree(trained / "storage", tmp_path / "storage")
    return tmp_path / "storage"


def trial_folder(storage: Path) -> Path:
    (folder,) = (storage / "small" / "trials").iterdir()
    return folder


@pytest.fixture
def earlier(storage: Path) -> Path:
    """The storage as an earlier version would have left it: what the files around the result say counts."""
    path = trial_folder(storage) / "result.json"
    path.write_text(json.dumps(summary(parse_result(path.read_bytes(), path.parent.name))))
    return storage


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reproduce(storage: Path, *arguments: str, trial: str | None = None) -> int:
    return main(["reproduce", trial or trial_folder(storage).name, "--storage", str(storage), *arguments])


def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_commands_name_commit_patch_and_settings(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(storage, "--json") == 0
    plan = answer(capsys)
    folder = trial_folder(storage)
    checkout, patch, train = plan["commands"]
    assert checkout == f"git checkout {'1f' * 20}"
    assert patch == f"git apply {folder / 'source.patch'}"
    assert train == f"resnet-dist train --storage reproduced --config {folder / 'config.json'}"
    assert plan["notes"] == ["Changed but not kept in the patch: x"]
    assert read_config(str(folder / "config.json")).trial_id() == folder.name


def test_versions_that_differ_from_the_installed_ones_are_to_be_installed(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(trial_folder(earlier) / "provenance.json", torch="2.6.0+cu124", numpy="1.26.0")
    assert reproduce(earlier, "--json") == 0
    assert "pip install torch==2.6.0 numpy==1.26.0" in answer(capsys)["commands"]


def test_files_can_be_put_into_a_directory(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(storage, "--into", str(tmp_path / "files")) == 0
    assert f"git apply {tmp_path}/files/source.patch" in capsys.readouterr().out
    assert (tmp_path / "files" / "source.patch").read_text() == "the patch\n"
    assert read_config(str(tmp_path / "files" / "config.json")).trial_id() == trial_folder(storage).name


def test_a_trial_of_a_commit_that_took_the_threads_of_its_process_is_given_them(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(trial_folder(earlier) / "provenance.json", threads=5)
    assert reproduce(earlier, "--json") == 0
    assert answer(capsys)["commands"][-1].startswith("OMP_NUM_THREADS=5 resnet-dist train")


def test_a_changed_interruption_is_told(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = [{"started": "a", "workers": 2, "commit": "1"}, {"started": "b", "workers": 1, "commit": "1"}]
    edit(trial_folder(earlier) / "provenance.json", attempts=attempts)
    assert reproduce(earlier, "--json") == 0
    assert "It was interrupted, and went on with other: workers." in answer(capsys)["notes"]


def test_an_epoch_that_one_run_lacks_is_a_difference(storage: Path) -> None:
    then = find_trial(open_storage(str(storage)), trial_folder(storage).name)
    for old, new in ((then, replace(then, metrics=then.metrics[:1])), (replace(then, metrics=then.metrics[:1]), then)):
        found = bitwise_comparison.compare(old, new)
        assert (found.identical, found.first_epoch, found.tensors) == (False, 2, ())


def test_the_same_numbers_of_another_type_are_a_difference(storage: Path) -> None:
    then = find_trial(open_storage(str(storage)), trial_folder(storage).name)
    state = checkpoints.decode(then.model or b"")
    state["network"]["linear.bias"] = state["network"]["linear.bias"].double()
    now = replace(then, model=checkpoints.encode(state), result=None)
    found = bitwise_comparison.compare(then, now)
    assert (found.identical, found.tensors, found.largest_difference) == (False, ("linear.bias",), math.inf)


def test_a_trial_trained_again_here_is_identical(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(storage, "--run", "--json") == 0
    comparison = answer(capsys)["comparison"]
    assert comparison["identical"]
    assert comparison["tensors"] == [] and comparison["first_epoch"] is None


@pytest.mark.integration
def test_a_trial_in_an_object_store_is_fetched_and_trained_again(
    storage: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = open_storage(str(storage)), open_storage(f"s3://{bucket}/results")
    for item in here.list(""):
        there.put(item.key, here.get(item.key) or b"")
    trial = trial_folder(storage).name
    before = there.list("")
    assert main(["reproduce", trial, "--storage", there.uri, "--run", "--json"]) == 0
    assert answer(capsys)["comparison"]["identical"]
    assert main(["reproduce", trial, "--storage", there.uri, "--into", str(tmp_path / "fetched")]) == 0
    assert read_config(str(tmp_path / "fetched" / "config.json")).trial_id() == trial
    assert there.list("") == before


def test_the_trial_itself_is_not_touched(storage: Path, tmp_path: Path) -> None:
    def files() -> dict[Path, tuple[int, bytes]]:
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in storage.rglob("*") if file.is_file()}

    before = files()
    assert reproduce(storage, "--run", "--into", str(tmp_path / "again")) == 0
    assert files() == before
    trial_id = trial_folder(storage).name
    assert find_trial(open_storage(str(tmp_path / "again")), trial_id).result is not None


def test_the_first_epoch_that_differs_is_named_with_its_values(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trial_folder(earlier) / "metrics.jsonl"
    first, second = map(json.loads, path.read_text().splitlines())
    loss = second["train_loss"]
    second |= {"train_loss": loss + 1e-15 + 1e-15 * loss, "seconds": 1e9}
    path.write_text(json.dumps(first | {"seconds": 1e9}) + "\n" + json.dumps(second) + "\n")
    assert second["train_loss"] != loss
    assert reproduce(earlier, "--run", "--json") == 1
    comparison = answer(capsys)["comparison"]
    assert comparison["first_epoch"] == 2
    assert comparison["metrics"] == {"train_loss": [second["train_loss"], loss]}


def test_weights_that_differ_are_named_with_the_largest_difference(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trial_folder(earlier) / "model.pt"
    state = checkpoints.decode(path.read_bytes())
    state["network"]["linear.bias"][2] += 0.5
    state["network"]["linear.weight"][0, 0] += 0.25
    path.write_bytes(checkpoints.encode(state))
    edit(trial_folder(earlier) / "provenance.json", host="elsewhere")
    assert reproduce(earlier, "--run") == 1
    said = capsys.readouterr().out
    assert "Weights: 2 tensors differ, by up to 0.5" in said
    assert "host: elsewhere then" in said


def test_what_a_result_depends_on_is_in_the_provenance() -> None:
    from tune_jobs.commands.reproduce import CAUSES

    assert set(CAUSES) <= set(describe(alone("cpu"), "data"))


@pytest.mark.parametrize("which", ["small/{}", "{}", "small/{:.6}", "{:.6}"])
def test_a_trial_is_found_by_the_beginning_of_its_id(which: str, storage: Path) -> None:
    trial_id = trial_folder(storage).name
    found = find_trial(open_storage(str(storage)), which.format(trial_id))
    assert (found.experiment, found.trial_id) == ("small", trial_id)
    assert isinstance(found.config, TrainingConfig)


def error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_several_trials_are_listed(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial_id = trial_folder(storage).name
    shutil.copytree(storage / "small", storage / "other")
    assert reproduce(storage) == 1
    assert f"give one of other/{trial_id}, small/{trial_id}" in error(capsys)
    assert reproduce(storage, trial=f"other/{trial_id}") == 0


@pytest.mark.parametrize(
    ("trial", "says"), [("f" * 17, "no such trial"), ("small/", "give EXPERIMENT/ID"), ("none/a", "no such trial")]
)
def test_an_unknown_trial_is_one_line(trial: str, says: str, storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(storage, trial=trial) == 1
    assert says in error(capsys)


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "metrics.jsonl", "result.json"])
def test_a_corrupt_record_is_named(name: str, earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trial_folder(earlier) / name).write_text("{")
    assert reproduce(earlier) == 1
    assert name in error(capsys)


def test_corrupt_weights_are_named(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trial_folder(earlier) / "model.pt").write_bytes(b"no weights")
    assert reproduce(earlier, "--run") == 1
    assert "model.pt: cannot be read" in error(capsys)


def test_an_older_metrics_file_changes_nothing_of_the_comparison(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trial_folder(storage) / "metrics.jsonl").write_text("{")
    assert reproduce(storage, "--run", "--json") == 0
    assert answer(capsys)["comparison"]["identical"]


@pytest.mark.parametrize("name", ["model.pt", "source.patch"])
def test_files_that_are_not_the_results_are_refused(
    name: str, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trial_folder(storage) / name).write_bytes(b"another")
    assert reproduce(storage, "--run") == 1
    assert f"{name}: is damaged or replaced: it is not the file whose SHA-256 result.json has" in error(capsys)


def test_an_unfinished_trial_is_described_but_not_compared(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trial_folder(storage) / "result.json").unlink()
    assert reproduce(storage) == 0
    assert "not finished" in capsys.readouterr().out
    assert reproduce(storage, "--run") == 1
    assert "not finished" in error(capsys)


def test_a_trial_is_not_reproduced_into_its_own_storage(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(storage, "--run", "--into", str(storage)) == 1
    assert "--into" in error(capsys)
