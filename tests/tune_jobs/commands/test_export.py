"""One archive of a trial, and the errors of the model in it."""

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.storage.local import LocalStorage
from cluster.storage.opening import open_storage
from resnet_dist.configuration.data import DataConfig
from resnet_dist.data.dataset import Dataset, LabelledImages
from resnet_dist.errors import StorageError
from resnet_dist.records import checkpoints
from resnet_dist.records.recorder import Recorder
from resnet_dist.records.weights_file import read_weights
from resnet_dist.storage.interface import TrialKeys
from resnet_dist.training.loop import train
from resnet_dist.workers import alone
from tests.small_runs import small_config, small_dataset
from tune_jobs.actions.evaluate import evaluate
from tune_jobs.command_line import main
from tune_jobs.results.bitwise_comparison import compare
from tune_jobs.results.recorded_trial import find_trial

CONFIG = small_config(run__precision="float32", data__source="cifar10")
DATASET = replace(small_dataset(train=48, test=30), source="cifar10")
KEYS = TrialKeys("runs", CONFIG.trial_id())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage with one finished trial."""
    folder = tmp_path_factory.mktemp("results")
    train(CONFIG, DATASET, alone("cpu"), Recorder(LocalStorage(folder), "runs", "n=1/seed-0", CONFIG))
    return folder


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> list[Dataset]:
    """What loading any source gives: the data set in this list."""
    loaded = [DATASET]

    def test_images(config: DataConfig) -> LabelledImages:
        return LabelledImages(loaded[0].test_images, loaded[0].test_labels, loaded[0].classes, loaded[0].fingerprint)

    monkeypatch.setattr("resnet_dist.data.dataset.load_dataset", lambda *_: loaded[0])
    monkeypatch.setattr("resnet_dist.data.dataset.load_test_images", test_images)
    return loaded


def exported(stored: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["export", CONFIG.trial_id()[:6], "--storage", str(stored), "--output", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    return target


def test_the_archive_holds_everything_under_one_folder(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(exported(stored, tmp_path / "trial.zip", capsys)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    folder = CONFIG.trial_id()
    records = ["config.json", "metrics.jsonl", "model.pt", "provenance.json", "result.json"]
    events = sorted(file.name for file in (stored / "runs/tb/n=1/seed-0").iterdir())
    patch = ["source.patch"] if (stored / KEYS.source_patch).exists() else []
    assert list(found) == sorted(
        f"{folder}/{name}" for name in [*records, *patch, "README.md", *(f"tb/{e}" for e in events)]
    )
    for name in [*records, *patch]:
        assert found[f"{folder}/{name}"] == (stored / KEYS.prefix / name).read_bytes()
    for name in events:
        assert found[f"{folder}/tb/{name}"] == (stored / "runs/tb/n=1/seed-0" / name).read_bytes()


def test_the_same_trial_gives_the_same_bytes(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = exported(stored, tmp_path / "a.zip", capsys).read_bytes()
    assert exported(stored, tmp_path / "b.zip", capsys).read_bytes() == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_readme_says_what_it_is_and_its_code_runs(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(exported(stored, tmp_path / "trial.zip", capsys)) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / CONFIG.trial_id()
    text = (folder / "README.md").read_text()
    result = json.loads((folder / "result.json").read_text())
    assert f"{100 * result['top1_error']:.2f} %" in text and CONFIG.trial_id() in text
    lines = text.partition("Load it in Python")[2].partition("Without resnet_dist")[0].splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"images": DATASET.test_images}
    with torch.no_grad():
        exec(code, names)
    loss = torch.nn.functional.cross_entropy(names["logits"], DATASET.test_labels).item()
    assert loss == pytest.approx(result["test_loss"], rel=1e-5)  # the result's is of float32


@pytest.mark.parametrize("form", ["model.pt", "archive"])
def test_a_model_has_the_error_that_its_result_states(
    form: str, stored: Path, tmp_path: Path, data: list[Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = stored / KEYS.model if form == "model.pt" else exported(stored, tmp_path / "trial.zip", capsys)
    assert main(["evaluate", str(weights), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    result = json.loads((stored / KEYS.result).read_text())
    assert {name: answer[name] for name in ("top1_error", "top5_error", "test_loss")} == {
        name: result[name] for name in ("top1_error", "top5_error", "test_loss")
    }
    assert (answer["images"], answer["source"], answer["warnings"]) == (30, "cifar10", [])


def test_other_images_are_standardised_as_in_training(stored: Path, data: list[Dataset]) -> None:
    own = evaluate(stored / KEYS.model, device="cpu").to_dict()
    data[0] = replace(DATASET, mean=DATASET.mean + 50, std=1.0)
    assert evaluate(stored / KEYS.model, "synthetic", device="cpu").to_dict() == own | {"source": "synthetic"}


def test_a_file_without_constants_takes_those_of_the_data(stored: Path, tmp_path: Path, data: list[Dataset]) -> None:
    content = checkpoints.decode((stored / KEYS.model).read_bytes())
    old = tmp_path / "model.pt"
    old.write_bytes(checkpoints.encode({name: content[name] for name in ("network", "config")}))
    own = evaluate(stored / KEYS.model, device="cpu").to_dict()
    assert evaluate(old, device="cpu").to_dict() == own | {"weights": str(old)}


def mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_another_number_of_classes_is_one_line(
    stored: Path, data: list[Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    data[0] = replace(DATASET, classes=DATASET.classes[:7])
    assert "has 7 classes, and " in mistake(["evaluate", str(stored / KEYS.model)], capsys)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a model", "it is text that begins with 'not a model'"),
        (b"\x80\x04\x95 no model\xff", "it holds something other than tensors and plain values"),
        (b"", "it is empty"),
        (bytes(64), "it is all zeros"),
        (b"PK\x05\x06" + bytes(18), "it is a zip archive without a model in it"),
        (checkpoints.encode({"network": {"linear.bias": torch.zeros(10)}})[:900], "it is cut off; copy it again"),
        (b"\n<!DOCTYPE html>\n<html>404", "it is a page of HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a pointer of git LFS"),
        ({"network": {}}, "it lacks weights or settings"),
        ({"network": {"linear.bias": torch.zeros(10)}, "config": CONFIG.to_dict()}, "its weights are not those of"),
        ({"network": {"linear.bias": torch.zeros(10)}, "config": {"network": {"depht": 8}}}, "another version"),
        ({"network": Path("code")}, "it holds something other than tensors and plain values"),
    ],
)
def test_what_is_no_model_is_one_line(
    content: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(content if isinstance(content, bytes) else checkpoints.encode(content))
    line = mistake(["evaluate", str(file)], capsys)
    assert f"{file}: " in line and says in line


def test_files_that_are_not_there_are_one_line(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be read: No such file" in mistake(["evaluate", "/nowhere/model.pt"], capsys)
    assert "fetch it with: resnet-dist export" in mistake(["evaluate", "s3://bucket/model.pt"], capsys)
    target = ["--output", "/nowhere/trial.zip"]
    line = mistake(["export", CONFIG.trial_id(), "--storage", str(stored), *target], capsys)
    assert "--output /nowhere/trial.zip: cannot be written: No such file" in line


def test_an_archive_replaces_no_other_file(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "README.md"
    target.write_text("mine")
    command = ["export", CONFIG.trial_id(), "--storage", str(stored), "--output", str(target)]
    assert main(command) == 1
    assert "is there already, and is no archive; give another name" in capsys.readouterr().err
    assert target.read_text() == "mine"
    target.unlink()
    assert main(command) == 0 == main(command)


def test_a_trial_that_is_not_finished_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Recorder(LocalStorage(tmp_path), "runs", "name", CONFIG).start(alone("cpu"), "fingerprint")
    line = mistake(["export", CONFIG.trial_id(), "--storage", str(tmp_path)], capsys)
    assert "is not finished, so there is nothing to export yet" in line


@pytest.mark.parametrize("archived", [False, True])
def test_weights_of_which_a_bit_has_changed_are_evaluated_nowhere(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], archived: bool
) -> None:
    file = exported(stored, tmp_path / "trial.zip", capsys) if archived else tmp_path / "model.pt"
    content = bytearray(file.read_bytes() if archived else (stored / KEYS.model).read_bytes())
    weights = torch.load(stored / KEYS.model, weights_only=True)["network"]["linear.weight"]
    content[content.index(weights.numpy().tobytes())] ^= 1
    file.write_bytes(content)
    assert f"{file}: is damaged (" in mistake(["evaluate", str(file)], capsys)


def damaged_copy(stored: Path, target: Path, name: str, data: bytes) -> Path:
    """A copy of the storage in which a file of the trial is another one."""
    shutil.copytree(stored, target)
    (target / KEYS.prefix / name).write_bytes(data)
    return target


def test_sound_weights_that_are_not_the_results_are_refused_everywhere(
    stored: Path, tmp_path: Path, data: list[Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    model = torch.load(stored / KEYS.model, weights_only=True)
    model["std"] += 1.0
    storage = damaged_copy(stored, tmp_path / "copy", "model.pt", checkpoints.encode(model))
    line = mistake(["evaluate", str(storage / KEYS.model)], capsys)
    assert "model.pt: is damaged (its SHA-256 is not the one in result.json)" in line
    line = mistake(["export", KEYS.trial_id, "--storage", str(storage)], capsys)
    assert "model.pt: is damaged or replaced: it is not the file whose SHA-256 result.json has" in line
    trial = find_trial(open_storage(str(storage)), KEYS.trial_id)
    with pytest.raises(StorageError, match="is damaged or replaced"):
        compare(trial, trial)


def test_an_export_holds_the_results_own_metrics_where_a_late_write_has_put_older_ones(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    storage = damaged_copy(stored, tmp_path / "copy", "metrics.jsonl", b"")
    late = exported(storage, tmp_path / "late.zip", capsys).read_bytes()
    assert late == exported(stored, tmp_path / "sound.zip", capsys).read_bytes()
    (said,) = caplog.messages
    assert said.endswith("metrics.jsonl: is not the file of its result, which is used")


def test_an_archive_is_not_written_into_a_device(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", CONFIG.trial_id(), "--storage", str(stored), "--output", os.devnull]) == 1
    assert f"--output {os.devnull}: is a pipe, socket or device" in capsys.readouterr().err


def test_a_network_is_handed_on_in_another_format_or_refused_in_one_line(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", CONFIG.trial_id()[:6], "--storage", str(stored), "--output", str(tmp_path)]
    assert main([*command, "--format", "safetensors"]) == 0
    weights = read_weights((tmp_path / f"{CONFIG.trial_id()}.safetensors").read_bytes(), "w")
    held = checkpoints.decode((stored / KEYS.model).read_bytes())["network"]
    assert all(torch.equal(value, held[name]) for name, value in weights.items()) and "blocks.2.conv2.weight" in weights
    capsys.readouterr()
    assert main([*command, "--format", "torchvision"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--format torchvision: torchvision has no such network (network.family is residual" in line
    assert not list(tmp_path.glob("*.pth"))
