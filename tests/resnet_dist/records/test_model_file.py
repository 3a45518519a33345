"""Final weights are of use elsewhere: in torch's own layers, and from a plain dict of averages."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_dist.errors import UserError
from resnet_dist.networks.batch_norm import SynchronisedBatchNorm
from resnet_dist.networks.construction import make_network
from resnet_dist.records import checkpoints
from resnet_dist.records.model_file import encode_model, read_model
from tests.small_runs import small_config, small_dataset

CONFIG = small_config(data__accumulation=2)
DATASET = small_dataset()


@pytest.fixture
def trained() -> nn.Module:
    network = make_network(CONFIG.network, CONFIG.batch_norm, len(DATASET.classes))
    for value in network.state_dict().values():
        value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture
def file(trained: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(encode_model(trained, CONFIG, DATASET))
    return path


def torchs_own(network: nn.Module) -> nn.Module:
    for name, child in network.named_children():
        if isinstance(child, SynchronisedBatchNorm):
            setattr(network, name, nn.BatchNorm2d(child.num_features, eps=child.eps))
        else:
            torchs_own(child)
    return network.eval()


def test_weights_load_strictly_into_torchs_own_batch_norm(file: Path, trained: nn.Module) -> None:
    weights = torch.load(file, weights_only=True)["network"]
    images = torch.randn(2, 3, 32, 32)
    expected = trained(images)
    network = torchs_own(trained)
    network.load_state_dict({name: torch.zeros_like(value) for name, value in network.state_dict().items()})
    network.load_state_dict(weights, strict=True)
    assert torch.equal(network(images), expected)
    counts = {int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")}
    steps = -(-CONFIG.run.epochs * len(DATASET.train_images) // CONFIG.data.batch_size)
    assert counts == {steps * CONFIG.data.accumulation}


@pytest.mark.parametrize("counts", [True, False], ids=["as written now", "as written by earlier versions"])
def test_averages_in_a_plain_dict_are_a_model(file: Path, trained: nn.Module, counts: bool) -> None:
    held = checkpoints.decode(file.read_bytes())
    average = {
        name: (value + value) / 2 if value.is_floating_point() else value
        for name, value in held["network"].items()
        if counts or value.is_floating_point()
    }
    file.write_bytes(checkpoints.encode(held | {"network": average}))
    network = read_model(file).network.eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), trained(images))


FIRST = "conv.weight"


def changed(held: dict[str, Any], name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return held | {"network": held["network"] | {name: change(held["network"][name])}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda held: [held], "it is of type list, and no dictionary"),
        (lambda held: None, "it is of type NoneType, and no dictionary"),
        (lambda held: {name: held[name] for name in held if name != "std"}, "its deviation of the training images"),
        (lambda held: held | {"std": 0.0}, "its deviation of the training images is not a number above 0"),
        (lambda held: held | {"mean": held["mean"] * math.nan}, "its mean of the training images is not"),
        (lambda held: held | {"mean": [0.0]}, "its mean of the training images is not [3, 32, 32] finite numbers"),
        (lambda held: held | {"classes": "ab"}, "its names of classes are not a list of text"),
        (lambda held: held | {"classes": [1, 2]}, "its names of classes are not a list of text"),
        (lambda held: changed(held, FIRST, lambda old: old.to(torch.complex64)), f"{FIRST!r} is of complex64, and not"),
        (lambda held: changed(held, FIRST, Tensor.long), f"{FIRST!r} is of int64, and not of floating-point numbers"),
        (lambda held: changed(held, FIRST, Tensor.to_sparse), f"{FIRST!r} is of sparse_coo, and not"),
        (lambda held: changed(held, FIRST, lambda old: old[:1]), f"{FIRST!r} is [1, 3, 3, 3], and not ["),
        (
            lambda held: held | {"network": {f"module.{name}": value for name, value in held["network"].items()}},
            f"they have 'module.{FIRST}', which it lacks",
        ),
        (
            lambda held: held | {"network": {name: value for name, value in held["network"].items() if name != FIRST}},
            f"they lack {FIRST!r}",
        ),
    ],
)
def test_a_file_that_is_no_model_says_why(file: Path, change: Callable[[Any], Any], reason: str) -> None:
    file.write_bytes(checkpoints.encode(change(checkpoints.decode(file.read_bytes()))))
    with pytest.raises(UserError) as caught:
        read_model(file)
    assert "is no model file (" in str(caught.value) and reason in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(UserError, match="is a pipe, socket or device; give a file"):
        read_model(tmp_path / "model.pt")


def test_weights_of_less_precision_are_a_model(file: Path, trained: nn.Module) -> None:
    held = checkpoints.decode(file.read_bytes())
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in held["network"].items()}
    file.write_bytes(checkpoints.encode(held | {"network": half}))
    read = read_model(file).network.state_dict()
    assert torch.equal(read[FIRST], trained.state_dict()[FIRST].bfloat16().to(read[FIRST].dtype))
