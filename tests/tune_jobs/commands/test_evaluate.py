"""`evaluate` matches the classes of model and data by name: a perfect model is perfect on its classes in any order."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_dist.data.batches import Standardiser
from resnet_dist.networks.construction import make_network
from resnet_dist.records import checkpoints
from resnet_dist.records.model_file import encode_model
from tests.image_trees import encoded, write_archive, write_directory
from tests.small_runs import small_config, small_dataset
from tune_jobs.command_line import main

CLASSES = ("dog", "cat", "bee")
CONFIG = small_config(data__source="folder:/nowhere/images")
COLOURS = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)
"""Of the images of each class, by its position in the model."""


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that makes no error on flat images of the three colours: each class is its nearest mean of features."""
    dataset = replace(small_dataset(classes=3), classes=CLASSES)
    network = make_network(CONFIG.network, CONFIG.batch_norm, 3).double().eval()
    linear = network.linear
    assert isinstance(linear, torch.nn.Linear)
    network.linear = torch.nn.Identity()
    with torch.no_grad():
        images = COLOURS.double()[:, :, None, None].expand(3, 3, 32, 32)
        features = network((images - dataset.mean) / dataset.std)
        linear.weight.copy_(features)
        linear.bias.copy_(-features.square().sum(1) / 2)
    network.linear = linear
    path = tmp_path_factory.mktemp("perfect") / "model.pt"
    path.write_bytes(encode_model(network, CONFIG, dataset))
    return path


def images_of(names: tuple[str, ...], split: str = "test") -> dict[str, bytes]:
    """Two images of each class by path; the names are given in the order of the model's classes."""
    pictures = [encoded(np.broadcast_to(colour.numpy(), (32, 32, 3)).copy()) for colour in COLOURS]
    pairs = zip(names, pictures[: len(names)], strict=True)
    return {f"{split}/{name}/{n}.png": picture for name, picture in pairs for n in range(2)}


def evaluated(model: Path, source: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["evaluate", str(model), "--data", f"folder:{source}", "--json", *options]) == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("splits", [("train", "test"), ("test",)])
def test_a_perfect_model_has_no_error_on_a_folder_that_has_its_classes_in_another_order(
    perfect: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], splits: tuple[str, ...]
) -> None:
    archive = tmp_path / "images.zip"  # its classes are bee, cat, dog
    write_archive(archive, {path: image for split in splits for path, image in images_of(CLASSES, split).items()})
    for options in ([], ["--classes-by-position"]):  # which is for other names only
        answer = evaluated(perfect, archive, capsys, *options)
        assert (answer["top1_error"], answer["images"], answer["warnings"]) == (0.0, 6, [])
        assert not answer["classes_by_position"]


def test_a_model_that_errs_is_wrong_by_the_names(
    perfect: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_directory(
        tmp_path / "images", images_of(("cat", "dog", "bee"))
    )  # dogs as cats look, and cats as dogs
    assert evaluated(perfect, folder, capsys)["top1_error"] == pytest.approx(4 / 6)


def test_errors_are_told_by_class_and_predictions_by_image(
    perfect: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of what is called a bee one picture looks like a dog; the folder's classes have another order."""
    tree = images_of(CLASSES)
    tree["test/bee/1.png"] = tree["test/dog/0.png"]
    folder, file = write_directory(tmp_path / "images", tree), tmp_path / "predictions.csv"
    answer = evaluated(perfect, folder, capsys, "--predictions", str(file))
    errors = {name: (one["images"], one["top1_error"]) for name, one in answer["by_class"].items()}
    assert errors == {"dog": (2, 0.0), "cat": (2, 0.0), "bee": (2, 0.5)}
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    wrong = [row for row in rows if row["correct"] == "false"]
    assert [(row["class"], row["number"], row["predicted"]) for row in wrong] == [("bee", "1", "dog")]
    assert float(wrong[0]["probability"]) > float(wrong[0]["probability_of_class"]) and len(rows) == 6
    assert main(["evaluate", str(perfect), "--data", f"folder:{folder}"]) == 0
    assert re.search(r"^bee +2 +50\.00 %$", capsys.readouterr().out, re.MULTILINE)
    assert main(["evaluate", str(perfect), "--data", f"folder:{folder}", "--predictions", "/nowhere/x.csv"]) == 1
    assert "/nowhere/x.csv: cannot be written" in capsys.readouterr().err


def test_predictions_ask_the_network_once(
    perfect: Path,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, standardised = [], Standardiser.__call__

    def counting(self: Standardiser, images: Tensor) -> Tensor:
        asked.append(len(images))
        return standardised(self, images)

    monkeypatch.setattr(Standardiser, "__call__", counting)
    folder = write_directory(tmp_path / "images", images_of(CLASSES))
    evaluated(perfect, folder, capsys, "--predictions", str(tmp_path / "predictions.csv"))
    assert sum(asked) == 6 == len((tmp_path / "predictions.csv").read_text().splitlines()) - 1


def refusal(model: Path, source: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["evaluate", str(model), "--data", f"folder:{source}", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_other_names_are_refused_and_named_unless_positions_are_asked_for(
    perfect: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_directory(tmp_path / "images", images_of(("bee", "cat", "wolf")))
    line = refusal(perfect, folder, capsys)
    assert "(it lacks 'dog', it has 'wolf'); give data with the model's classes, or classes_by_position" in line
    assert main(["evaluate", str(perfect), "--data", f"folder:{folder}", "--classes-by-position"]) == 0
    shown = capsys.readouterr()
    assert ": 0.00 % (" in shown.out and "6 images; classes by position, not by name\n" in shown.out
    assert "in their order, whatever their names (it lacks 'dog', it has 'wolf')" in shown.err


def test_fewer_classes_are_refused_and_named_even_by_position(
    perfect: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_directory(tmp_path / "images", images_of(("dog", "cat")))
    for options in ([], ["--classes-by-position"]):
        line = refusal(perfect, folder, capsys, *options)
        assert "has 2 classes, and " in line and "tells 3 apart (it lacks 'bee'); give" in line


def test_a_model_without_names_of_classes_is_matched_to_other_data_on_request_only(
    perfect: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = checkpoints.decode(perfect.read_bytes())
    old = tmp_path / "old.pt"
    old.write_bytes(checkpoints.encode({name: value for name, value in content.items() if name != "classes"}))
    folder = write_directory(tmp_path / "images", images_of(("a", "b", "c")))
    assert "(the model's file has no names of classes)" in refusal(old, folder, capsys)
    answer = evaluated(old, folder, capsys, "--classes-by-position")
    assert answer["classes_by_position"] and answer["top1_error"] == 0.0


def test_a_source_of_the_users_own_needs_no_training_images_either(
    perfect: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom resnet_dist.extension import DecodedImages\n"
        "def source():\n"
        "    images = np.zeros((3, 3, 32, 32), np.uint8)\n"
        "    images += np.diag([240] * 3).astype(np.uint8)[:, :, None, None] + np.uint8(10)\n"
        f"    return DecodedImages(images[:0], np.arange(0), images, np.arange(3), {CLASSES!r})\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--data.source", "mine:source"]
    assert main(["evaluate", str(perfect), *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1_error"] == 0
    assert main(["train", "--storage", str(tmp_path / "results"), *arguments]) == 1
    assert "mine:source has no training images" in capsys.readouterr().err
