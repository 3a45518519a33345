"""A trained network gives its outputs elsewhere, or is refused in one line."""

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from resnet_dist.configuration.training import TrainingConfig
from resnet_dist.errors import UserError
from resnet_dist.networks.construction import make_network
from resnet_dist.networks.state_dicts import from_any
from resnet_dist.records import checkpoints
from resnet_dist.records.initial_state import load_weights
from resnet_dist.records.model_file import Model
from resnet_dist.records.model_formats import onnx_file, safetensors_file, torchvision_file
from resnet_dist.records.weights_file import read_weights
from tests.resnet_dist.networks.test_networks import randomise

IMAGENET = {"network.family": "imagenet-residual", "network.depth": 18, "network.shortcut": "B", "data.size": 64}
CIFAR = {"network.depth": 8, "network.width": 4}


def model_of(settings: dict[str, Any], classes: int = 3) -> Model:
    config = TrainingConfig().override(settings)
    network = make_network(config.network, config.batch_norm, classes).eval()
    randomise(network)
    size = config.data.size
    mean = torch.linspace(90, 160, 3 * size * size, dtype=torch.float64).view(3, size, size)
    return Model(network, config, tuple("abc"), classes, mean, 60.0)


def images_of(model: Model) -> tuple[Tensor, Tensor]:
    """Raw images, float32 [2, 3, S, S] from 0 to 255, and the logits that they have."""
    size = model.config.data.size
    images = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(4)).float()
    assert model.mean is not None
    with torch.no_grad():
        return images, model.network((images - model.mean.float()) / model.std)


def test_torchvisions_network_loads_what_is_exported_for_it() -> None:
    model = model_of(IMAGENET)
    images, logits = images_of(model)
    theirs = torchvision.models.resnet18(num_classes=3).eval()
    theirs.load_state_dict(checkpoints.decode(torchvision_file(model)), strict=True)
    assert model.mean is not None
    with torch.no_grad():
        found = theirs((images - model.mean.float()) / model.std)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (CIFAR, "network.family is residual, and its networks have imagenet-residual"),
        ({**IMAGENET, "network.shortcut": "A"}, "network.shortcut is A, and its networks have B"),
        ({**IMAGENET, "network.width": 8}, "network.width is 8, and its networks have 64"),
        (
            {**IMAGENET, "network.depth": 50, "network.width": 64},
            "network.bottleneck_stride is 1x1, and its networks have 3x3",
        ),
        ({**IMAGENET, "batch_norm.eps": 1e-3}, "batch_norm.eps is 0.001, and theirs 1e-05"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(settings: dict[str, Any], said: str) -> None:
    model = Model(torch.nn.Identity(), TrainingConfig().override(settings), (), 3, None, 1.0)
    with pytest.raises(UserError) as caught:
        torchvision_file(model)
    message = "--format torchvision: torchvision has no such network ({}); give safetensors or onnx"
    assert str(caught.value) == message.format(said)


def test_safetensors_hold_the_weights_and_what_belongs_to_them() -> None:
    model = model_of(CIFAR)
    data = safetensors_file(model)
    tensors = safetensors.torch.load(data)
    assert model.mean is not None and torch.equal(tensors["standardise.mean"], model.mean)
    assert tensors["standardise.std"] == 60
    length = int.from_bytes(data[:8], "little")
    described = json.loads(data[8 : 8 + length])["__metadata__"]
    assert json.loads(described["classes"]) == ["a", "b", "c"]
    assert TrainingConfig.from_dict(json.loads(described["config"])) == model.config
    again = model_of(CIFAR)
    for value in again.network.state_dict().values():
        value.zero_()
    load_weights(again.network, from_any(read_weights(data, "w"), model.config.network), model.config)
    assert torch.equal(images_of(again)[1], images_of(model)[1])


@pytest.mark.parametrize("settings", [{**IMAGENET, "network.width": 4}, {**CIFAR, "network.family": "preactivation"}])
def test_onnxruntime_gives_the_networks_outputs(settings: dict[str, Any]) -> None:
    model = model_of(settings)
    images, logits = images_of(model)
    session = onnxruntime.InferenceSession(onnx_file(model))
    for count in (1, 2):
        (found,) = session.run(["logits"], {"images": images[:count].numpy()})
        np.testing.assert_allclose(found, logits[:count], rtol=1e-3, atol=1e-4 * float(logits.abs().max()))


def test_onnx_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx and onnxscript; pip install 'resnet-dist\[onnx\]'"):
        onnx_file(model_of(CIFAR))
